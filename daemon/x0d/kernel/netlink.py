"""The kernel's route netlink: pyroute2's messages, requests that block, answers collected.

pyroute2 encodes and decodes; what it has no class for, the nexthop object and a route's RTA_NH_ID, is declared here
in its way.  Many messages travel in one ``send``; the kernel performs them in order, goes on after one that
failed, and acknowledges each by its sequence number.  ``NetlinkSocket`` is for one thread at a time and blocks; the
adapters above it own a worker thread.

The sockets are our own: pyroute2's stand on an asyncio core that fails under uvloop, which the daemon runs, and
answer one request at a time.  Its classes take 90 us to encode a route and 50 us to decode one: a nexthop object is
put in .25 ms, a route in .3 ms, 500 routes in 50 ms and read in 28 ms (packed by hand: .1, .1, 5 and 4 ms).
"""

import errno
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from pyroute2.netlink import (
    NETLINK_EXT_ACK,
    NETLINK_GET_STRICT_CHK,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOL_NETLINK,
    nlmsg,
    nlmsgerr,
)
from pyroute2.netlink.marshal import Marshal
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
)
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg_base

from x0d.errors import KernelRefused

RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP = 104, 105, 106
RTA_NH_ID = 30

BATCH_MESSAGES_MAX = 128
"""Messages in one send, then wait for their acknowledgements: 128 of some 800 bytes of socket memory each
fit the 212,992 bytes that a receive buffer has by default; 500 did not, and the kernel drops those that do not fit."""
ANSWER_BYTES_MAX = 65_536
"""One datagram of a dump is at most 32 KiB."""
ANSWER_TIMEOUT_S = 5.0
"""The kernel answers inside the send; waiting longer than this means that the answer was lost."""
DUMP_ATTEMPTS_MAX = 5
"""A dump that something changed under is repeated this often."""


class RouteMessage(rtmsg_base, nlmsg):  # type: ignore[misc]  # pyroute2 has no types
    """``struct rtmsg`` with every attribute that pyroute2 knows, and the nexthop object's id.

    Not a subclass of ``rtmsg``, whose table of attributes would be in force here once anybody had used it.
    """

    __slots__ = ()
    nla_map = (
        *((number, *entry) for number, entry in enumerate(rtmsg_base.nla_map)),
        (RTA_NH_ID, "RTA_NH_ID", "uint32"),
    )


class NexthopMessage(nlmsg):  # type: ignore[misc]  # pyroute2 has no types
    """``struct nhmsg``, a nexthop object; attributes that are not listed are skipped."""

    __slots__ = ()
    prefix = "NHA_"
    fields = (("family", "B"), ("scope", "B"), ("protocol", "B"), ("resvd", "B"), ("flags", "I"))
    nla_map = ((1, "NHA_ID", "uint32"), (2, "NHA_GROUP", "hex"), (5, "NHA_OIF", "uint32"), (6, "NHA_GATEWAY", "ipaddr"))


def _decode_outcome(data: bytes, offset: int, _length: int) -> nlmsgerr:
    message = nlmsgerr(data, offset=offset)
    message.decode()
    return message


class RouteMarshal(Marshal):  # type: ignore[misc]  # pyroute2 has no types
    """Takes a datagram apart into messages, each of the class of its type."""

    msg_map: ClassVar[dict[int, type]] = {
        RTM_NEWLINK: ifinfmsg,
        RTM_DELLINK: ifinfmsg,
        RTM_NEWADDR: ifaddrmsg,
        RTM_DELADDR: ifaddrmsg,
        RTM_NEWROUTE: RouteMessage,
        RTM_DELROUTE: RouteMessage,
        RTM_NEWNEXTHOP: NexthopMessage,
        RTM_DELNEXTHOP: NexthopMessage,
    }

    def get_parser(self, key: int, flags: int, sequence_number: int) -> Callable[[bytes, int, int], nlmsg]:
        """Choose the decoder; of acknowledgements and ends of dumps it is nothing but ``nlmsgerr``.

        Marshal's own shows no errno of a dump's end that has no text, and takes what follows one that has for the
        request.
        """
        if key in {NLMSG_DONE, NLMSG_ERROR}:
            return _decode_outcome
        parser: Callable[[bytes, int, int], nlmsg] = super().get_parser(key, flags, sequence_number)
        return parser


def typed(message: nlmsg, kind: int, flags: int = 0) -> nlmsg:
    """The message with the type and flags of its header set."""
    message["header"] = {"type": kind, "flags": flags}
    return message


def encode(message: nlmsg, sequence: int, flags: int) -> bytes:
    """The message's bytes with this sequence number and these flags beside its own; can be called again."""
    message.reset()
    message["header"]["sequence_number"] = sequence
    message["header"]["flags"] = message["header"].get("flags", 0) | flags
    message.encode()
    return bytes(message.data)


