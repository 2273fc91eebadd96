"""The audit: no change without a row on disk and a line in the log, and both say how it ended."""

import asyncio
import contextlib
import io
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from fakes.audit_store import FakeAuditStore
from fakes.clock import FakeClock
from x0d import telemetry
from x0d.errors import KernelRefused, StorageFailed
from x0d.ports.audit import CHANGE, Change, tell_change
from x0d.service.alerts import Alerts
from x0d.service.api_changes import Changes
from x0d.service.audit import ALERT, TEXT_CHARACTERS_MAX, Audit
from x0d.telemetry import Telemetry

CALL = ("uid 0 (root)", "", "/x0d.v1.DataplaneService/AddDeny", '{"prefixes": ["192.0.2.7"]}')


class World:
    """An audit over a fake store."""

    def __init__(self) -> None:
        self.store = FakeAuditStore()
        self.clock = FakeClock()
        self.alerts = Alerts()
        self.counted = Telemetry()
        self.audit = Audit(self.store, self.clock, self.alerts, self.counted)

    @property
    def failures(self) -> float | None:
        return self.counted.registry.get_sample_value("x0d_audit_failures_total")

    def row(self, number: int = 1) -> tuple[str, str, str, str]:
        record = self.store.rows[number]
        return record.before, record.after, record.outcome, record.detail


def play(scenario: Callable[[World], Awaitable[None]]) -> None:
    """Run a scenario within some seconds."""

    async def bounded() -> None:
        async with asyncio.timeout(10):
            await scenario(World())

    asyncio.run(bounded())


@pytest.fixture
def log_to() -> Iterator[Callable[[io.TextIOBase], None]]:
    """Send the log elsewhere, at the level of errors; put it back afterwards."""
    before = structlog.get_config()

    def to(file: io.TextIOBase) -> None:
        structlog.configure(
            processors=[structlog.processors.JSONRenderer()],
            wrapper_class=structlog.make_filtering_bound_logger("error"),
            logger_factory=structlog.WriteLoggerFactory(file=file),  # type: ignore[arg-type]  # any text stream
        )

    yield to
    structlog.configure(**before)


def test_row_and_lines_in_order() -> None:
    """The row and a line are there before the change, complete ones after it, with the same number and words."""

    async def scenario(world: World) -> None:
        with capture_logs() as lines:
            number = await world.audit.begin(*CALL)
            assert ("", "", "begun", "") == world.row(number)
            assert ["begun"] == [line["outcome"] for line in lines]
            world.clock.advance(0.0125)
            await world.audit.end(number, Change("one", "two"), "done", "")
        assert ("one", "two", "done", "") == world.row(number)
        record = world.store.rows[number]
        assert (12.5, *CALL) == (record.took_ms, record.who, record.address, record.method, record.what)
        assert [telemetry.AUDIT, telemetry.AUDIT] == [line["event"] for line in lines]
        last = lines[-1]
        assert (number, "one", "two", "done") == (last["record"], last["before"], last["after"], last["outcome"])
        assert CALL == (last["who"], last["address"], last["method"], last["what"])

    play(scenario)


def test_no_level_turns_it_off(log_to: Callable[[io.TextIOBase], None]) -> None:
    """The lines are written whatever level is configured."""

    async def scenario(world: World) -> None:
        text = io.StringIO()
        log_to(text)
        await world.audit.end(await world.audit.begin(*CALL), Change(), "failed", "why")
        lines = [json.loads(line) for line in text.getvalue().splitlines()]
        assert [("begun", ""), ("failed", "why")] == [(line["outcome"], line["detail"]) for line in lines]

    play(scenario)


def test_store_in_trouble_refuses() -> None:
    """When the row cannot be written the call is refused, without a line, and an alert stands until one can be."""

    async def scenario(world: World) -> None:
        world.store.broken = "database or disk is full"
        with capture_logs() as lines, pytest.raises(StorageFailed, match="full"):
            await world.audit.begin(*CALL)
        assert [] == [line for line in lines if line["event"] == telemetry.AUDIT]
        assert ((ALERT,), 1.0, {}) == (world.alerts.names(), world.failures, world.store.rows)
        world.store.broken = ""
        await world.audit.begin(*CALL)
        assert () == world.alerts.names()

    play(scenario)


