"""The Python side of ebpf/x0d.h against the header itself."""

import shutil
import subprocess
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0d.errors import InvalidInput
from x0d.kernel import layout
from x0d.mesh.model import ProbeRecord

EBPF_DIR = Path(__file__).resolve().parents[2] / "ebpf"
COMPILER = shutil.which("clang") or shutil.which("cc")
U64 = st.integers(0, (1 << 64) - 1)

SIZES = {
    "x0d_probe": layout.PROBE,
    "x0d_config": layout.CONFIG,
    "x0d_link_key": layout.LINK_KEY,
    "x0d_link": layout.LINK,
    "x0d_bucket": layout.BUCKET,
    "x0d_counter_key": layout.COUNTER_KEY,
    "x0d_counter": layout.COUNTER,
    "x0d_probe_event_key": layout.PROBE_EVENT_KEY,
}
CONSTANTS = {
    "X0D_LAYOUT_VERSION": layout.LAYOUT_VERSION,
    "X0D_PROBE_MAGIC": layout.PROBE_MAGIC,
    "X0D_PROBE_VERSION": layout.PROBE_VERSION,
    "X0D_PROBE_REQUEST": layout.PROBE_REQUEST,
    "X0D_PROBE_REPLY": layout.PROBE_REPLY,
    "X0D_PROBE_HOP_LIMIT": layout.PROBE_HOP_LIMIT,
    "X0D_PROBE_PORT_DEFAULT": layout.PROBE_PORT_DEFAULT,
    "X0D_PROBE_WINDOW": layout.PROBE_WINDOW,
    "X0D_LINKS_MAX": layout.LINKS_MAX,
    "X0D_INTERFACES_MAX": layout.INTERFACES_MAX,
    "X0D_COUNTERS_MAX": layout.COUNTERS_MAX,
    "X0D_SEQUENCE_JUMP_MAX": layout.SEQUENCE_JUMP_MAX,
    "X0D_REPLY_AGE_MAX_NS": layout.REPLY_AGE_MAX_NS,
    "X0D_CLASSES": len(layout.CLASSES),
    "X0D_VERDICTS": len(layout.VERDICTS),
    "X0D_PROBE_EVENTS": len(layout.PROBE_EVENTS),
    **{f"X0D_CLASS_{name.upper()}": number for number, name in enumerate(layout.CLASSES)},
    **{f"X0D_VERDICT_{name.upper()}": number for number, name in enumerate(layout.VERDICTS)},
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
    checks += ["offsetof(struct x0d_link, local_address) == 8", "offsetof(struct x0d_config, session) == 8"]
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
