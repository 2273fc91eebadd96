"""A joined node's renewal, on virtual time: when it asks, how it insists, and what it says meanwhile."""

import asyncio
import random
from itertools import pairwise

import pytest

from fakes.clock import FakeClock, passes, run_virtual
from x0d.errors import IdentityRefused, InvalidInput, PeerUnreachable, StorageFailed, X0dError
from x0d.identity.model import Reason
from x0d.identity.spiffe_id import SpiffeId
from x0d.ports.issuer import Grant
from x0d.service.alerts import Alerts
from x0d.service.renewal import ALERT, BACKOFF_S_MAX, TICK_S, Renewal

LIFE_S = 3_600.0
ISSUER = SpiffeId.parse("spiffe://dev.x0d.test/node/n1")


class FakeIdentity:
    """``HeldIdentity`` that lasts an hour from each renewal on; keys and certificates are not modelled."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.spiffe_id = SpiffeId.parse("spiffe://dev.x0d.test/node/n2")
        self.issuer_id = ISSUER
        self.renewal_endpoint = "10.255.0.1:9471"
        self.not_before_unix_s = clock.unix_ms() / 1e3
        self.not_after_unix_s = self.not_before_unix_s + LIFE_S
        self.issued_unix_s = self.not_before_unix_s
        self.accepted_at: list[float] = []
        self.announced = 0
        self.refuses: X0dError | None = None

    def request(self) -> bytes:
        return b"csr"

    def accept(self, grant: Grant) -> None:
        del grant
        if self.refuses is not None:
            raise self.refuses
        self.not_before_unix_s = self._clock.unix_ms() / 1e3
        self.not_after_unix_s = self.not_before_unix_s + LIFE_S
        self.issued_unix_s = self.not_before_unix_s
        self.accepted_at.append(self.not_before_unix_s)

    def announce(self) -> None:
        self.announced += 1


class FakeChannel:
    """``RenewalChannel`` that answers, or raises what it is told to."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.asked_at: list[float] = []
        self.fails: X0dError | None = None

    async def renew(self, csr_der: bytes) -> Grant:
        assert b"csr" == csr_der
        self.asked_at.append(self._clock.unix_ms() / 1e3)
        if self.fails is not None:
            raise self.fails
        return Grant((), ())


class SettableClock(FakeClock):
    """A clock whose wall can be set."""

    def __init__(self) -> None:
        super().__init__()
        self.set_by_ms = 0

    def unix_ms(self) -> int:
        return super().unix_ms() + self.set_by_ms


def without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what goes to a thread done at once: virtual time does not wait for threads."""

    async def at_once(work: object, *arguments: object) -> object:
        assert callable(work)
        return work(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", at_once)


class Scene:
    """A renewal with its fakes."""

    def __init__(self, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
        without_threads(monkeypatch)
        self.clock = clock
        self.identity = FakeIdentity(clock)
        self.channel = FakeChannel(clock)
        self.alerts = Alerts()
        self.renewal = Renewal(self.identity, self.channel, clock, random.Random(3), self.alerts)
        self.begun_at = self.identity.not_before_unix_s

    async def live(self, for_s: float) -> None:
        """Let the service run for a while."""
        running = asyncio.ensure_future(self.renewal.run())
        await passes(for_s)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_it_renews_at_half_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each certificate is asked for anew once, between 45 and 55 % of its life, and the change is announced."""
    clock = FakeClock()
    scene = Scene(clock, monkeypatch)
    run_virtual(clock, scene.live(1.3 * LIFE_S))
    assert 2 == len(scene.channel.asked_at) == scene.identity.announced
    gaps = [
        at - before
        for before, at in zip((scene.begun_at, *scene.channel.asked_at), scene.channel.asked_at, strict=False)
    ]
    assert all(0.45 * LIFE_S <= gap <= 0.55 * LIFE_S + 1 for gap in gaps)
    assert gaps[0] != gaps[1]


@pytest.mark.parametrize(
    "failure",
    [
        PeerUnreachable("no route"),
        IdentityRefused(Reason.WRONG_ID, "it is n9"),
        InvalidInput("no answer"),
    ],
)
def test_it_insists_and_says_so(monkeypatch: pytest.MonkeyPatch, failure: X0dError) -> None:
    """While the issuer does not renew, it is asked about once a minute, quietly at first; an alert comes in time."""
    clock = FakeClock()
    scene = Scene(clock, monkeypatch)
    scene.channel.fails = failure
    run_virtual(clock, scene.live(0.6 * LIFE_S))
    assert (str(failure), ()) == (scene.renewal.last_error, scene.alerts.names())
    gaps = [after - before for before, after in pairwise(scene.channel.asked_at)]
    assert gaps[0] < 3
    assert BACKOFF_S_MAX * 0.7 < gaps[-1] < BACKOFF_S_MAX * 1.3
    assert scene.begun_at + LIFE_S == scene.renewal.outage_hurts_unix_s
    run_virtual(clock, scene.live(0.1 * LIFE_S))
    assert (ALERT,) == scene.alerts.names()
    assert "expires at 20" in scene.alerts.texts()[0]
    run_virtual(clock, scene.live(0.4 * LIFE_S))
    assert "has expired at 20" in scene.alerts.texts()[0]
    scene.channel.fails = None
    run_virtual(clock, scene.live(2 * BACKOFF_S_MAX))
    assert ("", ()) == (scene.renewal.last_error, scene.alerts.names())
    assert 1 == scene.identity.announced


def test_an_answer_that_is_not_taken_is_no_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused or unwritable answer counts as a failure, and is asked for again."""
    clock = FakeClock()
    scene = Scene(clock, monkeypatch)
    for failure in (StorageFailed("disk full"), IdentityRefused(Reason.MALFORMED, "another key")):
        scene.identity.refuses = failure
        assert not run_virtual(clock, scene.renewal.renew())
        assert (str(failure), 0) == (scene.renewal.last_error, scene.identity.announced)
    scene.identity.refuses = None
    assert run_virtual(clock, scene.renewal.renew())
    assert 1 == scene.identity.announced


def test_a_clock_that_jumps_and_comes_back_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alert and failure hold for as long as the wall clock says that the certificate is over, and one tick longer."""
    clock = SettableClock()
    scene = Scene(clock, monkeypatch)

    async def no_answer(csr_der: bytes) -> Grant:
        del csr_der
        await passes(30)
        raise PeerUnreachable("no answer")

    async def jump(for_s: float) -> tuple[tuple[str, ...], str]:
        clock.set_by_ms = round(2e3 * LIFE_S)
        await passes(for_s)
        clock.set_by_ms = 0
        return scene.alerts.names(), scene.renewal.last_error

    async def play() -> None:
        running = asyncio.ensure_future(scene.renewal.run())
        scene.channel.fails = PeerUnreachable("no own SVID")
        for _ in range(2):
            assert ((ALERT,), "no own SVID") == await jump(2.0)
            await passes(2 * TICK_S)
            assert ((), "") == (scene.alerts.names(), scene.renewal.last_error)
        monkeypatch.setattr(scene.channel, "renew", no_answer)
        await jump(40.0)  # an attempt is under way when the clock comes back, and fails then
        await passes(2 * TICK_S)
        assert () == scene.alerts.names()
        await passes(30)
        assert ((), "") == (scene.alerts.names(), scene.renewal.last_error)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_virtual(clock, play())
