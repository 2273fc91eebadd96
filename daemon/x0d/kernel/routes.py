"""Our routes in the kernel's main table: nexthop objects, and routes that point at them.

A route names an object, the object names gateway and interface: replacing one object moves every route on it with
one message.  Ours is what carries our protocol number and, for routes, ``ROUTE_METRIC``; objects also lie in our
range of ids.  Nobody else's object or route is shown, replaced or deleted:

- The kernel's REPLACE looks at prefix and metric and not at the protocol, so it is used only for prefixes that a
  dump, read immediately before, shows as ours; all others are created exclusively, which a foreign route refuses.
- Whether an object of our range is foreign is asked for each id that a batch names.

An IPv4 route may stand on an object with an IPv6 gateway; an IPv6 route on an IPv4 one is refused by the kernel.
What to change is decided in ``reconcile``.
"""

import asyncio
import errno
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network, IPv6Network, ip_address
from socket import AF_INET, AF_INET6
from typing import TypeVar

from pyroute2.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, nlmsg
from pyroute2.netlink.rtnl import RTM_DELROUTE, RTM_GETROUTE, RTM_NEWADDR, RTM_NEWROUTE, rt_type
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD, ifaddrmsg
from pyroute2.netlink.rtnl.rtmsg import RTNH_F_ONLINK

from x0d.actions import DeleteNexthop, DeleteRoute, ObservedRoutes, PutNexthop, PutRoute, RouteChange
from x0d.errors import KernelRefused
from x0d.kernel.netlink import (
    RTM_DELNEXTHOP,
    RTM_GETNEXTHOP,
    RTM_NEWNEXTHOP,
    NetlinkSocket,
    NexthopMessage,
    RouteMessage,
    typed,
)
from x0d.mesh.model import Address, Prefix

ROUTE_METRIC = 78
"""Ours alone: below what network managers give to learned routes, above the 0 of IPv4 routes set by hand."""
NEXTHOP_IDS = 4096
"""Ids from ``nexthop_id_base`` on that are ours."""
LOOPBACK_IFINDEX = 1
"""``lo``, in every network namespace."""

RT_TABLE_MAIN = 254
RTM_F_FIB_MATCH = 0x2000

Result = TypeVar("Result")


