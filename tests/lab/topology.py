"""The shape of a lab: nodes, links, their addresses, and drawings of them.  Pure: nothing here touches the machine.

A topology is written as ``line:N``, ``ring:N`` with chords ``+A-B``, or ``grid:RxC``.  Nodes are ``n1`` to
``nN``; node i has the stable address 10.255.0.i.  Link k is numbered in the order of its making and owns the
IPv4 /31 10.1.x.y with x.y = 2k, or, where link-local addresses are asked for, fe80::i at the end of node i.

A link is a *wire*: each end is a veth whose other half lives in the wire namespace (see ``wires.py``).  All
interface indexes are distinct: with equal ones on both sides of a veth, Linux reports carrier up to 1 s late.
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

NODES_MAX = 250  # the last byte of 10.255.0.i
COST = 100  # x0d's default
COST_CHORD = 300  # more than two hops around
IFINDEX_NODE = 1000  # + 2k, + 1 at the second end
IFINDEX_WIRE = 5000


class TopologyError(ValueError):
    """The text names no topology or no link of it."""


@dataclass(frozen=True, slots=True)
class Link:
    """A wire between two nodes, ``a`` the one with the lower number."""

    index: int
    a: str
    b: str
    cost: int
    link_local: bool = False

    @property
    def name(self) -> str:
        """``n1-n2``."""
        return f"{self.a}-{self.b}"

    @property
    def ends(self) -> tuple[str, str]:
        """Both nodes."""
        return self.a, self.b

    def other(self, node: str) -> str:
        """The node at the other end."""
        return self.b if node == self.a else self.a

    def interface(self, node: str) -> str:
        """Interface of this link in the node's namespace, such as ``to-n2``."""
        return f"to-{self.other(node)}"

    def ifindex(self, node: str) -> int:
        """Index of that interface."""
        return IFINDEX_NODE + 2 * self.index + (node == self.b)

    def wire_interface(self, node: str) -> str:
        """The veth's other half, in the wire namespace."""
        return f"w-{self.a}-{self.b}-{'ab'[node == self.b]}"

    def wire_ifindex(self, node: str) -> int:
        """Index of that half; frames that the node sends come in there."""
        return IFINDEX_WIRE + 2 * self.index + (node == self.b)

    def address(self, node: str) -> str:
        """The node's address on this link, without prefix length."""
        if self.link_local:
            return f"fe80::{node_number(node):x}"
        number = 2 * self.index + (node == self.b)
        return f"10.1.{number >> 8}.{number & 255}"

    def address_with_length(self, node: str) -> str:
        """As ``ip addr add`` takes it."""
        return f"{self.address(node)}/{64 if self.link_local else 31}"


@dataclass(frozen=True, slots=True)
class Topology:
    """Nodes and links, as parsed from ``text``."""

    text: str
    nodes: tuple[str, ...]
    links: tuple[Link, ...]

    def address(self, node: str) -> str:
        """Stable address of a node."""
        return f"10.255.0.{node_number(node)}"

    def links_of(self, node: str) -> Iterator[Link]:
        """Links that end at the node."""
        return (link for link in self.links if node in link.ends)

    def link(self, name: str) -> Link:
        """The link called ``A-B`` or ``B-A``.

        Raises:
            TopologyError: there is none.
        """
        wanted = set(name.split("-"))
        for link in self.links:
            if wanted == set(link.ends):
                return link
        raise TopologyError(f"no link {name!r} in {self.text}; there are {' '.join(each.name for each in self.links)}")

    def node(self, name: str) -> str:
        """``name`` itself, if the topology has such a node.

        Raises:
            TopologyError: it has not.
        """
        if name in self.nodes:
            return name
        raise TopologyError(f"no node {name!r} in {self.text}; there are {' '.join(self.nodes)}")

    def next_hops(self, source: str) -> dict[str, str]:
        """For each other node, the first node on a cheapest path from ``source`` (fewest hops, then lowest name)."""
        best: dict[str, tuple[int, int, str]] = {source: (0, 0, "")}
        queue = deque([source])
        while queue:
            here = queue.popleft()
            cost, hops, first = best[here]
            for link in self.links_of(here):
                there = link.other(here)
                offer = (cost + link.cost, hops + 1, first or there)
                if there not in best or offer < best[there]:
                    best[there] = offer
                    queue.append(there)
        return {node: first for node, (_, _, first) in best.items() if node != source}


def node_number(node: str) -> int:
    """7 for ``n7``."""
    return int(node[1:])


