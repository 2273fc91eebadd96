"""Interfaces: each configured one is waited for, attached, watched, and attached again when it returns.

An interface that does not exist is ``waiting``; one on which the kernel refused our program is
``blocked``, shown with the reason and tried again now and then; one that an operator took us off is
``detached`` until he says otherwise or the daemon starts anew; the others go on.  What happens to an
interface is passed on at once: carrier first, because a reroute hangs on it.

The kernel does not tell when somebody takes our program off an interface, so every second it is asked
for: what has lost it is told as lost and attached anew.  Nothing of ours stays on an interface that
no configured name means any more.
"""

import asyncio
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from x0d import telemetry
from x0d.errors import ForeignProgram, KernelRefused, NotSupported, NotThere
from x0d.ports import Attachment, Clock, DataPlane, Interface, InterfaceEvent, InterfaceSource

VERIFY_S = 1.0  # how long an interface may be without our program before that is seen
RETRY_BLOCKED_S = 5.0  # a foreign program may have been removed, a driver reloaded
RETRY_BLOCKED_NS = round(RETRY_BLOCKED_S * 1e9)
REMOVED, MOVED = "was removed", "was moved to another network namespace"
REMOVED_OR_MOVED = "was removed or moved to another network namespace"
"""Why an interface is gone, by what the kernel has told."""
DETACHED_REASON = "an operator detached it; x0ctl ebpf attach takes it up again"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class InterfaceState:
    """How one configured interface stands."""

    name: str
    state: str
    """``waiting``, ``attached``, ``blocked`` or ``detached``."""
    interface: Interface | None = None
    attachment: Attachment | None = None
    reason: str = ""


class InterfaceListener(Protocol):
    """Who wants to know what happens to interfaces; called on the event loop, at once."""

    def interface_ready(self, interface: Interface) -> None:
        """It is attached, or its addresses changed while attached."""

    def interface_lost(self, name: str, at_ns: int, reason: str, *, blocked: bool) -> None:
        """It is gone, or our program cannot run on it."""

    def carrier(self, interface: Interface, at_ns: int, *, present: bool) -> None:
        """Carrier, or the administrative state, came or went."""


