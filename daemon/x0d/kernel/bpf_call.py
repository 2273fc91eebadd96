"""The system call itself, and the memory that it reads and writes.

The kernel is given addresses, so whatever they belong to has to outlive the call: a caller keeps the
objects that it passed to ``address_of`` in local variables until the call has returned.
"""

import ctypes
import platform
from array import array
from typing import TypeAlias

from x0d.errors import KernelRefused, NotSupported

SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}

Memory: TypeAlias = "bytes | bytearray | memoryview | array[int]"
"""What the kernel may read; it writes to the last three only, and a memoryview must be writable."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long


def call(command: int, attributes: bytes, operation: str) -> tuple[int, bytes]:
    """Return the call's result and the attribute bytes as the kernel left them.

    Raises:
        KernelRefused: ``operation`` is its subject.
    """
    result, errno, answer = try_call(command, attributes)
    if errno:
        raise KernelRefused(operation, errno)
    return result, answer


def try_call(command: int, attributes: bytes) -> tuple[int, int, bytes]:
    """Result, errno (0: done) and the attribute bytes, which some commands fill in even when they fail."""
    number = SYSCALL_NUMBERS.get(platform.machine())
    if number is None:
        raise NotSupported("bpf(2)", f"its system call number on {platform.machine()} is not known to x0d")
    block = ctypes.create_string_buffer(attributes, len(attributes))
    result: int = _LIBC.syscall(ctypes.c_long(number), ctypes.c_long(command), block, ctypes.c_ulong(len(attributes)))
    return result, ctypes.get_errno() if result < 0 else 0, block.raw


def buffer(content: bytes | int) -> ctypes.Array[ctypes.c_char]:
    """Memory of ctypes with this content, or so many zero bytes."""
    return ctypes.create_string_buffer(content, content if isinstance(content, int) else len(content))


def address_of(memory: Memory) -> int:
    """Where the bytes of an object begin; it must not be empty."""
    if isinstance(memory, bytes):
        return ctypes.cast(ctypes.c_char_p(memory), ctypes.c_void_p).value or 0
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
