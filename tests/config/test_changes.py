"""What a changed file means for a running daemon."""

import dataclasses
import tomllib
from pathlib import Path

from x0d.config import Config, compare, merge
from x0d.config.changes import RELOADABLE
from x0d.config.parse import parse

NODE = '[node]\nname = "n1"\naddress = "10.255.0.1/32"\nproduction = false\n'
NEIGHBOUR = '[[mesh.neighbours]]\nnode = "n2"\ninterface = "eth1"\naddress = "fe80::2"\n'


def read(text: str) -> Config:
    return parse(tomllib.loads(text), Path("x0d.toml"))


def test_no_change() -> None:
    """The same file changes nothing."""
    changes = compare(read(NODE), read(NODE))
    assert ((), ()) == (changes.reloadable, changes.needs_restart)


def test_reloadable_keys_exist() -> None:
    """Every key that is promised to be reloadable is one of the configuration."""
    sections = {field.name: field.type for field in dataclasses.fields(Config)}
    config = read(NODE)
    for key in RELOADABLE:
        section, _, name = key.partition(".")
        assert section in sections
        assert hasattr(getattr(config, section), name)


def test_changes_are_told_apart() -> None:
    """Neighbours and mode take effect at once, a port needs a restart; only the former are merged."""
    running = read(NODE)
    changed = read(NODE + '[healing]\nmode = "observe"\n[listen]\nmetrics_port = 1234\n' + NEIGHBOUR)
    changes = compare(running, changed)
    assert {"healing.mode", "mesh.neighbours"} == set(changes.reloadable)
    assert ("listen.metrics_port",) == changes.needs_restart
    merged = merge(running, changed)
    assert ("observe", changed.mesh.neighbours) == (merged.healing.mode, merged.mesh.neighbours)
    assert running.listen == merged.listen
    assert ("listen.metrics_port",) == compare(merged, changed).needs_restart


def test_interface_left_out() -> None:
    """Taking up an interface needs no restart; dropping one does, and it is kept until then."""
    one, two = read(NODE + '[mesh]\ninterfaces = ["eth1"]\n'), read(NODE + '[mesh]\ninterfaces = ["eth1", "eth2"]\n')
    assert ("mesh.interfaces",) == compare(one, two).reloadable
    assert ("mesh.interfaces",) == compare(two, one).needs_restart
    assert ("eth1", "eth2") == merge(two, one).interfaces
