"""The kernel's route netlink: messages packed with ``struct``, requests that block, answers collected.

A message is a header (length, type, flags, sequence number, port), a fixed body and attributes (length, type,
value), each padded to four bytes.  Many messages travel in one ``sendmsg``; the kernel performs them in order,
goes on after one that failed, and acknowledges each by its sequence number.  ``NetlinkSocket`` is for one thread
at a time and blocks; the adapters above it own a worker thread.

Packed here and not with pyroute2's message classes: those take 100 us a message (500 routes: 51 ms, here 1 ms), and
to import them takes .3 s of CPU and 9 MB; its asyncio core does not run under uvloop, it has no nexthop message and
no RTA_NH_ID.  The tests decode what is packed here with pyroute2.
"""

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from x0d.errors import KernelRefused

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200

NLMSG_ERROR = 2
NLMSG_DONE = 3
FIRST_TYPE = 16
"""Message types below are netlink's own."""

RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP = 104, 105, 106

SOL_NETLINK = 270
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12
NLMSGERR_ATTR_MSG = 1
NLA_TYPE_MASK = 0x3FFF

BATCH_MESSAGES_MAX = 128
"""Messages in one sendmsg, then wait for their acknowledgements: 128 of some 800 bytes of socket memory each
fit the 212,992 bytes that a receive buffer has by default; 500 did not, and the kernel drops those that do not fit."""
ANSWER_BYTES_MAX = 65_536
"""One datagram of a dump is at most 32 KiB."""
ANSWER_TIMEOUT_S = 5.0
"""The kernel answers inside the send; waiting longer than this means that the answer was lost."""
DUMP_ATTEMPTS_MAX = 5
"""A dump that something changed under is repeated this often."""

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERRNO = struct.Struct("=i")
_U32 = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class Message:
    """One message to or from the kernel, without its header."""

    type: int
    flags: int
    payload: bytes
    """Fixed body, then attributes."""
    sequence: int = 0
    """0 in what the kernel tells by itself."""


def pack_attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def pack_u32(kind: int, value: int) -> bytes:
    """One attribute that holds a number of 32 bits."""
    return struct.pack("=HHI", 8, kind, value)


def unpack_attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by type, flags taken off; a broken tail ends the reading."""
    attributes = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > len(data):
            break
        attributes[kind & NLA_TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return attributes


def unpack_u32(value: bytes) -> int:
    """A number of 32 bits out of an attribute."""
    return int(_U32.unpack_from(value)[0])


def pack_message(message: Message, sequence: int) -> bytes:
    """The message with its header, padded to four bytes."""
    length = _HEADER.size + len(message.payload)
    header = _HEADER.pack(length, message.type, message.flags, sequence, 0)
    return header + message.payload + b"\0" * (-length % 4)


def unpack_messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram; a broken tail ends the reading."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            break
        yield Message(kind, flags, data[offset + _HEADER.size : offset + length], sequence)
        offset += (length + 3) & ~3


def refusal(operation: object, message: Message) -> KernelRefused | None:
    """What an NLMSG_ERROR or NLMSG_DONE message reports; None: no error."""
    if len(message.payload) < _ERRNO.size:
        return None
    number = -_ERRNO.unpack_from(message.payload)[0]
    if number == 0:
        return None
    detail = ""
    if message.flags & NLM_F_ACK_TLVS:
        offset = _ERRNO.size
        if message.type == NLMSG_ERROR:
            request_length = _HEADER.unpack_from(message.payload, offset)[0]
            offset += _HEADER.size if message.flags & NLM_F_CAPPED else (request_length + 3) & ~3
        text = unpack_attributes(message.payload[offset:]).get(NLMSGERR_ATTR_MSG, b"")
        detail = text.rstrip(b"\0").decode("utf-8", "replace")
    return KernelRefused(str(operation), number, detail)


def open_route_socket(groups: int = 0) -> socket.socket:
    """A route netlink socket of the calling thread's network namespace, with explained errors.

    ``groups`` is the bit set of RTMGRP_ constants whose messages are wanted.
    """
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        opened.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        opened.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
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
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def batch(self, operations: Sequence[tuple[object, Message]]) -> list[KernelRefused | None]:
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

    def _batch(self, operations: Sequence[tuple[object, Message]]) -> list[KernelRefused | None]:
        first = self._sequence + 1
        packed = []
        for _, message in operations:
            self._sequence += 1
            flags = message.flags | NLM_F_REQUEST | NLM_F_ACK
            packed.append(pack_message(Message(message.type, flags, message.payload), self._sequence))
        waiting = dict(enumerate((name for name, _ in operations), start=first))
        results: dict[int, KernelRefused | None] = {}
        self._send(b"".join(packed), operations[0][0])
        while waiting:
            for message in unpack_messages(self._receive(next(iter(waiting.values())))):
                if message.type == NLMSG_ERROR and message.sequence in waiting:
                    results[message.sequence] = refusal(waiting.pop(message.sequence), message)
        return [results[sequence] for sequence in sorted(results)]

    def get(self, operation: str, message: Message) -> Message | None:
        """Ask for one object; None if it does not exist (ENOENT, ESRCH).  Raises KernelRefused."""
        self._sequence += 1
        flags = message.flags | NLM_F_REQUEST | NLM_F_ACK
        self._send(pack_message(Message(message.type, flags, message.payload), self._sequence), operation)
        answer: Message | None = None
        while True:
            for found in unpack_messages(self._receive(operation)):
                if found.sequence != self._sequence:
                    continue
                if found.type != NLMSG_ERROR:
                    answer = found
                    continue
                refused = refusal(operation, found)
                if refused is not None and refused.errno not in {errno.ENOENT, errno.ESRCH}:
                    raise refused
                return answer

    def dump(self, operation: str, kind: int, body: bytes) -> list[Message]:
        """All objects that match the body, read again when something changed meanwhile.  Raises KernelRefused."""
        for _ in range(DUMP_ATTEMPTS_MAX):
            found, consistent = self._dump(operation, kind, body)
            if consistent:
                return found
        return found

    def _dump(self, operation: str, kind: int, body: bytes) -> tuple[list[Message], bool]:
        self._sequence += 1
        self._send(pack_message(Message(kind, NLM_F_REQUEST | NLM_F_DUMP, body), self._sequence), operation)
        found: list[Message] = []
        consistent = True
        while True:
            for message in unpack_messages(self._receive(operation)):
                if message.sequence != self._sequence:
                    continue
                consistent = consistent and not message.flags & NLM_F_DUMP_INTR
                if message.type in {NLMSG_ERROR, NLMSG_DONE}:
                    refused = refusal(operation, message)
                    if refused is not None:
                        raise refused
                    return found, consistent
                found.append(message)

    def _send(self, data: bytes, operation: object) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            raise KernelRefused(str(operation), error.errno or errno.EIO, "netlink took no message") from error

    def _receive(self, operation: object) -> bytes:
        try:
            return self._socket.recv(ANSWER_BYTES_MAX)
        except TimeoutError as error:
            raise KernelRefused(str(operation), errno.ETIMEDOUT, "netlink gave no answer") from error
        except OSError as error:
            # ENOBUFS: answers were dropped.  Later answers of this request carry a sequence number nobody waits for.
            raise KernelRefused(str(operation), error.errno or errno.EIO, "netlink answers were lost") from error
