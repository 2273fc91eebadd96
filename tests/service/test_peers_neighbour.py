"""When a neighbour's daemon is dialled: back-off, hints, silence, age."""

import random
from ipaddress import ip_address

from fakes.clock import FakeClock
from fakes.dataplane import FakeDataPlane
from fakes.peers import GROUP
from fakes.sockets import MESH_PORT, FakeSockets
from x0d.errors import IdentityRefused, PeerUnreachable
from x0d.identity.agreement import PeerKey
from x0d.identity.model import Proof, Reason, Usage
from x0d.identity.spiffe_id import TrustDomain, node_id
from x0d.mesh.model import LinkKey
from x0d.mesh.node import LinkPort
from x0d.service.peers_neighbour import HINT_PAUSE_S, KEY_LIFE_S, RETRY_MAX_S, SILENT_MAX_S, Neighbour
from x0d.service.sealed import SealedLink

DOMAIN = TrustDomain("x0d.test")
N1, N2 = node_id(DOMAIN, "n1"), node_id(DOMAIN, "n2")
PROOF = Proof(N2, Usage.SERVER, b"leaf", b"", 2e9, GROUP)
UNREACHABLE = PeerUnreachable("connection refused")


def neighbour_of(seed: int, links: int = 1) -> Neighbour:
    """A neighbour on so many links, never dialled."""
    clock = FakeClock()
    sockets = FakeSockets(clock, FakeDataPlane(clock, 1))
    neighbour = Neighbour("n2", N2, random.Random(seed))
    for number in range(links):
        local, remote = ip_address(f"10.0.{number}.1"), ip_address(f"10.0.{number}.2")
        port = LinkPort(LinkKey.between("n1", local, "n2", remote), "n2", f"eth{number}", number, local, remote, 1)
        socket = sockets.open(port.interface, local, MESH_PORT, remote, None)
        neighbour.links[port.key] = SealedLink(port, socket, N1, 7)
    return neighbour


def agreed(neighbour: Neighbour, now_s: float, boot_id: int = 9, number: int = 0) -> None:
    """Agree on a key as the one who has dialled."""
    neighbour.agreed(now_s, boot_id, PeerKey(number.to_bytes(32, "big"), number), PROOF, initiated=True)
    neighbour.is_dialling = False


def dial(neighbour: Neighbour, now_s: float, error: Exception = UNREACHABLE) -> SealedLink:
    """Dial in vain."""
    link = neighbour.dial(now_s)
    assert float("inf") == neighbour.due_s()
    neighbour.is_dialling = False
    neighbour.failed(now_s, error)
    return link


def test_back_off_grows_with_some_chance(seed: int) -> None:
    """The first dial is due at once, the next after 0.2 s, then twice as long up to 5 s, a quarter more or less."""
    neighbour = neighbour_of(seed)
    assert neighbour.due_s() < 0
    now_s, pauses = 100.0, []
    for _ in range(9):
        dial(neighbour, now_s)
        pauses.append(neighbour.due_s() - now_s)
        now_s = neighbour.due_s()
    for pause, middle in zip(pauses, (0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5, 5), strict=True):
        assert 0.75 * middle <= pause <= 1.25 * middle
    assert 9 == len(set(pauses))


def test_hint_cuts_the_back_off_short_once_a_second(seed: int) -> None:
    """However many hints come, a neighbour is dialled at most once a second for them."""
    neighbour = neighbour_of(seed)
    for _ in range(8):
        dial(neighbour, 100.0)
    assert neighbour.due_s() > 100 + 0.7 * RETRY_MAX_S
    assert [True, False, False] == [neighbour.hint() for _ in range(3)]
    assert 100 + HINT_PAUSE_S == neighbour.due_s()
    dial(neighbour, 101.0)
    assert neighbour.due_s() > 104
    neighbour.hint()
    assert 101 + HINT_PAUSE_S == neighbour.due_s()


