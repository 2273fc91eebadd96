"""A policy service on fakes that outlive it, as kernel and disk outlive the daemon."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence

from fakes.clock import FakeClock
from fakes.policy import FakePolicyPlane
from fakes.policy_store import FakePolicyStore
from x0d.errors import KernelRefused
from x0d.policy.guard import Protected
from x0d.policy.model import DenyEntry, Limit, PackedPrefix, PrefixKey, parse_prefix
from x0d.ports import LimitRate, PolicyStore
from x0d.service.alerts import Alerts
from x0d.service.policy import PolicyService
from x0d.service.views_policy import Loaded

NEIGHBOUR = Protected(parse_prefix("10.0.0.2"), "neighbour n2", overlap=False)
MANAGEMENT = Protected(parse_prefix("192.168.0.0/16"), "management network", overlap=True)
REFUSAL = KernelRefused("update deny-list", 12)


class SteppedClock(FakeClock):
    """A clock whose wall time can be set."""

    def __init__(self) -> None:
        super().__init__()
        self.step_ms = 0

    def unix_ms(self) -> int:
        """Wall-clock milliseconds."""
        return super().unix_ms() + self.step_ms


class WatchedPlane(FakePolicyPlane):
    """The fake plane, with the changes that were made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        """Names of the changes made, in order; those refused are not among them."""
        self.is_prepared = asyncio.Event()
        """Set when a list has been prepared."""

    def drop(self, prefix: PackedPrefix, packets: int) -> None:
        """Count packets against an entry that is there."""
        assert prefix in self.entries
        self.denied[prefix] = self.denied.get(prefix, 0) + packets

    async def replace_deny(self, entries: Mapping[PrefixKey, int]) -> None:
        """Put a whole list in force."""
        await super().replace_deny(entries)
        self.calls.append("replace_deny")

    async def prepare_deny(self, entries: Mapping[PrefixKey, int]) -> None:
        """Build a list."""
        await super().prepare_deny(entries)
        self.is_prepared.set()

    async def put_deny(self, entries: Mapping[PrefixKey, int]) -> None:
        """Add entries."""
        await super().put_deny(entries)
        self.calls.append("put_deny")

    async def delete_deny(self, prefixes: Collection[PrefixKey]) -> None:
        """Remove entries."""
        await super().delete_deny(prefixes)
        self.calls.append("delete_deny")

    async def replace_limits(self, limits: Mapping[PackedPrefix, LimitRate]) -> None:
        """Put limits in force."""
        await super().replace_limits(limits)
        self.calls.append("replace_limits")


class World:
    """Kernel, disk and clock, and the service of the daemon's present life."""

    def __init__(self, deny_entries_max: int = 1000) -> None:
        self.clock = SteppedClock()
        self.plane = WatchedPlane()
        self.store = FakePolicyStore()
        self.alerts = Alerts()
        self.protected = [NEIGHBOUR, MANAGEMENT]
        self.shortfall: dict[str, str] = {}
        """Why a stage does nothing, by its name."""
        self._deny_entries_max = deny_entries_max
        self.service = self._new_service(self.store)

    def use(self, store: PolicyStore) -> None:
        """Give the service another store than the fake."""
        self.service = self._new_service(store)

    def _new_service(self, store: PolicyStore) -> PolicyService:
        return PolicyService(
            plane=self.plane,
            store=store,
            clock=self.clock,
            alerts=self.alerts,
            protected=lambda: self.protected,
            shortfall=lambda stage: self.shortfall.get(stage, ""),
            deny_entries_max=self._deny_entries_max,
        )

    async def restart(self, *, store_is_new: bool = False) -> None:
        """Begin another life of the daemon."""
        self.service = self._new_service(self.store)
        await self.service.start(store_is_new=store_is_new)

    async def deny(
        self, *texts: str, for_s: int = 0, comment: str = "", force: bool = False, callers: Sequence[str] = ()
    ) -> tuple[Sequence[DenyEntry], Sequence[str]]:
        """Add entries."""
        return await self.service.add_deny(
            [parse_prefix(text) for text in texts],
            duration_s=for_s,
            comment=comment,
            force=force,
            caller_addresses=callers,
        )

    async def load(
        self, *pieces: str, force: bool = False, dry_run: bool = False, callers: Sequence[str] = ()
    ) -> Loaded:
        """Load a file."""
        load = self.service.begin_load(name="test", force=force, caller_addresses=callers, dry_run=dry_run)
        try:
            for piece in pieces:
                await load.feed(piece)
            return await load.finish()
        finally:
            load.abandon()

    async def limit(
        self, text: str, rate_pps: int = 1000, burst: int = 0, for_s: int = 0, *, force: bool = False
    ) -> tuple[Limit, Sequence[str]]:
        """Add a limit."""
        return await self.service.add_limit(
            parse_prefix(text), rate_pps=rate_pps, burst=burst, duration_s=for_s, comment="c", force=force,
            caller_addresses=(),
        )  # fmt: skip

    def in_kernel(self) -> list[str]:
        """The kernel's deny-list, as text."""
        return texts(self.plane.entries)

    def on_disk(self) -> list[str]:
        """The store's deny-list, as text."""
        return texts(self.store.deny)

    async def listed(self, match: str = "") -> list[str]:
        """What the service tells of its deny-list."""
        rows = await self.service.list_deny(parse_prefix(match) if match else None)
        return [str(row.entry.prefix) for row in rows]

    async def holds_everywhere(self, *expected: str) -> None:
        """Assert that kernel, disk and service have this list."""
        assert sorted(expected) == self.in_kernel() == self.on_disk() == sorted(await self.listed())
        assert len(expected) == self.service.deny_count


def texts(prefixes: Iterable[PrefixKey]) -> list[str]:
    """Prefixes as sorted text."""
    return sorted(str(PackedPrefix(*prefix)) for prefix in prefixes)
