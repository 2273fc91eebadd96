"""What a scrape shows, and that a daemon whose event loop hangs shows nothing."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest
from prometheus_client import generate_latest

from fakes.clock import FakeClock
from fakes.svid_source import FakeSvidSource
from fakes.views import FakeNodeView
from service.nodes import FakeMesh, FakeNode
from x0d import telemetry
from x0d.mesh.model import LinkState
from x0d.ports import Log2Histogram, MapStatus, ProgramStatus, TraceSample
from x0d.service import metrics
from x0d.service.metrics import ScrapeCollector
from x0d.service.metrics_dataplane import DataplaneReading
from x0d.service.metrics_identity import IdentityReading
from x0d.service.overview import InterfaceOverview, MeshOverview
from x0d.telemetry import Telemetry

COUNTED = (
    "x0d_loop_lag_seconds",
    "x0d_heal_step_seconds",
    "x0d_incidents",
    "x0d_actions",
    "x0d_route_install_seconds",
    "x0d_knowledge_failures",
    "x0d_tls_handshakes",
    "x0d_tls_handshake_failures",
    "x0d_streams_revoked",
    "x0d_audit_failures",
    "x0d_descriptor_verifications",
)
"""Names that ``telemetry.Telemetry`` declares beside the module's constants."""


TRACE = TraceSample(
    drops={"no_socket": 20},
    retransmits={"192.0.2.0/24": 3, "other": 4},
    resets_sent={},
    resets_received={"192.0.2.0/24": 1},
    socket_states={("ipv4", "syn_sent", "established"): 2, ("ipv4", "syn_recv", "established"): 3},
    run_queue=Log2Histogram((0,) * 12 + (5,), 15_000),
    syscalls={"read": Log2Histogram((0, 1), 1), "write": Log2Histogram((0, 2), 3)},
)


async def reading(node: FakeNode) -> DataplaneReading:
    """What the data plane of a node tells, with some programs and traces."""
    return DataplaneReading(
        sample=node.plane.sample(),
        trace=TRACE,
        programs=[
            ProgramStatus("x0d_root_frags", "xdp", "root", "loaded"),
            ProgramStatus("x0d_limit_frags", "xdp", "stage", "refused", "EINVAL", 22),
            ProgramStatus("x0d_t_runq", "trace", "tracepoint", "off"),
        ],
        maps=[MapStatus("x0d_sources", "lru_hash", 65536, 4096)],
        deny_entries=7,
        limits=2,
        lock_outs_refused=3,
        lock_outs_forced=1,
        name_of=lambda ifindex: node.interfaces.name_of(ifindex) or "",
    )


def scraped(work: Callable[[FakeNode, Telemetry], str]) -> str:
    """Scrape a node, in a thread of its own as the HTTP server does, while its loop runs."""
    clock = FakeClock()
    node = FakeMesh(clock, (("n1", "n2"), ("n1", "n3"))).nodes["n1"]

    async def main() -> str:
        await node.mesh.start({})
        await node.interfaces.start()
        node.links.probe()
        node.plane.receive(100, ip_address("10.0.0.66"), ip_address("10.0.0.1"), bytes(48))
        node.plane.set_limit((9471,), 10, 1)
        for _ in range(3):
            node.plane.receive_syn(100, ip_address("10.0.0.66"), 9471)
        counted = node.counted
        node.mesh._refused.counts.update(forged=2, replayed=5)
        svids = FakeSvidSource(clock)
        svids.change(rejected={"wrong_key": 1}, updates=9, generation=7)
        counted.registry.register(
            ScrapeCollector(
                node=FakeNodeView(),
                interfaces=InterfaceOverview(node.interfaces),
                dataplane=lambda: reading(node),
                mesh_view=MeshOverview(node.links, node.mesh, clock),
                mesh=node.mesh,
                healing=node.healing,
                alerts=node.alerts,
                refused=lambda: {"hop_limit": 3},
                control_refused=lambda: 4,
                identity=lambda: IdentityReading(svids.current, {"X25519MLKEM768": 2, "X25519": 1}),
            )
        )
        return await asyncio.to_thread(work, node, counted)

    return asyncio.run(main())


def text_of(_: FakeNode, counted: Telemetry) -> str:
    """The exposition."""
    return generate_latest(counted.registry).decode()


def test_every_declared_name_is_shown() -> None:
    """Each metric that ``telemetry`` declares is in the exposition, and nothing that it does not declare."""
    shown = {line.split()[2] for line in scraped(text_of).splitlines() if line.startswith("# TYPE")}
    declared = {
        value for name, value in vars(telemetry).items() if name.isupper() and str(value).startswith("x0d_")
    } | set(COUNTED)
    assert declared == {name.removesuffix("_total") for name in shown}


