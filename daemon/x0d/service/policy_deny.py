"""The deny-list: listed, added to, taken from, and replaced as a whole by a file."""

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from x0d import telemetry
from x0d.errors import Busy, InvalidInput
from x0d.policy.denyfile import DenyFileReader
from x0d.policy.model import DenyEntry, PackedPrefix, PrefixKey, Terms, clean_comment
from x0d.ports.audit import tell_change
from x0d.service.policy_held import DenyEntries, DenyRows, Held, Now, aside
from x0d.service.policy_load import ReadingLoad, check_room
from x0d.service.policy_state import PolicyState, check_duration, removal, those_there
from x0d.service.policy_told import NONE, deny_text, load_text
from x0d.service.views_policy import DenyRow, Loaded, Removed

log = structlog.get_logger()


class DenyChanges(PolicyState):
    """Calls about the deny-list."""

    async def list_deny(self, match: PackedPrefix | None) -> Sequence[DenyRow]:
        """Entries that cover ``match`` or lie in it, by prefix; None: all.  Raises KernelRefused."""
        hits = await self._plane.deny_hits()
        expired = frozenset(self._deny.expired(Now.read(self._clock)))
        entries = self._deny.entries.copy()
        prefixes = await aside(len(entries), _in_order, list(entries), expired, match)
        return DenyRows(prefixes, entries, hits)

    async def add_deny(
        self,
        prefixes: Sequence[PrefixKey],
        *,
        duration_s: int,
        comment: str,
        force: bool,
        caller_addresses: Sequence[str],
    ) -> tuple[Sequence[DenyEntry], Sequence[str]]:
        """Add entries, or change expiry and comment of those that are there: they keep their hits.

        Answers the entries and warnings: what was forced, and where they have no effect now.  Raises as
        ``PolicyView.add_deny``; then nothing has changed.
        """
        prefixes = tuple(dict.fromkeys(prefixes))
        check_duration(duration_s)
        async with self._one_at_a_time:
            before = self._deny.entries
            former = {prefix: before[prefix] for prefix in prefixes if prefix in before}
            fresh = [prefix for prefix in prefixes if prefix not in former]
            check_room(len(before) + len(fresh), self._deny_entries_max)
            warnings = await self.guard.judge(prefixes, force=force, caller_addresses=caller_addresses)
            self._to_be_judged |= bool(warnings)
            now = Now.read(self._clock)
            expires_unix_ms = now.unix_ms + duration_s * 1000 if duration_s else 0
            terms = dict.fromkeys(prefixes, Terms(expires_unix_ms, clean_comment(comment)))
            due_ns = now.due_ns(expires_unix_ms)
            tell_change(before=deny_text(former))

            async def undo() -> None:
                await self._store.delete_deny(fresh)
                await self._store.save_deny(DenyEntries(former))

            await self._in_store(self._store.save_deny(DenyEntries(terms)))
            await self._in_kernel_too(self._plane.put_deny(dict.fromkeys(prefixes, due_ns)), undo)
            self._deny.put(terms, now)
            tell_change(after=deny_text(terms))
            self._tell(telemetry.DENY_CHANGED, fresh, former, (), self._deny, duration_s=duration_s, forced=warnings)
        return tuple(DenyEntries(terms)), (*warnings, *self._unenforced("deny"))

    async def remove_deny(self, prefixes: Sequence[PrefixKey]) -> Removed:
        """Remove entries; those that are not there are answered.

        Raises:
            NotThere: there was none of them.
            StorageFailed, KernelRefused: nothing has changed.
        """
        async with self._one_at_a_time:
            former = those_there(prefixes, self._deny.entries, "entry of the deny-list")
            tell_change(before=deny_text(former))
            await self._in_store(self._store.delete_deny(former))
            await self._in_kernel_too(
                self._plane.delete_deny(former), lambda: self._store.save_deny(DenyEntries(former))
            )
            self._deny.remove(former)
            tell_change(after=NONE)
            self._tell(telemetry.DENY_CHANGED, (), (), former, self._deny)
        return removal(prefixes, former)

    def begin_load(self, *, name: str, force: bool, caller_addresses: Sequence[str], dry_run: bool) -> ReadingLoad:
        """Start to replace the whole deny-list by a file's; whoever began it ends it by ``finish`` or ``abandon``.

        Raises:
            Busy: another load is under way.
        """
        if self._loading:
            raise Busy("another deny-list is being loaded")
        self._loading = True

        def ended() -> None:
            self._loading = False

        async def put_in_force(reader: DenyFileReader) -> Loaded:
            return await self._replace_deny(
                reader, name=clean_comment(name), force=force, caller_addresses=caller_addresses, dry_run=dry_run
            )

        return ReadingLoad(DenyFileReader(self._clock.unix_ms()), self._deny_entries_max, put_in_force, ended)

    async def _replace_deny(
        self, reader: DenyFileReader, *, name: str, force: bool, caller_addresses: Sequence[str], dry_run: bool
    ) -> Loaded:
        started_ns = self._clock.monotonic_ns()
        entries = reader.finish()
        check_room(len(entries), self._deny_entries_max)
        async with self._one_at_a_time:
            former = self._deny
            if former.entries and not entries and not force:
                lost = f"all {len(former.entries):,} entries" if len(former.entries) > 1 else "the only entry"
                raise InvalidInput(f"the file has no entry: this would remove {lost}; --force does it all the same")
            warnings = await self.guard.judge(entries, force=force, caller_addresses=caller_addresses)
            self._to_be_judged |= bool(warnings)
            kept = await aside(len(entries), _count_kept, entries, former.entries)
            added, removed = len(entries) - kept, len(former.entries) - kept
            if not dry_run:
                held = await aside(len(entries), Held[Terms].from_entries, entries, Now.read(self._clock))
                instants = await aside(len(entries), held.instants)
                await self._store_beside_building(entries, instants)
                await self._in_kernel_too(
                    self._plane.replace_deny(instants), lambda: self._store.replace_deny(former.entries)
                )
                self._deny = held
            before, after = load_text(len(entries), added, removed, dry_run=dry_run)
            tell_change(before=before, after=after)
            took_ms = (self._clock.monotonic_ns() - started_ns) / 1e6
            log.info(
                telemetry.DENY_LOADED, name=name, entries_before=len(former.entries), entries=len(entries), added=added,
                removed=removed, duplicates=reader.duplicates, dry_run=dry_run, forced=warnings, took_ms=round(took_ms),
            )  # fmt: skip
        warnings = (*warnings, *self._unenforced("deny"))
        return Loaded(len(entries), added, removed, reader.duplicates, warnings, took_ms)

    async def _store_beside_building(
        self, entries: Mapping[PrefixKey, Terms], instants: Mapping[PrefixKey, int]
    ) -> None:
        """Write a list to the store while the kernel builds it, which puts nothing in force.

        A kernel that refuses says so again when the list is to be put in force.  Raises StorageFailed; then
        nothing is left of it.
        """
        building = asyncio.gather(self._plane.prepare_deny(instants), return_exceptions=True)
        try:
            await self._in_store(self._store.replace_deny(entries))
        except BaseException:  # whatever ends it, a cancel too; it goes on
            await building
            await self._plane.abandon_deny()
            raise
        await building


def _count_kept(entries: Mapping[PrefixKey, Terms], former: Mapping[PrefixKey, Terms]) -> int:
    return sum(map(former.__contains__, entries))


def _related(one: PackedPrefix, other: PackedPrefix) -> bool:
    return one.covers(other) or other.covers(one)


def _in_order(
    prefixes: Sequence[PrefixKey], expired: frozenset[PrefixKey], match: PackedPrefix | None
) -> list[PrefixKey]:
    """Those that match and still hold, IPv4 first and by address."""
    parts: dict[tuple[int, int], list[PrefixKey]] = {}
    for prefix in prefixes:
        if prefix not in expired and (match is None or _related(PackedPrefix(*prefix), match)):
            parts.setdefault((len(prefix[0]), prefix[0][0]), []).append(prefix)
    # In parts: one sort of 100,000 would keep the interpreter, and with it the event loop, for half a second.
    return [prefix for part in sorted(parts) for prefix in sorted(parts[part])]
