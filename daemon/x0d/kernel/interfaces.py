"""Network interfaces and their addresses, and what happens to them, from route netlink.

``InterfaceTable`` folds messages into a picture of the interfaces; a dump and the kernel's own notices are the same
messages.  ``KernelInterfaces`` reads with one dump in a worker thread, and subscribes with a socket of its own on
the event loop.  The subscription begins with a dump on that very socket, so that nothing is lost between the two,
and dumps again when the kernel says that it had to drop notices (ENOBUFS).
"""

import asyncio
import errno
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path

from pyroute2.netlink import NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, nlmsg
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_LINK,
)
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_DADFAILED, IFA_F_TENTATIVE, ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import IFF_LOWER_UP, IFF_UP, ifinfmsg

from x0d.kernel.netlink import ANSWER_BYTES_MAX, NetlinkSocket, RouteMarshal, encode, open_route_socket, typed
from x0d.ports import Interface, InterfaceEvent

RTEXT_FILTER_SKIP_STATS = 8
GROUPS = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR
READS_PER_WAKE = 64
"""Datagrams read before the event loop gets its turn; the rest wakes it again."""

AnyInterface = IPv4Interface | IPv6Interface


@dataclass(slots=True)
class InterfaceTable:
    """The interfaces as told by the messages so far."""

    links: dict[int, Interface] = field(default_factory=dict)
    """By index; their ``addresses`` are empty here."""
    addresses: dict[int, set[AnyInterface]] = field(default_factory=dict)
    """By index; only those that a socket can be bound to: duplicate address detection is over and found none."""

    def fold(self, message: nlmsg) -> int:
        """Take one message in and return the index of the interface it is about; 0: none."""
        kind = message["header"]["type"]
        if kind in {RTM_NEWLINK, RTM_DELLINK}:
            return self._fold_link(message)
        if kind in {RTM_NEWADDR, RTM_DELADDR}:
            return self._fold_address(message)
        return 0

    def interface(self, ifindex: int) -> Interface | None:
        """One interface with its addresses; None if there is none of that index."""
        link = self.links.get(ifindex)
        if link is None:
            return None
        addresses = tuple(sorted(self.addresses.get(ifindex, ()), key=lambda one: (one.version, one.packed, str(one))))
        return Interface(link.name, link.ifindex, link.up, link.carrier, link.mtu, addresses)

    def interfaces(self) -> tuple[Interface, ...]:
        """All, by index."""
        found = (self.interface(ifindex) for ifindex in sorted(self.links))
        return tuple(interface for interface in found if interface is not None)

    def _fold_link(self, message: nlmsg) -> int:
        if message["family"] != socket.AF_UNSPEC:  # a bridge tells about its ports: their leaving it is no removal
            return 0
        ifindex: int = message["index"]
        if message["header"]["type"] == RTM_DELLINK:
            self.links.pop(ifindex, None)
            self.addresses.pop(ifindex, None)
            return ifindex
        name = message.get_attr("IFLA_IFNAME", "")
        if isinstance(name, bytes):  # pyroute2 leaves it so when it is not UTF-8
            name = name.decode("utf-8", "replace")
        flags, mtu = message["flags"], message.get_attr("IFLA_MTU", 0)
        self.links[ifindex] = Interface(name, ifindex, bool(flags & IFF_UP), bool(flags & IFF_LOWER_UP), mtu, ())
        return ifindex

    def _fold_address(self, message: nlmsg) -> int:
        text = message.get_attr("IFA_LOCAL", message.get_attr("IFA_ADDRESS"))
        family, ifindex = message["family"], int(message["index"])
        if text is None or family not in {socket.AF_INET, socket.AF_INET6}:
            return 0
        told = (text, message["prefixlen"])
        address = IPv4Interface(told) if family == socket.AF_INET else IPv6Interface(told)
        flags = message.get_attr("IFA_FLAGS", message["flags"])
        usable = message["header"]["type"] == RTM_NEWADDR and not flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED)
        held = self.addresses.setdefault(ifindex, set())
        (held.add if usable else held.discard)(address)
        return ifindex


def _all_links() -> nlmsg:
    message = typed(ifinfmsg(), RTM_GETLINK)
    message["attrs"] = [("IFLA_EXT_MASK", RTEXT_FILTER_SKIP_STATS)]
    return message


def _has_moved(message: nlmsg) -> bool | None:
    """Of a notice that an interface is gone: whether it went to another network namespace."""
    if message["header"]["type"] != RTM_DELLINK:
        return None
    return message.get_attr("IFLA_NEW_NETNSID") is not None


def _all_addresses() -> nlmsg:
    return typed(ifaddrmsg(), RTM_GETADDR)


