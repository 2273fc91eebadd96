"""Link quality: which direction loses, how soon that is seen, and when it is over."""

import random
import re

import pytest

from x0d.mesh.model import ProbeRecord
from x0d.mesh.quality import Quality, QualityChange


class Link:
    """A link that loses by chance, and the kernel's counters of it."""

    def __init__(self, seed: int, loss_out: float = 0.0, loss_in: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.loss_out, self.loss_in = loss_out, loss_in
        self.sequence = self.peer = self.replies = 0
        self.record = ProbeRecord(session=1)
        self.quality = Quality()
        self.quality.observe(self.record)

    def probe(self) -> QualityChange | None:
        self.sequence += 1
        if self.rng.random() >= self.loss_out:
            self.peer += 1
            if self.rng.random() >= self.loss_in:
                self.replies += 1
                self.record = ProbeRecord(
                    session=1,
                    sequence_last=self.sequence,
                    replies_received=self.replies,
                    peer_requests_received=self.peer,
                    rtt_last_ns=80_000,
                )
        return self.quality.observe(self.record)

    def until_change(self, limit: int) -> tuple[int, QualityChange] | None:
        for count in range(1, limit + 1):
            change = self.probe()
            if change:
                return count, change
        return None


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("direction", ["out", "in"])
def test_loss_is_found_and_its_direction_named(direction: str, seed: int) -> None:
    """20 % loss in one direction is found within 80 probes, in that direction alone."""
    link = Link(seed, **{f"loss_{direction}": 0.2})
    found = link.until_change(80)
    assert found is not None
    assert (direction, True) == (found[1].direction, found[1].degraded)
    link.until_change(300)
    assert (direction,) == link.quality.degraded_directions


@pytest.mark.parametrize("seed", range(5))
def test_a_good_link_raises_no_alarm(seed: int) -> None:
    """One lost probe in a thousand is no reason for alarm in 20,000 probes."""
    assert Link(seed, 0.0005, 0.0005).until_change(20_000) is None


def test_clean_again_after_a_hold_that_doubles() -> None:
    """Clean probes needed to return: 160, and twice as many after a relapse."""
    link = Link(1, loss_out=1.0)
    counts = []
    for _ in range(3):
        link.loss_out = 0.3
        assert link.until_change(200) is not None
        link.loss_out = 0.0
        found = link.until_change(2000)
        assert found is not None
        assert not found[1].degraded
        counts.append(found[0])
    assert [(160, 162), (320, 322), (640, 642)] == [(n // 160 * 160, n // 160 * 160 + 2) for n in counts]
    assert 80_000 == link.quality.rtt_ns


def test_shares_are_of_the_last_200_probes() -> None:
    """Loss shares tell the two directions apart and forget what is long ago."""
    link = Link(3, loss_out=0.3)
    for _ in range(1000):
        link.probe()
    assert 0.2 < link.quality.loss_out < 0.4
    assert link.quality.loss_in < 0.02
    link.loss_out = 0.0
    for _ in range(300):
        link.probe()
    assert (0.0, 0.0) == (link.quality.loss_out, link.quality.loss_in)


def test_reordering_is_no_loss() -> None:
    """Replies that overtake each other are taken back."""
    quality = Quality()
    quality.observe(ProbeRecord(session=1))
    for pair in range(1, 500):
        early = ProbeRecord(
            session=1, sequence_last=2 * pair, replies_received=2 * pair - 1, peer_requests_received=2 * pair
        )
        late = ProbeRecord(
            session=1, sequence_last=2 * pair, replies_received=2 * pair, peer_requests_received=2 * pair
        )
        assert quality.observe(early) is None
        assert quality.observe(late) is None
    assert (0.0, 0.0) == (quality.loss_out, quality.loss_in)


def test_cut_is_the_detectors() -> None:
    """A total cut of an announced kind leaves no mark, nor does a counter that starts anew."""
    link = Link(4)
    for _ in range(50):
        link.probe()
    link.loss_out = 1.0
    for _ in range(30):
        link.probe()
    link.quality.interrupted()
    link.loss_out = 0.0
    link.peer = 0
    assert link.until_change(500) is None
    assert 0.0 == link.quality.loss_out


@pytest.mark.parametrize("direction", ["out", "in"])
def test_alarm_is_told_by_the_run_that_raised_it(direction: str) -> None:
    """After many clean probes, 20 % loss is told of the probes since its first one, and the recovery by its length."""
    link = Link(5)
    for _ in range(500):
        link.probe()
    setattr(link, f"loss_{direction}", 0.2)
    assert link.until_change(200) is not None
    lost, probes = map(int, re.findall(r"\d+", link.quality.describe_alarm()))
    assert f"{lost} of the last {probes} probes lost {direction}" == link.quality.describe_alarm()
    assert 0.1 < lost / probes <= 0.5
    setattr(link, f"loss_{direction}", 0.0)
    assert link.until_change(400) is not None
    assert "" == link.quality.describe_alarm()
    assert 160 <= link.quality.probes_to_clean <= 162
