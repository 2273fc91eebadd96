"""Failure detector of one link: is the neighbour's data plane answering?

The prober sends numbered probes; the neighbour's kernel answers them and our kernel notes each answer
in the link's ``ProbeRecord``.  A link is down when the ``miss_limit`` latest probes that had time
enough are all unanswered in the kernel's own record.  Three rules keep a late prober honest:

- only probes that were sent count: who wakes late has sent fewer, and so misses fewer;
- a probe is judged only when it is *mature*, that is ``reply_timeout`` old at an instant read
  **before** the record: what the record lacks then was really not answered in time;
- the record is read afresh each time: an answer that came late takes the miss back.

So waking late delays a verdict and never invents one.

The last probe is hurried: once all but one of the misses that a verdict needs are there, the next probe
need not wait for its turn (``wants_probe``).  A silent cut is then detected after ``miss_limit - 1.5``
intervals on average, plus two reply timeouts: 95 ms at 50 ms x 3, where unhurried it is 135 ms.  It is
still ``miss_limit`` misses; what becomes shorter is the interruption that counts as a fault, from 110 ms
to 70 ms.  A link that answers never gets a probe more.

The reply timeout is 8 x the smoothed round trip, at least 10 ms, at most one interval (or two round
trips, where those are longer).  A reflected probe takes .06 to .2 ms, under full CPU load as well; 10 ms
leaves room for a softirq that is held up, and costs little beside 125 ms.

A link that never answered is *waiting*, not down.  Returning takes ``up_answers`` answers in a row and
no miss for a hold time that doubles with each relapse and halves after each 10 holds without one.

Rejected: judging by the time at which replies are read (a busy event loop looks like a dead link: 68 ms
late at p99 under load); a timer per probe (one more way to be late).
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from x0d.mesh.model import ProbeRecord

PROBES_KEPT_MAX = 64  # as many as the kernel's bitmap remembers; older ones are forgotten unjudged
REPLY_TIMEOUT_MIN_NS = 10_000_000
ROUND_TRIPS_PER_TIMEOUT = 8
STEADY_HOLDS = 10  # staying up this many holds halves the hold


@dataclass(frozen=True, slots=True)
class DetectorTimers:
    """What the detector waits for."""

    interval_ns: int
    """Between two probes."""
    miss_limit: int
    """Unanswered probes in a row that make a link down."""
    up_answers: int = 3
    """Answers in a row that make a link up."""
    up_hold_ns: int = 1_000_000_000
    """Time without a miss before a link that was down is up again."""
    up_hold_max_ns: int = 60_000_000_000
    """The hold doubles with each relapse up to this."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A change of a link's state."""

    up: bool
    kind: str
    """``probes_answered``, ``probes_unanswered`` or ``carrier_lost``."""
    at_ns: int
    """The instant of the judgement."""
    last_sign_ns: int
    """Kernel stamp of the last reply; 0 where there was none."""
    unanswered: int
    """Probes unanswered in a row when the link was judged."""


