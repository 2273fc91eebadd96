"""Names of the kernel's drop reasons, from the BTF of the running kernel.

The numbers change from kernel to kernel, so no table is shipped.  The upper half of a number names a subsystem
(mac80211, Open vSwitch) whose enumeration is often in a module's BTF: those are shown by number.
"""

from collections.abc import Mapping
from typing import Final

from x0d.errors import KernelRefused
from x0d.kernel.libbpf import Libbpf

ENUMERATION: Final = "skb_drop_reason"
_PREFIXES: Final = ("SKB_DROP_REASON_", "SKB_")
_SUBSYSTEM_SHIFT: Final = 16


def read_names(libbpf: Libbpf) -> dict[int, str]:
    """Names by number in lower case without prefix, such as ``no_socket``; empty if the kernel has no BTF.

    Reading the kernel's BTF takes some 25 ms.
    """
    try:
        values = libbpf.enum_values(ENUMERATION)
    except KernelRefused:
        return {}
    return {number: _bare(name).lower() for number, name in values.items()}


def name_of(number: int, names: Mapping[int, str]) -> str:
    """A name for any reason; by number where the kernel tells none."""
    subsystem, value = number >> _SUBSYSTEM_SHIFT, number & ((1 << _SUBSYSTEM_SHIFT) - 1)
    if subsystem:
        return f"subsystem_{subsystem}_{value}"
    return names.get(number, f"reason_{number}")


def _bare(name: str) -> str:
    return next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), name)
