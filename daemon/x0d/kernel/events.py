"""``ports.PacketEvents``: packets that XDP samples, from its ring buffer to whoever watches.

XDP samples only while somebody is subscribed: the first subscription writes ``event_every`` into
``x0d_config``, the end of the last one writes 0.  What comes in is handed on in the event loop, a
bounded number at a time; the descriptor stays readable as long as there is more.  All methods are
called on the event loop and return at once.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from x0d.errors import NotSupported
from x0d.kernel import bpf
from x0d.kernel.layout import CLASSES, CONFIG, VERDICTS, decode_config, encode_config
from x0d.kernel.layout_policy import EVENT, IPV4_MAPPED
from x0d.kernel.ring import Ring
from x0d.ports.policy import PacketEvent

EVENTS_AT_ONCE = 256
"""Handed on in one turn of the event loop, about a millisecond."""

_KEY = bytes(4)
_NO_ADDRESS = bytes(16)

Subscriber = Callable[[Sequence[PacketEvent]], None]


class KernelEvents:
    """Sampled events of an XDP data plane."""

    def __init__(self, map_fds: Callable[[], Mapping[str, int]], buffer_bytes: int, sample_every: int) -> None:
        """``map_fds`` tells the plane's descriptors by ELF name; ``buffer_bytes`` is the ring buffer's size."""
        self._map_fds = map_fds
        self._buffer_bytes = buffer_bytes
        self._sample_every = sample_every
        self._subscribers: dict[object, Subscriber] = {}
        self._stream: _Stream | None = None
        self._missing: NotSupported | None = None  # what the latest ``open`` has found

    @property
    def sample_every(self) -> int:
        """One packet in so many becomes an event."""
        return self._sample_every

    def open(self) -> None:
        """Map the ring buffer; again after the plane was opened anew.  Subscriptions go on.

        A machine on which it cannot be read is no reason not to start: ``subscribe`` says so.

        Raises:
            NotSupported: the ring buffer has another size, or the plane is not loaded.
            KernelRefused: a map could not be read.
        """
        self._release()
        self._missing = None
        map_fds = self._map_fds()
        if not map_fds:
            raise NotSupported("sampled events", "no data plane is loaded")
        size = bpf.map_shape(map_fds["x0d_events"])[2]
        if size != self._buffer_bytes:
            raise NotSupported("sampled events", f"the ring buffer has {size} bytes and not {self._buffer_bytes}")
        try:
            self._stream = _Stream(map_fds["x0d_config"], map_fds["x0d_events"], size)
        except NotSupported as missing:
            self._missing = missing
            return
        self._switch(self._stream)

    def close(self) -> None:
        """End all subscriptions and the sampling."""
        self._subscribers.clear()
        if self._stream is not None:
            self._switch(self._stream)
        self._release()

    def suspend(self) -> None:
        """Let go of the maps; subscriptions go on with the next ``open``."""
        if self._stream is not None:
            self._stream.sample(0)
        self._release()

    def subscribe(self, on_events: Subscriber) -> Callable[[], None]:
        """As the port says."""
        if self._missing is not None:
            raise self._missing
        key = object()
        self._subscribers[key] = on_events
        if len(self._subscribers) == 1 and self._stream is not None:
            self._stream.drain()  # what nobody was there to see
            self._switch(self._stream)

        def unsubscribe() -> None:
            if self._subscribers.pop(key, None) and not self._subscribers and self._stream is not None:
                self._switch(self._stream)

        return unsubscribe

    def _switch(self, stream: "_Stream") -> None:
        """Sample and read if anybody is subscribed, else do neither."""
        stream.sample(self._sample_every if self._subscribers else 0)
        loop = asyncio.get_running_loop()
        if self._subscribers:
            loop.add_reader(stream.events_fd, self._read, stream)
        else:
            loop.remove_reader(stream.events_fd)

    def _read(self, stream: "_Stream") -> None:
        events = [decode_event(record) for record in stream.records() if len(record) == EVENT.size]
        if events:
            for on_events in list(self._subscribers.values()):
                on_events(events)

    def _release(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            asyncio.get_running_loop().remove_reader(stream.events_fd)
            stream.close()


class _Stream:
    """The switch and the ring buffer of one opened plane."""

    def __init__(self, config_fd: int, events_fd: int, size: int) -> None:
        """The descriptors stay the plane's, which may close them before it is opened anew: these are copies.

        Raises:
            NotSupported: this machine cannot read a ring buffer; nothing is left open.
        """
        with ExitStack() as stack:
            self._config_fd = os.dup(config_fd)
            stack.callback(os.close, self._config_fd)
            self.events_fd = os.dup(events_fd)
            stack.callback(os.close, self.events_fd)
            self._ring = Ring(self.events_fd, size)
            stack.callback(self._ring.close)
            self._resources = stack.pop_all()

    def sample(self, every: int) -> None:
        """Have XDP make an event of one packet in so many; 0: of none."""
        value = bpf.lookup(self._config_fd, _KEY, CONFIG.size)
        assert value is not None, "an array has all its elements"
        config = decode_config(value)
        if config.event_every != every:
            bpf.update(self._config_fd, _KEY, encode_config(replace(config, event_every=every)))

    def records(self) -> Iterator[bytes]:
        """Take out what one turn of the event loop has time for."""
        return self._ring.records(EVENTS_AT_ONCE)

    def drain(self) -> None:
        """Take out everything."""
        while sum(1 for _ in self.records()) == EVENTS_AT_ONCE:
            pass

    def close(self) -> None:
        """Unmap the ring buffer and close the copies."""
        self._resources.close()


def decode_event(record: bytes) -> PacketEvent:
    """Read a record of the ring buffer (``struct x0d_event``)."""
    at_ns, ifindex, length, source, destination, source_port, destination_port, *rest = EVENT.unpack(record)
    protocol, protocol_class, verdict, tags = rest
    is_ip = source != _NO_ADDRESS or destination != _NO_ADDRESS  # the address :: is a source of its own
    return PacketEvent(
        at_ns,
        ifindex,
        length,
        _shown(source) if is_ip else b"",
        _shown(destination) if is_ip else b"",
        int.from_bytes(source_port),
        int.from_bytes(destination_port),
        protocol,
        CLASSES[protocol_class],
        VERDICTS[verdict],
        tags,
    )


def _shown(address: bytes) -> bytes:
    return address[12:] if address.startswith(IPV4_MAPPED) else address
