"""Identity as the API shows it: the protos' fields, the units, and who may make a token."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import pytest
from google.protobuf.message import Message

from fakes.clock import FakeClock
from fakes.svid_source import DAY_S, OWN, FakeSvidSource, ToldChannel
from fakes.views_identity import DESCRIPTOR
from x0d.errors import NotSupported
from x0d.identity.roles import default_bindings
from x0d.identity.spiffe_id import SpiffeId
from x0d.ports import AuditRecord
from x0d.ports.issuer import CreatedToken, IssuerStatus, OpenToken
from x0d.service import views_identity
from x0d.service.alerts import Alerts
from x0d.service.api_convert import to_message
from x0d.service.identity import IdentityFacts, IdentityService
from x0d.service.identity_checks import IdentityChecks
from x0d.service.identity_view import IdentityOverview
from x0d.service.peers_told import PeerRow
from x0d.service.views_identity import Descriptor, Issuer, RoleBinding
from x0d.v1 import audit_pb2, identity_pb2

PAIRS: list[tuple[type, type[Message]]] = [
    (views_identity.Identity, identity_pb2.GetIdentityResponse),
    (views_identity.TrustBundle, identity_pb2.TrustBundle),
    (PeerRow, identity_pb2.PeerIdentity),
    (views_identity.Issuer, identity_pb2.Issuer),
    (views_identity.RoleBinding, identity_pb2.RoleBinding),
    (views_identity.IdentityCheck, identity_pb2.IdentityCheck),
    (CreatedToken, identity_pb2.CreateTokenResponse),
    (OpenToken, identity_pb2.OpenToken),
    (views_identity.Descriptor, identity_pb2.Descriptor),
    (AuditRecord, audit_pb2.AuditRecord),
]

OPEN_TOKEN = OpenToken("0badcafe", "spiffe://dev.x0d.test/node/n2", 5_000)


class FakeIssuer:
    """``IssuerView`` that gives one token."""

    def __init__(self, due_unix_s: float = 0.0) -> None:
        self.due_unix_s = due_unix_s

    async def create_token(self, spiffe_id_text: str, address: str) -> CreatedToken:
        return CreatedToken("x0d1-t", spiffe_id_text, address, 5)

    def open_tokens(self) -> Sequence[OpenToken]:
        return (OPEN_TOKEN,)

    async def revoke_tokens(self, which: str) -> Sequence[OpenToken]:
        return (replace(OPEN_TOKEN, id=which),)

    def status(self) -> IssuerStatus:
        return IssuerStatus("ab" * 32, 1_800_000_000.5, 2, join_open=True, own_renewal_due_unix_s=self.due_unix_s)


@dataclass
class Renewing:
    """``RenewalView`` whose last attempt failed."""

    endpoint: str = "10.255.0.1:9471"
    due_unix_s: float = 1_700_050_000.0
    outage_hurts_unix_s: float = 1_700_086_400.0
    last_error: str = "no answer"


async def kept() -> list[Descriptor]:
    return [DESCRIPTOR]


def overview(
    source: str = "issuer", issuer: FakeIssuer | None = None, renewal: Renewing | None = None
) -> tuple[IdentityOverview, FakeSvidSource]:
    clock = FakeClock()
    svids = FakeSvidSource(clock)
    own = SpiffeId.parse(OWN)
    facts = IdentityFacts(own, source, "/run/x0d/workload.sock", True, default_bindings(own.trust_domain), ())
    service = IdentityService(
        facts=lambda: facts, source=svids, clock=clock, alerts=Alerts(), set_serving=lambda _: None
    )
    checks = IdentityChecks(
        facts=lambda: facts,
        service=service,
        clock=clock,
        ask=lambda: asyncio.sleep(0),
        places=lambda: (),
        channel=ToldChannel(),
        issuer=issuer,
        held=None,
    )
    made = IdentityOverview(
        facts=lambda: facts,
        service=service,
        checks=checks,
        peers=lambda: (),
        issuer=issuer,
        renewal=renewal,
        descriptors=kept,
    )
    return made, svids


@pytest.mark.parametrize(("view", "message"), PAIRS, ids=[view.__name__ for view, _ in PAIRS])
def test_same_fields(view: type, message: type[Message]) -> None:
    """A view has exactly the fields of its message."""
    assert {field.name for field in message.DESCRIPTOR.fields} == {field.name for field in fields(view)}


def test_times_are_milliseconds() -> None:
    """Begin, end, half-life and the roots' end are Unix milliseconds; renewal is due at half of the life."""
    made, svids = overview()
    shown = made.identity()
    begin_ms = round(svids.current.not_before_unix_s * 1e3)
    assert (begin_ms, begin_ms + 86_400_000) == (shown.not_before_unix_ms, shown.not_after_unix_ms)
    assert begin_ms + 43_200_000 == shown.renewal_due_unix_ms
    assert begin_ms + 365 * 86_400_000 == shown.bundles[0].not_after_unix_ms