def parse(text: str, *, link_local: bool = False) -> Topology:
    """Parse ``line:N``, ``ring:N[+A-B...]`` or ``grid:RxC``.

    Raises:
        TopologyError: the text is none of these, or names too many nodes or an impossible chord.
    """
    if line := re.fullmatch(r"line:(\d+)", text):
        count = int(line[1])
        pairs = [(i, i + 1, COST) for i in range(1, count)]
    elif ring := re.fullmatch(r"ring:(\d+)((?:\+\d+-\d+)*)", text):
        count = int(ring[1])
        pairs = _ring_pairs(text, count, [tuple(map(int, each.split("-"))) for each in ring[2].split("+")[1:]])
    elif grid := re.fullmatch(r"grid:(\d+)x(\d+)", text):
        rows, columns = int(grid[1]), int(grid[2])
        count = rows * columns
        pairs = _grid_pairs(rows, columns)
    else:
        raise TopologyError(f"{text!r}: a topology is line:N, ring:N[+A-B...] or grid:RxC, such as ring:4+1-3")
    if not 2 <= count <= NODES_MAX:
        raise TopologyError(f"{text!r} has {count} nodes; 2 to {NODES_MAX} are possible")
    links = tuple(Link(k, f"n{a}", f"n{b}", cost, link_local) for k, (a, b, cost) in enumerate(pairs))
    return Topology(text, tuple(f"n{i}" for i in range(1, count + 1)), links)


def _ring_pairs(text: str, count: int, chords: list[tuple[int, ...]]) -> list[tuple[int, int, int]]:
    if count < 3:
        raise TopologyError(f"{text!r}: a ring has at least 3 nodes")
    pairs = [(i, i + 1, COST) for i in range(1, count)] + [(1, count, COST)]
    taken = {(a, b) for a, b, _ in pairs}
    for chord in chords:
        a, b = sorted(chord)
        if a == b or not 1 <= a < b <= count:
            raise TopologyError(f"{text!r}: the chord {a}-{b} joins no two nodes of the ring")
        if (a, b) in taken:
            raise TopologyError(f"{text!r}: n{a} and n{b} are joined already")
        taken.add((a, b))
        pairs.append((a, b, COST_CHORD))
    return pairs


def _grid_pairs(rows: int, columns: int) -> list[tuple[int, int, int]]:
    pairs = []
    for row in range(rows):
        for column in range(columns):
            here = row * columns + column + 1
            if column + 1 < columns:
                pairs.append((here, here + 1, COST))
            if row + 1 < rows:
                pairs.append((here, here + columns, COST))
    return pairs


# ---- drawings ----


def draw(topology: Topology, broken: Mapping[str, str], path: tuple[str, ...] = ()) -> str:
    """Draw the topology in ASCII, several lines.

    Args:
        topology: what to draw.
        broken: link name to a word for its state, such as ``{"n2-n3": "down"}``; others are taken as up.
        path: nodes that the traffic passes, in order; its links are drawn with ``=`` and ``#``.
    """
    used = {frozenset(pair) for pair in pairwise(path)}
    square = {("n1", "n2"), ("n2", "n3"), ("n3", "n4"), ("n1", "n4")}
    names = {link.ends for link in topology.links}
    if len(topology.nodes) == 4 and square <= names:
        return _draw_square(names, broken, used)
    return _draw_list(topology, broken, used)


def _draw_square(names: set[tuple[str, str]], broken: Mapping[str, str], used: set[frozenset[str]]) -> str:
    """Four nodes in a ring, clockwise from the upper left, with either diagonal."""

    def across(a: str, b: str) -> str:
        if word := broken.get(f"{a}-{b}"):
            return f" {word.upper()} ".center(17, "x")
        return ("=" if frozenset((a, b)) in used else "-") * 17

    def down(a: str, b: str) -> str:
        return "x" if f"{a}-{b}" in broken else "#" if frozenset((a, b)) in used else "|"

    def diagonal(a: str, b: str, stroke: str) -> str:
        if (a, b) not in names:
            return " "
        return "x" if f"{a}-{b}" in broken else "#" if frozenset((a, b)) in used else stroke

    left, right = down("n1", "n4"), down("n2", "n3")
    falling, rising = diagonal("n1", "n3", "\\"), diagonal("n2", "n4", "/")
    rows = [f"n1 {across('n1', 'n2')} n2"]
    for at in range(5):
        cells = [" "] * 23
        cells[0], cells[21] = left, right
        cells[3 + 4 * at] = falling if falling != " " else cells[3 + 4 * at]
        if rising != " ":
            cells[19 - 4 * at] = rising if 3 + 4 * at != 19 - 4 * at or falling == " " else "X"
        rows.append("".join(cells).rstrip())
    rows.append(f"n4 {across('n3', 'n4')} n3")
    words = [f"{name} {word}" for name, word in broken.items()]
    if words:
        rows.append(f"xxx: {', '.join(words)}")
    return "\n".join(rows)


def _draw_list(topology: Topology, broken: Mapping[str, str], used: set[frozenset[str]]) -> str:
    rows = []
    for node in topology.nodes:
        cells = []
        for link in topology.links_of(node):
            there = link.other(node)
            word = broken.get(link.name)
            mark = f"xx {word} xx" if word else "====" if frozenset(link.ends) in used else "----"
            cells.append(f"{mark} {there}")
        rows.append(f"{node:>4} " + "   ".join(cells))
    return "\n".join(rows)
