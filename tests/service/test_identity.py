"""Our own identity, second by second: what health says, which alerts hold, and that a clock jump holds for one look."""

import asyncio

import pytest

from fakes.clock import FakeClock, passes, run_virtual
from fakes.svid_source import DAY_S, FakeSvidSource
from x0d.identity.model import Reason
from x0d.identity.roles import default_bindings
from x0d.identity.spiffe_id import SpiffeId
from x0d.service.alerts import Alerts
from x0d.service.identity import CLASSICAL_S, MISSING_GRACE_S, WORKLOAD_LOST_S, IdentityFacts, IdentityService

OWN = SpiffeId.parse("spiffe://dev.x0d.test/node/n1")


class Scene:
    """A service with its clock, source and alerts."""

    def __init__(self, source: str = "joined") -> None:
        self.clock = FakeClock()
        self.source = FakeSvidSource(self.clock)
        self.alerts = Alerts()
        self.serving: list[bool] = []
        self.facts = IdentityFacts(
            OWN, source, "/run/x0d/workload.sock", False, default_bindings(OWN.trust_domain), (("n2", "eth1"),)
        )
        self.service = IdentityService(
            facts=lambda: self.facts,
            source=self.source,
            clock=self.clock,
            alerts=self.alerts,
            set_serving=self.serving.append,
        )

    def after(self, for_s: float) -> tuple[str, ...]:
        """Names of the alerts after that time and one look."""
        self.clock.advance(for_s)
        self.service.look()
        return self.alerts.names()

    def without_svid(self) -> None:
        self.source.change(spiffe_id="", not_before_unix_s=0.0, not_after_unix_s=0.0, last_error="no identity issued")


def test_all_is_well() -> None:
    """A fresh SVID serves, and there is no alert."""
    scene = Scene()
    assert ((), [True]) == (scene.after(1), scene.serving)


def test_life_without_renewal() -> None:
    """Late when less than a third is left, expired at its end; health follows, and an update mends all at once."""
    scene = Scene()
    assert () == scene.after(DAY_S * 0.66)
    assert ("svid_not_renewed",) == scene.after(DAY_S * 0.01)
    assert ("svid_expired",) == scene.after(DAY_S * 0.33)
    assert [True, False] == scene.serving
    now_s = scene.clock.unix_ms() / 1e3
    scene.source.update(not_before_unix_s=now_s, not_after_unix_s=now_s + DAY_S)
    assert ((), [True, False, True]) == (scene.alerts.names(), scene.serving)


def test_alert_text_stays_the_same() -> None:
    """An alert is not raised anew every second: its text has instants and no durations."""
    scene = Scene()
    scene.after(DAY_S * 0.7)
    before = scene.alerts.texts()
    scene.after(60)
    assert before == scene.alerts.texts()


@pytest.mark.parametrize(
    ("jump_s", "alert"), [(2 * DAY_S, "svid_expired"), (-2 * DAY_S, "svid_not_yet_valid")], ids=["ahead", "back"]
)
def test_clock_that_jumps(jump_s: float, alert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall clock that is wrong for a moment stops serving for that moment, and nothing of it stays."""
    scene = Scene()
    scene.after(1)
    right = scene.clock.unix_ms
    monkeypatch.setattr(scene.clock, "unix_ms", lambda: right() + int(jump_s * 1e3))
    assert (alert,) == scene.after(1)
    monkeypatch.setattr(scene.clock, "unix_ms", right)
    assert () == scene.after(1)
    assert [True, False, True] == scene.serving


def test_missing_after_a_grace() -> None:
    """An agent that starts with us is no alert; one that gives nothing is, with its own words and what to do."""
    scene = Scene("spire")
    scene.without_svid()
    assert () == scene.after(MISSING_GRACE_S - 1)
    assert ("svid_missing",) == scene.after(2)
    text = scene.alerts.texts()[0]
    assert "no identity issued" in text
    assert f"has it an entry for {OWN}" in text
    assert [False] == scene.serving


def test_workload_api_that_is_gone() -> None:
    """An agent may restart; one that is gone for two minutes is an alert until it is back."""
    scene = Scene()
    scene.source.change(connected=False, connected_changed_at_ns=scene.clock.monotonic_ns(), last_error="refused")
    assert () == scene.after(WORKLOAD_LOST_S - 1)
    assert ("workload_api",) == scene.after(2)
    scene.source.change(connected=True, connected_changed_at_ns=scene.clock.monotonic_ns())
    assert () == scene.after(1)
    assert [True] == scene.serving


def test_refused_updates() -> None:
    """A refused update is an alert until a good one comes; a look in between changes nothing."""
    scene = Scene()
    scene.after(1)
    scene.source.change(rejected={"wrong_key": 1}, last_error="the key is not that of the certificate")
    assert ("svid_update_rejected",) == scene.after(1)
    assert "the key is not that of the certificate" in scene.alerts.texts()[0]
    assert ("svid_update_rejected",) == scene.after(100)
    scene.source.update(last_error="")
    assert () == scene.alerts.names()


def test_classical_peers() -> None:
    """A refused classical key exchange is one alert, however many come, and ends some time after the last."""
    scene = Scene()
    scene.service.refused(Reason.POLICY, "holds no role")
    assert () == scene.after(1)
    scene.service.refused(Reason.NOT_POST_QUANTUM, "the key exchange is X25519")
    first = scene.alerts.texts()
    scene.after(CLASSICAL_S - 1)
    scene.service.refused(Reason.NOT_POST_QUANTUM, "the key exchange is secp256r1")
    assert ("not_post_quantum",) == scene.after(CLASSICAL_S - 1)
    assert first == scene.alerts.texts()
    assert () == scene.after(2)


def test_every_second() -> None:
    """An SVID that ends is noticed within a second."""
    scene = Scene()

    async def main() -> None:
        task = asyncio.create_task(scene.service.run())
        scene.source.change(not_after_unix_s=scene.clock.unix_ms() / 1e3 + 5)
        await passes(4)
        assert [True] == scene.serving
        await passes(2)
        task.cancel()

    run_virtual(scene.clock, main())
    assert [True, False] == scene.serving


@pytest.mark.parametrize("source", ["issuer", "joined", "spire"])
def test_every_source_has_a_remedy(source: str) -> None:
    """Whoever the identity comes from, the operator is told where to look."""
    assert Scene(source).facts.remedy


@pytest.mark.parametrize(
    "changes",
    [{"not_after_unix_s": 1.0}, {"not_before_unix_s": 4e9, "not_after_unix_s": 5e9}, {"not_after_unix_s": 0.0}],
    ids=["expired", "not yet valid", "missing"],
)
def test_joined_node_without_an_svid_is_told_to_join_again(changes: dict[str, float]) -> None:
    """A joined node renews with its SVID: without a valid one no issuer helps, and the alert has both commands."""
    scene = Scene("joined")
    scene.source.change(**changes)
    scene.after(MISSING_GRACE_S + 1)
    (text,) = scene.alerts.texts()
    assert f"x0ctl identity token --for {OWN} on the issuer, x0d --join TOKEN here" in text
