"""What an HTTP/2 sender's header blocks will cost the receiver, counted on the bytes before gRPC reads them.

gRPC copies the name of every field that it does not know, also of fields that are one byte on the wire because they
point into a table, and also past its own limit of metadata: 15 KB become 98 MB, and no option of it helps.  So what
stands between a socket and gRPC counts first, and ends the connection instead of passing the bytes on.

The count is an upper bound: Huffman's strings at their longest, each reference into the dynamic table as the longest
name that was ever sent for it.  No table is kept, so nothing here can differ from gRPC's; what gRPC and this module
might read differently (padding, priority, a frame amid a block) is refused.  A field counts as soon as its last byte
is here, not when its frame ends: gRPC begins with less than a frame too.  Frames without header blocks are skipped by
their length; whether those are good is gRPC's affair.  Held are a frame's head and one field that is not complete.
"""

from typing import Final

from x0d.errors import InvalidInput

BLOCK_BYTES_MAX: Final = 16_384
"""Of one header block on the wire, with its continuations; also the most that HTTP/2 lets one frame carry unasked."""
BLOCK_FRAMES_MAX: Final = 8
"""Of one header block; senders fill each frame before they begin another."""
BLOCK_COST_MAX: Final = 32_768
"""Bytes that one header block may take in the receiver's memory; calls of ours, without metadata, take below 1,500."""
FIELD_COST: Final = 96
"""Bytes that each field takes besides its name and value."""
TABLE_UPDATES_MAX: Final = 2
"""Changes of the dynamic table's size in one header block (RFC 7541 section 4.2)."""

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""A client's first bytes (RFC 9113 section 3.4)."""

_FRAME_HEAD_BYTES: Final = 9
_HEADERS, _PUSH_PROMISE, _CONTINUATION = 1, 5, 9
_END_HEADERS, _PADDED, _PRIORITY = 4, 8, 32
_STATIC_ENTRIES: Final = 61
_STATIC_NAME_BYTES_MAX: Final = 27
"""``access-control-allow-origin`` (RFC 7541 appendix A)."""
_INTEGER_SHIFTS: Final = (0, 7, 14, 21)
"""Of the bytes that may follow an integer's first; the longest string that a block can hold needs two."""


