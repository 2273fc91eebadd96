"""Deny-list and limits: what was asked for, kept on disk, in force in the kernel.

The store's list is what shall hold.  At a start the kernel is brought to it, and only what differs is
touched: so a daemon that was killed between store and kernel ends what it had begun.  What the kernel
holds goes on without the daemon, expiry included; ``run`` clears away what has expired, and tries again
what the kernel refused.
"""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from x0d import telemetry
from x0d.errors import StorageFailed, X0dError
from x0d.policy.model import Limit, PackedPrefix, PrefixKey, Terms
from x0d.ports import LimitRate
from x0d.service.policy_deny import DenyChanges
from x0d.service.policy_force import enforce_deny, enforce_limits
from x0d.service.policy_held import MS_NS, SLACK_NS, DenyEntries, Held, Now, aside
from x0d.service.policy_limits import LimitChanges, limit_instants, limit_rates
from x0d.service.policy_state import COVER_ALERT, FORCE_ALERT, LOST_ALERT, STORE_ALERT, named

EXPIRE_INTERVAL_S: Final = 1.0
"""Between two clearings: entries that expire close together go in one transaction."""
CLOCK_LOOK_S: Final = 10.0
"""While something expires, the wall clock is looked at so often: nobody tells when it is set."""
RETRY_S: Final = 10.0
"""Between two tries to put in force what the kernel refused, or to write what the store refused."""

log = structlog.get_logger()