class InterfaceService:
    """Keeps our program on every configured interface."""

    def __init__(
        self, names: Iterable[str], source: InterfaceSource, plane: DataPlane, clock: Clock, listener: InterfaceListener
    ) -> None:
        self._source = source
        self._plane = plane
        self._clock = clock
        self._listener = listener
        self._statuses = {name: InterfaceState(name, "waiting", reason="does not exist yet") for name in names}
        self._wake = asyncio.Event()
        """Something is to be looked at, if only whether our programs are in their places."""
        self._has_news = False
        """Interfaces came, went or are to be taken up: they are to be read again."""
        self._changing = asyncio.Lock()
        """One at a time: the reconciling, or an operator's attach or detach."""
        self._carrier: dict[str, bool] = {}
        self._missed: dict[int, InterfaceEvent] = {}
        """Latest event of each interface not attached: it may tell of a change while the attaching was under way."""

    def statuses(self) -> tuple[InterfaceState, ...]:
        """How each configured interface stands."""
        return tuple(self._statuses.values())

    def name_of(self, ifindex: int) -> str | None:
        """Name of an attached interface."""
        for status in self._statuses.values():
            if status.attachment and status.attachment.ifindex == ifindex:
                return status.name
        return None

    def add(self, names: Iterable[str]) -> None:
        """Take up further interfaces (a reload named them)."""
        for name in names:
            self._statuses.setdefault(name, InterfaceState(name, "waiting", reason="does not exist yet"))
        self._rouse()

    async def attach(self, names: Collection[str]) -> tuple[InterfaceState, ...]:
        """Take up interfaces that ``detach`` has left, and try blocked ones at once; how they stand then.

        Raises:
            NotThere: one of them is not configured; nothing has changed.
        """
        self.check_configured(names)
        async with self._changing:
            for name in names:
                if self._statuses[name].state == "detached":
                    self._statuses[name] = InterfaceState(name, "waiting", reason="does not exist yet")
            await self._reconcile()
        return tuple(self._statuses[name] for name in names)

    async def detach(self, names: Collection[str]) -> tuple[InterfaceState, ...]:
        """Take our program off interfaces and leave them alone; how they stand then.

        Raises:
            NotThere: one of them is not configured; nothing has changed.
        """
        self.check_configured(names)
        async with self._changing:
            for name in names:
                await self._leave(name)
        return tuple(self._statuses[name] for name in names)

    def check_configured(self, names: Collection[str]) -> None:
        """See that each is an interface of the configuration.  Raises NotThere."""
        unknown = [name for name in names if name not in self._statuses]
        if unknown:
            known = ", ".join(self._statuses) or "none"
            raise NotThere(f"not an interface of the configuration: {', '.join(unknown)}; configured: {known}")

    async def _leave(self, name: str) -> None:
        status = self._statuses[name]
        if status.state == "detached":
            return
        self._statuses[name] = InterfaceState(name, "detached", status.interface, reason=DETACHED_REASON)
        self._carrier.pop(name, None)
        self._listener.interface_lost(name, self._clock.monotonic_ns(), DETACHED_REASON, blocked=True)
        if status.interface is not None:
            await self._plane.detach(status.interface.ifindex)
        log.info(telemetry.INTERFACE_DETACHED, interface=name, reason="an operator asked for it")

    async def start(self) -> None:
        """Attach to what exists, begin to watch, and leave interfaces that an earlier life was configured for."""
        self._source.subscribe(self._on_event)
        async with self._changing:
            await self._reconcile()

    async def run(self) -> None:
        """Attach what appears and what has lost our program; try blocked interfaces again."""
        retry_at_ns = self._clock.monotonic_ns() + RETRY_BLOCKED_NS
        while True:
            with suppress(TimeoutError):  # then it is time to verify, and to look at the blocked ones
                async with asyncio.timeout(VERIFY_S):  # wait_for may swallow a cancel (Python 3.11)
                    await self._wake.wait()
            self._wake.clear()
            async with self._changing:
                is_due = self._has_news or self._clock.monotonic_ns() >= retry_at_ns
                if is_due or await self._faults():
                    await self._reconcile()
                    retry_at_ns = self._clock.monotonic_ns() + RETRY_BLOCKED_NS

    def _rouse(self) -> None:
        self._has_news = True
        self._wake.set()

    def _on_event(self, event: InterfaceEvent) -> None:
        at_index = (s for s in self._statuses.values() if s.interface and s.interface.ifindex == event.ifindex)
        known = next((status for status in at_index if status.state != "detached"), None)
        current = event.interface
        if known is not None and (current is None or current.name != known.name):
            self._lose(known.name, event.at_ns, _departure(event))
            self._rouse()
        if known is None or known.state != "attached":
            self._missed[event.ifindex] = event
        if current is None or current.name not in self._statuses:
            return
        status = self._statuses[current.name]
        if status.state == "detached":
            return
        if status.state != "attached" or status.interface is None or status.interface.ifindex != current.ifindex:
            self._rouse()
            return
        if status.interface == current:  # it is about what is not shown, which may be its XDP program
            self._wake.set()
        self._follow(current, status, event.at_ns)

    def _follow(self, current: Interface, status: InterfaceState, at_ns: int) -> None:
        """Take over what has changed on an attached interface."""
        before = status.interface
        self._statuses[current.name] = replace(status, interface=current)
        if before is None or current.addresses != before.addresses:
            self._listener.interface_ready(current)
        self._tell_carrier(current, at_ns)

    def _tell_carrier(self, interface: Interface, at_ns: int) -> None:
        present = interface.up and interface.carrier
        if self._carrier.get(interface.name) != present:
            self._carrier[interface.name] = present
            self._listener.carrier(interface, at_ns, present=present)

    def _lose(self, name: str, at_ns: int, reason: str, event: str = telemetry.INTERFACE_GONE) -> None:
        self._statuses[name] = InterfaceState(name, "waiting", reason=reason)
        self._carrier.pop(name, None)
        log.warning(event, interface=name, reason=reason)
        self._listener.interface_lost(name, at_ns, reason, blocked=False)

    async def _faults(self) -> dict[int, str]:
        """Attached interfaces that our program is on no longer, by index, with why."""
        faults = await self._plane.verify()
        attached = {s.interface.ifindex for s in self._statuses.values() if s.interface and s.state == "attached"}
        return {ifindex: fault for ifindex, fault in faults.items() if ifindex in attached}

    async def _reconcile(self) -> None:
        self._has_news = False
        self._missed.clear()
        faults = await self._faults()
        existing = {interface.name: interface for interface in await self._source.read()}
        await self._plane.collect(frozenset(interface.ifindex for interface in existing.values()))
        for name, status in list(self._statuses.items()):
            current = existing.get(name)
            if status.state == "detached":
                continue
            if current is None:
                if status.state != "waiting":
                    self._lose(name, self._clock.monotonic_ns(), REMOVED_OR_MOVED)
                continue
            is_there = status.state == "attached" and status.interface and status.interface.ifindex == current.ifindex
            if is_there and current.ifindex in faults:
                reason = faults[current.ifindex]
                self._lose(name, self._clock.monotonic_ns(), reason, telemetry.INTERFACE_PROGRAM_LOST)
                await self._attach(current, self._statuses[name])
            elif not is_there:
                await self._attach(current, status)
        await self._leave_others({existing[name].ifindex for name in self._statuses if name in existing})

    async def _leave_others(self, configured: Collection[int]) -> None:
        """Take our program off what no configured name means: renamed, or configured in an earlier life."""
        for ifindex in sorted(self._plane.attached_ifindexes().difference(configured)):
            log.info(telemetry.INTERFACE_DETACHED, ifindex=ifindex, reason="not configured any more")
            await self._plane.detach(ifindex)

    async def _attach(self, interface: Interface, status: InterfaceState) -> None:
        try:
            attachment = await self._plane.attach(interface.name, interface.ifindex)
        except (KernelRefused, ForeignProgram, NotSupported) as refusal:
            if status.state != "blocked" or status.reason != str(refusal):
                log.error(telemetry.INTERFACE_BLOCKED_EVENT, interface=interface.name, reason=str(refusal))
                self._statuses[interface.name] = InterfaceState(
                    interface.name, "blocked", interface, reason=str(refusal)
                )
                self._listener.interface_lost(interface.name, self._clock.monotonic_ns(), str(refusal), blocked=True)
            return
        self._statuses[interface.name] = InterfaceState(interface.name, "attached", interface, attachment)
        log.info(
            telemetry.INTERFACE_ATTACHED_EVENT,
            interface=interface.name,
            ifindex=interface.ifindex,
            mode=attachment.mode,
            frags=attachment.frags,
            adopted=attachment.adopted,
            refused=[f"{refused.mode}: {refused.errno}" for refused in attachment.refused],
        )
        self._listener.interface_ready(interface)
        self._tell_carrier(interface, self._clock.monotonic_ns())
        missed = self._missed.pop(interface.ifindex, None)
        if missed is not None:
            self._on_event(missed)


def _departure(event: InterfaceEvent) -> str:
    """What became of an interface that is no longer there under its name."""
    if event.interface is not None:
        return f"was renamed to {event.interface.name}"
    if event.moved is None:
        return REMOVED_OR_MOVED
    return MOVED if event.moved else REMOVED
