"""Names of the kernel's capabilities, and a set of them in few words."""

from collections.abc import Collection

NAMES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
)
"""Names by bit number, without ``CAP_``."""


def name_of(bit: int) -> str:
    """``CAP_BPF`` for 39; ``CAP_<number>`` for one that is not known yet."""
    return f"CAP_{NAMES[bit] if bit < len(NAMES) else bit}"


def shorten(held: Collection[str]) -> str:
    """``all``, ``all but CAP_X``, those that are held, or ``none``: whichever is shortest to read."""
    missing = [f"CAP_{name}" for name in NAMES if f"CAP_{name}" not in held]
    if not missing:
        return "all"
    if len(missing) < len(held):
        return f"all but {', '.join(missing)}"
    return ", ".join(held) or "none"