class KernelRouteTable:
    """``ports.RouteTable`` on the network namespace of the thread that makes it."""

    def __init__(self, protocol: int, nexthop_id_base: int, source_addresses: Iterable[Address] = ()) -> None:
        """Open the netlink socket.

        Args:
            protocol: rtm_protocol and nh_protocol of everything that is ours, 1 to 255.
            nexthop_id_base: first of our ``NEXTHOP_IDS`` object ids.
            source_addresses: at most one of each family; preferred source of the routes of its family, so that
                the node's own traffic carries its stable address.  It must be on an interface before a route is put.
        """
        self._protocol = protocol
        self._ids = range(nexthop_id_base, nexthop_id_base + NEXTHOP_IDS)
        self._sources = {address.version: address for address in source_addresses}
        self._netlink = NetlinkSocket()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="x0d-routes")

    def close(self) -> None:
        """Wait for the change under way, then close the socket; the routes stay."""
        self._executor.shutdown(wait=True)
        self._netlink.close()

    async def read(self) -> ObservedRoutes:
        """Dump our nexthop objects and routes.  Raises KernelRefused."""
        return await self._run(self._read)

    async def apply(self, changes: Sequence[RouteChange]) -> None:
        """Perform the changes in order; those after a refused one are still tried.

        What is to be deleted and is gone already counts as done.

        Raises:
            KernelRefused: names the first change that failed; EEXIST where somebody else's route or object is.
        """
        if changes:
            await self._run(lambda: self._apply(changes))

    async def put_address(self, prefix: Prefix) -> None:
        """Put the address on lo; nothing happens if it is there.  Raises KernelRefused."""
        await self._run(lambda: self._put_address(prefix))

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    # ---- in the worker thread ----

    def _read(self) -> ObservedRoutes:
        nexthops = {}
        for message in self._netlink.dump("read nexthop objects", typed(NexthopMessage(), RTM_GETNEXTHOP)):
            found = self._decode_nexthop(message)
            if found is not None:
                nexthops[found.nexthop_id] = found
        routes = self._read_routes((AF_INET, AF_INET6))
        return ObservedRoutes(nexthops, {prefix: on if on in nexthops else 0 for prefix, on in routes.items()})

    def _read_routes(self, families: Iterable[int]) -> dict[Prefix, int]:
        """Our routes; the kernel picks them by protocol, so that a full table of others is not copied here."""
        routes: dict[Prefix, int] = {}
        for family in families:
            request = typed(RouteMessage(), RTM_GETROUTE)
            request.update(family=family, proto=self._protocol)
            for message in self._netlink.dump("read routes", request):
                decoded = _decode_route(message)
                if decoded is not None and decoded[2:] == (self._protocol, ROUTE_METRIC):
                    routes[decoded[0]] = decoded[1]
        return routes

    def _decode_nexthop(self, message: nlmsg) -> PutNexthop | None:
        nexthop_id, gateway, ifindex = (message.get_attr(name) for name in ("NHA_ID", "NHA_GATEWAY", "NHA_OIF"))
        if message["protocol"] != self._protocol or nexthop_id not in self._ids:
            return None
        if gateway is None or ifindex is None:
            return None
        return PutNexthop(nexthop_id, ip_address(gateway), ifindex)

    def _apply(self, changes: Sequence[RouteChange]) -> None:
        refused = self._foreign_nexthops(changes)
        permitted = [(index, change) for index, change in enumerate(changes) if index not in refused]
        first_route = next((at for at, (_, change) in enumerate(permitted) if isinstance(change, PutRoute)), None)
        # Objects that are replaced first move the most traffic: they wait for no dump.
        refused |= self._perform(permitted[:first_route], frozenset())
        if first_route is not None:
            rest = permitted[first_route:]
            families = {_family(change.prefix) for _, change in rest if isinstance(change, PutRoute)}
            refused |= self._perform(rest, frozenset(self._read_routes(sorted(families))))
        if refused:
            raise refused[min(refused)]

    def _foreign_nexthops(self, changes: Sequence[RouteChange]) -> dict[int, KernelRefused]:
        """Refusals, by index, of changes to objects in our range that somebody else has made."""
        refused = {}
        for index, change in enumerate(changes):
            if not isinstance(change, PutNexthop | DeleteNexthop):
                continue
            assert change.nexthop_id in self._ids, f"nexthop id {change.nexthop_id} is not in our range"
            found = self._netlink.get(str(change), _nexthop(RTM_GETNEXTHOP, change.nexthop_id))
            if found is not None and found["protocol"] != self._protocol:
                detail = f"the object belongs to protocol {found['protocol']}, ours is {self._protocol}"
                refused[index] = KernelRefused(str(change), errno.EEXIST, detail)
        return refused

    def _perform(self, changes: Sequence[tuple[int, RouteChange]], ours: frozenset[Prefix]) -> dict[int, KernelRefused]:
        """Send the changes and return the refusals by index; ``ours``: prefixes whose route may be replaced."""
        held = set(ours)
        operations = []
        for _, change in changes:
            operations.append((change, self._encode(change, held)))
            if isinstance(change, PutRoute):
                held.add(change.prefix)
        refused = {}
        for (index, change), result in zip(changes, self._netlink.batch(operations), strict=True):
            if result is None or _is_gone_already(change, result):
                continue
            if isinstance(change, PutRoute) and result.errno == errno.EEXIST:
                refused[index] = KernelRefused(result.operation, errno.EEXIST, self._holder(change.prefix))
            else:
                refused[index] = result
        return refused

    def _encode(self, change: RouteChange, ours: set[Prefix]) -> nlmsg:
        match change:
            case PutNexthop(nexthop_id, gateway, ifindex):
                message = _nexthop(RTM_NEWNEXTHOP, nexthop_id, NLM_F_CREATE | NLM_F_REPLACE)
                # ONLINK: an IPv4 neighbour need not lie in a subnet of the interface.
                flags = RTNH_F_ONLINK if gateway.version == 4 else 0
                message.update(family=_family(gateway), protocol=self._protocol, flags=flags)
                message["attrs"] += [("NHA_OIF", ifindex), ("NHA_GATEWAY", str(gateway))]
            case DeleteNexthop(nexthop_id):
                message = _nexthop(RTM_DELNEXTHOP, nexthop_id)
            case PutRoute(prefix, nexthop_id):
                message = self._route(
                    RTM_NEWROUTE, prefix, NLM_F_CREATE | (NLM_F_REPLACE if prefix in ours else NLM_F_EXCL)
                )
                message["attrs"].append(("RTA_NH_ID", nexthop_id))
                source = self._sources.get(prefix.version)
                if source is not None:
                    message["attrs"].append(("RTA_PREFSRC", str(source)))
            case DeleteRoute(prefix):
                message = self._route(RTM_DELROUTE, prefix)
        return message

    def _route(self, kind: int, prefix: Prefix, flags: int = 0) -> nlmsg:
        message = typed(RouteMessage(), kind, flags)
        message.update(
            family=_family(prefix),
            dst_len=prefix.prefixlen,
            table=RT_TABLE_MAIN,
            proto=self._protocol,
            type=rt_type["unicast"],
            attrs=[("RTA_DST", str(prefix.network_address)), ("RTA_PRIORITY", ROUTE_METRIC)],
        )
        return message

    def _holder(self, prefix: Prefix) -> str:
        """Who holds the prefix at our metric, in words."""
        request = typed(RouteMessage(), RTM_GETROUTE)
        request.update(
            family=_family(prefix),
            dst_len=prefix.max_prefixlen,
            flags=RTM_F_FIB_MATCH,
            attrs=[("RTA_DST", str(prefix.network_address))],
        )
        try:
            found = self._netlink.get(f"look up {prefix}", request)
        except KernelRefused:
            found = None
        decoded = _decode_route(found) if found is not None else None
        if decoded is not None and decoded[0] == prefix and decoded[3] == ROUTE_METRIC:
            return f"a route of protocol {decoded[2]} holds {prefix} metric {ROUTE_METRIC}; it is left alone"
        return f"somebody else's route holds {prefix} metric {ROUTE_METRIC}; it is left alone"

    def _put_address(self, prefix: Prefix) -> None:
        address = str(prefix.network_address)
        message = typed(ifaddrmsg(), RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL)
        message.update(
            family=_family(prefix),
            prefixlen=prefix.prefixlen,
            flags=IFA_F_NODAD,
            index=LOOPBACK_IFINDEX,
            attrs=[("IFA_LOCAL", address), ("IFA_ADDRESS", address)],
        )
        [refused] = self._netlink.batch([(f"put {prefix} on lo", message)])
        if refused is not None and refused.errno != errno.EEXIST:
            raise refused


