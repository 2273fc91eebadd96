"""Link quality: does a link lose packets, and in which direction?

The neighbour counts the probes that reach it and writes its count into each answer.  From one record
to the next, ``sequence_last`` tells how many we sent, ``peer_requests_received`` how many arrived and
``replies_received`` how many answers came back; so losses "out" (towards the neighbour) and "in" are
told apart.

Each direction runs a sequential likelihood-ratio test of "one in ten is lost" against "one in a
thousand": a lost probe adds 4.6, an arrived one takes .1 away, never below 0; the alarm at 16 means
four losses close together and about one false alarm in 10^7 probes.  20 % loss is found in some 20
probes.  The way back is the same test turned round: clean probes add .1, losses take 4.6 away, and
the link is clean at 16 (160 probes without a loss: 8 s at 50 ms).  That threshold doubles with each
relapse and halves after ten times as many probes without one.

A total cut brings no record and so no update: it is the detector's.  The caller tells of it with
``interrupted()``, so that its losses are not counted as noise when answers return.
"""

from collections import deque
from dataclasses import dataclass

from x0d.mesh.model import ProbeRecord

LOST_WEIGHT = 4.6  # ln(.1 / .001)
ARRIVED_WEIGHT = 0.1  # ln(.999 / .9), rounded
ALARM = 16.0
CLEAN_MAX = 256.0  # 2,560 clean probes, four doublings
STEADY_PROBES_PER_CLEAN = 10 / ARRIVED_WEIGHT
WINDOW_PROBES = 200
GAP_MAX = 64  # more probes than this between two records: the counters cannot be trusted, start anew


@dataclass(frozen=True, slots=True)
class QualityChange:
    """A direction of a link began to lose packets, or is clean again."""

    direction: str
    """``out`` (towards the neighbour) or ``in``."""
    degraded: bool
    loss: float
    """Share of the last 200 probes lost in that direction, 0 to 1."""
    probes: int
    """How many probes that share is of."""


class DirectionTest:
    """The sequential test of one direction."""

    def __init__(self) -> None:
        self.degraded = False
        self.run_probes = self.run_lost = 0
        """Since the first loss of the run that raised the alarm, or may yet: a run ends when its score is 0 again."""
        self.clean_probes = 0
        """Since the latest loss."""
        self._score = 0.0
        self._clean_at = ALARM
        self._relapses = 0
        self._steady_probes = 0

    def feed(self, arrived: int, lost: int) -> bool:
        """Count probes; True when ``degraded`` changed.  A negative ``lost`` takes losses back (reordering)."""
        if self._score == 0.0 and not self.degraded:
            self.run_probes = self.run_lost = 0
        self.run_probes += arrived + lost
        self.run_lost += lost
        self.clean_probes = 0 if lost > 0 else self.clean_probes + arrived
        if self.degraded:
            self._score = max(0.0, self._score + arrived * ARRIVED_WEIGHT - lost * LOST_WEIGHT)
            if self._score < self._clean_at:
                return False
            self.degraded = False
        else:
            self._relax(arrived)
            self._score = max(0.0, self._score + lost * LOST_WEIGHT - arrived * ARRIVED_WEIGHT)
            if self._score < ALARM:
                return False
            self.degraded = True
            if self._relapses:
                self._clean_at = min(2 * self._clean_at, CLEAN_MAX)
            self._relapses += 1
        self._score = 0.0
        self._steady_probes = 0
        return True

    def _relax(self, arrived: int) -> None:
        self._steady_probes += arrived
        if self._relapses and self._steady_probes >= self._clean_at * STEADY_PROBES_PER_CLEAN:
            self._steady_probes = 0
            self._relapses = self._relapses if self._clean_at > ALARM else 0
            self._clean_at = max(self._clean_at / 2, ALARM)


class Quality:
    """Loss by direction and round trip of one link."""

    def __init__(self) -> None:
        self._tests = {"out": DirectionTest(), "in": DirectionTest()}
        self._base: ProbeRecord | None = None
        self._window: deque[tuple[int, int, int]] = deque()
        self._probes = self._lost_out = self._lost_in = 0
        self._changes: deque[QualityChange] = deque()
        self.probes_to_clean = 0
        """Probes without a loss when a direction was last found clean again."""
        self.rtt_ns = 0
        """Smoothed round trip, 1/8 of each new one; 0 before the first."""

    @property
    def degraded(self) -> bool:
        """Whether either direction loses packets."""
        return any(test.degraded for test in self._tests.values())

    @property
    def degraded_directions(self) -> tuple[str, ...]:
        """``out``, ``in`` or both."""
        return tuple(name for name, test in self._tests.items() if test.degraded)

    def describe_alarm(self) -> str:
        """Say what raised the alarm: the losses of each degraded direction since the first of its run."""
        return " and ".join(
            f"{test.run_lost} of the last {test.run_probes} probes lost {name}"
            for name, test in self._tests.items()
            if test.degraded
        )

    @property
    def loss_out(self) -> float:
        """Share of the last 200 probes that did not reach the neighbour, 0 to 1."""
        return min(1.0, max(0, self._lost_out) / self._probes) if self._probes else 0.0

    @property
    def loss_in(self) -> float:
        """Share of the answers to those that reached it which did not come back, 0 to 1."""
        arrived = self._probes - max(0, self._lost_out)
        return min(1.0, max(0, self._lost_in) / arrived) if arrived > 0 else 0.0

    def interrupted(self) -> None:
        """Leave out what is lost from the last record to the next: the link was cut in between."""
        self._base = None

    def observe(self, record: ProbeRecord | None) -> QualityChange | None:
        """Count what is new in the record; at most one change a call, others follow with the next call."""
        if record is not None and record.session:
            self._count(record)
        return self._changes.popleft() if self._changes else None

    def _count(self, record: ProbeRecord) -> None:
        base, self._base = self._base, record
        if base is None or base.session != record.session:
            return
        sent = record.sequence_last - base.sequence_last
        arrived = record.peer_requests_received - base.peer_requests_received
        replies = record.replies_received - base.replies_received
        if not sent and not replies:
            return
        if sent and record.rtt_last_ns:
            self.rtt_ns += (record.rtt_last_ns - self.rtt_ns) // 8 if self.rtt_ns else record.rtt_last_ns
        if sent < 0 or arrived < 0 or replies < 0 or sent > GAP_MAX:
            return  # the neighbour's entry or ours was made anew
        # A request overtaken by a later one makes ``arrived`` one short now and one over later, and
        # likewise for replies: a negative loss takes the earlier one back.
        lost_out, lost_in = sent - arrived, arrived - replies
        self._remember(sent, lost_out, lost_in)
        if self._tests["out"].feed(max(0, arrived), lost_out):
            self._changed("out", self.loss_out)
        if self._tests["in"].feed(replies, lost_in):
            self._changed("in", self.loss_in)

    def _remember(self, sent: int, lost_out: int, lost_in: int) -> None:
        self._window.append((sent, lost_out, lost_in))
        self._probes += sent
        self._lost_out += lost_out
        self._lost_in += lost_in
        while self._probes - self._window[0][0] >= WINDOW_PROBES:
            old_sent, old_out, old_in = self._window.popleft()
            self._probes -= old_sent
            self._lost_out -= old_out
            self._lost_in -= old_in

    def _changed(self, direction: str, loss: float) -> None:
        test = self._tests[direction]
        if not test.degraded:
            self.probes_to_clean = test.clean_probes
        self._changes.append(QualityChange(direction, test.degraded, loss, self._probes))
