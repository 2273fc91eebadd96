"""Parsing, numbering and drawing of topologies."""

import pytest

from lab.topology import TopologyError, draw, parse


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("line:3", ["n1-n2", "n2-n3"]),
        ("ring:4", ["n1-n2", "n2-n3", "n3-n4", "n1-n4"]),
        ("ring:4+1-3", ["n1-n2", "n2-n3", "n3-n4", "n1-n4", "n1-n3"]),
        ("ring:5+4-2+1-3", ["n1-n2", "n2-n3", "n3-n4", "n4-n5", "n1-n5", "n2-n4", "n1-n3"]),
        ("grid:2x2", ["n1-n2", "n1-n3", "n2-n4", "n3-n4"]),
    ],
)
def test_links(text: str, links: list[str]) -> None:
    """Each form of the text gives its links, the lower node first."""
    assert links == [link.name for link in parse(text).links]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ring",
        "ring:2",
        "line:1",
        "grid:1x1",
        "line:251",
        "ring:4+1-2",
        "ring:4+1-5",
        "ring:4+2-2",
        "ring:4+1-3+3-1",
        "star:4",
    ],
)
def test_refused(text: str) -> None:
    """What is no topology is refused with a sentence that quotes it."""
    with pytest.raises(TopologyError, match=f"{text!r}".replace("+", r"\+")):
        parse(text)


def test_distinct_numbers() -> None:
    """No two ends share an address, an interface index, or an interface name within their namespace."""
    topology = parse("grid:15x16")
    ends = [(link, node) for link in topology.links for node in link.ends]
    assert len(ends) == len({link.address(node) for link, node in ends})
    indexes = {link.ifindex(node) for link, node in ends} | {link.wire_ifindex(node) for link, node in ends}
    assert 2 * len(ends) == len(indexes)
    assert len(ends) == len({(node, link.interface(node)) for link, node in ends})
    assert len(ends) == len({link.wire_interface(node) for link, node in ends})
    assert max(len(link.wire_interface(node)) for link, node in ends) <= 15


def test_addresses() -> None:
    """Both ends of a link are in one /31, or have the link-local address of their node."""
    link = parse("line:3").link("n3-n2")
    assert ("10.1.0.2/31", "10.1.0.3/31") == (link.address_with_length("n2"), link.address_with_length("n3"))
    link = parse("line:3", link_local=True).link("n2-n3")
    assert ("fe80::2/64", "fe80::3/64") == (link.address_with_length("n2"), link.address_with_length("n3"))


def test_unknown_names() -> None:
    """A link or node that is not there is refused with the names of those that are."""
    topology = parse("line:2")
    with pytest.raises(TopologyError, match="there are n1-n2"):
        topology.link("n1-n3")
    with pytest.raises(TopologyError, match="there are n1 n2"):
        topology.node("n3")


def test_chord_is_dearer_than_two_hops() -> None:
    """In a ring of four the cheapest path between the ends of the chord goes around."""
    assert {"n2": "n2", "n3": "n2", "n4": "n4"} == parse("ring:4+1-3").next_hops("n1")


def test_drawing_of_a_square() -> None:
    """A ring of four is drawn as a square; broken links and the path of the traffic stand out."""
    expected = (
        "n1 ----------------- n2\n"
        "#  \\                 x\n"
        "#      \\             x\n"
        "#          \\         x\n"
        "#              \\     x\n"
        "#                  \\ x\n"
        "n4 ================= n3\n"
        "xxx: n2-n3 down"
    )
    assert expected == draw(parse("ring:4+1-3"), {"n2-n3": "down"}, ("n1", "n4", "n3"))


def test_drawing_of_a_list() -> None:
    """Any other topology is drawn as a list of neighbours."""
    expected = "  n1 ==== n2\n  n2 ==== n1   xx cut xx n3\n  n3 xx cut xx n2"
    assert expected == draw(parse("line:3"), {"n2-n3": "cut"}, ("n1", "n2"))