class Detector:
    """Judges one link by the kernel's record of its probes."""

    def __init__(self, timers: DetectorTimers, session: int = 0) -> None:
        """``session``: only records of this probe session count; 0 accepts any."""
        self._timers = timers
        self._hold_ns = timers.up_hold_ns
        self._relapses = 0
        self._carrier = True
        self._up_since_ns = 0
        self._forget(session)
        self._up = False
        self._ever_up = False

    def _forget(self, session: int) -> None:
        self._session = session
        self._record = ProbeRecord()
        self._sent: deque[tuple[int, int]] = deque(maxlen=PROBES_KEPT_MAX)
        self._smoothed_rtt_ns = 0
        self._clean_since_ns: int | None = None
        self._unanswered = 0
        self.last_sign_ns = 0

    def reset(self, session: int = 0) -> None:
        """Start anew, as waiting: the interface was recreated or the probe session changed.

        The hold and its relapses are kept: a link that flaps by being recreated is held as well.
        """
        self._forget(session)
        self._up = False
        self._ever_up = False
        self._carrier = True

    @property
    def up(self) -> bool:
        """Whether the link was judged up, and not down since."""
        return self._up

    @property
    def waiting(self) -> bool:
        """Whether the link has never been up since the start or the last ``reset``."""
        return not self._ever_up

    @property
    def unanswered(self) -> int:
        """Mature probes unanswered in a row, at the last ``observe``."""
        return self._unanswered

    @property
    def hold_ns(self) -> int:
        """How long the link must be clean before it returns, next time."""
        return self._hold_ns

    @property
    def reply_timeout_ns(self) -> int:
        """Age at which an unanswered probe counts as missed."""
        longest_ns = max(self._timers.interval_ns, 2 * self._smoothed_rtt_ns)
        if not self._smoothed_rtt_ns:
            return longest_ns
        return min(max(ROUND_TRIPS_PER_TIMEOUT * self._smoothed_rtt_ns, REPLY_TIMEOUT_MIN_NS), longest_ns)

    @property
    def wants_probe(self) -> bool:
        """Whether one more miss would be the verdict, and no probe is under way: send the next one now."""
        if not self._up or not self._carrier:
            return False
        open_probes = sum(1 for _ in self._unanswered_newest_first())
        return self._unanswered == open_probes == self._timers.miss_limit - 1

    @property
    def next_check_ns(self) -> int | None:
        """When to call ``observe`` next to be told of a fault without delay; None: no suspicion.

        It is the instant at which enough probes are mature for a verdict, or for ``wants_probe``, should
        none be answered.
        """
        if not self._up or not self._carrier:
            return None
        open_probes = list(self._unanswered_newest_first())
        needed = min(len(open_probes), self._timers.miss_limit)
        if needed < self._timers.miss_limit - 1:
            return None
        return open_probes[-needed][1] + self.reply_timeout_ns if open_probes else None

    def sent(self, sequence: int, sent_at_ns: int) -> None:
        """Note that a probe left; ``sent_at_ns`` is read *after* the send returned."""
        assert not self._sent or sequence > self._sent[-1][0], "probe sequences rise"
        self._sent.append((sequence, sent_at_ns))

    def observe(self, now_ns: int, record: ProbeRecord | None) -> Verdict | None:
        """Judge by the record, which was read after ``now_ns``; None: nothing changed.

        ``record`` is None where the kernel has no entry of this neighbour.
        """
        if record is not None and self._session in (0, record.session):
            self._take(record)
        if not self._carrier:
            return None
        timeout_ns = self.reply_timeout_ns
        mature = [at_ns for _, at_ns in self._unanswered_newest_first() if now_ns - at_ns >= timeout_ns]
        self._unanswered = len(mature)
        if not self._up:
            return self._judge_return(now_ns, timeout_ns)
        return self._down(now_ns, "probes_unanswered") if len(mature) >= self._timers.miss_limit else None

    def carrier_lost(self, at_ns: int) -> Verdict | None:
        """Take the link down at once; None where it was not up."""
        self._carrier = False
        return self._down(at_ns, "carrier_lost") if self._up else None

    def carrier_back(self) -> None:
        """Let probes count again; those sent without carrier are forgotten, the hold starts anew."""
        self._carrier = True
        self._sent.clear()
        self._clean_since_ns = None

    def _take(self, record: ProbeRecord) -> None:
        if record.sequence_last != self._record.sequence_last and record.rtt_last_ns:
            known = self._smoothed_rtt_ns
            self._smoothed_rtt_ns = known + (record.rtt_last_ns - known) // 8 if known else record.rtt_last_ns
        self._record = record
        self.last_sign_ns = record.reply_last_at_ns

    def _unanswered_newest_first(self) -> Iterator[tuple[int, int]]:
        """Yield the probes after the latest answered one; stops there."""
        for sequence, at_ns in reversed(self._sent):
            if sequence <= self._record.sequence_last:
                # Either this one was answered, or one before it: sequence_last itself was.
                # A later probe that was answered takes back the misses before it.
                return
            yield sequence, at_ns

    def _judge_return(self, now_ns: int, timeout_ns: int) -> Verdict | None:
        """Up once the latest answers are enough, without a miss, for the hold."""
        answers, newest_ns = 0, 0
        for sequence, at_ns in self._sent:
            if self._record.answered(sequence):
                answers, newest_ns = answers + 1, at_ns
                if self._clean_since_ns is None:
                    self._clean_since_ns = at_ns
            elif now_ns - at_ns >= timeout_ns and self._record.sequence_last - sequence < PROBES_KEPT_MAX:
                answers = 0
                if self._clean_since_ns is not None and at_ns >= self._clean_since_ns:
                    self._clean_since_ns = None
        if answers < self._timers.up_answers or self._clean_since_ns is None:
            return None
        if self._ever_up and newest_ns - self._clean_since_ns < self._hold_ns:
            return None
        self._up = self._ever_up = True
        self._up_since_ns = now_ns
        return Verdict(up=True, kind="probes_answered", at_ns=now_ns, last_sign_ns=self.last_sign_ns, unanswered=0)

    def _down(self, at_ns: int, kind: str) -> Verdict:
        self._up = False
        self._adapt_hold(at_ns - self._up_since_ns)
        verdict = Verdict(up=False, kind=kind, at_ns=at_ns, last_sign_ns=self.last_sign_ns, unanswered=self._unanswered)
        self._clean_since_ns = None
        # What was answered before the fault is no sign of a return.
        self._sent = deque((p for p in self._sent if p[0] > self._record.sequence_last), PROBES_KEPT_MAX)
        return verdict

    def _adapt_hold(self, up_for_ns: int) -> None:
        if self._relapses and up_for_ns < STEADY_HOLDS * self._hold_ns:
            self._hold_ns = min(2 * self._hold_ns, self._timers.up_hold_max_ns)
        while up_for_ns >= STEADY_HOLDS * self._hold_ns and self._hold_ns > self._timers.up_hold_ns:
            up_for_ns -= STEADY_HOLDS * self._hold_ns
            self._hold_ns = max(self._hold_ns // 2, self._timers.up_hold_ns)
        self._relapses += 1
