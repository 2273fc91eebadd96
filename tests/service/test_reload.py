"""A configuration that is read again: what takes effect, what waits for a restart, and that a bad file does nothing."""

import asyncio
from pathlib import Path

import pytest

from fakes.audit import FakeAuditor
from x0d.config import Changes, Config, load
from x0d.errors import ConfigInvalid
from x0d.node import Node
from x0d.node.graph import Graph, announced, detector_timers, entries, mesh_timers

FILE = """
[node]
name = "n1"
address = "10.255.0.1/32"
production = false
[mesh]
probe_interval_ms = 20
[[mesh.neighbours]]
node = "n2"
interface = "eth0"
address = "10.0.0.2"
[healing]
mode = "auto"
"""


class RecordingGraph(Graph):
    """Takes new configurations and builds nothing."""

    def __init__(self) -> None:
        self.taken: list[tuple[Config, Changes]] = []
        self.audit = self.auditor = FakeAuditor()
        self.looks = 0
        """At the host's accounts."""

    def reconfigure(self, read: Config, changes: Changes) -> None:
        self.taken.append((read, changes))

    async def look_up_accounts(self) -> None:
        self.looks += 1


class World:
    """A node that is told to read its file again."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "x0d.toml"
        self.file.write_text(FILE)
        self.graph = RecordingGraph()

    def reload(self, text: str) -> tuple[Node, list[tuple[Config, Changes]]]:
        """Reload with another text in the file; the node, and what its graph was told."""

        async def main() -> Node:
            node = Node(load(self.file))
            node._graph = self.graph
            self.file.write_text(text)
            try:
                self.result = await node.reload()
            except ConfigInvalid as invalid:
                self.invalid = invalid
            return node

        return asyncio.run(main()), self.graph.taken


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A configuration file of the test's own."""
    return World(tmp_path)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (FILE.replace('"auto"', '"autopilot"'), "healing.mode"),
        (FILE.replace("probe_interval_ms", "probe_intervall_ms"), "mesh.probe_intervall_ms"),
        ("[node", ""),
    ],
)
def test_bad_file_changes_nothing(world: World, text: str, key: str) -> None:
    """A file with a mistake is refused with the key's name, and the running configuration is kept to the letter."""
    before = load(world.file)
    node, taken = world.reload(text)
    assert ([], key) == (taken, world.invalid.problems[0].key)
    assert before == node._config


def test_unchanged_file_changes_nothing(world: World) -> None:
    """Reading the same again puts nothing in force and asks for no restart."""
    world.reload(FILE)
    assert ((), ()) == (world.result.applied, world.result.needs_restart)


def test_accounts_are_looked_up_anew(world: World) -> None:
    """A reload asks the host again who its operators are."""
    world.reload(FILE)
    assert 1 == world.graph.looks


def test_reloadable_keys_take_effect_and_others_keep_their_value(world: World) -> None:
    """Mode and neighbours take effect; the probe's pace keeps its running value and is named as needing a restart."""
    text = FILE.replace('"auto"', '"observe"').replace("= 20", "= 500").replace("10.0.0.2", "10.0.0.9")
    node, ((config, _),) = world.reload(text)
    assert ({"healing.mode", "mesh.neighbours"}, ("mesh.probe_interval_ms",)) == (
        set(world.result.applied),
        world.result.needs_restart,
    )
    assert ("observe", 20) == (config.healing.mode, config.mesh.probe_interval_ms)
    assert config == node._config
    assert "10.0.0.9" == str(entries(config)[0].address)


def test_a_restart_that_is_due_is_named_at_each_reload(world: World) -> None:
    """What waits for a restart is compared with what runs, so it is named until then, and not once it is taken back."""
    node, _ = world.reload(FILE.replace("= 20", "= 500"))

    async def again(text: str) -> tuple[str, ...]:
        world.file.write_text(text)
        return (await node.reload()).needs_restart

    assert ("mesh.probe_interval_ms",) == asyncio.run(again(FILE.replace("= 20", "= 500")))
    assert () == asyncio.run(again(FILE))


def test_hangup_with_a_bad_file_is_survived(world: World) -> None:
    """SIGHUP with a mistake in the file is said in the log and ends nothing."""

    async def main() -> None:
        node = Node(load(world.file))
        node._graph = world.graph
        world.file.write_text("nonsense")
        await node._reload_on_signal()

    asyncio.run(main())
    assert [] == world.graph.taken
    (record,) = world.graph.auditor.records
    assert ("signal SIGHUP", "failed") == (record.who, record.outcome)


def test_hangup_without_a_record_changes_nothing(world: World) -> None:
    """SIGHUP may change roles: while no record can be written it is refused, as a call would be."""

    async def main() -> None:
        node = Node(load(world.file))
        node._graph = world.graph
        world.graph.auditor.is_full = True
        world.file.write_text(FILE.replace('"auto"', '"observe"'))
        await node._reload_on_signal()

    asyncio.run(main())
    assert [] == world.graph.taken


def test_configuration_becomes_timers_and_announcements(world: World) -> None:
    """The graph hands configured values on in the cores' units, the node's own address announced first."""
    world.file.write_text(FILE.replace("[mesh]", '[mesh]\nannounce = ["192.0.2.0/24"]\nhello_miss_limit = 6'))
    config = load(world.file)
    assert ["10.255.0.1/32", "192.0.2.0/24"] == list(map(str, announced(config)))
    assert (20_000_000, 3, 1_000_000_000) == (
        detector_timers(config).interval_ns,
        detector_timers(config).miss_limit,
        detector_timers(config).up_hold_ns,
    )
    timers = mesh_timers(config)
    assert timers.settle_s > timers.silence_s