class HeaderGuard:
    """One direction of one connection."""

    def __init__(self, *, is_server_side: bool) -> None:
        """``is_server_side``: the peer is a client, its bytes begin with the connection preface."""
        self._preface = PREFACE if is_server_side else b""
        """What of it must still come."""
        self._head = bytearray()
        """Of the next frame."""
        self._skip = 0
        """Bytes of a payload that pass uncounted."""
        self._fragment = 0
        """Bytes of a header block's fragment that belong to the present frame and must still come."""
        self._open_stream: int | None = None
        """Whose header block is not complete."""
        self._is_last = False
        """Whether the present frame is its last."""
        self._field = bytearray()
        """The block's present field, as far as it is here."""
        self._bytes = self._frames = self._cost = self._updates = 0
        """Of the present block."""
        self._longest_name = _STATIC_NAME_BYTES_MAX
        """Bytes of the longest name ever sent for the dynamic table."""

    def feed(self, data: bytes) -> None:
        """Count these bytes, which may go to gRPC if nothing is raised.

        Raises:
            InvalidInput: they may not; the connection must end, and the guard takes no more.
        """
        at, end = 0, len(data)
        if self._preface:
            at = min(len(self._preface), end)
            if self._preface[:at] != data[:at]:
                raise InvalidInput("not the connection preface of HTTP/2")
            self._preface = self._preface[at:]
        while at < end:
            if self._skip:
                step = min(self._skip, end - at)
                self._skip -= step
            elif self._fragment:
                step = min(self._fragment, end - at)
                self._fragment -= step
                self._field += data[at : at + step]
                self._count()
                self._end_frame()
            else:
                step = min(_FRAME_HEAD_BYTES - len(self._head), end - at)
                self._head += data[at : at + step]
                if len(self._head) == _FRAME_HEAD_BYTES:
                    self._begin_frame()
            at += step

    def _begin_frame(self) -> None:
        """Read a frame's head (RFC 9113 section 4.1)."""
        size, kind, flags = int.from_bytes(self._head[:3]), self._head[3], self._head[4]
        stream = int.from_bytes(self._head[5:]) & 0x7FFF_FFFF
        self._head.clear()
        # RFC 9113 section 6.10: a block's frames follow each other.
        if (kind == _CONTINUATION) != (self._open_stream is not None) or self._open_stream not in (None, stream):
            raise InvalidInput("a header block is interrupted, or continued where none was begun")
        if kind == _PUSH_PROMISE:
            raise InvalidInput("a push, which gRPC never asks for")
        if kind not in (_HEADERS, _CONTINUATION):
            self._skip = size
            return
        if flags & (_PADDED | _PRIORITY):
            raise InvalidInput("a header block with padding or priority, which gRPC never sends")
        if kind == _HEADERS:
            self._open_stream = stream
            self._bytes = self._frames = self._cost = self._updates = 0
        self._bytes += size
        self._frames += 1
        if self._bytes > BLOCK_BYTES_MAX or self._frames > BLOCK_FRAMES_MAX:
            raise InvalidInput(f"a header block of {self._bytes} bytes in {self._frames} frames")
        self._fragment, self._is_last = size, bool(flags & _END_HEADERS)
        self._end_frame()

    def _end_frame(self) -> None:
        """Close the block if all of its last frame is here."""
        if self._fragment or not self._is_last:
            return
        if self._field:
            raise InvalidInput("a header block ends within a field")
        self._open_stream = None

    def _count(self) -> None:
        """Count the fields that are complete (RFC 7541 section 6), and hold on to what is not."""
        field, at = self._field, 0
        while at < len(field):
            if 0x80 < field[at] < 0xFF:  # an index in one byte: nearly all fields of a connection's later calls
                self._cost += FIELD_COST + self._name_at(field[at] & 0x7F)
                at += 1
            else:
                try:
                    end, cost, table_name = self._measure(at)
                except IndexError:
                    break  # it ends within an integer
                if end > len(field):
                    break
                at = end
                self._cost += cost
                self._longest_name = max(self._longest_name, table_name)
            if self._cost > BLOCK_COST_MAX:
                raise InvalidInput(f"a header block that would take more than {BLOCK_COST_MAX} bytes")
        del self._field[:at]

    def _measure(self, at: int) -> tuple[int, int, int]:
        """Where the field at ``at`` ends, what it costs, and the bytes of a new name that goes into the dynamic table.

        Raises:
            IndexError: not all of it is here.
            InvalidInput: a length or index beyond any use, or too many changes of the table's size.
        """
        first = self._field[at]
        if first & 0x80:  # section 6.1: both from a table
            index, at = _integer(self._field, at, 7)
            return at, FIELD_COST + self._name_at(index), 0
        if first & 0xE0 == 0x20:  # section 6.3: the table's size
            _, at = _integer(self._field, at, 5)
            self._updates += 1
            if self._updates > TABLE_UPDATES_MAX:
                raise InvalidInput("a header block changes the table's size again and again")
            return at, 0, 0
        is_kept = bool(first & 0x40)  # section 6.2: a value, and a name or an index
        index, at = _integer(self._field, at, 6 if is_kept else 4)
        name, table_name = self._name_at(index), 0
        if not index:
            name, at = _string(self._field, at)
            table_name = name if is_kept else 0
        value, at = _string(self._field, at)
        return at, FIELD_COST + name + value, table_name

    def _name_at(self, index: int) -> int:
        """Bytes of the name at ``index`` at most."""
        return _STATIC_NAME_BYTES_MAX if index <= _STATIC_ENTRIES else self._longest_name


def _integer(field: bytearray, at: int, bits: int) -> tuple[int, int]:
    """An integer whose first byte has it in its last ``bits``, and where it ends (RFC 7541 section 5.1)."""
    limit = (1 << bits) - 1
    value = field[at] & limit
    at += 1
    if value < limit:
        return value, at
    for shift in _INTEGER_SHIFTS:
        octet = field[at]
        at += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
    raise InvalidInput(f"an integer of more than {len(_INTEGER_SHIFTS)} bytes in a header block")


def _string(field: bytearray, at: int) -> tuple[int, int]:
    """Bytes of a string at most, and where it ends (RFC 7541 section 5.2); Huffman's shortest code has 5 bits."""
    is_huffman = field[at] & 0x80
    size, at = _integer(field, at, 7)
    return (size * 8 // 5 + 1 if is_huffman else size), at + size