def refusal(operation: object, message: nlmsgerr) -> KernelRefused | None:
    """What an NLMSG_ERROR or NLMSG_DONE message reports; None: no error."""
    if message["error"] == 0:
        return None
    return KernelRefused(str(operation), -message["error"], message.get_attr("NLMSGERR_ATTR_MSG", ""))


def open_route_socket(groups: int = 0) -> socket.socket:
    """A route netlink socket of the calling thread's network namespace, with explained errors.

    ``groups`` is the bit set of RTMGRP_ constants whose messages are wanted.  An error brings the whole request
    back before its text, as ``nlmsgerr`` wants it (no NETLINK_CAP_ACK).
    """
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        opened.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        opened.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        opened.bind((0, groups))
    except OSError:
        opened.close()
        raise
    return opened


class NetlinkSocket:
    """Requests and dumps; blocks, and serves one thread at a time."""

    def __init__(self) -> None:
        self._socket = open_route_socket()
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        self._marshal = RouteMarshal()
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def batch(self, operations: Sequence[tuple[object, nlmsg]]) -> list[KernelRefused | None]:
        """Perform the messages in order and return what became of each, in the same order.

        Args:
            operations: what names it in an error, by its ``str()``, and the message; the flags REQUEST and ACK are
                added.

        Raises:
            KernelRefused: nothing could be sent, or answers were lost (ENOBUFS, ETIMEDOUT); which of the
                messages were performed is then unknown.
        """
        results: list[KernelRefused | None] = []
        for start in range(0, len(operations), BATCH_MESSAGES_MAX):
            results += self._batch(operations[start : start + BATCH_MESSAGES_MAX])
        return results

    def _batch(self, operations: Sequence[tuple[object, nlmsg]]) -> list[KernelRefused | None]:
        waiting: dict[int, object] = {}
        encoded = bytearray()
        for operation, message in operations:
            self._sequence += 1
            waiting[self._sequence] = operation
            encoded += encode(message, self._sequence, NLM_F_REQUEST | NLM_F_ACK)
        results: dict[int, KernelRefused | None] = {}
        self._send(encoded, operations[0][0])
        while waiting:
            for answer in self._receive(next(iter(waiting.values()))):
                header = answer["header"]
                if header["type"] == NLMSG_ERROR and header["sequence_number"] in waiting:
                    sequence = header["sequence_number"]
                    results[sequence] = refusal(waiting.pop(sequence), answer)
        return [results[sequence] for sequence in sorted(results)]

    def get(self, operation: str, message: nlmsg) -> nlmsg | None:
        """Ask for one object; None if it does not exist (ENOENT, ESRCH).  Raises KernelRefused."""
        self._sequence += 1
        self._send(encode(message, self._sequence, NLM_F_REQUEST | NLM_F_ACK), operation)
        found: nlmsg | None = None
        while True:
            for answer in self._receive(operation):
                if answer["header"]["sequence_number"] != self._sequence:
                    continue
                if answer["header"]["type"] != NLMSG_ERROR:
                    found = answer
                    continue
                refused = refusal(operation, answer)
                if refused is not None and refused.errno not in {errno.ENOENT, errno.ESRCH}:
                    raise refused
                return found

    def dump(self, operation: str, message: nlmsg) -> list[nlmsg]:
        """All objects that match the message, read again when something changed meanwhile.  Raises KernelRefused."""
        for _ in range(DUMP_ATTEMPTS_MAX):
            found, consistent = self._dump(operation, message)
            if consistent:
                return found
        return found

    def _dump(self, operation: str, message: nlmsg) -> tuple[list[nlmsg], bool]:
        self._sequence += 1
        self._send(encode(message, self._sequence, NLM_F_REQUEST | NLM_F_DUMP), operation)
        found: list[nlmsg] = []
        consistent = True
        while True:
            for answer in self._receive(operation):
                header = answer["header"]
                if header["sequence_number"] != self._sequence:
                    continue
                consistent = consistent and not header["flags"] & NLM_F_DUMP_INTR
                if header["type"] in {NLMSG_ERROR, NLMSG_DONE}:
                    refused = refusal(operation, answer)
                    if refused is not None:
                        raise refused
                    return found, consistent
                found.append(answer)

    def _send(self, data: bytes | bytearray, operation: object) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            raise KernelRefused(str(operation), error.errno or errno.EIO, "netlink took no message") from error

    def _receive(self, operation: object) -> Iterator[nlmsg]:
        try:
            data = self._socket.recv(ANSWER_BYTES_MAX)
        except TimeoutError as error:
            raise KernelRefused(str(operation), errno.ETIMEDOUT, "netlink gave no answer") from error
        except OSError as error:
            # ENOBUFS: answers were dropped.  Later answers of this request carry a sequence number nobody waits for.
            raise KernelRefused(str(operation), error.errno or errno.EIO, "netlink answers were lost") from error
        messages: Iterator[nlmsg] = self._marshal.parse(data)
        return messages
