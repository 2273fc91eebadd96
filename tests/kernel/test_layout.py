"""The Python side of ebpf/x0d.h against the header itself."""

import shutil
import subprocess
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel import xdp_values
from x0d.errors import InvalidInput
from x0d.kernel import layout, layout_policy
from x0d.kernel.limit_model import decode_key, encode_key
from x0d.mesh.model import ProbeRecord
from x0d.policy.model import PackedPrefix
from x0d.transport.datagram import HOP_LIMIT

EBPF_DIR = Path(__file__).resolve().parents[2] / "ebpf"
COMPILER = shutil.which("clang") or shutil.which("cc")
U64 = st.integers(0, (1 << 64) - 1)

SIZES = {
    "x0d_probe": layout.PROBE,
    "x0d_config": layout.CONFIG,
    "x0d_link_key": layout.LINK_KEY,
    "x0d_link": layout.LINK,
    "x0d_bucket": layout.BUCKET,
    "x0d_counter": layout.COUNTER,
    "x0d_interface": layout.INTERFACE,
    "x0d_policy": layout_policy.POLICY,
    "x0d_deny_filter": layout_policy.DENY_FILTER,
    "x0d_net4_key": layout_policy.NET4_KEY,
    "x0d_net6_key": layout_policy.NET6_KEY,
    "x0d_deny": layout_policy.DENY,
    "x0d_limit": layout_policy.LIMIT,
    "x0d_source": layout_policy.SOURCE,
    "x0d_event": layout_policy.EVENT,
    "x0d_syn_config": layout_policy.SYN_CONFIG,
    "x0d_syn_key": layout_policy.SYN_KEY,
}
OFFSETS = {
    "x0d_config": {"session": 8, "probe_rate_pps": 16, "event_every": 24, "talkers": 28},
    "x0d_link": {"local_address": 8},
    "x0d_policy": {"deny_index": 0, "deny_kinds": 1, "limit_generation": 4},
    "x0d_deny": {"slot": 0, "expires_at": 8, "covered_until": 16},
    "x0d_limit": {"interval_ns": 0, "tolerance_ns": 8, "expires_at": 16, "fallback": 24, "rate_pps": 28},
    "x0d_source": {"due_at": 0, "limit": 8, "packets": 16, "bytes": 24, "limited": 32},
    "x0d_syn_config": {"interval_ns": 0, "tolerance_ns": 8, "ports": 16},
    "x0d_syn_key": {"ifindex": 0, "address": 8},
    "x0d_event": {
        "at": 0,
        "ifindex": 8,
        "length": 12,
        "source": 16,
        "destination": 32,
        "source_port": 48,
        "destination_port": 50,
        "protocol": 52,
        "class": 53,
        "verdict": 54,
        "tags": 55,
    },
    "x0d_interface": {
        "packets": 0,
        "probes": 864,
        "events_sent": 936,
        "events_lost": 944,
        "event_tick": 952,
        "present": 956,
    },
}
"""Where Python reads and writes each field."""
CONSTANTS = {
    "X0D_LAYOUT_VERSION": layout.LAYOUT_VERSION,
    "X0D_PROBE_MAGIC": layout.PROBE_MAGIC,
    "X0D_PROBE_VERSION": layout.PROBE_VERSION,
    "X0D_PROBE_REQUEST": layout.PROBE_REQUEST,
    "X0D_PROBE_REPLY": layout.PROBE_REPLY,
    "X0D_PROBE_HOP_LIMIT": HOP_LIMIT,
    "X0D_PROBE_WINDOW": layout.PROBE_WINDOW,
    "X0D_LINKS_MAX": layout.LINKS_MAX,
    "X0D_INTERFACES_MAX": layout.INTERFACES_MAX,
    "X0D_LOW_INTERFACES_MAX": layout.LOW_INTERFACES_MAX,
    "X0D_SOURCES_DEFAULT": layout.SOURCES_DEFAULT,
    "X0D_DENY_DEFAULT": layout.DENY_DEFAULT,
    "X0D_EVENT_BYTES_DEFAULT": layout.EVENT_BYTES_DEFAULT,
    "X0D_LIMITS_MAX": layout_policy.LIMITS_MAX,
    "X0D_LIMIT_TICKS_MIN": xdp_values.LIMIT_TICKS_MIN,
    "X0D_LIMIT_FALLBACKS_MAX": layout_policy.LIMIT_FALLBACKS_MAX,
    "X0D_DENY_4": layout_policy.DENY_4,
    "X0D_DENY_4_NETS": layout_policy.DENY_4_NETS,
    "X0D_DENY_6": layout_policy.DENY_6,
    "X0D_DENY_6_NETS": layout_policy.DENY_6_NETS,
    "X0D_SYN_PORTS_MAX": layout_policy.SYN_PORTS_MAX,
    "X0D_SYN_SOURCES_MAX": layout_policy.SYN_SOURCES_MAX,
    "X0D_STAGES": len(layout.STAGES),
    "X0D_STAGE_SLOTS": layout.STAGE_SLOTS,
    "X0D_SEQUENCE_JUMP_MAX": xdp_values.SEQUENCE_JUMP_MAX,
    "X0D_REPLY_AGE_MAX_NS": xdp_values.REPLY_AGE_MAX_NS,
    "X0D_CLASSES": len(layout.CLASSES),
    "X0D_VERDICTS": len(layout.VERDICTS),
    "X0D_PROBE_EVENTS": len(layout.PROBE_EVENTS),
    **{f"X0D_CLASS_{name.upper()}": number for number, name in enumerate(layout.CLASSES)},
    **{f"X0D_VERDICT_{name.upper()}": number for number, name in enumerate(layout.VERDICTS)},
    **{f"X0D_STAGE_{name.upper()}": number for number, name in enumerate(layout.STAGES)},
    **{f"X0D_PROBE_{name.upper()}": number for number, name in enumerate(layout.PROBE_EVENTS)},
}
PROBE_RECORD = {
    "peer_session": "peer_session",
    "requests_received": "requests_received",
    "request_last_at": "request_last_at_ns",
    "session": "session",
    "sequence_last": "sequence_last",
    "received": "received",
    "replies_received": "replies_received",
    "peer_requests_received": "peer_requests_received",
    "reply_last_at": "reply_last_at_ns",
    "rtt_last_ns": "rtt_last_ns",
    "rtt_sum_ns": "rtt_sum_ns",
    "reflected_last_at": "reflected_last_at_ns",
}
"""Field of ``struct x0d_link`` to field of ``ProbeRecord``."""


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
def test_header_agrees(tmp_path: Path) -> None:
    """Sizes, offsets and numbers of the header are those that Python uses."""
    offsets = {name: 24 + 8 * place for place, name in enumerate(PROBE_RECORD)}
    checks = [f"sizeof(struct {name}) == {shape.size}" for name, shape in SIZES.items()]
    checks += [f"{name} == {value}" for name, value in CONSTANTS.items()]
    checks += [f"offsetof(struct x0d_link, {name}) == {offset}" for name, offset in offsets.items()]
    checks += [
        f"offsetof(struct {name}, {field}) == {offset}"
        for name, fields in OFFSETS.items()
        for field, offset in fields.items()
    ]
    lines = ["#include <stddef.h>", '#include "x0d.h"', *(f'_Static_assert({check}, "{check}");' for check in checks)]
    source = tmp_path / "agree.c"
    source.write_text("\n".join(lines) + "\n")
    assert COMPILER is not None
    command = [COMPILER, "-std=gnu11", "-fsyntax-only", "-I", str(EBPF_DIR), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)


