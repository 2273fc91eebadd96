"""What changes of the deny-list and of the limits share: the lists as they hold, and the order of a change.

One change at a time.  A change is checked as a whole, then written to the store, then put into the
kernel: if the store refuses, the kernel has not been touched; if the kernel refuses, the store is put
back.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeVar

import structlog

from x0d import telemetry
from x0d.errors import InvalidInput, NotThere, StorageFailed, X0dError
from x0d.policy.durations import DURATION_S_MAX
from x0d.policy.guard import Protected
from x0d.policy.model import Limit, PackedPrefix, PrefixKey, Terms
from x0d.ports import Clock, PolicyPlane, PolicyStore
from x0d.service.alerts import Alerts
from x0d.service.policy_guard import LockOutGuard
from x0d.service.policy_held import Held, Now
from x0d.service.views_policy import Removed

NAMED_MAX: Final = 5
"""Prefixes named in a log line or an error."""
STORE_ALERT: Final = "policy_store"
FORCE_ALERT: Final = "policy_not_in_force"
COVER_ALERT: Final = "lists_cover_protected"
LOST_ALERT: Final = "policy_store_lost"

T = TypeVar("T")
log = structlog.get_logger()


class PolicyState:
    """The lists, and how one change is made."""

    def __init__(
        self,
        *,
        plane: PolicyPlane,
        store: PolicyStore,
        clock: Clock,
        alerts: Alerts,
        protected: Callable[[], Sequence[Protected]],
        shortfall: Callable[[str], str],
        deny_entries_max: int,
    ) -> None:
        """``shortfall``: as ``ports.DataPlane`` tells it of the stages ``deny`` and ``limit``."""
        self._plane = plane
        self._store = store
        self._clock = clock
        self._alerts = alerts
        self._shortfall = shortfall
        self._deny_entries_max = deny_entries_max
        self.guard = LockOutGuard(protected)
        """Counts what was refused and what was forced."""
        self._deny: Held[Terms] = Held()
        self._limits: Held[Limit] = Held()
        self._one_at_a_time = asyncio.Lock()
        self._changed = asyncio.Event()
        self._loading = False
        self._in_force = True
        """Whether the kernel has taken what is held."""
        self._store_differs = False
        """Whether the store holds a change that the kernel refused."""
        self._to_be_judged = True
        """Whether the lists are to be held against what is protected: it has changed, or they have."""
        self._offset_ms = Now.read(clock).offset_ms
        """How far the clocks were apart when the instants on disk were made."""
        self._covers = False
        """Whether they covered something protected the last time."""

    @property
    def deny_count(self) -> int:
        """Entries of the deny-list."""
        return len(self._deny.entries)

    @property
    def limit_count(self) -> int:
        """Limits."""
        return len(self._limits.entries)

    def protected_changed(self) -> None:
        """Hold the lists against what is protected now; what they cover is an alert."""
        self._to_be_judged = True
        self._changed.set()

    def _unenforced(self, stage: str) -> tuple[str, ...]:
        """Say it if what was changed has no effect now, or not everywhere."""
        why = self._shortfall(stage)
        return (f"kept, but it does not hold everywhere now: {why}",) if why else ()

    async def _in_store(self, change: Awaitable[None]) -> None:
        """Write a change to the store; a store that refuses is an alert until it takes something.

        Raises:
            StorageFailed: nothing has changed.
        """
        try:
            await change
        except StorageFailed as failure:
            self._alerts.raise_alert(
                STORE_ALERT, f"a change was refused: {failure}; is the disk of node.state_dir full or read-only?"
            )
            raise
        if not self._store_differs:
            self._alerts.clear(STORE_ALERT)

    async def _in_kernel_too(self, change: Awaitable[None], undo: Callable[[], Awaitable[None]]) -> None:
        """Put into the kernel what the store has, or take it out of the store again.  Raises what the kernel refuses.

        If the store refuses to be put back, the next start would put in force what was refused: an alert, and
        the store is written anew later.
        """
        try:
            await change
        except X0dError as refusal:
            log.warning(telemetry.POLICY_REFUSED, reason=str(refusal))
            try:
                await undo()
            except StorageFailed as failure:
                log.error(telemetry.POLICY_UNDO_FAILED, reason=str(failure))
                self._alerts.raise_alert(STORE_ALERT, f"holds a change that the kernel refused: {failure}")
                self._store_differs = True
                self._changed.set()
            raise
        self._to_be_judged |= self._covers
        self._changed.set()

    def _tell(
        self, event: str, fresh: Collection[PrefixKey], changed: Collection[PrefixKey],
        removed: Collection[PrefixKey], held: Held[Any], **more: object,
    ) -> None:  # fmt: skip
        """Log a change: one line, with the counts before and after."""
        after = len(held.entries)
        log.info(
            event, prefixes=named([*fresh, *changed, *removed]), added=len(fresh), changed=len(changed),
            removed=len(removed), entries_before=after - len(fresh) + len(removed), entries=after, **more,
        )  # fmt: skip


def named(prefixes: Collection[PrefixKey]) -> str:
    """Some prefixes by name, the others as a number."""
    texts = [str(PackedPrefix(*prefix)) for _, prefix in zip(range(NAMED_MAX), prefixes, strict=False)]
    more = len(prefixes) - len(texts)
    return ", ".join([*texts, f"{more} more"] if more else texts)


def those_there(prefixes: Sequence[PrefixKey], entries: Mapping[PrefixKey, T], what: str) -> dict[PrefixKey, T]:
    """The entries that these prefixes name.  Raises NotThere if there is none."""
    there = {prefix: entries[prefix] for prefix in prefixes if prefix in entries}
    if not there:
        raise NotThere(f"no {what} for {named(prefixes)}")
    return there


def removal(asked: Sequence[PrefixKey], there: Collection[PrefixKey]) -> Removed:
    """What removing those that were ``there`` of those ``asked`` for has done."""
    missing = (PackedPrefix(*prefix) for prefix in dict.fromkeys(asked) if prefix not in there)
    return Removed(len(there), tuple(missing))


def check_duration(duration_s: int) -> None:
    """Raise InvalidInput for a duration that nobody can mean; 0 is for ever."""
    if not 0 <= duration_s <= DURATION_S_MAX:
        raise InvalidInput(f"a duration is 0 to {DURATION_S_MAX} s, not {duration_s}")
