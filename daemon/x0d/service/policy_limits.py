"""Limits: listed, added, removed.  There are at most ``LIMITS_MAX``, so the kernel gets all of them at each change."""

from collections.abc import Mapping, Sequence
from typing import Final

from x0d import telemetry
from x0d.errors import InvalidInput, TooMany
from x0d.policy.model import BURST_MAX, LIMITS_MAX, RATE_PPS_MAX, Limit, PackedPrefix, PrefixKey, clean_comment
from x0d.ports import LimitRate
from x0d.ports.audit import tell_change
from x0d.service.policy_held import Held, Now
from x0d.service.policy_state import PolicyState, check_duration, removal, those_there
from x0d.service.policy_told import NONE, limit_text
from x0d.service.views_policy import LimitRow, Removed

BURST_MIN: Final = 10
"""Default for slow rates: a tenth of a second of them would be no burst at all."""


class LimitChanges(PolicyState):
    """Calls about the limits."""

    async def list_limits(self) -> Sequence[LimitRow]:
        """Every limit, by prefix.  Raises KernelRefused."""
        hits = await self._plane.limit_hits()
        expired = frozenset(self._limits.expired(Now.read(self._clock)))
        rows = [
            LimitRow(limit, hits.get(limit.prefix, 0))
            for prefix, limit in self._limits.entries.items()
            if prefix not in expired
        ]
        return sorted(rows, key=lambda row: (len(row.limit.prefix.address), row.limit.prefix))

    async def add_limit(
        self,
        prefix: PackedPrefix,
        *,
        rate_pps: int,
        burst: int,
        duration_s: int,
        comment: str,
        force: bool,
        caller_addresses: Sequence[str],
    ) -> tuple[Limit, Sequence[str]]:
        """Add a limit, or change the one that is there: it keeps its hits.  ``burst`` 0: a tenth of a second's.

        Answers the limit and warnings: what was forced, and where it has no effect now.  Raises as
        ``PolicyView.add_limit``; then nothing has changed.
        """
        _check_rate(rate_pps, burst)
        check_duration(duration_s)
        async with self._one_at_a_time:
            former = self._limits.entries.get(prefix)
            if former is None and self.limit_count >= LIMITS_MAX:
                raise TooMany(f"there are {LIMITS_MAX:,} limits already; remove some, or limit a wider prefix")
            warnings = await self.guard.judge([prefix], force=force, caller_addresses=caller_addresses)
            self._to_be_judged |= bool(warnings)
            now = Now.read(self._clock)
            expires_unix_ms = now.unix_ms + duration_s * 1000 if duration_s else 0
            burst = burst or min(max(BURST_MIN, rate_pps // 10), BURST_MAX)
            limit = Limit(prefix, rate_pps, burst, expires_unix_ms, clean_comment(comment))
            rates = limit_rates(self._limits)
            rates[prefix] = LimitRate(rate_pps, burst, now.due_ns(expires_unix_ms))
            tell_change(before=limit_text([former] if former else []))

            async def undo() -> None:
                if former is None:
                    await self._store.delete_limits([prefix])
                else:
                    await self._store.save_limit(former)

            await self._in_store(self._store.save_limit(limit))
            await self._in_kernel_too(self._plane.replace_limits(rates), undo)
            self._limits.put({prefix: limit}, now)
            tell_change(after=limit_text([limit]))
            fresh, changed = ([], [prefix]) if former else ([prefix], [])
            self._tell(
                telemetry.LIMITS_CHANGED, fresh, changed, (), self._limits, rate_pps=rate_pps, burst=burst,
                duration_s=duration_s, forced=warnings,
            )  # fmt: skip
        return limit, (*warnings, *self._unenforced("limit"))

    async def remove_limits(self, prefixes: Sequence[PackedPrefix]) -> Removed:
        """Remove limits; those that are not there are answered.

        Raises:
            NotThere: there was none of them.
            StorageFailed, KernelRefused: nothing has changed.
        """
        async with self._one_at_a_time:
            former = those_there(prefixes, self._limits.entries, "limit")
            tell_change(before=limit_text(former.values()))
            rates = {prefix: rate for prefix, rate in limit_rates(self._limits).items() if prefix not in former}

            async def undo() -> None:
                for limit in former.values():
                    await self._store.save_limit(limit)

            await self._in_store(self._store.delete_limits(former))
            await self._in_kernel_too(self._plane.replace_limits(rates), undo)
            self._limits.remove(former)
            tell_change(after=NONE)
            self._tell(telemetry.LIMITS_CHANGED, (), (), former, self._limits)
        return removal(prefixes, former)


def limit_rates(held: Held[Limit]) -> dict[PackedPrefix, LimitRate]:
    """The limits as the kernel is to have them."""
    return {
        limit.prefix: LimitRate(limit.rate_pps, limit.burst, held.due.get(limit.prefix, 0))
        for limit in held.entries.values()
    }


def limit_instants(in_kernel: Mapping[PackedPrefix, LimitRate]) -> dict[PrefixKey, int]:
    """When each limit in the kernel ends, 0 for never."""
    return {prefix: rate.expires_at_ns for prefix, rate in in_kernel.items()}


def _check_rate(rate_pps: int, burst: int) -> None:
    if not 1 <= rate_pps <= RATE_PPS_MAX:
        raise InvalidInput(f"a rate is 1 to {RATE_PPS_MAX:,} packets per second, not {rate_pps:,}")
    if not 0 <= burst <= BURST_MAX:
        raise InvalidInput(f"a burst is 1 to {BURST_MAX:,} packets, or 0 for the default, not {burst:,}")
