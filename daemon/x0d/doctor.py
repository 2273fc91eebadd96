"""What this kernel, user and configuration of the host allow x0d, and what to do about each shortfall.

``run`` looks and tries, and leaves nothing behind; it blocks for about a tenth of a second.  Its
answer holds for the process that asks: ``x0d --doctor`` as root says little about the service's
user, which is why the report names user and capabilities.  ``failed`` means that x0d cannot do its
work, ``warning`` that something is lost.
"""

import os
import platform
import re
import resource
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from x0d.capabilities import name_of, shorten
from x0d.errors import KernelRefused, NotSupported, errno_name
from x0d.kernel import features, pins
from x0d.kernel.dataplane import OBJECT_FILE
from x0d.kernel.libbpf import Libbpf
from x0d.service.views import DoctorCheck, DoctorReport
from x0d.spiffe import mldsa

OK, WARNING, FAILED = "ok", "warning", "failed"

KERNEL_OLDEST = (5, 10)
KERNEL_WITH_MEMCG_ACCOUNTING = (5, 11)
MEMLOCK_BYTES_MIN = 64 << 20
BTF_FILE = Path("/sys/kernel/btf/vmlinux")
PROC_SYS = Path("/proc/sys")

CAPABILITIES_NEEDED = ("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON")

SYSCTLS = {
    "net.ipv4.ip_forward": ("1", FAILED, "this node does not pass IPv4 packets on"),
    "net.ipv6.conf.all.forwarding": ("1", FAILED, "this node does not pass IPv6 packets on"),
    "net.ipv4.nexthop_compat_mode": ("0", WARNING, "moving many routes at once sends a notification for each"),
    "net.ipv4.conf.all.send_redirects": (
        "0",
        WARNING,
        "neighbours are told of shorter ways that the mesh did not choose",
    ),
    "net.ipv4.fib_multipath_hash_policy": ("1", WARNING, "all flows between two hosts take one of several equal paths"),
}
"""Wanted value, outcome of another one, and what is lost then."""

_PROGRAM_LOSSES = {
    "xdp": (FAILED, "no packet counters and no probes: x0d does not start"),
    "xdp_frags": (WARNING, "no native mode on interfaces with jumbo frames (needs Linux 5.18)"),
    "sched_cls": (WARNING, "nothing on the way out can be counted or limited"),
    "raw_tp": (WARNING, "no tracing without BTF"),
    "tp_btf": (WARNING, "the kernel's reasons for drops are not seen (needs BTF)"),
}
_DETAIL_LOSSES = {
    "tail_call": (FAILED, "stages cannot be called: x0d does not start"),
    "compare_exchange": (WARNING, "no rate limits (needs Linux 5.12)"),
    "ring_buffer": (WARNING, "no events (needs Linux 5.8)"),
    "lpm_trie": (WARNING, "no prefixes in the deny-list and in limits"),
    "array_of_maps": (WARNING, "no deny-list"),
    "batch_lookup": (WARNING, "maps cannot be read in batches (needs Linux 5.6)"),
}
_MODE_LOSSES = {
    "native": (WARNING, "set ebpf.allow_skb_mode = true where drivers have no native mode"),
    "skb": (WARNING, "only interfaces with a native mode can be used"),
}


def run(bpffs_dir: Path) -> DoctorReport:
    """Look at everything, as the calling process in its network namespace."""
    release = platform.release()
    capabilities = read_capabilities(Path("/proc/self/status").read_text())
    checks = (
        _check_kernel(release),
        check_btf(),
        _check_libbpf(),
        _check_object(),
        _check_capabilities(capabilities),
        *_check_programs(),
        *_check_modes(capabilities),
        _check_bpffs(bpffs_dir),
        _check_memlock(release),
        _check_post_quantum(),
        *check_sysctls(),
    )
    return DoctorReport(release, os.geteuid(), capabilities, checks, shorten(capabilities))


def to_json_dict(report: DoctorReport) -> dict[str, Any]:
    """Shape of proto ``RunDoctorResponse`` in its JSON mapping with proto field names."""
    return {**asdict(report), "capabilities": list(report.capabilities), "checks": [asdict(c) for c in report.checks]}


