"""Requests as they come off the wire: bytes that are no message are told from those that are.

Left to itself gRPC answers such bytes with UNKNOWN, and writes a traceback for every such call.  Here the decoder gives
a mark in their place, and whoever reads a request refuses it in words once the caller is known.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from google.protobuf.message import DecodeError

from x0d.errors import InvalidInput


class _Unreadable:
    """Stands for bytes that are no message, until the caller is known and can be told."""


def tolerant(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Make a decoder that never raises; ``readable`` does, later."""
    if decode is None:
        return None

    def read(raw: bytes) -> Any:  # noqa: ANN401 - any message
        try:
            return decode(raw)
        except DecodeError:
            return _Unreadable()

    return read


def readable(request: Any) -> Any:  # noqa: ANN401 - any message
    """Give the message back.

    Raises:
        InvalidInput: its bytes were none.
    """
    if isinstance(request, _Unreadable):
        raise InvalidInput("the request's bytes are not the message that this method takes")
    return request


async def only_one(requests: AsyncIterator[Any]) -> Any:  # noqa: ANN401 - any message
    """Read the one request of a call that takes one.

    Raises:
        InvalidInput: there is none, or its bytes are no message.
    """
    request = await anext(requests, None)
    if request is None:
        raise InvalidInput("the call brought no request")
    return readable(request)


async def all_readable(before: Iterable[Any], requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Give messages that were read ahead, then the rest; raises InvalidInput as ``readable`` does."""
    for request in before:
        yield request
    async for request in requests:
        yield readable(request)