def test_link_without_a_key_is_not_up() -> None:
    """A link whose probes alone are answered has a state of its own, and is not counted as one that carries traffic."""

    def work(node: FakeNode, counted: Telemetry) -> str:
        node.unit("n2").enter(LinkState.UP, "probes answered", 1)
        return text_of(node, counted)

    lines = scraped(work).splitlines()
    labels = 'interface="to-n2",link="n1-n2.1451",neighbour="n2"'
    assert f"x0d_link_up{{{labels}}} 0.0" in lines
    for state, value in (("up", 0.0), ("unauthenticated", 1.0)):
        assert f'x0d_link_state{{{labels},state="{state}"}} {value}' in lines


def test_values_are_the_services_own() -> None:
    """Interfaces, links, probes and refusals appear with their labels and counts, in base units."""
    lines = scraped(text_of).splitlines()
    for expected in (
        'x0d_interface_attached{interface="to-n2",mode="native"} 1.0',
        'x0d_interface_blocked{interface="to-n3"} 0.0',
        'x0d_link_up{interface="to-n2",link="n1-n2.1451",neighbour="n2"} 0.0',
        'x0d_link_state{interface="to-n2",link="n1-n2.1451",neighbour="n2",state="waiting"} 1.0',
        'x0d_link_probes_sent_total{interface="to-n2",link="n1-n2.1451",neighbour="n2"} 1.0',
        'x0d_dataplane_probes_total{event="stranger",interface="to-n2"} 1.0',
        'x0d_ebpf_program_loaded{program="x0d_root_frags"} 1.0',
        'x0d_ebpf_program_loaded{program="x0d_limit_frags"} 0.0',
        'x0d_ebpf_map_bytes{map="x0d_sources"} 4096.0',
        'x0d_kernel_drops_total{reason="no_socket"} 20.0',
        "x0d_tcp_retransmits_total 7.0",
        'x0d_tcp_resets_total{direction="in"} 1.0',
        'x0d_tcp_resets_total{direction="out"} 0.0',
        'x0d_socket_state_changes_total{family="ipv4",state="established"} 5.0',
        'x0d_run_queue_latency_seconds_bucket{le="4.096e-06"} 5.0',
        'x0d_run_queue_latency_seconds_bucket{le="2.048e-06"} 0.0',
        'x0d_run_queue_latency_seconds_bucket{le="+Inf"} 5.0',
        "x0d_run_queue_latency_seconds_sum 1.5e-05",
        "x0d_syscall_latency_seconds_count 3.0",
        "x0d_deny_entries 7.0",
        "x0d_syn_limited_total 2.0",
        'x0d_lock_outs_total{outcome="refused"} 3.0',
        'x0d_mesh_datagrams_refused_total{reason="hop_limit"} 3.0',
        'x0d_mesh_datagrams_refused_total{reason="malformed"} 0.0',
        "x0d_mesh_datagrams_unauthenticated_total 7.0",
        "x0d_svid_expiry_timestamp_seconds 1.70008994e+09",
        "x0d_svid_updates_total 9.0",
        'x0d_svid_updates_rejected_total{reason="wrong_key"} 1.0',
        "x0d_bundle_generation 7.0",
        "x0d_workload_api_connected 1.0",
        'x0d_peers_authenticated{group="X25519MLKEM768"} 2.0',
    ):
        assert expected in lines


def test_no_series_appears_twice() -> None:
    """Two links that wait for one interface, to one neighbour, are two series: a scrape with doubles is refused."""

    def work(node: FakeNode, counted: Telemetry) -> str:
        for unit, address in zip(node.links.units, ("10.0.0.2", "10.0.0.3"), strict=True):
            unit.unbind()
            unit.entry = replace(unit.entry, node="n2", interface="eth7", address=ip_address(address))
        return text_of(node, counted)

    lines = [line.rpartition(" ")[0] for line in scraped(work).splitlines() if not line.startswith("#")]
    assert sorted(set(lines)) == sorted(lines)


def test_loop_that_does_not_answer_fails_the_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the event loop hangs the scrape fails, which is the truth; the next one, after the hang, does not."""
    monkeypatch.setattr(metrics, "SNAPSHOT_S", 0.01)
    may_go_on = threading.Event()

    def work(node: FakeNode, counted: Telemetry) -> str:
        collector = next(one for one in counted.registry._collector_to_names if isinstance(one, ScrapeCollector))
        collector._loop.call_soon_threadsafe(may_go_on.wait, 10)
        with pytest.raises(TimeoutError):
            text_of(node, counted)
        may_go_on.set()
        monkeypatch.setattr(metrics, "SNAPSHOT_S", 10.0)
        return text_of(node, counted)

    assert "x0d_build_info" in scraped(work)