def test_log_in_trouble_refuses(log_to: Callable[[io.TextIOBase], None]) -> None:
    """When the line cannot be written the call is refused, and its row says that it failed."""

    async def scenario(world: World) -> None:
        full = Path("/dev/full").open("w", buffering=1)  # noqa: ASYNC230, SIM115 - a device; closed below
        log_to(full)
        with pytest.raises(StorageFailed, match="No space left"):
            await world.audit.begin(*CALL)
        with contextlib.suppress(OSError):
            full.close()
        with pytest.raises(StorageFailed, match="closed file"):
            await world.audit.begin(*CALL)
        assert ["failed", "failed"] == [world.row(number)[2] for number in (1, 2)]
        assert "log cannot be written" in world.row()[3]
        assert (ALERT,) == world.alerts.names()
        log_to(io.StringIO())
        await world.audit.begin(*CALL)
        assert () == world.alerts.names()

    play(scenario)


def test_end_that_cannot_be_written() -> None:
    """The change is made: nothing is raised, an alert says which record lacks its end."""

    async def scenario(world: World) -> None:
        number = await world.audit.begin(*CALL)
        world.store.broken = "gone"
        with capture_logs() as lines:
            await world.audit.end(number, Change(), "done", "")
        assert ["done"] == [line["outcome"] for line in lines if line["event"] == telemetry.AUDIT]
        assert (("", "", "begun", ""), 1.0) == (world.row(number), world.failures)
        assert "record 1 says begun" in world.alerts.texts()[0]

    play(scenario)


def test_caller_leaves_before_the_row_is_written() -> None:
    """A call that ends while its record is being written has a record that says so."""

    async def scenario(world: World) -> None:
        world.store.free.clear()
        call = asyncio.create_task(world.audit.begin(*CALL))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        world.store.free.set()
        await world.audit.settle()
        assert ("", "", "failed", "cancelled") == world.row()

    play(scenario)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, ("one", "two", "done", "its caller had left")),
        (KernelRefused("attach", 16), ("one", "", "failed", "its caller had left: attach: EBUSY")),
    ],
)
def test_change_outlives_its_caller(error: Exception | None, expected: tuple[str, ...]) -> None:
    """A change that goes on without its caller ends its record with its own end."""

    async def scenario(world: World) -> None:
        go_on = asyncio.Event()

        async def change() -> str:
            tell_change(before="one")
            await go_on.wait()
            if error is not None:
                raise error
            return "two"

        told = Change()
        CHANGE.set(told)
        number = await world.audit.begin(*CALL)
        call = asyncio.create_task(Changes().run(change(), str))
        while not told.before:  # noqa: ASYNC110 - a field, not an event
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await world.audit.end(number, told, "failed", "cancelled")
        assert "begun" == world.row(number)[2]
        go_on.set()
        await world.audit.settle()
        assert expected == world.row(number)

    play(scenario)


def test_texts_are_bounded() -> None:
    """What a caller sends is cut to a bound, and what no file takes is replaced."""

    async def scenario(world: World) -> None:
        number = await world.audit.begin("x" * 10_000, "y" * 10_000, "z" * 10_000, "\ud800" * 10_000)
        await world.audit.end(number, Change("b" * 10_000, "a\ud800"), "failed", "d" * 10_000)
        record = world.store.rows[number]
        assert "a?" == record.after
        assert TEXT_CHARACTERS_MAX == len(record.before) == len(record.detail) == len(record.address)
        assert (2_100, 2_048) == (len(record.who), len(record.what))
        assert record.what.isascii()

    play(scenario)


def test_rows_of_an_earlier_life() -> None:
    """A new audit leaves what an earlier one had begun as it is."""

    async def scenario(world: World) -> None:
        await world.audit.begin(*CALL)
        again = Audit(world.store, world.clock, world.alerts, world.counted)
        await again.end(await again.begin(*CALL), Change(), "done", "")
        assert ["begun", "done"] == [world.row(number)[2] for number in (1, 2)]

    play(scenario)
