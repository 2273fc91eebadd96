"""Judging a numbered stream by its stamps."""

from lab.traffic import Report, judge

MS = 1_000_000


def test_nothing_lost() -> None:
    """A stream that came in whole has no outage, and its longest gap is that between arrivals."""
    sent, received = [1 * MS, 2 * MS, 3 * MS], [2 * MS, 3 * MS, 6 * MS]
    assert Report(3, 0, None, None, 3.0) == judge(sent, received, 0, 10 * MS)


def test_outage_spans_the_lost() -> None:
    """The outage reaches from the first lost packet to the end of the interval of the last."""
    sent = [1 * MS, 2 * MS, 3 * MS, 4 * MS, 5 * MS]
    report = judge(sent, [2 * MS, 0, 4 * MS, 0, 6 * MS], 0, 10 * MS)
    assert (5, 2, 2 * MS, 4 * MS, 2.0) == (
        report.sent,
        report.lost,
        report.first_lost_ns,
        report.last_lost_ns,
        report.longest_gap_ms,
    )
    assert report.outage_ms == 3.0


def test_window() -> None:
    """Only packets sent within the window count, and slots not used yet are no packets."""
    assert Report(1, 1, 3 * MS, 3 * MS, 0.0) == judge([1 * MS, 3 * MS, 5 * MS, 0], [0, 0, 0, 0], 2 * MS, 5 * MS)
