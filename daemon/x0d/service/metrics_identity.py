"""The metric families of identity, of one reading.

Labels are bounded: reasons and key exchange groups by the code and the TLS library.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from x0d import telemetry
from x0d.identity.seal import Refusal
from x0d.ports import SvidStatus


@dataclass(frozen=True, slots=True)
class IdentityReading:
    """Everything of identity that one scrape shows."""

    status: SvidStatus
    authenticated: Mapping[str, int]
    """Neighbours with a key that may be used, by the key exchange group that it was agreed in."""


def families(reading: IdentityReading, refused: Mapping[str, int]) -> Iterator[Metric]:
    """All of them; ``refused`` counts the mesh's datagrams by reason, others than ours among them."""
    status = reading.status
    text = "End of this node's own SVID; 0: there is none."
    yield GaugeMetricFamily(telemetry.SVID_EXPIRY, text, status.not_after_unix_s)
    yield CounterMetricFamily(telemetry.SVID_UPDATES, "Updates of the Workload API that were taken.", status.updates)
    text = "Updates of the Workload API that were refused, by reason; the last good one stays in force."
    rejected = CounterMetricFamily(telemetry.SVID_UPDATES_REJECTED, text, labels=["reason"])
    for reason, count in sorted(status.rejected.items()):
        rejected.add_metric([reason], count)
    yield rejected
    yield GaugeMetricFamily(telemetry.BUNDLE_GENERATION, "Rises with each update of the roots.", status.generation)
    yield GaugeMetricFamily(telemetry.WORKLOAD_CONNECTED, "1 while the Workload API is there.", int(status.connected))
    text = "Neighbours whose daemon has proved who it is, by the key exchange group."
    authenticated = GaugeMetricFamily(telemetry.PEERS_AUTHENTICATED, text, labels=["group"])
    for group, count in sorted(reading.authenticated.items()):
        authenticated.add_metric([group], count)
    yield authenticated
    text = "Mesh datagrams without a valid MAC, or with one seen before."
    unsealed = sum(count for reason, count in refused.items() if reason in set(Refusal))
    yield CounterMetricFamily(telemetry.MESH_DATAGRAMS_UNSEALED, text, unsealed)