class PolicyService(DenyChanges, LimitChanges):
    """Satisfies ``views_policy.PolicyView``."""

    async def start(self, *, store_is_new: bool = False) -> None:
        """Put in force what the store holds and has not expired; what was in force before keeps its hits.

        With ``store_is_new`` (there was no file, or it was unreadable) it is the other way round: what the
        kernel still holds is kept, and written down.  A kernel that refuses is an alert, and tried again.

        Raises:
            StorageFailed: the store cannot be read.
        """
        async with self._one_at_a_time:
            deny_in_kernel, limits_in_kernel = await self._read_kernel()
            now = Now.read(self._clock)
            if store_is_new and (deny_in_kernel or limits_in_kernel):
                await self._write_down(deny_in_kernel, limits_in_kernel, now)
            entries, limits = await self._store.load()
            self._deny, deny_expired = await aside(
                len(entries),
                Held[Terms].from_store,
                (
                    ((entry.prefix.address, entry.prefix.length), Terms(entry.expires_unix_ms, entry.comment))
                    for entry in entries
                ),
                deny_in_kernel,
                now,
            )
            self._limits, limits_expired = Held[Limit].from_store(
                ((limit.prefix, limit) for limit in limits), limit_instants(limits_in_kernel), now
            )
            await self._forget(deny_expired, limits_expired)
            await self._enforce(deny_in_kernel, limits_in_kernel)

    async def run(self) -> None:
        """Clear away what has expired, try again what was refused, tell what covers too much; for ever."""
        while True:
            await self._wait()
            if not self._in_force:
                await self.restore()
            if self._store_differs:
                await self._mend_store()
            stored = await self._follow_clock() and await self._expire()
            if self._to_be_judged:
                await self._judge_all()
            well = stored and self._in_force and not self._store_differs
            await asyncio.sleep(EXPIRE_INTERVAL_S if well else RETRY_S)

    async def restore(self) -> None:
        """Put everything in force again, after the plane was opened anew; a kernel that refuses is an alert."""
        async with self._one_at_a_time:
            await self._enforce(*await self._read_kernel())

    # ---- expiry ----

    async def _wait(self) -> None:
        """Wait until something is due; what changes meanwhile may be due earlier."""
        while self._in_force and not self._store_differs and not self._to_be_judged:
            now = Now.read(self._clock)
            if self._is_set(now):
                return
            waits_ns = [self._deny.wait_ns(now), self._limits.wait_ns(now)]
            wait_s = min((wait_ns / 1e9 for wait_ns in waits_ns if wait_ns is not None), default=None)
            if wait_s is not None and wait_s <= 0:
                return
            if wait_s is not None:
                wait_s = min(wait_s, CLOCK_LOOK_S)
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()

    async def _expire(self) -> bool:
        """Remove what is due from the store, then from the kernel, where it has ended by itself; False: not stored."""
        async with self._one_at_a_time:
            now = Now.read(self._clock)
            deny, limits = self._deny.expired(now), self._limits.expired(now)
            if not deny and not limits:
                return True
            if not await self._forget(deny, limits):
                return False
            self._deny.remove(deny)
            self._limits.remove(limits)
            self._to_be_judged |= self._covers
            log.info(telemetry.POLICY_EXPIRED, deny=named(deny), limits=named(limits), entries=self.deny_count)
            try:
                if deny:
                    await self._plane.delete_deny(deny)
                if limits:
                    await self._plane.replace_limits(limit_rates(self._limits))
            except X0dError as refusal:
                self._not_in_force(refusal)
        return True

    def _is_set(self, now: Now) -> bool:
        return abs(now.offset_ms - self._offset_ms) > SLACK_NS // MS_NS

    async def _follow_clock(self) -> bool:
        """After the wall clock was set, write down when the entries that were added before that end by it now.

        False: the store refuses, which is an alert.
        """
        async with self._one_at_a_time:
            now = Now.read(self._clock)
            if not self._is_set(now):
                return True
            untils = await aside(len(self._deny.due), self._deny.timed_here, now)
            terms = {prefix: Terms(until, self._deny.entries[prefix].comment) for prefix, until in untils.items()}
            untils = self._limits.timed_here(now)
            limits = {
                prefix: replace(self._limits.entries[prefix], expires_unix_ms=until) for prefix, until in untils.items()
            }
            try:
                if terms:
                    await self._store.save_deny(DenyEntries(terms))
                for limit in limits.values():
                    await self._store.save_limit(limit)
            except StorageFailed as failure:
                self._alerts.raise_alert(STORE_ALERT, f"expiries after the clock was set are not in it: {failure}")
                return False
            self._deny.entries.update(terms)
            self._limits.entries.update(limits)
            self._offset_ms = now.offset_ms
        return True

    async def _forget(self, deny: Collection[PrefixKey], limits: Collection[PrefixKey]) -> bool:
        """Take what has expired out of the store; a store that refuses is an alert, until it takes something."""
        try:
            if deny:
                await self._store.delete_deny(deny)
            if limits:
                await self._store.delete_limits(limits)
        except StorageFailed as failure:
            self._alerts.raise_alert(STORE_ALERT, f"what has expired is still in it: {failure}")
            return False
        if not self._store_differs:
            self._alerts.clear(STORE_ALERT)
        return True

    async def _mend_store(self) -> None:
        """Write everything anew into a store that could not be put back."""
        async with self._one_at_a_time:
            held = self._limits.entries
            try:
                await self._store.replace_deny(self._deny.entries)
                _, stored = await self._store.load()
                await self._store.delete_limits([limit.prefix for limit in stored if limit.prefix not in held])
                for limit in set(held.values()) - set(stored):
                    await self._store.save_limit(limit)
            except StorageFailed:
                return
            self._store_differs = False
            self._alerts.clear(STORE_ALERT)

    # ---- what must stay reachable ----

    async def _judge_all(self) -> None:
        """Hold the lists against what is protected now: it may have come after them, and they may have been forced."""
        self._to_be_judged = False
        async with self._one_at_a_time:
            deny = await self.guard.covered(self._deny.entries)
            limits = await self.guard.covered(self._limits.entries)
        self._covers = bool(deny or limits)
        if not self._covers:
            self._alerts.clear(COVER_ALERT)
            return
        parts = [f"{what}: {'; '.join(reasons)}" for what, reasons in (("deny", deny), ("limit", limits)) if reasons]
        ways = [f"x0ctl {what} remove" for what, reasons in (("deny", deny), ("limit", limits)) if reasons]
        self._alerts.raise_alert(COVER_ALERT, f"{'; '.join(parts)}; {' and '.join(ways)} takes an entry away")

    # ---- the kernel ----

    async def _read_kernel(self) -> tuple[Mapping[PrefixKey, int], Mapping[PackedPrefix, LimitRate]]:
        """What is in force; nothing where the kernel does not tell, and putting in force will say why."""
        try:
            return await self._plane.deny(), await self._plane.limits()
        except X0dError as refusal:
            self._not_in_force(refusal)
            return {}, {}

    async def _enforce(
        self, deny_in_kernel: Mapping[PrefixKey, int], limits_in_kernel: Mapping[PackedPrefix, LimitRate]
    ) -> None:
        """Bring the kernel to what is held; a refusal is an alert, and does not keep the limits from their turn."""
        refusals = []
        deny_changes = limit_changes = 0
        try:
            deny_changes = await enforce_deny(self._plane, self._deny, deny_in_kernel)
        except X0dError as refusal:
            refusals.append(refusal)
        try:
            limit_changes = await enforce_limits(self._plane, self._limits, limits_in_kernel)
        except X0dError as refusal:
            refusals.append(refusal)
        if refusals:
            self._not_in_force(*refusals)
            return
        self._in_force = True
        self._alerts.clear(FORCE_ALERT)
        self._changed.set()
        log.info(
            telemetry.POLICY_RESTORED, entries=self.deny_count, limits=self.limit_count, deny_changes=deny_changes,
            limit_changes=limit_changes,
        )  # fmt: skip

    def _not_in_force(self, *refusals: X0dError) -> None:
        self._in_force = False
        self._changed.set()
        self._alerts.raise_alert(FORCE_ALERT, "; ".join(str(refusal) for refusal in refusals))

    async def _write_down(
        self, deny: Mapping[PrefixKey, int], limits: Mapping[PackedPrefix, LimitRate], now: Now
    ) -> None:
        """Make what the kernel holds the store's; comments are lost, and an alert says so."""
        self._alerts.raise_alert(
            LOST_ALERT,
            f"policy.db was lost while the kernel held {len(deny):,} deny-list entries and {len(limits):,} limits: "
            "they are kept, without their comments; x0ctl deny list and x0ctl limit list show them",
        )
        terms = {prefix: Terms(now.expires_unix_ms(due_ns)) for prefix, due_ns in deny.items()}
        await self._store.replace_deny(terms)
        for prefix, rate in limits.items():
            expires_unix_ms = now.expires_unix_ms(rate.expires_at_ns)
            await self._store.save_limit(Limit(prefix, rate.rate_pps, rate.burst, expires_unix_ms))
