"""Names and addresses that do not fit together are told, until they have not been seen for a while."""

from ipaddress import ip_address

from fakes.clock import FakeClock
from x0d.errors import WrongSender
from x0d.mesh.model import LinkKey
from x0d.mesh.node import LinkPort, LinkView
from x0d.service.alerts import Alerts
from x0d.service.mistakes import DISPUTES_TOLERATED, NAME_ALERT, UNHEARD_LOOKS, Mistakes

HERE, THERE = ip_address("10.1.0.0"), ip_address("10.1.0.1")
PORT = LinkPort(LinkKey.between("n1", HERE, "n2", THERE), "n2", "to-n2", 7, HERE, THERE, 100)


def test_name_that_is_disputed_again_and_again() -> None:
    """One dispute is an earlier life of ours; several within half a minute are a second node, until they end."""
    clock, alerts = FakeClock(), Alerts()
    mistakes = Mistakes(clock, alerts)
    for _ in range(2 * DISPUTES_TOLERATED):
        mistakes.name_disputed()
        clock.advance(20)
    assert () == alerts.names(), "they lie too far apart"
    clock.advance(40)
    for _ in range(DISPUTES_TOLERATED):
        assert () == alerts.names()
        mistakes.name_disputed()
        clock.advance(1)
    assert (NAME_ALERT,) == alerts.names()
    mistakes.look_again({})
    assert (NAME_ALERT,) == alerts.names()
    clock.advance(31)
    mistakes.look_again({})
    assert () == alerts.names()


def test_neighbour_of_another_name() -> None:
    """A neighbour that calls itself otherwise is named with both names, until half a minute after the last time."""
    clock, alerts = FakeClock(), Alerts()
    mistakes = Mistakes(clock, alerts)
    mistakes.misnamed(PORT, WrongSender("nx", "n2"))
    assert ("neighbour_name to-n2 10.1.0.1",) == alerts.names()
    assert "it calls itself nx, [[mesh.neighbours]] here says n2" in alerts.texts()[0]
    clock.advance(29)
    mistakes.look_again({})
    assert 1 == len(alerts.names())
    clock.advance(2)
    mistakes.look_again({})
    assert () == alerts.names()


def test_neighbour_that_does_not_take_us_in() -> None:
    """A link whose neighbour is heard and never gets in step is told after some looks, and cleared in step."""
    alerts = Alerts()
    mistakes = Mistakes(FakeClock(), alerts)
    deaf = LinkView(0, 100, None, control_alive=True, in_step=False, heard_at_s=1.0)
    for _ in range(UNHEARD_LOOKS):
        assert () == alerts.names(), "it may be on its way"
        mistakes.look_again({PORT: deaf})
    assert ("not_in_step to-n2 10.1.0.1",) == alerts.names()
    mistakes.look_again({PORT: LinkView(0, 100, None, control_alive=True, in_step=True, heard_at_s=1.0)})
    assert () == alerts.names()
