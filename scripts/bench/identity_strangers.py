"""A child that knocks: many TCP connections a second, each of a hostile kind, from one address or from many.

Orders: ``begin`` with ``kind``, ``rate``, ``targets`` and ``sources``; ``end``.  Kinds: ``garbage`` is sent in the
place of TLS; ``hello`` is a ClientHello and the end of the connection; ``stranger`` is a whole handshake with a
certificate of an authority that nobody knows; ``silent`` says nothing and waits.
"""

import selectors
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from OpenSSL import SSL

from bench.identity_children import Order, obey, run_child
from fakes.authority import CA

IP_BIND_ADDRESS_NO_PORT = 24
CONNECT_S = 0.9
"""Then a SYN was dropped: the kernel would send the next one after a second."""
ANSWER_S = 2.0
SILENT_S = 30.0
WAIT_S = 0.002
READ_BYTES = 65_536
GARBAGE = b"GET / HTTP/1.0\r\n\r\n" + bytes(range(256))


@dataclass(slots=True, eq=False)
class Knock:
    """One connection."""

    tcp: socket.socket
    until: float
    is_connected: bool = False
    tls: SSL.Connection | None = None
    is_shaken: bool = False


class Strangers(threading.Thread):
    """Knocks until it is told to stop."""

    def __init__(
        self, kind: str, rate: float, targets: Sequence[tuple[str, int]], sources: Sequence[str], hello: bytes,
        context: SSL.Context,
    ) -> None:  # fmt: skip
        """Prepare; ``context`` shows the stranger's certificate."""
        super().__init__(daemon=True)
        self._kind, self._rate = kind, rate
        self._targets, self._sources = targets, sources
        self._hello, self._context = hello, context
        self._selector = selectors.EpollSelector()
        self._connecting: deque[Knock] = deque()
        self._waiting: deque[Knock] = deque()
        self._stopping = threading.Event()
        self.counts: Counter[str] = Counter()

    def run(self) -> None:
        """Knock."""
        begun = time.monotonic()
        while not self._stopping.is_set():
            due = int((time.monotonic() - begun) * self._rate)
            while self.counts["tried"] < due:
                self._knock()
            for key, _ in self._selector.select(WAIT_S):
                self._go_on(key.data)
            now = time.monotonic()
            self._give_up(self._connecting, now)
            self._give_up(self._waiting, now)
        for knock in (*self._connecting, *self._waiting):
            self._close(knock, "open_at_end")
        self._selector.close()

    def _give_up(self, queue: deque[Knock], now: float) -> None:
        """Close those whose time is over; all of a queue have the same patience, so the oldest comes first."""
        while queue:
            knock = queue[0]
            has_moved = queue is self._connecting and knock.is_connected
            if not (has_moved or knock.tcp.fileno() < 0 or knock.until < now):
                return
            queue.popleft()
            if not has_moved:
                self._close(knock, "unanswered" if knock.is_connected else "no_way_in")

    def stop(self) -> Order:
        """End, and say how many were tried, and arrived."""
        self._stopping.set()
        self.join()
        return dict(self.counts)

    def _knock(self) -> None:
        number = self.counts["tried"]
        self.counts["tried"] += 1
        source, target = self._sources[number % len(self._sources)], self._targets[number % len(self._targets)]
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        tcp.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        knock = Knock(tcp, time.monotonic() + CONNECT_S)
        try:
            tcp.bind((source, 0))
            tcp.connect_ex(target)
        except OSError:
            self.counts["unsent"] += 1
            tcp.close()
            return
        self._selector.register(tcp, selectors.EVENT_WRITE, knock)
        self._connecting.append(knock)

    def _go_on(self, knock: Knock) -> None:
        try:
            if not knock.is_connected:
                self._connected(knock)
            elif knock.tls is not None and not knock.is_shaken:
                self._shake(knock)
            elif not knock.tcp.recv(READ_BYTES):
                self._close(knock, "closed_by_it")
        except BlockingIOError:
            return
        except OSError:
            self._close(knock, "reset")

    def _connected(self, knock: Knock) -> None:
        error = knock.tcp.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._close(knock, "refused")
            return
        self.counts["arrived"] += 1
        knock.is_connected = True
        knock.until = time.monotonic() + (SILENT_S if self._kind == "silent" else ANSWER_S)
        self._waiting.append(knock)
        self._selector.modify(knock.tcp, selectors.EVENT_READ, knock)
        match self._kind:
            case "garbage":
                knock.tcp.send(GARBAGE)
            case "hello":
                knock.tcp.send(self._hello)
                self._close(knock, "done")
            case "stranger":
                knock.tls = SSL.Connection(self._context, knock.tcp)
                knock.tls.set_connect_state()
                self._shake(knock)

    def _shake(self, knock: Knock) -> None:
        assert knock.tls is not None
        try:
            knock.tls.do_handshake()
        except SSL.WantReadError:
            return
        except SSL.Error:
            self._close(knock, "failed")
            return
        knock.is_shaken = True  # with TLS 1.3 the server's verdict on us comes after our end of it
        self.counts["shaken"] += 1

    def _close(self, knock: Knock, how: str) -> None:
        """Close, once; a knock that is closed stays in its queue until its turn comes there."""
        if knock.tcp.fileno() < 0:
            return
        self.counts[how] += 1
        self._selector.unregister(knock.tcp)
        knock.tcp.close()


class Knocking:
    """Answers orders."""

    def __init__(self) -> None:
        """Make the stranger's certificate, and a ClientHello as our own connector sends it."""
        authority = CA("lab.x0d.test", start_unix_s=time.time())
        issued = authority.issue("spiffe://lab.x0d.test/node/n2")
        self._context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self._context.set_alpn_protos([b"h2"])
        self._context.use_certificate(x509.load_der_x509_certificate(issued.leaf_der))
        self._context.use_privatekey(issued.key)
        memory = SSL.Connection(self._context, None)
        memory.set_connect_state()
        try:
            memory.do_handshake()
        except SSL.WantReadError:
            self._hello = memory.bio_read(READ_BYTES)
        self._strangers: Strangers | None = None

    async def answer(self, order: Order) -> Order:
        """``begin`` or ``end``."""
        if order["do"] == "begin":
            targets = [(host, port) for host, port in order["targets"]]
            self._strangers = Strangers(
                order["kind"], order["rate"], targets, order["sources"], self._hello, self._context
            )
            self._strangers.start()
            return {}
        assert self._strangers is not None
        return self._strangers.stop()


if __name__ == "__main__":
    sys.setswitchinterval(0.001)
    run_child(obey(Knocking().answer))
