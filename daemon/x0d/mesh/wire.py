"""Reading bytes that others sent: fields in order, every shortfall an ``InvalidInput``."""

import re
import struct
from typing import Any

from x0d.errors import InvalidInput

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def pack_name(name: str, *, empty: bool = False) -> bytes:
    """Encode a node name with its length; ``empty`` allows none."""
    assert (empty and not name) or NAME.fullmatch(name), f"node name {name!r}"
    return bytes([len(name)]) + name.encode()


class Reader:
    """Takes fields off the front of some bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """Take ``size`` bytes.

        Raises:
            InvalidInput: there are fewer.
        """
        end = self._at + size
        if end > len(self._data):
            raise InvalidInput(f"{len(self._data)} bytes end within a field at {self._at}")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def unpack(self, layout: str) -> tuple[Any, ...]:
        """Take a ``struct`` layout.  Raises InvalidInput."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def name(self, *, empty: bool = False) -> str:
        """Take a node name.  Raises InvalidInput."""
        (size,) = self.take(1)
        name = self.take(size).decode("latin-1")
        if not (NAME.fullmatch(name) or (empty and not name)):
            raise InvalidInput(f"{name[:70]!r} is not a node name")
        return name

    def end(self) -> None:
        """Check that nothing is left.  Raises InvalidInput."""
        if self._at < len(self._data):
            raise InvalidInput(f"{len(self._data) - self._at} bytes too many")
