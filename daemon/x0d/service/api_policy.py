"""``DataplaneService``, the lists: deny-list and limits.

Everything in a request is checked before the first effect.  A load is a conversation: header, lines,
end; whatever ends it before its end changes nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from grpc import StatusCode

from x0d.errors import InvalidInput
from x0d.policy.durations import DURATION_S_MAX
from x0d.policy.model import (
    BURST_MAX,
    COMMENT_CHARACTERS_MAX,
    RATE_PPS_MAX,
    DenyEntry,
    Limit,
    PackedPrefix,
    parse_prefix,
)
from x0d.service.api_changes import Changes
from x0d.service.api_range import in_range
from x0d.service.caller_address import calling_hosts
from x0d.service.views import Views, there
from x0d.service.views_policy import DenyLoad, Loaded
from x0d.v1 import dataplane_pb2, dataplane_pb2_grpc

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    _Context = ServicerContext[Any, Any]
    _Parts = AsyncIterator[dataplane_pb2.LoadDenyRequest]

ENTRIES_PER_MESSAGE_MAX: Final = 500
"""About 4 ms of the event loop, on which probes wait meanwhile."""
PREFIXES_MAX: Final = 1_000
"""In one request; longer lists are loaded from a file."""
PROBLEMS_TOLD_MAX: Final = 10
CALLER_ADDRESSES_MAX: Final = 16
NAME_CHARACTERS_MAX: Final = 255
PART_CHARACTERS_MAX: Final = 512 << 10
LOAD_IDLE_S: Final = 60.0
"""A load whose client is silent for longer is given up: it keeps others from loading."""


class PolicyMethods(dataplane_pb2_grpc.DataplaneServiceServicer):
    """Methods of the deny-list and the limits."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._changes = Changes()

    async def ListDeny(  # noqa: N802 - gRPC's name
        self,
        request: dataplane_pb2.ListDenyRequest,
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> AsyncIterator[dataplane_pb2.ListDenyResponse]:
        """In parts; at least one, which is empty if nothing matches."""
        match = parse_prefix(request.match) if request.match else None
        rows = await there(self._views.policy).list_deny(match)
        for start in range(0, max(len(rows), 1), ENTRIES_PER_MESSAGE_MAX):
            part = rows[start : start + ENTRIES_PER_MESSAGE_MAX]
            yield dataplane_pb2.ListDenyResponse(entries=[_deny_message(row.entry, row.hits) for row in part])

    async def AddDeny(  # noqa: N802 - gRPC's name
        self,
        request: dataplane_pb2.AddDenyRequest,
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> dataplane_pb2.AddDenyResponse:
        """All prefixes or none."""
        added = there(self._views.policy).add_deny(
            _prefixes(request.prefixes),
            duration_s=in_range("duration_s", request.duration_s, 0, DURATION_S_MAX),
            comment=_comment(request.comment),
            force=request.guard.force,
            caller_addresses=_callers(request.guard),
        )
        entries, warnings = await self._changes.run(added)
        return dataplane_pb2.AddDenyResponse(
            entries=[_deny_message(entry) for entry in entries], warnings=list(warnings)
        )

    async def RemoveDeny(  # noqa: N802 - gRPC's name
        self,
        request: dataplane_pb2.RemoveDenyRequest,
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> dataplane_pb2.RemoveDenyResponse:
        """How many there were, and which were not."""
        done = await self._changes.run(there(self._views.policy).remove_deny(_prefixes(request.prefixes)))
        return dataplane_pb2.RemoveDenyResponse(removed=done.removed, not_there=map(str, done.not_there))

    async def LoadDeny(  # noqa: N802 - gRPC's name
        self, request_iterator: "_Parts", context: "_Context"
    ) -> AsyncIterator[dataplane_pb2.LoadDenyResponse]:
        """Header, lines, end; once the end is there, the list is put in force even if the client leaves."""
        header = await _next_part(request_iterator, context)
        if header is None or header.WhichOneof("part") != "header":
            raise InvalidInput("part: a load starts with its header")
        load = self._begin(header.header)
        complete = False
        try:
            await context.send_initial_metadata(())
            while (text := _lines(await _next_part(request_iterator, context))) is not None:
                await load.feed(text)
                yield _progress("reading", load)
            yield _progress("building", load)
            complete = True
        finally:
            if not complete:
                load.abandon()
        yield _loaded_message(load, await self._changes.run(load.finish()))

    def _begin(self, header: dataplane_pb2.LoadDenyHeader) -> DenyLoad:
        if len(header.name) > NAME_CHARACTERS_MAX:
            raise InvalidInput(f"name has {len(header.name)} characters, at most {NAME_CHARACTERS_MAX} are allowed")
        return there(self._views.policy).begin_load(
            name=header.name,
            force=header.guard.force,
            caller_addresses=_callers(header.guard),
            dry_run=header.dry_run,
        )

    async def ListLimits(  # noqa: N802 - gRPC's name
        self,
        request: dataplane_pb2.ListLimitsRequest,  # noqa: ARG002 - empty
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> dataplane_pb2.ListLimitsResponse:
        """Every limit."""
        rows = await there(self._views.policy).list_limits()
        return dataplane_pb2.ListLimitsResponse(limits=[_limit_message(row.limit, row.hits) for row in rows])

    async def AddLimit(  # noqa: N802 - gRPC's name
        self,
        request: dataplane_pb2.AddLimitRequest,
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> dataplane_pb2.AddLimitResponse:
        """One limit."""
        added = there(self._views.policy).add_limit(
            parse_prefix(request.prefix),
            rate_pps=in_range("rate_pps", request.rate_pps, 1, RATE_PPS_MAX),
            burst=in_range("burst", request.burst, 0, BURST_MAX),
            duration_s=in_range("duration_s", request.duration_s, 0, DURATION_S_MAX),
            comment=_comment(request.comment),
            force=request.guard.force,
            caller_addresses=_callers(request.guard),
        )
        limit, warnings = await self._changes.run(added)
        return dataplane_pb2.AddLimitResponse(limit=_limit_message(limit), warnings=list(warnings))

    async def RemoveLimit(  # noqa: N802 - gRPC's name
        self,
        request: dataplane_pb2.RemoveLimitRequest,
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> dataplane_pb2.RemoveLimitResponse:
        """How many there were, and which were not."""
        done = await self._changes.run(there(self._views.policy).remove_limits(_prefixes(request.prefixes)))
        return dataplane_pb2.RemoveLimitResponse(removed=done.removed, not_there=map(str, done.not_there))


# ---- a load ----


async def _next_part(parts: "_Parts", context: "_Context") -> dataplane_pb2.LoadDenyRequest | None:
    """Wait for the next part; None when the client sends no more, or has gone."""
    try:
        async with asyncio.timeout(LOAD_IDLE_S) as idle:
            return await anext(parts, None)
    except TimeoutError:
        if not idle.expired():
            raise
        text = f"no part of the list came within {LOAD_IDLE_S:g} s; nothing has changed"
        await context.abort(StatusCode.DEADLINE_EXCEEDED, text, (("x0d-reason", "idle"),))
        raise  # abort raises


def _lines(part: dataplane_pb2.LoadDenyRequest | None) -> str | None:
    """Lines of the part; None if it is the end."""
    kind = part.WhichOneof("part") if part is not None else None
    if part is None:
        raise InvalidInput("part: the list broke off before its end; nothing has changed")
    if kind == "end":
        return None
    if kind != "lines":
        raise InvalidInput("part: after the header come lines, then the end; nothing has changed")
    if len(part.lines) > PART_CHARACTERS_MAX:
        raise InvalidInput(f"lines: {len(part.lines):,} characters, at most {PART_CHARACTERS_MAX:,} are allowed")
    return part.lines


def _progress(phase: str, load: DenyLoad) -> dataplane_pb2.LoadDenyResponse:
    return dataplane_pb2.LoadDenyResponse(phase=phase, lines=load.lines, entries=load.entries)


def _loaded_message(load: DenyLoad, loaded: Loaded) -> dataplane_pb2.LoadDenyResponse:
    return dataplane_pb2.LoadDenyResponse(
        phase="done",
        lines=load.lines,
        entries=loaded.entries,
        added=loaded.added,
        removed=loaded.removed,
        duplicates=loaded.duplicates,
        took_ms=loaded.took_ms,
        warnings=list(loaded.warnings),
    )


# ---- requests ----


def _prefixes(texts: Sequence[str]) -> tuple[PackedPrefix, ...]:
    """Read them all; what is wrong is told together."""
    if not texts:
        raise InvalidInput("prefixes: name at least one address or prefix")
    if len(texts) > PREFIXES_MAX:
        raise InvalidInput(f"prefixes: {len(texts):,}, at most {PREFIXES_MAX:,} are allowed; load them from a file")
    parsed: list[PackedPrefix] = []
    problems: list[str] = []
    for text in texts:
        try:
            parsed.append(parse_prefix(text))
        except InvalidInput as error:
            problems.append(str(error))
    if len(problems) > PROBLEMS_TOLD_MAX:
        problems[PROBLEMS_TOLD_MAX:] = [f"and {len(problems) - PROBLEMS_TOLD_MAX} more"]
    if problems:
        raise InvalidInput("\n".join(problems))
    return tuple(dict.fromkeys(parsed))


def _comment(text: str) -> str:
    if len(text) > COMMENT_CHARACTERS_MAX or not text.isprintable():
        raise InvalidInput(f"comment: at most {COMMENT_CHARACTERS_MAX} printable characters are allowed")
    return text


def _callers(guard: dataplane_pb2.Guard) -> tuple[str, ...]:
    if len(guard.caller_addresses) > CALLER_ADDRESSES_MAX:
        raise InvalidInput(f"guard.caller_addresses: at most {CALLER_ADDRESSES_MAX} are allowed")
    return tuple(dict.fromkeys((*guard.caller_addresses, *calling_hosts())))


# ---- answers ----


def _deny_message(entry: DenyEntry, hits: int = 0) -> dataplane_pb2.DenyEntry:
    return dataplane_pb2.DenyEntry(
        prefix=str(entry.prefix), expires_at_unix_ms=entry.expires_unix_ms, comment=entry.comment, hits=hits
    )


def _limit_message(limit: Limit, hits: int = 0) -> dataplane_pb2.Limit:
    return dataplane_pb2.Limit(
        prefix=str(limit.prefix),
        rate_pps=limit.rate_pps,
        burst=limit.burst,
        expires_at_unix_ms=limit.expires_unix_ms,
        comment=limit.comment,
        hits=hits,
    )
