"""Exchange of records with the neighbours: who gets what, acknowledgements, repair by summaries.

Joins the database, the flooding and the codec, and knows nothing of links but their keys.  Datagrams
collect in an outbox until ``drain``; acknowledgements are packed together there.
"""

from dataclasses import dataclass

from x0d.errors import WrongSender
from x0d.mesh.codec import (
    Ack,
    Assembly,
    StatePart,
    Summary,
    Version,
    decode_body,
    encode_acks,
    encode_body,
    encode_state,
    encode_summaries,
)
from x0d.mesh.database import Database, KnownRecord
from x0d.mesh.flooding import Flooding
from x0d.mesh.model import LinkKey, LinkStateRecord

AGE_MS_MAX = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Learned:
    """A record of a neighbour's that was news."""

    record: LinkStateRecord
    old: LinkStateRecord | None


class Exchange:
    """The records of one node, and what it owes its neighbours of them."""

    def __init__(self, name: str, record_max_s: float, retransmit_s: float, retransmit_max_s: float) -> None:
        self._name = name
        self.database = Database(record_max_s)
        self.flooding = Flooding(retransmit_s, retransmit_max_s)
        self._assembly = Assembly()
        self._acks: dict[LinkKey, dict[str, Version]] = {}
        self._out: list[tuple[LinkKey, bytes]] = []

    def send(self, key: LinkKey, datagram: bytes) -> None:
        """Put a datagram into the outbox."""
        self._out.append((key, datagram))

    def originate(self, now_s: float, record: LinkStateRecord) -> None:
        """Take this node's own new record and flood it at once."""
        self.database.put(now_s, record, encode_body(record), 0.0, own=True)
        self.flooding.flood(now_s, record.origin, record.version, but=None)
        self.pump(now_s)

    def receive_state(self, now_s: float, key: LinkKey, message: StatePart) -> Learned | None:
        """Take a part of a record; flood the record on once it is whole and news.

        Raises:
            InvalidInput: the record does not follow the format.
        """
        version = message.version
        known = self.database.get(version.origin)
        if known and known.record.version >= version.number:
            self.receive_known(now_s, key, version, known)
            return None
        body = self._assembly.add(message)
        if body is None:
            return None
        record = decode_body(version, body)
        self.acknowledge(key, version)
        if not self.database.put(now_s, record, body, message.age_ms / 1000):
            return None
        self.flooding.has(key, version.origin, version.number)
        self.flooding.flood(now_s, version.origin, version.number, but=key)
        self.pump(now_s)
        return Learned(record, known.record if known else None)

    def receive_known(self, now_s: float, key: LinkKey, version: Version, known: KnownRecord) -> None:
        """Answer a version that is not news: acknowledge ours, send ours against an older one."""
        if known.record.version == version.number:
            self.acknowledge(key, version)
            self.flooding.has(key, version.origin, version.number)
        else:
            self.flooding.owe(now_s, key, version.origin, known.record.version)
            self.pump(now_s)

    def receive_ack(self, key: LinkKey, message: Ack) -> bool:
        """Take acknowledgements; True when now nothing is owed to this neighbour any more."""
        settled = False
        for version in message.versions:
            settled = self.flooding.has(key, version.origin, version.number) or settled
        return settled

    def receive_summary(self, now_s: float, key: LinkKey, message: Summary) -> None:
        """Send the neighbour what its summary lacks."""
        for version in message.versions:
            self.flooding.has(key, version.origin, version.number)
        for origin in self.database.lacking(message):
            self.flooding.owe(now_s, key, origin, self.database.known[origin].record.version)
        self.pump(now_s)

    def send_summary(self, key: LinkKey) -> None:
        """Tell the neighbour all versions that we have."""
        for datagram in encode_summaries(self._name, self.database.versions()):
            self.send(key, datagram)

    def acknowledge(self, key: LinkKey, version: Version) -> None:
        """Put an acknowledgement into the outbox; a newer one takes the older one's place."""
        self._acks.setdefault(key, {})[version.origin] = version

    def repeat(self, now_s: float, key: LinkKey) -> None:
        """Send all that is owed on a link again, now."""
        self.flooding.hasten(now_s, key)
        self.pump(now_s)

    def pump(self, now_s: float) -> None:
        """Move what is owed and due into the outbox."""
        for key, origin in self.flooding.due(now_s):
            known = self.database.get(origin)
            assert known is not None, "records that are forgotten are owed to nobody"
            age_ms = min(int(known.age_s(now_s) * 1000), AGE_MS_MAX)
            for datagram in encode_state(self._name, known.version, age_ms, known.body):
                self.send(key, datagram)

    def age(self, now_s: float) -> tuple[str, ...]:
        """Let records age; the origins that were forgotten."""
        gone = self.database.age(now_s)
        self.flooding.forget(gone)
        return gone

    def drain(self) -> tuple[tuple[LinkKey, bytes], ...]:
        """Empty the outbox: datagrams to send, each on its link."""
        for key, versions in self._acks.items():
            self._out.extend((key, datagram) for datagram in encode_acks(self._name, tuple(versions.values())))
        self._acks = {}
        out, self._out = tuple(self._out), []
        return out


def check_sender(expected: str, sender: str) -> None:
    """Refuse a datagram that names another sender than the link's neighbour.

    Raises:
        WrongSender: it does.
    """
    if sender != expected:
        raise WrongSender(sender, expected)
