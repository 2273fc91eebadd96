"""Calls that change something leave a record: written before the change, completed when the call has ended.

What cannot be written is not done: ``begin`` comes before the servicer sees the call, and its failure refuses it.  The
record is completed whatever ends the call: its answer, a refusal, its deadline, its client, the daemon's stop.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from x0d.errors import StorageFailed, X0dError
from x0d.identity.model import Principal
from x0d.ports.audit import CHANGE, Auditor, Change
from x0d.transport.outlet import Context
from x0d.transport.place import place_of

WHAT_CHARACTERS_MAX: Final = 2_048
"""Of a request in its record; the rest is cut."""
WHOLE_BYTES_MAX: Final = 16_384
"""A larger request is shortened before it is written as JSON: a megabyte would hold the loop for 10 ms and more."""
ITEMS_MAX: Final = 100
"""Of a repeated field of such a request."""
SECRET_FIELDS: Final = frozenset({"secret"})
"""Fields of requests that no record may show."""
OPAQUE_FIELDS: Final = frozenset({"csr"})
"""Bytes that say nothing to whoever reads a record; their number is enough."""

_ending: Final[set["asyncio.Task[None]"]] = set()
"""Records being completed whose call was cancelled meanwhile; held, or the loop would forget them."""


def what_of(request: object) -> str:
    """Write a request as JSON, shortened, without its secrets."""
    if not isinstance(request, Message):
        return ""
    whole = request.ByteSize() <= WHOLE_BYTES_MAX
    fields = MessageToDict(request if whole else _shortened(request), preserving_proto_field_name=True)
    shown = {name: _shown(request, name, value) for name, value in fields.items()}
    return json.dumps(shown)[:WHAT_CHARACTERS_MAX]


def _shown(request: Message, name: str, value: object) -> object:
    if name in SECRET_FIELDS:
        return "(secret)"
    return f"({len(getattr(request, name))} bytes)" if name in OPAQUE_FIELDS else value


def _shortened(request: Message) -> Message:
    """Copy the begin of each field."""
    short = type(request)()
    for field, value in request.ListFields():
        if isinstance(value, Message):
            getattr(short, field.name).CopyFrom(_shortened(value))
        elif isinstance(value, str | bytes):
            setattr(short, field.name, value[:WHAT_CHARACTERS_MAX])
        elif isinstance(value, Sequence):
            getattr(short, field.name).extend(value[:ITEMS_MAX])
        else:
            setattr(short, field.name, value)
    return short


@asynccontextmanager
async def audited(
    auditor: Auditor | None,
    principal: Principal,
    method: str,
    request: object,
    context: "Context",
) -> AsyncIterator[None]:
    """Write a record around a call; inside, ``tell_change`` adds what held before and after.

    Raises:
        StorageFailed: the record cannot be written, or there is no audit yet; the call is to be refused.
    """
    if auditor is None:
        raise StorageFailed("the audit is not open: nothing is changed without a record")
    number = await auditor.begin(principal.name, place_of(principal.address), method, what_of(request))
    change = Change()
    CHANGE.set(change)
    outcome, detail = "failed", ""
    try:
        yield
        outcome, detail = _outcome_of(context)
    except X0dError as error:
        detail = str(error)
        raise
    except asyncio.CancelledError:
        detail = "cancelled"
        raise
    except BaseException as error:
        detail = _text_of(context.details()) or type(error).__name__  # an abort carries its words in the context
        raise
    finally:
        task = asyncio.get_running_loop().create_task(auditor.end(number, change, outcome, detail))
        _ending.add(task)
        task.add_done_callback(_ending.discard)
        await asyncio.shield(task)


def _outcome_of(context: "Context") -> tuple[str, str]:
    """A servicer may end with a status instead of an error."""
    if context.code():
        return "failed", _text_of(context.details())
    return "done", ""


def _text_of(details: str | bytes | None) -> str:
    return details.decode(errors="replace") if isinstance(details, bytes) else details or ""
