"""A deny-list file on its way to the daemon: read whole first, so that nothing is sent of one that is no text."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from x0ctl.failure import EXIT_FAILED, Failure

FILE_BYTES_MAX: Final = 256 << 20
"""Far more than the largest list that x0d takes."""
PART_BYTES_MAX: Final = 512 << 10
"""Of the daemon's request, which holds whole lines."""


def read_list(name: str) -> str:
    """Text of the file, or of stdin for ``-``.

    Raises:
        Failure: it cannot be read, is too large or is no text.
    """
    try:
        if name == "-":
            content = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise Failure(EXIT_FAILED, f"{name}: {error.strerror or error}", "nothing was sent") from None
    if len(content) > FILE_BYTES_MAX:
        raise Failure(EXIT_FAILED, f"{name}: larger than {FILE_BYTES_MAX >> 20} MiB", "nothing was sent")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Failure(EXIT_FAILED, f"{name}: line {line} is no UTF-8 text", "nothing was sent") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise Failure(EXIT_FAILED, f"{name}: line {line} has a NUL byte: this is no text", "nothing was sent")
    return text


def whole_lines(name: str, text: str) -> Iterator[str]:
    """Cut between lines, to parts that one request takes.

    Raises:
        Failure: a line alone is too long; before the first part is given.
    """
    content = text.encode()
    parts = []
    start = 0
    while len(content) - start > PART_BYTES_MAX:
        end = content.rfind(b"\n", start, start + PART_BYTES_MAX) + 1
        if not end:
            number = content.count(b"\n", 0, start) + 1
            size = len(content[start:].partition(b"\n")[0]) + 1
            raise Failure(EXIT_FAILED, f"{name}: line {number} has {size:,} bytes: this is no list", "nothing was sent")
        parts.append(content[start:end].decode())
        start = end
    return iter([*parts, content[start:].decode()])
