"""What a changed configuration file means for a running daemon."""

from dataclasses import dataclass, fields, replace

from x0d.config.model import Config

RELOADABLE = frozenset(
    {
        "ebpf.management",
        "healing.mode",
        "identity.bindings",
        "log.level",
        "mesh.announce",
        "mesh.interfaces",
        "mesh.neighbours",
    }
)
"""Keys that take effect without a restart; every other changed key needs one."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Dotted keys whose value differs between two configurations."""

    reloadable: tuple[str, ...]
    needs_restart: tuple[str, ...]


def compare(running: Config, read: Config) -> Changes:
    """Say which keys differ, and what it takes to put them in force."""
    differing = [
        f"{section.name}.{key.name}"
        for section in fields(Config)
        if section.name != "file"
        for key in fields(getattr(running, section.name))
        if getattr(getattr(running, section.name), key.name) != getattr(getattr(read, section.name), key.name)
    ]
    dropped = set(running.interfaces) - set(read.interfaces)
    needs_restart = [key for key in differing if key not in RELOADABLE or (key == "mesh.interfaces" and dropped)]
    return Changes(tuple(key for key in differing if key not in needs_restart), tuple(needs_restart))


def merge(running: Config, read: Config) -> Config:
    """Take the reloadable keys over from ``read``; the others stay as they run, until a restart."""
    merged = running
    for key in compare(running, read).reloadable:
        section, _, name = key.partition(".")
        changed = replace(getattr(merged, section), **{name: getattr(getattr(read, section), name)})
        merged = replace(merged, **{section: changed})
    return merged
