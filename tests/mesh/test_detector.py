"""The failure detector judges by the kernel's record alone."""

from hypothesis import given
from hypothesis import strategies as st

from x0d.mesh.detector import Detector, DetectorTimers, Verdict
from x0d.mesh.model import ProbeRecord

MS = 1_000_000
TIMERS = DetectorTimers(interval_ns=50 * MS, miss_limit=3)
RTT_NS = 100_000


class Bench:
    """A prober on time, and the kernel's record."""

    def __init__(self, timers: DetectorTimers = TIMERS) -> None:
        self.detector = Detector(timers)
        self.now_ms = 0
        self.sequence = 0
        self.record = ProbeRecord()

    def answer(self, sequence: int) -> None:
        ahead = sequence - self.record.sequence_last
        assert ahead > 0
        self.record = ProbeRecord(
            session=1,
            sequence_last=sequence,
            received=(self.record.received << ahead | 1) & (2**64 - 1),
            reply_last_at_ns=self.now_ms * MS + RTT_NS,
            rtt_last_ns=RTT_NS,
        )

    def round(self, *, answered: bool) -> Verdict | None:
        """Observe, send, be answered or not, and wait one interval."""
        verdict = self.detector.observe(self.now_ms * MS, self.record)
        self.sequence += 1
        self.detector.sent(self.sequence, self.now_ms * MS)
        if answered:
            self.answer(self.sequence)
        self.now_ms += 50
        return verdict

    def rounds(self, pattern: str) -> list[Verdict]:
        """`+` answered, `-` not."""
        return [verdict for mark in pattern if (verdict := self.round(answered=mark == "+"))]

    def rounds_until_up(self) -> int:
        for count in range(10_000):
            verdict = self.round(answered=True)
            if verdict:
                assert verdict.up
                return count
        raise AssertionError


def test_first_up_needs_no_hold() -> None:
    """A new link is up at the look after its third answer."""
    bench = Bench()
    assert [] == bench.rounds("+++")
    assert bench.detector.waiting
    (verdict,) = bench.rounds("+")
    assert (True, "probes_answered") == (verdict.up, verdict.kind)


def test_waiting_link_is_never_down() -> None:
    """A link that never answered brings no verdict."""
    bench = Bench()
    assert [] == bench.rounds("-" * 100)
    assert bench.detector.waiting


def test_silent_cut_is_found_at_maturity_of_the_third_probe() -> None:
    """`next_check_ns` names the instant 10 ms after the third unanswered probe; the verdict falls there."""
    bench = Bench()
    bench.rounds("++++")
    assert [] == bench.rounds("---")
    due_ns = bench.detector.next_check_ns
    assert (bench.now_ms - 50 + 10) * MS == due_ns
    assert due_ns is not None
    assert bench.detector.observe(due_ns - 1, bench.record) is None
    verdict = bench.detector.observe(due_ns, bench.record)
    assert verdict == Verdict(
        up=False,
        kind="probes_unanswered",
        at_ns=due_ns,
        last_sign_ns=bench.record.reply_last_at_ns,
        unanswered=3,
    )
    assert bench.detector.next_check_ns is None


def test_the_probe_that_may_decide_is_wanted_at_once() -> None:
    """With all but one of the misses there, the next probe is asked for when the latest of them is mature."""
    bench = Bench()
    bench.rounds("++++")
    assert [] == bench.rounds("--")
    due_ns = bench.detector.next_check_ns
    assert (bench.now_ms - 50 + 10) * MS == due_ns
    assert due_ns is not None
    assert not bench.detector.wants_probe
    assert bench.detector.observe(due_ns, bench.record) is None
    assert bench.detector.wants_probe
    bench.detector.sent(bench.sequence + 1, due_ns)
    assert not bench.detector.wants_probe
    assert due_ns + 10 * MS == bench.detector.next_check_ns
    verdict = bench.detector.observe(due_ns + 10 * MS, bench.record)
    assert verdict is not None
    assert (False, 3) == (verdict.up, verdict.unanswered)


