"""Certificates of whatever life are made anew once in about half of it: a joined node's, and the issuer's own."""

import asyncio
import random
from itertools import pairwise
from pathlib import Path

import pytest

from fakes.clock import FakeClock, passes, run_virtual
from x0d.identity.spiffe_id import TrustDomain, node_id
from x0d.ports.issuer import Admission, Grant
from x0d.service import renewal as renewal_module
from x0d.service.alerts import Alerts
from x0d.service.renewal import Renewal
from x0d.spiffe.authority import Authority
from x0d.spiffe.joined import JoinedIdentity, KeyRequest, take
from x0d.spiffe.local_svids import RENEW_FROM, RENEW_TO, IssuedSvids
from x0d.spiffe.root import issued_at

TD = TrustDomain("dev.x0d.test")
N1, N2 = node_id(TD, "n1"), node_id(TD, "n2")
LIVES_S = (60, 61, 180, 659, 660, 86_400)


class Cluster:
    """An issuer whose certificates last for ``ttl_s``, and the channel to it."""

    def __init__(self, directory: Path, ttl_s: int) -> None:
        self.clock = FakeClock()
        self.ttl_s = ttl_s
        self.tick_s = max(0.5, ttl_s / 240)
        self.authority = Authority.open(directory / "ca", TD, 8 * ttl_s, ttl_s, self.now)
        self.granted_at: list[float] = []

    def now(self) -> float:
        return self.clock.unix_ms() / 1e3

    async def renew(self, csr_der: bytes) -> Grant:
        self.granted_at.append(self.now())
        return Grant(self.authority.issue_for_request(N2, csr_der).chain_ders, self.authority.bundle())


@pytest.mark.parametrize("ttl_s", LIVES_S)
def test_a_joined_node_renews_once_in_half_a_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ttl_s: int) -> None:
    """From one renewal to the next it is 45 to 55 % of a certificate's life, whatever that is."""

    async def at_once(work: object, *arguments: object) -> object:
        assert callable(work)
        return work(*arguments)

    cluster = Cluster(tmp_path, ttl_s)
    monkeypatch.setattr(asyncio, "to_thread", at_once)  # virtual time does not wait for threads
    monkeypatch.setattr(renewal_module, "TICK_S", cluster.tick_s)
    request = KeyRequest.make()
    admission = Admission(run_virtual(cluster.clock, cluster.renew(request.csr_der)), "10.255.0.1:9471", N1)
    identity = JoinedIdentity(tmp_path / "n2", take(N2, request.key, admission, cluster.now()), cluster.now)
    renewal = Renewal(identity, cluster, cluster.clock, random.Random(ttl_s), Alerts())

    async def live() -> None:
        running = asyncio.ensure_future(renewal.run())
        await passes(5.2 * ttl_s)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_virtual(cluster.clock, live())
    gaps = [after - before for before, after in pairwise(cluster.granted_at)]
    assert 9 <= len(gaps) <= 11
    assert all(0.45 * ttl_s - 1 <= gap <= 0.55 * ttl_s + cluster.tick_s for gap in gaps), gaps


@pytest.mark.parametrize("ttl_s", LIVES_S)
def test_the_issuer_renews_its_own_once_in_half_a_life(tmp_path: Path, ttl_s: int) -> None:
    """Its own certificate is made anew at the instant that was told, which is 45 to 50 % of its life away."""
    cluster = Cluster(tmp_path, ttl_s)
    svids = IssuedSvids(cluster.authority, {}, cluster.now, random.Random(ttl_s))
    assert 0.0 == svids.due_unix_s(N1)
    made_at = [cluster.now()]
    serial, told = svids.svid(N1).serial, svids.due_unix_s(N1)
    while cluster.now() < made_at[0] + 5.2 * ttl_s:
        cluster.clock.advance(cluster.tick_s)
        svids.refresh(cluster.now())
        if (now := svids.svid(N1)).serial != serial:
            assert told <= cluster.now() <= told + cluster.tick_s
            made_at.append(cluster.now())
            serial, told = now.serial, svids.due_unix_s(N1)
    gaps = [after - before for before, after in pairwise(made_at)]
    assert 10 <= len(gaps) <= 11
    assert all(RENEW_FROM * ttl_s - 1 <= gap <= RENEW_TO * ttl_s + cluster.tick_s for gap in gaps), gaps


@pytest.mark.parametrize("ttl_s", LIVES_S)
def test_the_instant_of_making_is_told_by_the_dates(tmp_path: Path, ttl_s: int) -> None:
    """Back-dating is a minute at most and a tenth of the life at most, and is taken off again to the second."""
    cluster = Cluster(tmp_path, ttl_s)
    svid = IssuedSvids(cluster.authority, {}, cluster.now, random.Random(1)).svid(N1)
    backdated_s = cluster.now() - svid.not_before_unix_s
    assert min(60, ttl_s / 10) - 1 < backdated_s <= min(60, ttl_s / 10) + 1
    assert abs(issued_at(svid.not_before_unix_s, svid.not_after_unix_s) - cluster.now()) <= 1
