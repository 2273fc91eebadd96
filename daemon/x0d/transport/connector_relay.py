"""Bytes between gRPC's private connection and a TLS connection that was judged.

Both ways alike: read what is there, write it at once; when the writing side is full, stop reading until it has taken
the rest.  So at most one slice is held for each direction.  What the peer sends passes a ``HeaderGuard`` before gRPC
reads it: a peer may be who it says and still send headers that take all of our memory.  Everything runs in callbacks
of the event loop: a stream reader and a task would cost each message two more turns of the loop.

A callback reads until nothing is left, or comes back by ``call_soon``: libuv stops watching a socket that has once
shown an error, and the bytes before the error would be lost.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from OpenSSL import SSL

from x0d.errors import InvalidInput
from x0d.transport.connector_dial import Session
from x0d.transport.connector_tls import early_end_text
from x0d.transport.header_guard import HeaderGuard

SLICE_BYTES: Final = 131_072
"""Read at once from gRPC, and gathered at most before it is written to it."""
RECORD_BYTES: Final = 16_384
"""Longest TLS record; OpenSSL gives one at a time."""
FIRST_WORD_S: Final = 0.5
"""The server of HTTP/2 speaks first: so long is waited for it before anything is sent.  TLS 1.3 tells a refusal of
our certificate only after the handshake, and what is sent meanwhile turns the alert into a bare reset.  gRPC's client
waits for the server's first frame in any case."""
ROUNDS_MAX: Final = 4
"""Slices in one turn; then others have theirs."""


class Relay:
    """One connection of gRPC's, on its way to the peer."""

    def __init__(self, inner: socket.socket, session: Session) -> None:
        self._loop = asyncio.get_running_loop()
        self._inner = inner
        self._tcp = session.tcp
        self._tls = session.tls
        self._guard = HeaderGuard(is_server_side=False)
        self._ended: asyncio.Future[str] = self._loop.create_future()
        self._up = memoryview(b"")
        """Read from gRPC, not yet taken by TLS."""
        self._down = memoryview(b"")
        """Read from TLS, not yet taken by gRPC."""
        self._due: set[Callable[[], None]] = set()
        """What the loop runs in its next turn."""
        self._has_heard = False
        self._is_open = False
        """Whether gRPC is read."""

    async def run(self) -> str:
        """Relay until either end is gone, or must be.

        Gives what the peer's refusal was, if that came in place of its first byte, or why gRPC may not read what it
        sends; empty otherwise.
        """
        self._loop.add_reader(self._tcp.fileno(), self._read_tls)
        waiting = self._loop.call_later(FIRST_WORD_S, self._open_up)
        try:
            return await self._ended
        finally:
            waiting.cancel()
            self._end()
            for watched in (self._inner, self._tcp):
                self._loop.remove_reader(watched.fileno())
                self._loop.remove_writer(watched.fileno())

    def _open_up(self) -> None:
        """Let gRPC speak: the peer has, or will not before."""
        if not self._is_open and not self._ended.done():
            self._is_open = True
            self._loop.add_reader(self._inner.fileno(), self._read_inner)

    def cut(self) -> None:
        """End at once."""
        self._end()

    def _end(self, said: str = "") -> None:
        if not self._ended.done():
            self._ended.set_result(said)

    def _come_back(self, read: Callable[[], None]) -> None:
        """Read on in the loop's next turn; once, however often the socket shows up there by itself."""
        if read not in self._due:
            self._due.add(read)
            self._loop.call_soon(self._read_on, read)

    def _read_on(self, read: Callable[[], None]) -> None:
        self._due.discard(read)
        read()

    # ---- gRPC -> peer ----

    def _read_inner(self) -> None:
        for _ in range(ROUNDS_MAX):
            if self._ended.done() or self._up:
                return
            try:
                data = self._inner.recv(SLICE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                self._end()
                return
            if not data:
                self._end()
                return
            self._up = memoryview(data)
            self._write_tls()
        self._come_back(self._read_inner)

    def _write_tls(self) -> None:
        """Give TLS what is held for it; watch gRPC only while nothing is."""
        try:
            while self._up:
                self._up = self._up[self._tls.send(self._up) :]
        except SSL.WantWriteError:
            self._loop.remove_reader(self._inner.fileno())
            self._loop.add_writer(self._tcp.fileno(), self._resume_tls)
        except SSL.Error as error:
            self._fail(error)

    def _resume_tls(self) -> None:
        """TCP has room again: for what is held, and for an answer that TLS itself owes the peer."""
        self._loop.remove_writer(self._tcp.fileno())
        self._write_tls()
        if not self._up and not self._ended.done():
            self._loop.add_reader(self._inner.fileno(), self._read_inner)
        self._read_tls()

    # ---- peer -> gRPC ----

    def _read_tls(self) -> None:
        for _ in range(ROUNDS_MAX):
            if self._ended.done() or self._down:
                return
            data, is_drained = self._gather()
            if data:
                try:
                    self._guard.feed(data)
                except InvalidInput as error:
                    self._end(f"ended for what it sends: {error}")
                    return
                self._has_heard = True
                self._open_up()
                self._down = memoryview(data)
                self._write_inner()
            if is_drained:
                return
        self._come_back(self._read_tls)

    def _gather(self) -> tuple[bytes, bool]:
        """Read records up to a slice, or up to one that is not full: a message often ends there, and need not wait."""
        records: list[bytes] = []
        is_drained = False
        try:
            while len(records) * RECORD_BYTES < SLICE_BYTES:
                record = self._tls.recv(RECORD_BYTES)
                records.append(record)
                if len(record) < RECORD_BYTES:
                    break
        except SSL.WantReadError:
            is_drained = True
        except SSL.WantWriteError:
            is_drained = True
            self._loop.add_writer(self._tcp.fileno(), self._resume_tls)
        except SSL.Error as error:
            if not records:  # else the next round meets the error again, once these are delivered
                is_drained = True
                self._fail(error)
        return records[0] if len(records) == 1 else b"".join(records), is_drained

    def _write_inner(self) -> None:
        """Give gRPC what is held for it; watch the peer only while nothing is."""
        try:
            self._down = self._down[self._inner.send(self._down) :]
        except BlockingIOError:
            pass
        except OSError:
            self._end()
            return
        if self._down:
            self._loop.remove_reader(self._tcp.fileno())
            self._loop.add_writer(self._inner.fileno(), self._resume_inner)

    def _resume_inner(self) -> None:
        self._loop.remove_writer(self._inner.fileno())
        self._write_inner()
        if not self._down and not self._ended.done():
            self._loop.add_reader(self._tcp.fileno(), self._read_tls)
            self._read_tls()

    def _fail(self, error: SSL.Error) -> None:
        """End; before the peer's first byte that is its refusal of us, which TLS 1.3 tells only then."""
        self._end("" if self._has_heard else early_end_text(error))