def test_an_answered_link_gets_no_probe_more() -> None:
    """While probes are answered, or one alone is missing, nothing is hurried."""
    bench = Bench()
    for answers in ("++++", "-", "+"):
        bench.rounds(answers)
        bench.detector.observe(bench.now_ms * MS, bench.record)
        assert not bench.detector.wants_probe


def test_two_misses_are_forgiven() -> None:
    """Losses below the limit in a row bring no verdict, and an answer takes them back."""
    bench = Bench()
    bench.rounds("++++")
    assert [] == bench.rounds("--+" * 30)


def test_return_takes_a_clean_hold() -> None:
    """After a fault a link is up again 1 s after its last miss, not before."""
    bench = Bench()
    bench.rounds("++++" + "-" * 5)
    assert not bench.detector.up
    assert [] == bench.rounds("+" * 15 + "-")
    assert 22 == bench.rounds_until_up() + 1


def test_hold_doubles_with_each_relapse_and_halves_when_steady() -> None:
    """Holds of a flapping link: 1, 2, 4 s; ten holds of quiet halve it."""
    bench = Bench()
    bench.rounds("++++")
    holds = []
    for _ in range(3):
        bench.rounds("-" * 5)
        holds.append(bench.detector.hold_ns // MS)
        bench.rounds_until_up()
    assert [1000, 2000, 4000] == holds
    bench.rounds("+" * 900)  # 45 s: more than 10 x 4 s
    bench.rounds("-" * 5)
    assert 2000 == bench.detector.hold_ns // MS


def test_carrier_loss_is_a_verdict_at_once() -> None:
    """Without carrier a link is down at once, stays down, and returns by the clean hold."""
    bench = Bench()
    bench.rounds("++++")
    verdict = bench.detector.carrier_lost(bench.now_ms * MS)
    assert verdict is not None
    assert (False, "carrier_lost") == (verdict.up, verdict.kind)
    assert bench.detector.carrier_lost(bench.now_ms * MS) is None
    assert [] == bench.rounds("+" * 40)
    bench.detector.carrier_back()
    assert 20 <= bench.rounds_until_up() <= 23


def test_record_of_an_earlier_life_does_not_count() -> None:
    """A record of another probe session answers nothing."""
    detector = Detector(TIMERS, session=7)
    old = ProbeRecord(session=6, sequence_last=900, received=2**64 - 1, reply_last_at_ns=5)
    for sequence in range(1, 50):
        detector.sent(sequence, sequence * 50 * MS)
        assert detector.observe((sequence * 50 + 40) * MS, old) is None
    assert 0 == detector.last_sign_ns


@given(st.lists(st.integers(min_value=1, max_value=20_000), min_size=5, max_size=120), st.data())
def test_late_prober_invents_nothing(sleeps_ms: list[int], data: st.DataObject) -> None:
    """Whatever the wake-up times: with every probe answered in the kernel's record there is no down."""
    bench = Bench()
    for sleep_ms in sleeps_ms:
        verdict = bench.detector.observe(bench.now_ms * MS, bench.record)
        assert verdict is None or verdict.up
        for _ in range(data.draw(st.integers(min_value=0, max_value=3))):
            bench.sequence += 1
            bench.detector.sent(bench.sequence, bench.now_ms * MS)
            bench.answer(bench.sequence)
        bench.now_ms += sleep_ms


@given(st.lists(st.booleans(), min_size=10, max_size=300))
def test_down_only_after_that_many_misses(answers: list[bool]) -> None:
    """On time, each down verdict follows exactly three unanswered probes in a row."""
    bench = Bench()
    for number, answered in enumerate(answers):
        verdict = bench.round(answered=answered)
        if verdict is not None and not verdict.up:
            assert [False] * 3 == answers[number - 3 : number]
