"""Fake views of the data plane, the lists and the tracing; no kernel, no disk, no guard and no expiry behind them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from math import inf

from x0d.errors import InvalidInput, NotThere, X0dError
from x0d.policy.model import DenyEntry, Limit, PackedPrefix, parse_prefix
from x0d.service.views_dataplane import (
    AttachmentStatus,
    DropCounter,
    DropRate,
    Histogram,
    InterfaceRate,
    Map,
    ObjectFile,
    PacketCounter,
    PacketEvent,
    PeerCounter,
    ProbeCounter,
    Program,
    Programs,
    StateCounter,
    Stats,
    SyscallLatency,
    Talker,
    Top,
    TraceProgress,
    UpgradeResult,
    VerdictRate,
)
from x0d.service.views_policy import DenyRow, LimitRow, Loaded, Removed

AT_UNIX_MS = 1_700_000_000_000
HISTOGRAM = Histogram((1e-6, 2e-6, inf), (3, 0, 1), 0.5)
PROGRAM = Program("x0d_root", "xdp", "root", "loaded", id=77)
REFUSED = Program("x0d_limit", "xdp", "stage", "refused", "rejected", "EINVAL", "R1 !read_ok\x1b[2J\nprocessed 3 insns")
ATTACHMENT = AttachmentStatus("eth1", 3, "native", frags=True, adopted=True, state="attached")
STATS = Stats(
    counters=(PacketCounter("eth1", "udp", "pass", 10, 1400),),
    probes=(ProbeCounter("eth1", "answered", 7),),
    events_sent=5,
    events_lost=1,
    drops=(DropCounter("no_socket", 3),),
    tcp_retransmits=(PeerCounter("192.0.2.0/24", 2),),
    tcp_resets_sent=(PeerCounter("other", 1),),
    tcp_resets_received=(PeerCounter("2001:db8::/48", 4),),
    socket_states=(StateCounter("ipv4", "syn_sent", "established", 9),),
    run_queue_latency=HISTOGRAM,
)
PROGRAMS = Programs(
    programs=(PROGRAM, REFUSED),
    maps=(Map("x0d_config", "array", 1, 4096),),
    objects=(ObjectFile("/usr/lib/x0d/xdp.bpf.o", "ab" * 32, "Dual MIT/GPL", 2, has_btf=True, loaded_at_unix_ms=1),),
    attachments=(ATTACHMENT,),
)


def packet_event(verdict: str, source: str = "192.0.2.7") -> PacketEvent:
    """A sampled UDP packet."""
    return PacketEvent(AT_UNIX_MS, "eth1", source, "198.51.100.1", 53, 4000, 17, "udp", verdict, 142, 1)


class FakeTopReader:
    """Rates from the second call on."""

    def __init__(self) -> None:
        self._interval_s = 0.0

    async def next(self, talkers_max: int) -> Top:
        interval_s, self._interval_s = self._interval_s, 1.0
        return Top(
            at_unix_ms=AT_UNIX_MS,
            interval_s=interval_s,
            interfaces=(InterfaceRate("eth1", "native", 1500.0 * interval_s, 2.5e6, 3.0),),
            verdicts=(VerdictRate("deny", 3.25, 12),),
            talkers=tuple(Talker(f"192.0.2.{n}", 10.0, 8e3, 0.0, 5, 500, 0) for n in range(1, 200))[:talkers_max],
            drops=(DropRate("no_socket", 2.0, 3),),
            sources_tracked=199,
            deny_entries=10_000,
            limits=2,
        )


class FakeDataplaneView:
    """The constants above; attachments as set by attach and detach; an error in ``fails`` is raised by all."""

    def __init__(self) -> None:
        self.fails: X0dError | None = None
        self.before: Callable[[], Awaitable[None]] | None = None
        """Awaited by an upgrade before it is done."""
        self.upgrades = 0
        self.detached: set[str] = set()
        self.blocked = ""
        """Why ``attach`` finds the interface blocked."""
        self.upgraded = UpgradeResult(("x0d_deny",), (PROGRAM, REFUSED), 3.5)
        self.loaded = PROGRAMS
        self.subscribers: list[Callable[[Sequence[PacketEvent]], None]] = []
        self.event_sample_every = 100
        self.lost = 0

    async def stats(self) -> Stats:
        self._check()
        return STATS

    def top(self) -> FakeTopReader:
        self._check()
        return FakeTopReader()

    def subscribe_events(self, on_events: Callable[[Sequence[PacketEvent]], None]) -> Callable[[], None]:
        self.subscribers.append(on_events)

        def unsubscribe() -> None:
            if on_events in self.subscribers:
                self.subscribers.remove(on_events)

        return unsubscribe

    def events_lost(self) -> int:
        return self.lost

    async def programs(self) -> Programs:
        self._check()
        return self.loaded

    async def upgrade(self) -> UpgradeResult:
        self._check()
        if self.before is not None:
            await self.before()
        self.upgrades += 1
        return self.upgraded

    async def attach(self, names: Sequence[str], *, everything: bool) -> Sequence[AttachmentStatus]:
        self._check(*names)
        self.detached -= {"eth1"} if everything else set(names)
        if self.blocked:
            return (AttachmentStatus("eth1", 3, "", frags=False, adopted=False, state="blocked", reason=self.blocked),)
        return (ATTACHMENT,)

    async def detach(self, names: Sequence[str], *, everything: bool) -> Sequence[AttachmentStatus]:
        self._check(*names)
        self.detached |= {"eth1"} if everything else set(names)
        return (AttachmentStatus("eth1", 3, "", frags=False, adopted=False, state="detached", reason="by an operator"),)

    def _check(self, *names: str) -> None:
        if self.fails is not None:
            raise self.fails
        for name in names:
            if name != "eth1":
                raise NotThere(f"{name} is not in the configuration")


class FakeTracingView:
    """Two steps, the second done; ``hold`` makes it wait between them."""

    def __init__(self) -> None:
        self.running = 0
        self.asked: list[tuple[float, int]] = []
        self.hold: asyncio.Event | None = None
        self.fails: X0dError | None = None

    async def trace(self, duration_s: float, sample_every: int) -> AsyncGenerator[TraceProgress, None]:
        if self.fails is not None:
            raise self.fails
        self.asked.append((duration_s, sample_every))
        self.running += 1
        try:
            yield TraceProgress(0.5, done=False, total=HISTOGRAM, syscalls=(SyscallLatency("read", 2, 1e-6, 2e-6),))
            if self.hold is not None:
                await self.hold.wait()
            yield TraceProgress(1.0, done=True, total=HISTOGRAM, syscalls=(SyscallLatency("read", 4, 1.5e-6, inf),))
        finally:
            self.running -= 1


class FakeDenyLoad:
    """Lines of prefixes; the first that is none makes ``finish`` fail."""

    def __init__(self, view: "FakePolicyView", *, dry_run: bool) -> None:
        self._view = view
        self._dry_run = dry_run
        self._entries: dict[PackedPrefix, DenyEntry] = {}
        self._problems: list[str] = []
        self.lines = 0
        self.duplicates = 0

    @property
    def entries(self) -> int:
        return len(self._entries)

    async def feed(self, text: str) -> None:
        for line in text.splitlines():
            self.lines += 1
            try:
                prefix = parse_prefix(line.partition("#")[0].strip())
            except InvalidInput as error:
                self._problems.append(f"line {self.lines}: {error}")
                continue
            self.duplicates += prefix in self._entries
            self._entries[prefix] = DenyEntry(prefix)

    async def finish(self) -> Loaded:
        if self._problems:
            self.abandon()
            raise InvalidInput("; ".join(self._problems))
        if self._view.before is not None:
            await self._view.before()
        old, new = self._view.deny, self._entries
        if not self._dry_run:
            self._view.deny = new
        self._view.loading = None
        warnings = ("10.0.0.1 covers neighbour n2",) if self._view.asked[-1]["force"] else ()
        return Loaded(
            len(new), len(new.keys() - old.keys()), len(old.keys() - new.keys()), self.duplicates, warnings, 1
        )

    def abandon(self) -> None:
        self._view.loading = None
        self._view.abandoned += 1


class FakePolicyView:
    """Lists in memory; ``asked`` holds the arguments of each write, ``fails`` is raised by all."""

    def __init__(self) -> None:
        self.deny: dict[PackedPrefix, DenyEntry] = {}
        self.limits: dict[PackedPrefix, Limit] = {}
        self.asked: list[dict[str, object]] = []
        self.fails: X0dError | None = None
        self.before: Callable[[], Awaitable[None]] | None = None
        """Awaited by a load that is complete before it is in force."""
        self.loading: FakeDenyLoad | None = None
        self.abandoned = 0

    async def list_deny(self, match: PackedPrefix | None) -> Sequence[DenyRow]:
        return [
            DenyRow(entry, 3)
            for prefix, entry in sorted(self.deny.items())
            if match is None or prefix.covers(match) or match.covers(prefix)
        ]

    async def add_deny(
        self, prefixes: Sequence[PackedPrefix], **asked: object
    ) -> tuple[Sequence[DenyEntry], Sequence[str]]:
        self._note(asked)
        expires = AT_UNIX_MS + asked["duration_s"] * 1000 if asked["duration_s"] else 0  # type: ignore[operator]
        added = [DenyEntry(prefix, expires, str(asked["comment"])) for prefix in prefixes]
        self.deny |= {entry.prefix: entry for entry in added}
        return added, ("10.0.0.1 covers neighbour n2",) if asked["force"] else ()

    async def remove_deny(self, prefixes: Sequence[PackedPrefix]) -> Removed:
        return _remove(self.deny, prefixes)

    def begin_load(self, **asked: object) -> FakeDenyLoad:
        self._note(asked)
        self.loading = FakeDenyLoad(self, dry_run=bool(asked["dry_run"]))
        return self.loading

    async def list_limits(self) -> Sequence[LimitRow]:
        return [LimitRow(limit, 4) for limit in self.limits.values()]

    async def add_limit(
        self, prefix: PackedPrefix, *, rate_pps: int, burst: int, **asked: object
    ) -> tuple[Limit, Sequence[str]]:
        self._note({"rate_pps": rate_pps, "burst": burst, **asked})
        limit = Limit(prefix, rate_pps, burst or 10, 0, str(asked["comment"]))
        self.limits[prefix] = limit
        return limit, ("10.0.0.1 covers neighbour n2",) if asked["force"] else ()

    async def remove_limits(self, prefixes: Sequence[PackedPrefix]) -> Removed:
        return _remove(self.limits, prefixes)

    def _note(self, asked: dict[str, object]) -> None:
        if self.fails is not None:
            raise self.fails
        self.asked.append(asked)


def _remove(
    entries: "dict[PackedPrefix, DenyEntry] | dict[PackedPrefix, Limit]", prefixes: Sequence[PackedPrefix]
) -> Removed:
    missing = tuple(prefix for prefix in prefixes if entries.pop(prefix, None) is None)
    if len(missing) == len(prefixes):
        raise NotThere("none of these is in the list")
    return Removed(len(prefixes) - len(missing), missing)