def _nexthop(kind: int, nexthop_id: int, flags: int = 0) -> nlmsg:
    message = typed(NexthopMessage(), kind, flags)
    message["attrs"] = [("NHA_ID", nexthop_id)]
    return message


def _is_gone_already(change: RouteChange, refused: KernelRefused) -> bool:
    """Whether a deletion found nothing: the kernel flushes objects and their routes without telling."""
    return isinstance(change, DeleteRoute | DeleteNexthop) and refused.errno in {errno.ENOENT, errno.ESRCH}


def _decode_route(message: nlmsg) -> tuple[Prefix, int, int, int] | None:
    """Prefix, nexthop id (0: none), protocol and metric; None for what is not a unicast route of the main table."""
    family = message["family"]
    table = message.get_attr("RTA_TABLE", message["table"])
    if table != RT_TABLE_MAIN or message["type"] != rt_type["unicast"] or family not in {AF_INET, AF_INET6}:
        return None
    target = (message.get_attr("RTA_DST", 0), message["dst_len"])
    prefix: Prefix = IPv4Network(target) if family == AF_INET else IPv6Network(target)
    return prefix, message.get_attr("RTA_NH_ID", 0), message["proto"], message.get_attr("RTA_PRIORITY", 0)


def _family(of: Prefix | Address) -> int:
    return AF_INET if of.version == 4 else AF_INET6
