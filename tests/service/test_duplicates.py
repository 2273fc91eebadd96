"""A second node of our name raises an alert, and only a node that keeps at it."""

from fakes.clock import FakeClock
from x0d.service.alerts import Alerts
from x0d.service.duplicates import DISPUTES_TOLERATED, NAME_ALERT, Duplicates


def test_name_that_is_disputed_again_and_again() -> None:
    """One dispute is an earlier life of ours; several within half a minute are a second node, until they end."""
    clock, alerts = FakeClock(), Alerts()
    duplicates = Duplicates(clock, alerts)
    for _ in range(2 * DISPUTES_TOLERATED):
        duplicates.name_disputed()
        clock.advance(20)
    assert () == alerts.names(), "they lie too far apart"
    clock.advance(40)
    for _ in range(DISPUTES_TOLERATED):
        assert () == alerts.names()
        duplicates.name_disputed()
        clock.advance(1)
    assert (NAME_ALERT,) == alerts.names()
    duplicates.look_at_names()
    assert (NAME_ALERT,) == alerts.names()
    clock.advance(31)
    duplicates.look_at_names()
    assert () == alerts.names()