def render_text(report: DoctorReport) -> str:
    """Several lines for a terminal, ending without a newline."""
    lines = [f"kernel {report.kernel_release}, uid {report.uid}, capabilities: {report.capabilities_summary}"]
    width = max((len(check.name) for check in report.checks), default=0)
    for check in report.checks:
        lines.append(f"{check.outcome:<8} {check.name:<{width}}  {check.detail}")
        if check.remedy:
            lines.append(f"{'':<8} {'':<{width}}  -> {check.remedy}")
    counts = {outcome: sum(check.outcome == outcome for check in report.checks) for outcome in (OK, WARNING, FAILED)}
    lines.append(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return "\n".join(lines)


def read_capabilities(status: str) -> tuple[str, ...]:
    """Names of the effective capabilities in the text of /proc/self/status; unknown bits as ``CAP_<number>``."""
    found = re.search(r"^CapEff:\s*([0-9a-fA-F]+)$", status, re.MULTILINE)
    bits = int(found[1], 16) if found else 0
    return tuple(name_of(bit) for bit in range(bits.bit_length()) if bits >> bit & 1)


def parse_release(release: str) -> tuple[int, int]:
    """``(6, 1)`` of ``6.1.0-39-amd64``; ``(0, 0)`` of what is no release."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _check_kernel(release: str) -> DoctorCheck:
    if parse_release(release) >= KERNEL_OLDEST:
        return DoctorCheck("kernel", OK, release)
    return DoctorCheck("kernel", FAILED, f"{release} is older than 5.10", "install a kernel of 5.10 or later")


def check_btf() -> DoctorCheck:
    """Look for the kernel's BTF, which tracing needs and XDP does not."""
    if BTF_FILE.exists():
        return DoctorCheck("btf", OK, str(BTF_FILE))
    remedy = "use a kernel with CONFIG_DEBUG_INFO_BTF; the data plane works without it"
    return DoctorCheck("btf", WARNING, "the kernel has no BTF: tracing is not available", remedy)


def _check_libbpf() -> DoctorCheck:
    try:
        Libbpf()
    except NotSupported as shortfall:
        return DoctorCheck("libbpf", FAILED, str(shortfall), "install the package libbpf1")
    return DoctorCheck("libbpf", OK, "libbpf.so.1 opens")


def _check_object() -> DoctorCheck:
    if OBJECT_FILE.exists():
        return DoctorCheck("kernel_program", OK, str(OBJECT_FILE))
    remedy = "reinstall x0d; in a checkout: make -C ebpf"
    return DoctorCheck("kernel_program", FAILED, f"{OBJECT_FILE} is missing", remedy)


def _check_capabilities(capabilities: tuple[str, ...]) -> DoctorCheck:
    missing = [name for name in CAPABILITIES_NEEDED if name not in capabilities]
    if not missing:
        return DoctorCheck("capabilities", OK, ", ".join(CAPABILITIES_NEEDED))
    remedy = "run as root, or by systemd with AmbientCapabilities=" + " ".join(CAPABILITIES_NEEDED)
    return DoctorCheck("capabilities", FAILED, f"{', '.join(missing)} missing", remedy)


def _check_programs() -> Iterator[DoctorCheck]:
    try:
        programs, details = features.try_programs(), features.try_details()
    except NotSupported as shortfall:
        yield DoctorCheck("programs", FAILED, str(shortfall), "install what is missing")
        return
    yield from (_judge(f"program_{trial.name}", trial, "loads", _PROGRAM_LOSSES) for trial in programs)
    yield from (_judge(f"bpf_{trial.name}", trial, "works", _DETAIL_LOSSES) for trial in details)


def _judge(name: str, trial: features.Trial, success: str, losses: Mapping[str, tuple[str, str]]) -> DoctorCheck:
    if trial.errno == 0:
        return DoctorCheck(name, OK, success)
    outcome, loss = losses[trial.name]
    remedy = "check the capabilities and the kernel's configuration"
    return DoctorCheck(name, outcome, f"{trial.detail}: {errno_name(trial.errno)}; {loss}", remedy)


def _check_modes(capabilities: tuple[str, ...]) -> Iterator[DoctorCheck]:
    if "CAP_NET_ADMIN" not in capabilities:
        yield DoctorCheck("xdp_modes", WARNING, "not tried: that needs CAP_NET_ADMIN", "run as the service's user")
        return
    try:
        trials = features.try_xdp_modes()
    except (KernelRefused, NotSupported) as refusal:
        yield DoctorCheck("xdp_modes", WARNING, f"not tried: {refusal}", "see the checks above")
        return
    for trial in trials:
        name = f"xdp_mode_{trial.name}"
        if trial.errno == 0:
            yield DoctorCheck(name, OK, "attaches to a veth device")
        elif trial.name in _MODE_LOSSES:
            outcome, remedy = _MODE_LOSSES[trial.name]
            yield DoctorCheck(name, outcome, f"refused on a veth device: {errno_name(trial.errno)}", remedy)
        else:
            told = f"not on a veth device ({errno_name(trial.errno)}); tried first, few network cards have it"
            yield DoctorCheck(name, OK, told)


def _check_bpffs(bpffs_dir: Path) -> DoctorCheck:
    existing = pins.existing_part(bpffs_dir)
    if not pins.is_bpffs(existing):
        detail = f"{bpffs_dir} is in no bpf filesystem"
        return DoctorCheck("bpffs", FAILED, detail, pins.how_to_have_bpffs(bpffs_dir))
    if not os.access(existing, os.W_OK | os.X_OK, effective_ids=True):
        remedy = f"make {bpffs_dir} as root and give it to x0d's user"
        return DoctorCheck("bpffs", FAILED, f"{existing} cannot be written by uid {os.geteuid()}", remedy)
    return DoctorCheck("bpffs", OK, f"{bpffs_dir} can be used")


def _check_post_quantum() -> DoctorCheck:
    try:
        mldsa.probe_key_exchange()
        mldsa.probe()
    except NotSupported as missing:
        remedy = "install x0d with the dependencies that it is locked to: cryptography's own wheel has what it takes"
        return DoctorCheck("post-quantum", WARNING, str(missing), remedy)
    return DoctorCheck("post-quantum", OK, "ML-KEM-768 and ML-DSA-65 work")


def _check_memlock(release: str) -> DoctorCheck:
    if parse_release(release) >= KERNEL_WITH_MEMCG_ACCOUNTING:
        return DoctorCheck("memlock", OK, "BPF memory is accounted by cgroup, not by the memlock limit")
    limit, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit in {resource.RLIM_INFINITY, -1} or limit >= MEMLOCK_BYTES_MIN:
        return DoctorCheck("memlock", OK, "the limit leaves room for the maps")
    detail = f"{limit} bytes may be locked, the maps need up to {MEMLOCK_BYTES_MIN}"
    return DoctorCheck("memlock", FAILED, detail, "set LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited")


def check_sysctls(root: Path = PROC_SYS) -> Iterator[DoctorCheck]:
    """Compare the kernel settings that a router needs; ``root`` is a tree like /proc/sys."""
    for name, (wanted, outcome, loss) in SYSCTLS.items():
        path = root / name.replace(".", "/")
        try:
            value = path.read_text().strip()
        except OSError as error:
            yield DoctorCheck(name, WARNING, f"cannot be read: {error.strerror}", f"see that {path} exists")
            continue
        if value == wanted:
            yield DoctorCheck(name, OK, value)
        else:
            yield DoctorCheck(name, outcome, f"{value}: {loss}", f"run: sysctl -w {name}={wanted}")
    yield _check_rp_filter(root / "net/ipv4/conf")


def _check_rp_filter(conf: Path) -> DoctorCheck:
    """The kernel uses the larger of ``all`` and the interface's: 0 off, 1 strict, 2 loose."""
    name = "net.ipv4.conf.*.rp_filter"
    values = {path.parent.name: int(path.read_text()) for path in sorted(conf.glob("*/rp_filter"))}
    general = values.pop("all", 0)
    strict = [interface for interface, value in values.items() if max(general, value) == 1 and interface != "lo"]
    if not strict:
        return DoctorCheck(name, OK, "not strict anywhere")
    detail = f"strict on {', '.join(strict)}: packets that come back another way are dropped"
    return DoctorCheck(name, WARNING, detail, "run: sysctl -w net.ipv4.conf.all.rp_filter=2")