def test_issuer_and_bindings() -> None:
    """The issuer's block is there on the issuer alone; every binding has exactly one holder."""
    made, _ = overview(issuer=FakeIssuer())
    shown = made.identity()
    assert Issuer("ab" * 32, 1_800_000_000_500, 2, join_open=True) == shown.issuer
    assert RoleBinding("peer", id="spiffe://dev.x0d.test/node/*") in shown.bindings
    assert to_message(shown, identity_pb2.GetIdentityResponse).HasField("issuer")
    other = to_message(overview("joined")[0].identity(), identity_pb2.GetIdentityResponse)
    assert not other.HasField("issuer")


def test_the_issuer_tells_when_it_renews_itself() -> None:
    """Its own word is taken; before it has made an SVID in this life, half of the life stands there."""
    assert 1_700_040_000_250 == overview(issuer=FakeIssuer(1_700_040_000.25))[0].identity().renewal_due_unix_ms
    made, svids = overview(issuer=FakeIssuer())
    assert round(svids.current.not_before_unix_s * 1e3) + 43_200_000 == made.identity().renewal_due_unix_ms


def test_joined() -> None:
    """A joined node shows where and when it renews, why that failed, and from when on it hurts."""
    made, svids = overview("joined", renewal=Renewing())
    shown = made.identity()
    assert ("10.255.0.1:9471", 1_700_050_000_000) == (shown.renewal_endpoint, shown.renewal_due_unix_ms)
    assert (1_700_086_400_000, "not renewed: no answer") == (shown.outage_hurts_unix_ms, shown.reason)
    svids.change(last_error="the agent is gone")
    assert "the agent is gone" == made.identity().reason


@pytest.mark.parametrize(
    ("changes", "state", "brief"),
    [
        ({}, "valid", (OWN, True)),
        ({"not_after_unix_s": 1_700_000_000.0}, "expired", ("", False)),
        ({"not_after_unix_s": 0.0, "spiffe_id": ""}, "missing", ("", False)),
        ({"not_before_unix_s": 1_800_000_000.0, "not_after_unix_s": 1_900_000_000.0}, "not_yet_valid", ("", False)),
    ],
    ids=["valid", "expired", "missing", "future"],
)
def test_state(changes: dict[str, object], state: str, brief: tuple[str, bool]) -> None:
    """The state is a word; the status shows an identity only while it may be shown to others."""
    made, svids = overview()
    svids.change(**changes)
    assert state == made.identity().state
    assert brief == (made.brief()[0], bool(made.brief()[1]))


def test_token_of_the_issuer_alone() -> None:
    """The issuer makes, lists and revokes tokens; a joined node names it, and SPIRE is named where SPIRE issues."""
    made, _ = overview(issuer=FakeIssuer())
    assert CreatedToken("x0d1-t", "n2", "", 5) == asyncio.run(made.create_token("n2", ""))
    assert (OPEN_TOKEN,) == made.open_tokens()
    assert (replace(OPEN_TOKEN, id="n2"),) == asyncio.run(made.revoke_tokens("n2"))
    for source, said in (("joined", "identity.issuer = true"), ("spire", "SPIRE issues")):
        made, _ = overview(source)
        with pytest.raises(NotSupported, match=said):
            asyncio.run(made.create_token("n2", ""))
        with pytest.raises(NotSupported, match=said):
            made.open_tokens()
        with pytest.raises(NotSupported, match=said):
            asyncio.run(made.revoke_tokens("n2"))


def test_descriptors() -> None:
    """Descriptors are those of whoever keeps them."""
    assert [DESCRIPTOR] == list(asyncio.run(overview()[0].descriptors()))


def test_life_is_a_day() -> None:
    """The fake's SVID lives for a day, on which the other tests count."""
    _, svids = overview()
    assert DAY_S == svids.current.not_after_unix_s - svids.current.not_before_unix_s
