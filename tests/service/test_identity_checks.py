"""``identity check``: each thing that identity rests on fails by itself, in bounded time, and says what to do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address

import pytest

from fakes.clock import FakeClock, run_virtual
from fakes.svid_source import DAY_S, OWN, FakeSvidSource, ToldChannel
from x0d.errors import IdentityRefused, NoIdentity, PeerUnreachable, RefusedByPeer
from x0d.identity.model import Reason
from x0d.identity.spiffe_id import SpiffeId
from x0d.ports import PeerTarget
from x0d.ports.issuer import CreatedToken, Grant, IssuerStatus, OpenToken
from x0d.service.alerts import Alerts
from x0d.service.identity import IdentityFacts, IdentityService
from x0d.service.identity_checks import CHECK_S, DIALS_MAX, IdentityChecks
from x0d.service.peers import PeerPlace
from x0d.service.views_identity import IdentityCheck

ADDRESS = ip_address("10.0.0.2")
N2 = SpiffeId.parse("spiffe://dev.x0d.test/node/n2")
PLACE = PeerPlace("n2", "eth1", PeerTarget(N2, ADDRESS, "eth1", 9471))
PEER = "peer n2 on eth1"


@dataclass
class Joined:
    """``HeldIdentity`` of a node that has joined."""

    renewal_endpoint: str = "[fe80::9%eth1]:9471"
    spiffe_id: SpiffeId = SpiffeId.parse(OWN)  # noqa: RUF009  frozen
    issuer_id: SpiffeId = SpiffeId.parse("spiffe://dev.x0d.test/node/n9")  # noqa: RUF009  frozen
    not_before_unix_s: float = 0.0
    not_after_unix_s: float = 1_800_000_000.0
    issued_unix_s: float = 0.0

    def request(self) -> bytes:
        raise AssertionError("a check renews nothing")

    def accept(self, grant: Grant) -> None:
        raise AssertionError(f"a check renews nothing: {grant}")

    def announce(self) -> None:
        raise AssertionError("a check renews nothing")


@dataclass
class Issuing:
    """``IssuerView`` whose root ends at an instant."""

    ends_unix_s: float

    async def create_token(self, spiffe_id_text: str, address: str) -> CreatedToken:
        raise AssertionError(f"a check makes no token: {spiffe_id_text} {address}")

    def open_tokens(self) -> Sequence[OpenToken]:
        raise AssertionError("a check lists no tokens")

    async def revoke_tokens(self, which: str) -> Sequence[OpenToken]:
        raise AssertionError(f"a check revokes no token: {which}")

    def status(self) -> IssuerStatus:
        return IssuerStatus("ab" * 32, self.ends_unix_s, 0, join_open=False)


class Scene:
    """Checks with their clock, source and channel."""

    def __init__(self, places: Sequence[PeerPlace] = (PLACE,)) -> None:
        self.clock = FakeClock()
        self.source = FakeSvidSource(self.clock)
        self.channel = ToldChannel()
        self.places = list(places)
        self.issuer: Issuing | None = None
        self.held: Joined | None = None
        self.silent: Callable[[], None] = lambda: None
        self.facts = IdentityFacts(SpiffeId.parse(OWN), "joined", "/run/x0d/workload.sock", True, (), (("n2", "eth1"),))
        self._began = self._checks()

    def _checks(self) -> IdentityChecks:
        service = IdentityService(
            facts=lambda: self.facts,
            source=self.source,
            clock=self.clock,
            alerts=Alerts(),
            set_serving=lambda _: None,
        )
        return IdentityChecks(
            facts=lambda: self.facts,
            service=service,
            clock=self.clock,
            ask=self._ask,
            places=lambda: self.places,
            channel=self.channel,
            issuer=self.issuer,
            held=self.held,
        )

    async def _ask(self) -> None:
        self.silent()

    def run(self) -> dict[str, IdentityCheck]:
        """What is found, by name; the time that it took is bounded."""
        checks = self._checks() if self.issuer or self.held else self._began
        before_ns = self.clock.now_ns
        found = run_virtual(self.clock, checks.run())
        assert (self.clock.now_ns - before_ns) / 1e9 < CHECK_S + 0.1
        assert all(bool(check.remedy) is (check.outcome != "ok") for check in found)
        by_name = {check.name: check for check in found}
        assert len(found) == len(by_name)
        return by_name


def outcomes(found: dict[str, IdentityCheck]) -> dict[str, str]:
    return {name: check.outcome for name, check in found.items()}


def test_all_is_well() -> None:
    """What is tried has a line of its own, and all is ok."""
    found = Scene().run()
    names = ["workload_api", "svid", "clock", "post_quantum", PEER]
    assert dict.fromkeys(names, "ok") == outcomes(found)
    assert "X25519MLKEM768" in found[PEER].detail
    assert str(N2) in found[PEER].detail


def test_workload_api_without_an_answer() -> None:
    """It is asked anew, whatever the watcher has: an agent that is gone is told of at once."""
    scene = Scene()

    def gone() -> None:
        raise NoIdentity("the Workload API cannot be reached")

    scene.silent = gone
    check = scene.run()["workload_api"]
    assert ("failed", "the Workload API cannot be reached") == (check.outcome, check.detail)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (IdentityRefused(Reason.WRONG_ID, "it is spiffe://dev.x0d.test/node/n3"), "refused (wrong_id): it is spiffe"),
        (IdentityRefused(Reason.UNTRUSTED, "no authority"), "refused (untrusted)"),
        (PeerUnreachable("10.0.0.2:9471: connection refused"), "connection refused"),
        (RefusedByPeer("n2 refuses this node: not permitted"), "n2 refuses this node"),
        (NoIdentity("this end has no SVID yet"), "not dialled: this end has no SVID yet"),
        (100.0, "no answer within 7 s"),
    ],
    ids=["wrong id", "untrusted", "unreachable", "not let in", "no own", "silent"],
)
def test_neighbour_that_fails(answer: Exception | float, said: str) -> None:
    """Each way to fail is told with what to do, and does not keep the other neighbours from being tried."""
    third = PeerPlace("n3", "eth2", PeerTarget(N2, ip_address("10.0.1.3"), "eth2", 9471))
    scene = Scene((PLACE, third))
    scene.channel.answers[ADDRESS] = answer
    found = scene.run()
    assert ("failed", "ok") == (found[PEER].outcome, found["peer n3 on eth2"].outcome)
    assert said in found[PEER].detail


def test_neighbour_that_does_not_let_us_in() -> None:
    """Who answers and refuses us is reached: its firewall is not asked after, but what it says of us."""
    scene = Scene()
    scene.channel.answers[ADDRESS] = RefusedByPeer("n2 refuses this node: not permitted")
    remedy = scene.run()[PEER].remedy
    assert ("journalctl" in remedy, "firewall" in remedy) == (True, False)


def test_many_neighbours() -> None:
    """So many at a time, and all of them within the time, though none answers."""
    addresses = [ip_address(f"10.0.{index // 250}.{index % 250 + 1}") for index in range(200)]
    places = [PeerPlace(f"n{i}", "eth1", PeerTarget(N2, address, "eth1", 1)) for i, address in enumerate(addresses)]
    scene = Scene(places)
    scene.channel.answers = dict.fromkeys(addresses, 100.0)
    found = outcomes(scene.run())
    assert 200 == sum(outcome == "failed" for name, outcome in found.items() if name.startswith("peer "))
    assert DIALS_MAX == scene.channel.most_at_once


def test_neighbour_without_a_link() -> None:
    """A configured neighbour whose interface is not there is said not to have been tried."""
    scene = Scene(())
    check = scene.run()[PEER]
    assert ("warning", "x0ctl link list says why") == (check.outcome, check.remedy)


def test_classical_neighbour() -> None:
    """A neighbour with a classical key exchange is named."""
    scene = Scene()
    scene.channel.answers[ADDRESS] = "X25519"
    check = scene.run()["post_quantum"]
    assert "warning" == check.outcome
    assert str(N2) in check.detail


@pytest.mark.parametrize(
    ("changes", "outcome", "said"),
    [
        ({"not_after_unix_s": 0.0, "last_error": "no identity issued"}, "failed", "none: no identity issued"),
        ({"not_after_unix_s": 1_700_000_000.0}, "failed", "expired"),
        ({"not_before_unix_s": 1_800_000_000.0, "not_after_unix_s": 1_900_000_000.0}, "failed", "not valid yet"),
        ({"not_before_unix_s": 1_600_000_000.0}, "warning", "not renewed in time"),
    ],
    ids=["missing", "expired", "future", "late"],
)
def test_own_svid(changes: dict[str, object], outcome: str, said: str) -> None:
    """What is wrong with our own SVID is said as such."""
    scene = Scene()
    scene.source.change(**changes)
    check = scene.run()["svid"]
    assert outcome == check.outcome
    assert check.detail.startswith(said)
    assert (outcome == "failed") == ("x0d --join TOKEN here" in check.remedy)


@pytest.mark.parametrize(
    "changes",
    [{"not_after_unix_s": 0.0}, {"not_after_unix_s": 1.0}, {"not_before_unix_s": 4e9, "not_after_unix_s": 5e9}],
    ids=["missing", "expired", "future"],
)
def test_nobody_is_dialled_without_an_svid(changes: dict[str, object]) -> None:
    """Without a valid SVID that is what is wrong, said first; nothing that rests on it is tried or blamed."""
    scene = Scene()
    scene.held = Joined()

    def nothing() -> None:
        raise NoIdentity("no identity issued")

    scene.silent = nothing
    scene.source.change(**changes)
    found = scene.run()
    assert "svid" == next(iter(found))
    assert 0 == scene.channel.most_at_once
    for name in ("renewal", PEER):
        assert ("warning", "not tried: no valid SVID") == (found[name].outcome, found[name].detail)
    assert "x0d --join TOKEN here" in found["workload_api"].remedy
    assert not any("firewall" in check.remedy or "identity check" in check.remedy for check in found.values())


@pytest.mark.parametrize(
    ("ahead_s", "outcome", "said"),
    [
        (-200_000_000.0, "failed", "is before this x0d was made"),
        (400 * DAY_S, "failed", "is after the end of every root"),
        (10.0, "warning", "it was set by +10.0 s"),
        (-10.0, "warning", "it was set by -10.0 s"),
        (1.0, "ok", ""),
    ],
    ids=["long ago", "after the roots", "ahead", "back", "as NTP does"],
)
def test_clock(ahead_s: float, outcome: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that cannot be right fails; one that was set since the start is told of."""
    scene = Scene()
    right = scene.clock.unix_ms
    monkeypatch.setattr(scene.clock, "unix_ms", lambda: right() + int(ahead_s * 1e3))
    check = scene.run()["clock"]
    assert outcome == check.outcome
    assert said in check.detail


def test_renewal_is_tried() -> None:
    """A joined node dials its issuer, by the interface of a link-local address."""
    scene = Scene()
    scene.held = Joined()
    scene.channel.answers[ip_address("fe80::9")] = PeerUnreachable("no route to host")
    check = scene.run()["renewal"]
    assert ("failed", "no route to host") == (check.outcome, check.detail)
    assert "fe80::9" in check.remedy


@pytest.mark.parametrize("endpoint", ["issuer.example:9471", "10.0.0.1", "10.0.0.1:x"])
def test_renewal_at_no_address(endpoint: str) -> None:
    """What is no address is not dialled, and breaks nothing."""
    scene = Scene()
    scene.held = replace(Joined(), renewal_endpoint=endpoint)
    assert "renewal" not in scene.run()


@pytest.mark.parametrize(("for_s", "outcome"), [(30 * DAY_S, "ok"), (DAY_S / 2, "warning")])
def test_issuer(for_s: float, outcome: str) -> None:
    """The issuer's root outlasts what it has signed, or that is told."""
    scene = Scene()
    scene.issuer = Issuing(scene.clock.unix_ms() / 1e3 + for_s)
    assert outcome == scene.run()["issuer"].outcome