def test_record_fields_keep_the_header_order() -> None:
    """``decode_link`` fills the record by position, so the orders must be one."""
    assert list(PROBE_RECORD.values()) == list(ProbeRecord.__dataclass_fields__)


@given(st.builds(ProbeRecord, *[U64] * 12), st.ip_addresses())
def test_link_returns(record: ProbeRecord, local: IPv4Address | IPv6Address) -> None:
    """A record decodes to what was encoded."""
    mapped = isinstance(local, IPv6Address) and local.ipv4_mapped
    assert (mapped or local, record) == layout.decode_link(layout.encode_link(local, record))


@given(st.binary(max_size=64) | st.binary(min_size=48, max_size=48))
def test_any_bytes_decode_or_are_refused(payload: bytes) -> None:
    """What decodes as a probe encodes to the same bytes; everything else raises InvalidInput."""
    try:
        probe = layout.decode_probe(payload)
    except InvalidInput:
        return
    assert payload == layout.encode_probe(probe)


@given(U64, U64, U64)
def test_request_returns(session: int, sequence: int, sent_at_ns: int) -> None:
    """A request decodes to its three numbers."""
    request = layout.encode_request(session, sequence, sent_at_ns)
    assert layout.Probe(layout.PROBE_REQUEST, session, sequence, sent_at_ns) == layout.decode_probe(request)


