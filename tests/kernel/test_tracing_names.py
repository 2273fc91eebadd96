"""Numbers that the kernel counts under, and the names that are shown for them; what C and Python share."""

import ctypes
import re
import shutil
import socket
import subprocess
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.trace_world import REPOSITORY
from x0d.kernel import reasons, trace_layout, trace_syscalls
from x0d.kernel.libbpf import Libbpf
from x0d.ports import Log2Histogram

HEADER = REPOSITORY / "ebpf" / "trace.h"


def defines() -> dict[str, int]:
    """Numbers of the header, without the prefix."""
    found = re.findall(r"^#define X0D_TRACE_(\w+) (\d+)\b", HEADER.read_text(), re.MULTILINE)
    return {name: int(number) for name, number in found}


def test_c_and_python_agree_on_sizes() -> None:
    """The tables have as many rows as the kernel part makes."""
    header = defines()
    rows = trace_layout.ENTRIES_MAX
    assert (header["BUCKETS"], header["STATES"]) == (trace_layout.BUCKETS, trace_layout.STATES)
    assert header["SYSCALLS_MAX"] == rows["x0d_t_syscalls"] == trace_layout.SYSCALLS_MAX
    assert header["REASONS_MAX"] == rows["x0d_t_drops"]
    assert {header["PEERS_MAX"]} == {rows[name] for name in ("x0d_t_retrans", "x0d_t_rst_out", "x0d_t_rst_in")}
    assert header["FAMILIES"] * header["STATES"] ** 2 == rows["x0d_t_states"]


@pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang")
def test_kernels_buckets_are_powers_of_two(tmp_path: Path) -> None:
    """A duration counts under the number of its bits, what is too long for all buckets in the last."""
    source, built = tmp_path / "bucket.c", tmp_path / "bucket.so"
    source.write_text(f'#include "{HEADER}"\nunsigned bucket(unsigned long long ns) {{ return bucket_of(ns); }}\n')
    subprocess.run(["clang", "-shared", "-fPIC", "-o", str(built), str(source)], check=True)
    bucket = ctypes.CDLL(str(built)).bucket
    bucket.argtypes = [ctypes.c_uint64]
    for bits in range(64):
        for duration_ns in {(1 << bits) - 1, 1 << bits, (1 << bits) + 1}:
            expected = min(duration_ns.bit_length(), trace_layout.BUCKETS - 1)
            assert expected == bucket(duration_ns), duration_ns


@given(st.lists(st.tuples(*[st.integers(0, 2**40)] * 41), min_size=1, max_size=4))
def test_histograms_are_summed_over_cpus(rows: list[tuple[int, ...]]) -> None:
    """Each bucket, and the sum of the durations, is that of all CPUs together."""
    value = b"".join(trace_layout.HISTOGRAM.pack(*row) for row in rows)
    *counts, sum_ns = [sum(column) for column in zip(*rows, strict=True)]
    assert Log2Histogram(tuple(counts), sum_ns) == trace_layout.decode_histogram(value)


def test_peers_are_prefixes() -> None:
    """IPv4 is told as a /24, IPv6 as a /48."""
    mapped = bytes(10) + b"\xff\xff" + IPv4Address("192.0.2.0").packed
    assert "192.0.2.0/24" == trace_layout.decode_peer(mapped)
    assert "2001:db8:7::/48" == trace_layout.decode_peer(IPv6Address("2001:db8:7::").packed)


def test_places_of_transitions() -> None:
    """A place in the table is family, state before and state after; every place has a name."""
    index = (1 * trace_layout.STATES + 7) * trace_layout.STATES + 2
    assert ("ipv6", "close", "syn_sent") == trace_layout.decode_transition(index)
    rows = trace_layout.ENTRIES_MAX["x0d_t_states"]
    assert rows == len({trace_layout.decode_transition(i) for i in range(rows)})


@pytest.mark.parametrize(
    ("machine", "known"),
    [
        ("x86_64", {0: "read", 110: "getppid", 202: "futex", 231: "exit_group", 334: "rseq", 435: "clone3"}),
        ("aarch64", {63: "read", 173: "getppid", 98: "futex", 94: "exit_group", 293: "rseq", 435: "clone3"}),
        ("riscv64", {424: "pidfd_send_signal"}),
    ],
)
def test_system_calls_have_names(machine: str, known: dict[int, str]) -> None:
    """Numbers differ by architecture below 424; no name is given twice."""
    names = trace_syscalls.names(machine)
    assert known == {number: names.get(number) for number in known}
    assert len(names) == len(set(names.values()))


def test_reasons_without_a_name_are_numbers() -> None:
    """A subsystem's reason, and one that the kernel does not name, can be told apart."""
    assert "no_socket" == reasons.name_of(3, {3: "no_socket"})
    assert "reason_4" == reasons.name_of(4, {3: "no_socket"})
    assert "subsystem_2_3" == reasons.name_of(2 << 16 | 3, {3: "no_socket"})


@pytest.mark.kernel
def test_reasons_are_this_kernels() -> None:
    """The running kernel names its reasons, in lower case and without prefix."""
    names = set(reasons.read_names(Libbpf()).values())
    assert {"no_socket", "tcp_csum", "socket_rcvbuff"} <= names
    assert not {name for name in names if name != name.lower() or name.startswith("skb_drop_reason")}


def test_families_are_the_systems() -> None:
    """The kernel part compares address families with the numbers that this system has."""
    source = (REPOSITORY / "ebpf" / "trace.bpf.c").read_text()
    assert f"FAMILY_IPV4 {socket.AF_INET.value}\n" in source
    assert f"FAMILY_IPV6 {socket.AF_INET6.value}\n" in source
