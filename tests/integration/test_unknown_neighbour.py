"""A neighbour that knows this node by another name, on real kernels and over TLS: told by both ends, and mended."""

import pytest

from integration.lone_daemon import Pair
from integration.mesh_lab import expect

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(60)]


def test_neighbour_that_is_renamed_by_a_reload(pair: Pair) -> None:
    """n2 calls n1 nx from now on: within seconds n1 shows the daemon gone, an incident, and an alert with the place."""
    n1, n2 = pair.n1, pair.n2
    pair.write()
    with n1.living() as one, n2.living() as two:
        expect("both links up", lambda: one.link("n2").state == two.link("n1").state == "up")
        assert 1 == one.status().links_up
        n2.write(neighbours=[("nx", "e1", "10.9.1.0")])
        assert 0 == two.x0ctl("reload").returncode
        expect("the daemon gone", lambda: one.link("n2").state == "control_gone", 3.0)
        expect("an alert", lambda: len(one.status().alerts) == 1, 1.5)
        (alert,) = one.status().alerts
        assert alert.endswith("/node/n2 does not know this node under that name: look at [[mesh.neighbours]] there")
        assert 1 == one.status().incidents_open
        link = two.link("nx")
        assert ("unauthenticated", 0) == (link.state, two.status().links_up)
        assert "nx is refused: wrong_id" in link.state_reason
        pair.write()
        assert 0 == two.x0ctl("reload").returncode
        expect("both links up again", lambda: one.link("n2").state == two.link("n1").state == "up", 10)
        expect("the alert over", lambda: not one.status().alerts, 5)
