"""When roots come and go: the steps at their instants, and the promise that they keep under any outage."""

import random
from pathlib import Path

import pytest

from x0d.identity.model import Usage
from x0d.identity.spiffe_id import TrustDomain, node_id
from x0d.spiffe.authority import Authority
from x0d.spiffe.bundles import Bundles
from x0d.spiffe.certificate import to_pem
from x0d.spiffe.request import make_key, public_key_to_der
from x0d.spiffe.rotation import SLACK_S, RootLife, Step, next_step

TD = TrustDomain("dev.x0d.test")
T0 = 1_800_000_000.0
TTL = 1000
LEAF = 100


def root(published: float, activated: float | None) -> RootLife:
    return RootLife(published - 3600, published + TTL, published, activated, LEAF)


SIGNING = root(T0, T0)
PUBLISHED = root(T0 + 500, None)
TAKEN_OVER = root(T0 + 500, T0 + 600)


@pytest.mark.parametrize(
    ("lives", "at", "expected"),
    [
        ((), T0, Step.PUBLISH),
        ((root(T0, None),), T0, Step.ACTIVATE),
        ((SIGNING,), T0 + 499, Step.NONE),
        ((SIGNING,), T0 + 500, Step.PUBLISH),
        ((SIGNING, PUBLISHED), T0 + 599, Step.NONE),
        ((SIGNING, PUBLISHED), T0 + 600, Step.ACTIVATE),
        ((SIGNING, TAKEN_OVER), T0 + 700 + SLACK_S, Step.NONE),
        ((SIGNING, TAKEN_OVER), T0 + 701 + SLACK_S, Step.DROP),
        ((TAKEN_OVER,), T0 + 701 + SLACK_S, Step.NONE),
        ((TAKEN_OVER,), T0 + 1000, Step.PUBLISH),
        # away for so long that the root has expired: the successor cannot wait
        ((SIGNING,), T0 + 1001, Step.PUBLISH),
        ((SIGNING, root(T0 + 1001, None)), T0 + 1001, Step.ACTIVATE),
        # a clock that was set back before the successor's life leaves it alone
        ((SIGNING, PUBLISHED), T0 + 500 - 3601, Step.NONE),
    ],
)
def test_each_step_has_its_instant(lives: tuple[RootLife, ...], at: float, expected: Step) -> None:
    """A root is published at half of its predecessor's life, signs a leaf's life later, and outlasts what it signed."""
    assert expected == next_step(lives, at)


class Member:
    """A node of a cluster: what it shows, and whom it trusts."""

    def __init__(self, name: str, authority: Authority) -> None:
        self.id = node_id(TD, name)
        self.public = public_key_to_der(make_key())
        self.renew(authority)

    def renew(self, authority: Authority) -> None:
        signed = authority.issue(self.id, self.public)
        self.leaf = to_pem(signed.chain_ders[0])
        self.not_after = signed.not_after_unix_s
        self.bundles = Bundles.of({TD: authority.bundle()})


def test_members_always_verify_each_other(tmp_path: Path, seed: int) -> None:
    """Whatever the issuer's outages, two nodes whose certificates are valid verify each other at every instant."""
    rng = random.Random(seed)
    now = T0
    authority = Authority.open(tmp_path / "ca", TD, 240, 60, lambda: now)
    members = [Member(f"n{i}", authority) for i in range(3)]
    down_until, rotations, most_roots = 0.0, 0, 0
    for _ in range(400):
        now += rng.uniform(1, 8)
        if now >= down_until and rng.random() < 0.02:
            down_until = now + rng.choice((20, 70, 300))
        if now >= down_until:
            rotations += authority.rotate(now)
            for member in members:
                if member.not_after - now <= 30 or member.not_after <= now:  # half-life, or joined again
                    member.renew(authority)
        most_roots = max(most_roots, len(authority.bundle()))
        valid = [member for member in members if member.not_after > now]
        for shown in valid:
            for verifier in valid:
                assert shown.id == verifier.bundles.verify(shown.leaf, b"", Usage.CLIENT, now).spiffe_id
    assert rotations > 6
    assert most_roots in {2, 3}


def test_a_longer_life_of_certificates_keeps_old_roots_longer(tmp_path: Path) -> None:
    """A configuration that lengthens or shortens certificates does not drop a root under one that is valid."""
    now = T0
    Authority.open(tmp_path / "ca", TD, 8000, 1000, lambda: now)
    authority = Authority.open(tmp_path / "ca", TD, 8000, 60, lambda: now)
    now = T0 + 4001
    assert authority.rotate(now)
    now += 61
    assert not authority.rotate(now)  # certificates of 1,000 s were signed before the configuration changed
    now += 1000
    assert authority.rotate(now)
    now += 61 + SLACK_S
    assert not authority.rotate(now)
    now += 1000
    assert authority.rotate(now)
    assert len(authority.bundle()) == 1