class KernelInterfaces:
    """``ports.InterfaceSource`` on the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="x0d-interfaces")
        self._subscription: Subscription | None = None

    def close(self) -> None:
        """End the subscription and close the sockets; call it on the event loop."""
        if self._subscription is not None:
            self._subscription.close()
        self._executor.shutdown(wait=True)
        self._netlink.close()

    async def read(self) -> tuple[Interface, ...]:
        """All interfaces of this network namespace, by index.  Raises KernelRefused."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._read)

    def subscribe(self, on_event: Callable[[InterfaceEvent], None]) -> None:
        """Call back on the running event loop: once for each interface there is, then for each change at once.

        Every notice of the kernel about a link or an address is passed on, also when nothing shown here differs.
        """
        if self._subscription is None:
            self._subscription = Subscription()
        self._subscription.add(on_event)

    def sent_packets(self) -> Mapping[str, int]:
        """Packets transmitted so far, by interface name, in the calling thread's network namespace."""
        table = Path("/proc/thread-self/net/dev").read_text(encoding="ascii", errors="replace")
        sent = {}
        for line in table.splitlines()[2:]:
            name, _, numbers = line.partition(":")
            sent[name.strip()] = int(numbers.split()[9])
        return sent

    def _read(self) -> tuple[Interface, ...]:
        table = InterfaceTable()
        for message in self._netlink.dump("read interfaces", _all_links()):
            table.fold(message)
        for message in self._netlink.dump("read addresses", _all_addresses()):
            table.fold(message)
        return table.interfaces()


class Subscription:
    """The kernel's notices, and the dumps that begin and mend them, on one non-blocking socket."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = open_route_socket(GROUPS)
        self._socket.setblocking(False)
        self._marshal = RouteMarshal()
        self._subscribers: list[Callable[[InterfaceEvent], None]] = []
        self._table = InterfaceTable()
        self._told: dict[int, Interface] = {}
        self._sequence = 0
        self._dump: InterfaceTable | None = None
        """What the dump under way has shown so far; None: none is under way, the table is whole."""
        self._dump_addresses = False
        """Whether the dump has come to the addresses."""
        self._lost = False
        """Notices were dropped, or a dump was no picture of one moment: another dump is due."""
        self._loop.add_reader(self._socket.fileno(), self._on_readable)
        self._dump_begin()

    def add(self, on_event: Callable[[InterfaceEvent], None]) -> None:
        """Call this one too; it first hears of what the others know already."""
        self._subscribers.append(on_event)
        now_ns = time.monotonic_ns()
        for interface in self._told.values():
            on_event(InterfaceEvent(interface.ifindex, interface, now_ns))

    def close(self) -> None:
        """Stop; no callback comes after."""
        self._subscribers.clear()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _on_readable(self) -> None:
        for _ in range(READS_PER_WAKE):
            try:
                data = self._socket.recv(ANSWER_BYTES_MAX)
            except BlockingIOError:
                # Only now: a dump asked for while the queue is full gets no answer.  One that was under way has
                # ended with the queue, since reading is what drives it.
                if self._lost:
                    self._dump_begin()
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._lost = True
                # uvloop gives a descriptor up once it has shown an error (libuv stops polling at EPOLLERR).
                self._loop.remove_reader(self._socket.fileno())
                self._loop.add_reader(self._socket.fileno(), self._on_readable)
                continue
            now_ns = time.monotonic_ns()
            for message in self._marshal.parse(data):
                self._take(message, now_ns)
            if not self._subscribers:
                return

    def _take(self, message: nlmsg, now_ns: int) -> None:
        header = message["header"]
        if header["type"] in {NLMSG_DONE, NLMSG_ERROR}:
            self._lost |= header["type"] == NLMSG_ERROR
            if header["sequence_number"] == self._sequence:
                self._dump_step(now_ns)
            return
        self._lost |= bool(header["flags"] & NLM_F_DUMP_INTR)
        if self._dump is not None:
            self._dump.fold(message)
        if header["sequence_number"] == 0 or self._dump is None:
            ifindex = self._table.fold(message)
            if ifindex and (self._dump is None or ifindex in self._told):
                self._tell(ifindex, now_ns, moved=_has_moved(message))

    # ---- the dump: links, then addresses, then what differs is told ----

    def _dump_begin(self) -> None:
        self._dump = InterfaceTable()
        self._dump_addresses = False
        self._lost = False
        self._request(_all_links())

    def _dump_step(self, now_ns: int) -> None:
        if self._dump is None or self._lost:  # the next dump begins when the queue is empty
            return
        if not self._dump_addresses:
            self._dump_addresses = True
            self._request(_all_addresses())
            return
        dumped, self._dump = self._dump, None
        self._table = dumped
        for ifindex in sorted(self._told.keys() | dumped.links.keys()):
            if dumped.interface(ifindex) != self._told.get(ifindex):
                self._tell(ifindex, now_ns)

    def _request(self, message: nlmsg) -> None:
        self._sequence += 1
        self._socket.send(encode(message, self._sequence, NLM_F_REQUEST | NLM_F_DUMP))

    def _tell(self, ifindex: int, now_ns: int, *, moved: bool | None = None) -> None:
        interface = self._table.interface(ifindex)
        if interface is None:
            if self._told.pop(ifindex, None) is None:
                return
        else:
            self._told[ifindex] = interface
        for on_event in tuple(self._subscribers):
            on_event(InterfaceEvent(ifindex, interface, now_ns, moved))
