"""The system call for maps: one entry, many at a time, and what it says of a map."""

import errno
import os
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from x0d.errors import KernelRefused
from x0d.kernel import bpf

pytestmark = pytest.mark.kernel

WORD = struct.Struct("=I")
WIDE = struct.Struct("=Q")
MakeMap = Callable[..., int]


@pytest.fixture
def make_map() -> Iterator[MakeMap]:
    """Make maps that are closed at the end."""
    with ExitStack() as stack:

        def make(map_type: int, entries_max: int, flags: int = 0, inner_map_fd: int = 0, value_size: int = 8) -> int:
            kind = bpf.MapKind(map_type, 4, value_size, entries_max, flags)
            fd = bpf.create_map("x0dt_map", kind, inner_map_fd)
            stack.callback(os.close, fd)
            return fd

        yield make


def _fill(map_fd: int, content: dict[int, int]) -> None:
    keys = b"".join(map(WORD.pack, content))
    bpf.update_batch(map_fd, keys, b"".join(map(WIDE.pack, content.values())), len(content))


def _content(buffer: bpf.MapBuffer) -> dict[int, int]:
    return dict(zip(buffer.keys.cast("I").tolist(), buffer.values.cast("Q").tolist(), strict=True))


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 5000])
def test_what_a_batch_wrote_a_batch_reads(make_map: MakeMap, seed: int, count: int) -> None:
    """A hash table of any size is written and read whole, whatever room the reader began with."""
    rng = random.Random(seed)
    content = {rng.getrandbits(32): rng.getrandbits(64) for _ in range(count)}
    hash_map = make_map(bpf.HASH, 8192, bpf.NO_PREALLOC)
    _fill(hash_map, content)
    buffer = bpf.MapBuffer(4, 8, entries=64)
    assert len(content) == buffer.read(hash_map)
    assert content == _content(buffer)
    assert len(content) == buffer.read(hash_map), "a second time into the same memory"
    assert content == {WORD.unpack(key)[0]: WIDE.unpack(value)[0] for key, value in bpf.entries(hash_map, 4, 8)}


def test_a_bucket_larger_than_the_memory_is_read(make_map: MakeMap, seed: int) -> None:
    """Memory for one entry, and buckets that hold several, so that the kernel asks for more room."""
    rng = random.Random(seed)
    content = {rng.getrandbits(32): index for index in range(1000)}
    full = make_map(bpf.HASH, 1024, bpf.NO_PREALLOC)
    _fill(full, content)
    buffer = bpf.MapBuffer(4, 8, entries=1)
    assert len(content) == buffer.read(full)
    assert content == _content(buffer)


def test_the_beginning_of_an_array_is_read(make_map: MakeMap) -> None:
    """``entries_max`` reads so many elements of an array and no more, in their order."""
    array_map = make_map(bpf.ARRAY, 1000)
    _fill(array_map, {index: index * index for index in range(1000)})
    buffer = bpf.MapBuffer(4, 8, entries=16)
    assert 300 == buffer.read(array_map, entries_max=300)
    assert [index * index for index in range(300)] == buffer.values.cast("Q").tolist()


def test_per_cpu_numbers_are_added_up(make_map: MakeMap) -> None:
    """One number for each element: the sum over the CPUs."""
    cpus = bpf.possible_cpus()
    counts = make_map(bpf.PERCPU_ARRAY, 100)
    keys = b"".join(map(WORD.pack, range(100)))
    values = b"".join(WIDE.pack(1000 * index + cpu) for index in range(100) for cpu in range(cpus))
    bpf.update_batch(counts, keys, values, 100)
    buffer = bpf.MapBuffer(4, 8 * cpus)
    buffer.read(counts)
    expected = [1000 * index * cpus + sum(range(cpus)) for index in range(100)]
    assert expected == bpf.sum_cpus(buffer.values, cpus)


def test_a_batch_of_deletions_passes_over_what_is_not_there(make_map: MakeMap) -> None:
    """Every named entry is gone afterwards, although some of the names were nobody's."""
    hash_map = make_map(bpf.HASH, 100, bpf.NO_PREALLOC)
    _fill(hash_map, {index: index for index in range(20)})
    doomed = b"".join(map(WORD.pack, [99, 3, 50, 51, 4, 98]))
    bpf.delete_batch(hash_map, doomed, 4)
    assert set(range(20)) - {3, 4} == {WORD.unpack(key)[0] for key, _ in bpf.entries(hash_map, 4, 8)}


def test_a_batch_that_does_not_fit_is_refused(make_map: MakeMap) -> None:
    """Ten entries into room for four: a refusal, not silence."""
    array_map = make_map(bpf.ARRAY, 4)
    with pytest.raises(KernelRefused) as refusal:
        _fill(array_map, dict.fromkeys(range(10), 1))
    assert errno.E2BIG == refusal.value.errno


def test_an_outer_map_shows_the_id_of_its_inner_map(make_map: MakeMap) -> None:
    """An element of an outer map reads as the number of the map that was put there."""
    inner = make_map(bpf.HASH, 64, bpf.NO_PREALLOC)
    outer = make_map(bpf.ARRAY_OF_MAPS, 2, inner_map_fd=inner, value_size=4)
    larger = make_map(bpf.HASH, 4096, bpf.NO_PREALLOC)
    bpf.update(outer, WORD.pack(1), WORD.pack(larger))
    assert WORD.pack(bpf.map_id(larger)) == bpf.lookup(outer, WORD.pack(1), 4)
    assert bpf.lookup(outer, WORD.pack(0), 4) is None


def test_a_map_tells_its_shape_and_memory(make_map: MakeMap) -> None:
    """Sizes, greatest number of entries, and the bytes that the kernel took."""
    array_map = make_map(bpf.ARRAY, 1000)
    assert (4, 8, 1000) == bpf.map_shape(array_map)
    assert 8000 <= bpf.map_memory_bytes(array_map)


def test_a_program_has_a_tag() -> None:
    """The same instructions have the same tag, other instructions another."""
    tags = []
    for instructions in (bpf.RETURN_PASS, bpf.RETURN_PASS, bpf.RETURN_ZERO):
        with bpf.closing(bpf.load_instructions(bpf.XDP_PROGRAM, instructions)) as program:
            tags.append(bpf.program_tag(program))
    assert tags[0] == tags[1] != tags[2]
    assert 16 == len(tags[0])
