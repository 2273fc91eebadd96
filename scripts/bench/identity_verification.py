"""What the parts cost by themselves: a chain's verification, a sealed datagram, an agreed key, a descriptor."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

from bench.dataplane_table import Row, Target
from bench.identity_agent import DOMAIN
from bench.identity_effort import Effort
from fakes.authority import CA, HOUR_S, Issued
from x0d.identity.agreement import PeerKey, agree
from x0d.identity.descriptor import Claim
from x0d.identity.model import Usage
from x0d.identity.seal import LinkSeal, link_text
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.spiffe.bundles import Bundles
from x0d.spiffe.descriptor_signing import DescriptorSigning
from x0d.spiffe.snapshot import Snapshot, Svid

CACHED_US_MAX = 5.0
LEAVES = 50
CACHED_LOOKS = 5_000
DATAGRAMS = 3_000
DATAGRAM_BYTES = 400
SIGNATURES = 20
NODES = tuple(SpiffeId.parse(f"spiffe://{DOMAIN}/node/{name}") for name in ("n1", "n2"))


def measure(_directory: Path, chance: random.Random, effort: Effort) -> list[Row]:
    """Measure in this process, all parts in each turn."""
    root = CA(DOMAIN, start_unix_s=time.time())
    intermediate = CA(DOMAIN, parent=root, start_unix_s=time.time())
    figures: dict[str, list[float]] = {}
    for _ in range(effort.runs):
        leaves = [intermediate.issue() for _ in range(LEAVES)]
        turn = {**_verify(root, leaves), **_seal(chance), **asyncio.run(_describe(root))}
        for name, value in turn.items():
            figures.setdefault(name, []).append(value)
    targets = {"verification of leaf and intermediate, cached": Target(CACHED_US_MAX)}
    return [Row(name, values, (), targets.get(name), "us", 1) for name, values in figures.items()]


def _verify(root: CA, leaves: Sequence[Issued]) -> dict[str, float]:
    bundles = Bundles.of({TrustDomain(DOMAIN): (root.der,)})
    now_s = time.time()
    shown = [(leaf.leaf_pem, leaf.chain_pem) for leaf in leaves]

    def look(index: int) -> None:
        leaf_pem, chain_pem = shown[index % LEAVES]
        bundles.verify(leaf_pem, chain_pem, Usage.CLIENT, now_s)

    return {
        "verification of leaf and intermediate, new": _each_us(look, LEAVES),
        "verification of leaf and intermediate, cached": _each_us(look, CACHED_LOOKS),
    }


def _seal(chance: random.Random) -> dict[str, float]:
    key = PeerKey(chance.randbytes(32), 7)
    link = link_text(ip_address("10.0.0.1"), ip_address("10.0.0.2"))
    one, other = (LinkSeal(link, own, boot) for boot, own in enumerate(NODES, start=1))
    one.install(NODES[1], 2, key)
    other.install(NODES[0], 1, key)
    payload = chance.randbytes(DATAGRAM_BYTES)
    sealed: list[bytes] = []

    def seal(_: int) -> None:
        datagram = one.seal(payload)
        assert datagram is not None
        sealed.append(datagram)

    halves = (1, chance.randbytes(32)), (2, chance.randbytes(32))
    return {
        "sealing a datagram of 400 bytes": _each_us(seal, DATAGRAMS),
        "opening it": _each_us(lambda index: _unused(other.open(sealed[index])), DATAGRAMS),
        "computing an agreed key": _each_us(
            lambda _: _unused(agree(NODES[0], halves[0], NODES[1], halves[1])), DATAGRAMS
        ),
    }


class _Source:
    """An SVID that does not change."""

    def __init__(self, root: CA) -> None:
        issued = root.issue(str(NODES[0]))
        now_s = time.time()
        svid = Svid(NODES[0], issued.leaf_der, issued.chain_ders, issued.key_der, now_s - 1, now_s + HOUR_S, "1")
        self.current = Snapshot(1, svid, Bundles.of({TrustDomain(DOMAIN): (root.der,)}))

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Nobody is told: there is nothing."""


async def _describe(root: CA) -> dict[str, float]:
    """Sign and verify descriptors as the daemon does, in its thread; each of another life, so no chain is new."""
    signing = DescriptorSigning(MLDSA65PrivateKey.generate(), _Source(root), TrustDomain(DOMAIN))
    now_ms = time.time_ns() // 1_000_000
    claims = [
        Claim(NODES[0], ip_address("10.0.0.1"), signing.public_key, boot, 1, now_ms)
        for boot in range(1, SIGNATURES + 1)
    ]
    begun = time.perf_counter()
    signed = [await signing.sign(claim) for claim in claims]
    between = time.perf_counter()
    for descriptor in signed:
        await signing.verify(descriptor)
    ended = time.perf_counter()
    signing.close()
    return {
        "signing a descriptor (ML-DSA-65 and SVID)": (between - begun) / SIGNATURES * 1e6,
        "verifying a descriptor": (ended - between) / SIGNATURES * 1e6,
    }


def _each_us(work: Callable[[int], None], count: int) -> float:
    begun = time.perf_counter()
    for index in range(count):
        work(index)
    return (time.perf_counter() - begun) / count * 1e6


def _unused(_: object) -> None:
    """Its making is what is timed."""
