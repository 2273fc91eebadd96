"""One link's datagrams on their way between the mesh and the socket: sealed going out, opened coming in.

Without a key nothing leaves and nothing is let in; the socket has checked hop limit and source before.  A link that
is *suspended* keeps its keys and uses none of them: an expired certificate is no reason to forget who its owner was.
"""

from collections.abc import Iterable

import structlog

from x0d import telemetry
from x0d.errors import DatagramRefused, InvalidInput, WrongSender
from x0d.identity.agreement import PeerKey
from x0d.identity.seal import LinkSeal, Refusal, link_text
from x0d.identity.spiffe_id import SpiffeId
from x0d.mesh.model import LinkKey
from x0d.mesh.node import LinkPort
from x0d.ports import DatagramSocket

REFUSALS_LOGGED_MAX = 64  # distinct ones; a flood of bad datagrams is counted, not logged
HINTS = frozenset({Refusal.NO_KEY, Refusal.UNKNOWN_BOOT, Refusal.UNKNOWN_KEY})
"""Refusals that a neighbour without our key would meet: reasons to agree on one, and no reason to write a log."""

log = structlog.get_logger()


class SealedLink:
    """``ports.DatagramSocket`` of one link, under the keys agreed with its neighbour."""

    def __init__(self, port: LinkPort, socket: DatagramSocket, own_id: SpiffeId, own_boot: int) -> None:
        """Begin without a key; a key that an earlier object for this link had must not be put in."""
        self.port = port
        self.suspended = False
        """Whether the keys are there and not to be used for now."""
        self._socket = socket
        self._seal = LinkSeal(link_text(port.local_address, port.neighbour_address), own_id, own_boot)

    @property
    def sent(self) -> int:
        """Datagrams sealed under the key in use."""
        return self._seal.sent

    def install(self, peer_id: SpiffeId, peer_boot: int, key: PeerKey, *, initiated: bool) -> None:
        """Take a key; ``initiated``: the neighbour is known to have it."""
        self._seal.install(peer_id, peer_boot, key, initiated=initiated)

    def drop(self) -> None:
        """Forget all keys."""
        self._seal.drop()

    def send(self, payload: bytes) -> bool:
        """Seal and send; False without a usable key, or when the kernel took it not."""
        sealed = None if self.suspended else self._seal.seal(payload)
        return sealed is not None and self._socket.send(sealed)

    def open(self, datagram: bytes) -> bytes:
        """Give the payload of a datagram of the neighbour's.

        Raises:
            DatagramRefused: it is not the neighbour's, not new, or there is no usable key.
        """
        if self.suspended:
            raise DatagramRefused(Refusal.NO_KEY, "the certificate that the key was agreed under has expired")
        return self._seal.open(datagram)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class RefusedDatagrams:
    """Counts of what came in and was not taken; each kind is logged once a link."""

    def __init__(self, reasons: Iterable[str] = ("malformed", "wrong_name", *Refusal)) -> None:
        self.counts: dict[str, int] = {str(reason): 0 for reason in reasons}
        """By reason; read it, do not write it."""
        self._logged: set[tuple[LinkKey, str]] = set()

    def note(self, key: LinkKey, refusal: InvalidInput) -> None:
        """Count a refusal."""
        if isinstance(refusal, WrongSender):
            self.counts["wrong_name"] += 1  # an alert names it
            return
        kind = refusal.reason if isinstance(refusal, DatagramRefused) else str(refusal)
        self.counts[refusal.reason if isinstance(refusal, DatagramRefused) else "malformed"] += 1
        if kind not in HINTS and (key, kind) not in self._logged and len(self._logged) < REFUSALS_LOGGED_MAX:
            self._logged.add((key, kind))
            log.warning(telemetry.DATAGRAM_REFUSED, link=str(key), reason=str(refusal))