def test_agreement_answers_the_hints_before_it(seed: int) -> None:
    """What came in before a key was agreed on is no reason for another one; what comes after it is."""
    neighbour = neighbour_of(seed)
    neighbour.dial(100.0)
    neighbour.hint()
    agreed(neighbour, 100.1)
    neighbour.heard(100.2)
    assert neighbour.due_s() > 103
    neighbour.hint()
    assert 100.2 + HINT_PAUSE_S == neighbour.due_s()
    neighbour.heard(101.1)
    assert 101.1 + HINT_PAUSE_S == neighbour.due_s(), "whoever gives hints, it is not the neighbour"


def test_silent_neighbour_is_given_a_new_key_more_and_more_seldom(seed: int) -> None:
    """A neighbour that is not heard may have another key: dialled after 3 s, then 6, up to a minute; a word resets."""
    neighbour = neighbour_of(seed)
    agreed(neighbour, 0.0)
    now_s, pauses = 0.0, []
    for number in range(7):
        pauses.append(neighbour.due_s() - now_s)
        now_s = neighbour.due_s()
        neighbour.dial(now_s)
        agreed(neighbour, now_s, number=number + 1)
    assert [3, 6, 12, 24, 48, SILENT_MAX_S, SILENT_MAX_S] == pauses
    neighbour.heard(now_s)
    assert now_s + 3 == neighbour.due_s()


def test_key_grows_old(seed: int) -> None:
    """A key that works is replaced within the hour, and not by both ends in the same moment."""
    due = []
    for number in range(4):
        neighbour = neighbour_of(seed + number)
        agreed(neighbour, 0.0)
        neighbour.heard(KEY_LIFE_S)
        due.append(neighbour.due_s())
    assert all(0.7 * KEY_LIFE_S < at <= KEY_LIFE_S for at in due)
    assert 4 == len(set(due))


def test_other_links_are_tried_after_a_failure(seed: int) -> None:
    """Each failure turns to the neighbour's next link, so that a dead one does not keep the others without a key."""
    neighbour = neighbour_of(seed, links=3)
    assert ["eth0", "eth1", "eth2", "eth0"] == [dial(neighbour, float(at)).port.interface for at in range(4)]


def test_refusal_is_remembered_by_its_first_words(seed: int) -> None:
    """A peer that is refused again for one reason is no news; another reason is, and an agreement ends it."""
    neighbour = neighbour_of(seed)
    dial(neighbour, 0.0, IdentityRefused(Reason.EXPIRED, "expired 3 s ago"))
    dial(neighbour, 1.0, IdentityRefused(Reason.EXPIRED, "expired 4 s ago"))
    assert ("refused", "expired: expired 3 s ago") == (neighbour.state, neighbour.reason)
    dial(neighbour, 2.0)
    assert "refused" == neighbour.state
    dial(neighbour, 3.0, IdentityRefused(Reason.WRONG_ID, "n3 answers"))
    assert "wrong_id: n3 answers" == neighbour.reason
    agreed(neighbour, 4.0)
    assert ("authenticated", "") == (neighbour.state, neighbour.reason)
    dial(neighbour, 5.0, IdentityRefused(Reason.OWN_SVID_EXPIRED, "our own SVID has expired"))
    assert ("authenticated", None) == (neighbour.state, neighbour.refusal)


def test_failure_is_forgotten_once_the_neighbour_is_heard_under_a_key_of_its_own_dial(seed: int) -> None:
    """Both dial at once and one dial fails: it is tried again, unless the key of the other one shows that it works."""
    neighbour = neighbour_of(seed)
    neighbour.dial(100.0)
    neighbour.agreed(100.1, 9, PeerKey(bytes(32), 1), PROOF, initiated=False)
    neighbour.is_dialling = False
    neighbour.failed(100.2, UNREACHABLE)
    assert ("authenticated", "connection refused") == (neighbour.state, neighbour.reason)
    assert neighbour.due_s() < 100.5
    neighbour.heard(100.3)
    assert ("authenticated", "") == (neighbour.state, neighbour.reason)
    assert 103.3 == neighbour.due_s()