@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=layout.CELLS * 2 + 13, max_size=layout.CELLS * 2 + 13))
def test_counters_are_named_in_order(cells: list[int]) -> None:
    """Every number of an interface is found under its class and verdict, or its event."""
    events_at = 2 * layout.CELLS
    named = layout.name_counters(cells)
    for row, protocol_class in enumerate(layout.CLASSES):
        for column, verdict in enumerate(layout.VERDICTS):
            at = 2 * (row * len(layout.VERDICTS) + column)
            expected = (cells[at], cells[at + 1]) if cells[at] else None
            assert expected == named.packets.get((protocol_class, verdict))
    probes = cells[events_at : events_at + len(layout.PROBE_EVENTS)]
    assert {name: n for name, n in zip(layout.PROBE_EVENTS, probes, strict=True) if n} == named.probes
    assert (named.events_sent, named.events_lost) == (cells[-4], cells[-3])


def test_counters_are_summed_over_cpus() -> None:
    """The value of each CPU is added to the others'."""
    one = layout.INTERFACE.pack(*range(layout.CELLS * 2 + 13))
    twice = xdp_values.decode_interface(one * 2)
    once = xdp_values.decode_interface(one)
    assert {cell: (2 * n, 2 * size) for cell, (n, size) in once.packets.items()} == twice.packets
    assert (2 * once.events_sent, 2 * once.events_lost) == (twice.events_sent, twice.events_lost)


def test_filter_has_the_bits_of_its_networks() -> None:
    """A bit is set exactly where some IPv4 network has an address that begins so."""
    networks = [ip_network(text) for text in ("10.1.2.3/32", "172.16.0.0/12", "192.168.0.0/17", "255.255.255.255/32")]
    words = layout_policy.DENY_FILTER.unpack(xdp_values.encode_deny_filter(networks))
    found = {start for start in range(1 << 20) if words[start >> 6] >> (start & 63) & 1}
    beside = {start + step for start in found for step in (-1, 1)} & set(range(1 << 20))
    for start in found | beside:
        begun_so = IPv4Network((start << 12, 20))
        assert (start in found) == any(network.overlaps(begun_so) for network in networks)
    assert 1 + 256 + 8 + 1 == len(found)


def test_ipv6_filter_has_the_bits_of_its_networks() -> None:
    """A bit for each beginning of 32 bits, by the hash that the header tells; all for less than 20 bits."""
    words = layout_policy.DENY_FILTER.unpack(
        xdp_values.encode_deny_filter([ip_network("2001:db8:7::/48"), ip_network("2a00:1238::/30")])
    )
    found = {start for start in range(1 << 20) if words[start >> 6] >> (start & 63) & 1}
    beginnings = [0x20010DB8, *range(0x2A001238, 0x2A00123C)]
    assert {(beginning * 0x9E3779B1 % (1 << 32)) >> 12 for beginning in beginnings} == found
    assert b"\xff" * (1 << 17) == xdp_values.encode_deny_filter([ip_network("2000::/19")])


def test_no_counts_are_none() -> None:
    """What starts an interface's counting says that it is present and has seen nothing."""
    assert (0,) * (layout.CELLS * 2 + 12) + (1,) == layout.INTERFACE.unpack(layout.NO_COUNTS)


@given(
    st.ip_addresses().flatmap(
        lambda address: st.integers(0, address.max_prefixlen).map(
            lambda length: ip_network(
                (int(address), length) if address.version == 4 else (address, length), strict=False
            )
        )
    )
)
def test_trie_key_returns(network: xdp_values.Network) -> None:
    """A prefix decodes to what was encoded."""
    key = xdp_values.encode_net_key(network)
    assert PackedPrefix(network.network_address.packed, network.prefixlen) == decode_key(key)
    assert key == encode_key(decode_key(key))


@given(st.integers(0, 1), st.integers(0, 15), st.integers(0, (1 << 32) - 1))
def test_policy_returns(deny_index: int, deny_kinds: int, generation: int) -> None:
    """The policy word decodes to what was encoded."""
    policy = layout_policy.Policy(deny_index, deny_kinds, generation)
    assert policy == layout_policy.decode_policy(layout_policy.encode_policy(policy))


@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1), U64, U64, U64, U64)
def test_values_return(small: int, other: int, one: int, two: int, three: int, four: int) -> None:
    """Sources and the configuration decode to what was encoded."""
    source = xdp_values.Source(one, small, other, two, three, four)
    assert source == xdp_values.decode_source(xdp_values.encode_source(source))
    config = layout.DataPlaneConfig(one, small, other, small, other, talkers=bool(small & 1), tick_ns=other)
    assert config == layout.decode_config(layout.encode_config(config))
