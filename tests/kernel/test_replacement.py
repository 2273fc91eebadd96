"""Programs replaced while packets flow: every packet that was sent is counted, none twice."""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from kernel.plane_jobs import flood
from kernel.plane_objects import build, put
from kernel.plane_world import PlaneWorld, new_plane_world, udp_counted
from kernel.waiting import wait_until
from x0d.kernel.dataplane import OBJECT_FILE, XdpDataPlane
from x0d.kernel.pipeline import load_pipeline
from x0d.kernel.plane_object import read_plane_object

pytestmark = pytest.mark.kernel

REPLACEMENTS = 200
SWAP_MEDIAN_MAX_MS = 1


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Directories of objects by what is changed in them."""
    directory = tmp_path_factory.mktemp("objects")
    return {
        "shipped": OBJECT_FILE.parent,
        "root": build(directory / "root", marked=["root"]),
        "limit": build(directory / "limit", marked=["limit"]),
    }


def replace_under_flood(
    world: PlaneWorld, plane: XdpDataPlane, times: int, replace_once: Callable[[int], None]
) -> list[float]:
    """Replace so often while packets flow; every packet has to be counted.  Returns milliseconds, in order of size."""
    index = world.world.index("va")
    before = counted = udp_counted(plane, index)
    took_ms = []
    with flood(world, "vb") as sender:
        for i in range(times):
            started_s = time.perf_counter()
            replace_once(i)
            took_ms.append((time.perf_counter() - started_s) * 1000)
            counted = wait_for_packets(plane, index, counted)
        sent = sender.stop()
    dropped = dropped_by_device(world)
    wait_until(lambda: udp_counted(plane, index) - before >= sent - dropped)
    assert sent - dropped == udp_counted(plane, index) - before
    assert sent > times, "too few packets to tell anything"
    print(
        f"{times} replacements, {sent} packets sent, {dropped} dropped by the device, all others counted; "
        f"median {statistics.median(took_ms):.3f} ms, worst {max(took_ms):.3f} ms"
    )
    return sorted(took_ms)


def wait_for_packets(plane: XdpDataPlane, index: int, counted: int) -> int:
    """Wait until more is counted than before; returns how many."""
    readings = [counted]

    def has_changed() -> bool:
        readings.append(udp_counted(plane, index))
        return readings[-1] != counted

    assert wait_until(has_changed), "no packet comes through"
    assert readings[-1] > counted, "counters never go back"
    return readings[-1]


def dropped_by_device(world: PlaneWorld) -> int:
    """Frames that the sending end of the pair found no room for at the other."""
    path = "/proc/thread-self/net/dev"
    line = next(row for row in world.world.run(lambda: Path(path).read_text()).splitlines() if "vb:" in row)
    return int(line.split(":")[1].split()[11])


def test_slots_are_swapped_in_microseconds(tmp_path: Path, objects: Mapping[str, Path]) -> None:
    """A stage takes another's slot 200 times under load: nothing is missed, and the median is below 1 ms."""
    with new_plane_world(tmp_path) as world, world.opened() as plane:
        world.world.add_veth("va", "vb")
        world.attach(plane, "va")
        loaded = plane._loaded
        assert loaded is not None
        pipeline = loaded.pipeline(frags=True)
        limit_object = read_plane_object(objects["limit"] / "xdp.bpf.o")
        other, _array_fd = loaded._loader(limit_object)("x0d_limit_frags", pipeline.array_fd)
        own = pipeline.stages["limit"]
        assert own.tag != other.tag

        def swap(i: int) -> None:
            pipeline.fill("limit", (other, own)[i % 2])

        took_ms = replace_under_flood(world, plane, REPLACEMENTS, swap)
        assert statistics.median(took_ms) < SWAP_MEDIAN_MAX_MS
        pipeline.fill("limit", own)


def test_links_are_updated_without_a_gap(tmp_path: Path, objects: Mapping[str, Path]) -> None:
    """An attachment changes over to another root with its own stages, 50 times under load; nothing is missed."""
    with new_plane_world(tmp_path) as world, world.opened() as plane:
        index = world.world.add_veth("va", "vb")
        world.attach(plane, "va")
        loaded = plane._loaded
        assert loaded is not None
        own = loaded.pipeline(frags=True)
        other = load_pipeline(loaded._loader(read_plane_object(objects["root"] / "xdp.bpf.o")), frags=True)
        try:

            def change_over(i: int) -> None:
                pipeline = (other, own)[i % 2]
                loaded.attacher.replace(index, pipeline)
                assert pipeline.root.program_id == world.hook(index).program_id

            replace_under_flood(world, plane, 50, change_over)
        finally:
            other.close()


@pytest.mark.parametrize("times", [10, pytest.param(REPLACEMENTS, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
def test_upgrades_miss_no_packet(tmp_path: Path, objects: Mapping[str, Path], times: int) -> None:
    """Whole upgrades and upgrades of one stage take turns while packets flow: sent is counted."""
    installed = tmp_path / "installed"
    put(objects["shipped"], installed)
    with new_plane_world(tmp_path) as world, world.opened(objects_dir=installed) as plane:
        world.world.add_veth("va", "vb")
        world.attach(plane, "va")
        turns = ("limit", "shipped", "root", "shipped")

        def upgrade(i: int) -> None:
            put(objects[turns[i % len(turns)]], installed)
            assert 1 == len(world.world.wait(plane.upgrade).replaced)

        replace_under_flood(world, plane, times, upgrade)
