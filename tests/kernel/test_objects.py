"""Compiled objects: what is in them is told, what is wrong with them is said, and nothing of a bad one stays."""

import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc import StatusCode
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernel import tiny_programs as tiny
from kernel.xdp_world import REPOSITORY
from x0d.errors import (
    InvalidInput,
    MapTooLarge,
    NotPermitted,
    NotSupported,
    ProgramRejected,
    ProgramTypeRefused,
    X0dError,
)
from x0d.kernel import bpf, objects
from x0d.kernel.dataplane import OBJECT_FILE
from x0d.kernel.elf import OBJECT_BYTES_MAX, read_sections
from x0d.kernel.layout import LAYOUT_VERSION
from x0d.kernel.libbpf import Libbpf, read_object
from x0d.transport.statuses import status_of

NAME = "tiny.bpf.o"


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """Our own object is there."""
    subprocess.run(["make", "-s", "-C", REPOSITORY / "ebpf"], check=True)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a small object with two programs and two maps."""
    return tiny.compile_c(tiny.LICENCE + tiny.COUNT, tmp_path_factory.mktemp("good"))


@pytest.fixture
def nothing_stays() -> Iterator[None]:
    """Check that every descriptor is closed after the test, and with it what the kernel made."""
    Libbpf()
    before = set(Path("/proc/self/fd").iterdir())
    yield
    kept = [path for path in set(Path("/proc/self/fd").iterdir()) - before if path.exists()]
    assert [] == [path.readlink() for path in kept]


def fault_of(elf: bytes) -> str:
    """Return what is said of an object that is refused before loading."""
    with pytest.raises(InvalidInput) as caught:
        objects.inspect(elf, NAME)
    assert StatusCode.INVALID_ARGUMENT == status_of(caught.value)
    text = str(caught.value)
    assert text.startswith(f"{NAME}: ")
    return text.removeprefix(f"{NAME}: ")


# ---- what is in an object ----


def test_own_object_is_told() -> None:
    """Our own object has a licence, BTF and no CO-RE relocation, and its programs and maps are named."""
    info = objects.inspect(read_object(OBJECT_FILE), OBJECT_FILE.name)
    assert ("GPL", True, False) == (info.license, info.has_btf, info.has_core_relocations)
    assert {"xdp", "xdp.frags"} == {section for section, _function in info.programs}
    assert "x0d_config" in info.maps
    assert LAYOUT_VERSION == info.layout_version
    assert 64 == len(info.sha256)


def test_maps_belong_to_functions(good: bytes) -> None:
    """Which maps a program touches is told from its relocations, so that others need not be made."""
    info = objects.inspect(good, NAME)
    assert (("xdp", "counting"), ("xdp", "dropping")) == info.programs
    assert ("first", "second") == info.maps
    assert {"counting": {"first"}, "dropping": {"second"}} == info.maps_of
    assert {"second"} == info.unused_by(["counting"])
    assert set() == info.unused_by(["counting", "dropping"])


def test_layout_is_told(tmp_path: Path) -> None:
    """The number in section x0d_layout is the one asked for, or the object is refused; none at all is 0."""
    stated = tiny.compile_c(tiny.LICENCE + tiny.PASSING + tiny.LAYOUT.format(version=77), tmp_path)
    assert 77 == objects.inspect(stated, NAME, layout_version=77).layout_version
    assert f"its maps follow layout 77, this daemon reads layout {LAYOUT_VERSION}" in fault_of(stated)
    assert 0 == objects.inspect(tiny.compile_c(tiny.LICENCE + tiny.PASSING, tmp_path), NAME).layout_version


# ---- refused before loading ----


def with_bytes(elf: bytes, at: int, replaced: bytes) -> bytes:
    """Return the bytes with some replaced."""
    return elf[:at] + replaced + elf[at + len(replaced) :]


@pytest.mark.parametrize(
    ("at", "replaced", "fault"),
    [
        (0, b"\x7fEXE", "it is not an ELF file"),
        (4, b"\x01", "it is not a 64-bit object"),
        (5, b"\x02", "it is a big-endian object"),
        (18, struct.pack("<H", 62), "it is for machine 62, not for BPF (247)"),
        (16, struct.pack("<H", 2), "it is of ELF type 2"),
        (40, struct.pack("<Q", 1 << 40), "it is cut short: the section table is missing"),
        (60, struct.pack("<H", 0), "its section table has no usable size"),
        (62, struct.pack("<H", 0xFFFF), "its section names are missing"),
    ],
)
def test_wrong_headers(good: bytes, at: int, replaced: bytes, fault: str) -> None:
    """Each field of the header that is not as it must be is named."""
    assert fault_of(with_bytes(good, at, replaced)).startswith(fault)


SECTION = struct.Struct("<IIQQQQIIQQ")
TYPE, FLAGS, OFFSET, SIZE, LINK = 1, 2, 4, 5, 6
"""Fields of an entry of the section table."""
PROGBITS, SYMTAB, REL = 1, 2, 9


@pytest.mark.parametrize(
    ("section_type", "field", "value", "fault"),
    [
        (PROGBITS, OFFSET, 1 << 40, "it is cut short within section"),
        (PROGBITS, SIZE, 1 << 40, "it is cut short, or its sections overlap"),
        (PROGBITS, TYPE, 6, "has the unknown type 0x6"),
        (PROGBITS, TYPE, SYMTAB, "it has no symbol table, or several"),
        (PROGBITS, FLAGS, 0x800, "is compressed"),
        (SYMTAB, TYPE, PROGBITS, "it has no symbol table, or several"),
        (SYMTAB, SIZE, 25, "symbol table"),
        (SYMTAB, LINK, 0, "symbol table"),
        (REL, LINK, 1, "relocations in section"),
        (REL, LINK, 0xFFFF, "relocations in section"),
        (REL, SIZE, 7, "relocations in section"),
    ],
)
def test_wrong_sections(good: bytes, section_type: int, field: int, value: int, fault: str) -> None:
    """A section that lies outside, is of a strange kind, or leans on the wrong one is named before it is read."""
    table_at, count = struct.unpack_from("<Q", good, 40)[0], struct.unpack_from("<H", good, 60)[0]
    places = [table_at + number * SECTION.size for number in range(count)]
    at = next(place for place in places if SECTION.unpack_from(good, place)[TYPE] == section_type)
    fields = list(SECTION.unpack_from(good, at))
    fields[field] = value
    assert fault in fault_of(with_bytes(good, at, SECTION.pack(*fields)))


def test_too_long(good: bytes) -> None:
    """A file that no compiler of ours makes is not read through."""
    assert "16777216 at most" in fault_of(good + bytes(OBJECT_BYTES_MAX))


def test_other_architectures(tmp_path: Path) -> None:
    """A program of this machine, the interpreter itself, and a big-endian BPF object are refused."""
    assert "not for BPF" in fault_of(Path(sys.executable).read_bytes()[:OBJECT_BYTES_MAX])
    flags = tuple("bpfeb" if flag == "bpf" else flag for flag in tiny.FLAGS)
    big = tiny.compile_c(tiny.LICENCE + tiny.PASSING, tmp_path, flags=flags)
    assert "big-endian" in fault_of(big)


def test_truncated_everywhere(good: bytes) -> None:
    """An object that ends early is refused wherever it ends: the section table is at its end."""
    for length in [*range(80), *range(80, len(good), 97), len(good) - 1]:
        fault = fault_of(good[:length])
        assert "cut short" in fault or "not an ELF file" in fault


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        (tiny.PASSING, "it states no licence"),
        (tiny.LICENCE.replace("GPL", "") + tiny.PASSING, "it states no licence"),
        (tiny.LICENCE + "MAP(lonely, 1);", "it has no program"),
        (tiny.LICENCE + tiny.PASSING.replace('"xdp"', '"fentry/tcp_close"'), "section 'fentry/tcp_close' is unknown"),
        (tiny.LICENCE + tiny.PASSING.replace('"xdp"', '"xdp/cpumap"'), "section 'xdp/cpumap' is unknown"),
        (tiny.LICENCE + tiny.PASSING + 'int strange SEC("odd") = 1;', "section 'odd' is unknown"),
        (
            tiny.LICENCE.replace("GPL", "Secret") + 'SEC("raw_tp/sys_enter") int t(void *c) { return 0; }',
            "its licence 'Secret' is not compatible with the GPL, which t needs to trace",
        ),
        (tiny.LICENCE + tiny.PASSING + "MAP(huge, 1 << 27);", "map huge is too large: 134217728 entries"),
        (tiny.LICENCE + tiny.PASSING + 'char x[3] SEC("x0d_layout") = {1};', "section x0d_layout has 3 bytes, not 4"),
    ],
)
def test_unfit_contents(source: str, fault: str, tmp_path: Path) -> None:
    """What an object lacks, or has too much of, is said before anything of it is made."""
    assert fault_of(tiny.compile_c(source, tmp_path)).startswith(fault)


def test_other_licences(tmp_path: Path) -> None:
    """An XDP program need not be under the GPL: the kernel itself refuses the helpers that want it."""
    elf = tiny.compile_c(tiny.LICENCE.replace("GPL", "Proprietary") + tiny.PASSING, tmp_path)
    assert "Proprietary" == objects.inspect(elf, NAME).license


def test_missing_file(tmp_path: Path) -> None:
    """An object that has not been built is not supported, with the command that builds it."""
    with pytest.raises(NotSupported, match="make -C ebpf") as caught:
        read_object(tmp_path / "none.bpf.o")
    assert StatusCode.UNIMPLEMENTED == status_of(caught.value)


def test_unreadable_file(tmp_path: Path) -> None:
    """What is no file that can be read is refused by its path."""
    with pytest.raises(NotSupported, match=f"{tmp_path}: Is a directory"):
        read_object(tmp_path)


# ---- any bytes ----


def look(elf: bytes) -> None:
    """Inspect; the only other outcome is InvalidInput."""
    try:
        info = objects.inspect(elf, NAME)
    except InvalidInput:
        return
    assert info.programs


@given(elf=st.binary(max_size=300))
@example(b"")
@example(b"\x7fELF")
def test_random_bytes(elf: bytes) -> None:
    """Any bytes are refused in the same way."""
    assert "" != fault_of(elf)


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), places=st.integers(1, 12))
def test_damaged_objects(good: bytes, seed: int, places: int) -> None:
    """An object damaged anywhere is told or refused; headers, BTF and symbols are hit more often than the rest."""
    chance = random.Random(seed)
    damaged = bytearray(good)
    table_at, count = struct.unpack_from("<Q", good, 40)[0], struct.unpack_from("<H", good, 60)[0]
    sections = ranges_read(good)
    for _place in range(places):
        start, end = chance.choice([(0, 64), (table_at, table_at + 64 * count), *sections])
        at = chance.randrange(start, end)
        damaged[at] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
    look(bytes(damaged))


def ranges_read(elf: bytes) -> list[tuple[int, int]]:
    """Return where the sections lie whose contents are read."""
    wanted = (".BTF", ".BTF.ext", ".symtab", ".strtab", ".relxdp", "license")
    found = [section.content for section in read_sections(elf) if section.name in wanted]
    return [(at := elf.index(content), at + len(content)) for content in found]


# ---- refused by libbpf or by the kernel ----


def refused(elf: bytes, program: str, **changes: object) -> X0dError:
    """Return the error of a loading that fails."""
    with pytest.raises(X0dError) as caught:
        Libbpf().load(elf, program, {}, **changes)  # type: ignore[arg-type]  # the test names them
    return caught.value


@pytest.mark.kernel
@pytest.mark.usefixtures("nothing_stays")
def test_the_verifier_has_its_say(tmp_path: Path) -> None:
    """A program that the verifier rejects is told with its reason and the last lines of its log; nothing stays."""
    elf = tiny.compile_c(tiny.LICENCE + tiny.REJECTED, tmp_path)
    assert (("xdp", "careless"),) == objects.inspect(elf, NAME).programs
    error = refused(elf, "careless")
    assert isinstance(error, ProgramRejected)
    assert StatusCode.FAILED_PRECONDITION == status_of(error)
    assert "R0 invalid mem access 'map_value_or_null'" in error.log_tail
    assert str(error) == (
        "load program careless: EACCES: the verifier refuses it: R0 invalid mem access 'map_value_or_null'"
    )


@pytest.mark.kernel
@pytest.mark.usefixtures("nothing_stays")
def test_one_rejected_takes_all_and_is_named(tmp_path: Path) -> None:
    """Loaded together, one rejected program fails all, and the error names it; the others load alone."""
    elf = tiny.compile_c(tiny.LICENCE + tiny.COUNT + tiny.REJECTED, tmp_path)
    with pytest.raises(ProgramRejected, match="load program careless"):
        Libbpf().load_all(elf, ("counting", "careless", "dropping"), {})
    loaded = Libbpf().load_all(elf, ("counting", "dropping"), {})
    assert {"counting", "dropping"} == set(loaded.fds)
    close(*loaded.fds.values(), *loaded.map_fds.values())


def close(*descriptors: int) -> None:
    """Close them all."""
    for fd in descriptors:
        os.close(fd)


@pytest.mark.kernel
@pytest.mark.usefixtures("nothing_stays")
def test_kinds_this_kernel_lacks(tmp_path: Path) -> None:
    """A tracepoint that does not exist is a program type refused; libbpf's words say which it is."""
    elf = tiny.compile_c(tiny.LICENCE + 'SEC("tp_btf/no_such") int t(void *c) { return 0; }', tmp_path)
    error = refused(elf, "t")
    assert isinstance(error, ProgramTypeRefused)
    assert StatusCode.UNIMPLEMENTED == status_of(error)
    assert "no_such" in str(error)


@pytest.mark.kernel
@pytest.mark.usefixtures("nothing_stays")
def test_maps_have_a_largest_size(good: bytes) -> None:
    """A map that the kernel does not make is named; sizes and maps left out are as asked."""
    error = refused(good, "counting", max_entries={"first": 0xFFFFFFFF})
    assert isinstance(error, MapTooLarge)
    assert StatusCode.RESOURCE_EXHAUSTED == status_of(error)
    assert "make map first" in str(error)
    loaded = Libbpf().load(good, "counting", {}, {"first": 5, "absent": 1}, {"second"})
    assert {"first"} == set(loaded.map_fds)
    assert (4, 8, 5) == tuple(bpf.map_shape(loaded.map_fds["first"]))[:3]
    again = Libbpf().load_all(good, ("counting", "dropping"), loaded.map_fds, {"first": 9})
    assert bpf.map_id(loaded.map_fds["first"]) == bpf.map_id(again.map_fds["first"])
    assert (4, 8, 32) == tuple(bpf.map_shape(again.map_fds["second"]))[:3]
    close(loaded.fd, *loaded.map_fds.values(), *again.fds.values(), *again.map_fds.values())


@pytest.mark.kernel
@pytest.mark.usefixtures("nothing_stays")
def test_a_map_that_is_used_cannot_be_left_out(good: bytes) -> None:
    """A program whose map was left out is rejected, with the map's name in the log."""
    error = refused(good, "counting", skip_maps={"first"})
    assert isinstance(error, ProgramRejected)
    assert "BPF map 'first' is referenced but wasn't created" in error.log_tail


@pytest.mark.kernel
@pytest.mark.usefixtures("nothing_stays")
def test_libbpf_reads_no_garbage(good: bytes) -> None:
    """Where nobody has looked before, libbpf's own numbers become sentences; an absent program is named."""
    for elf in (b"", b"x" * 100, good[:500]):
        error = refused(elf, "counting")
        assert isinstance(error, InvalidInput)
        assert "load program counting: " in str(error)
        assert "errno 4" not in str(error)
    error = refused(good, "missing")
    assert (InvalidInput, "the object has no program missing") == (type(error), str(error))


@pytest.mark.kernel
@pytest.mark.usefixtures("nothing_stays")
def test_kernel_enumerations() -> None:
    """Names come from the running kernel, and what it does not have is a refusal."""
    values = Libbpf().enum_values("xdp_action")
    assert (1, 2) == tuple(number for number, name in sorted(values.items()) if name in {"XDP_DROP", "XDP_PASS"})
    with pytest.raises(X0dError, match="ENOENT"):
        Libbpf().enum_values("x0d_no_such_enum")


@pytest.mark.kernel
def test_capabilities_are_named(good: bytes, tmp_path: Path) -> None:
    """Without rights, a loading says which capabilities it lacks."""
    (tmp_path / "good.o").write_bytes(good)
    script = (
        "import sys, os; sys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\n"
        "from x0d.kernel.libbpf import Libbpf\nfrom x0d.errors import X0dError\nelf = Path(sys.argv[2]).read_bytes()\n"
        "os.setgroups([]); os.setuid(65534)\n"
        "try: Libbpf().load(elf, 'counting', {})\nexcept X0dError as error: print(type(error).__name__, error)"
    )
    command = [sys.executable, "-c", script, str(REPOSITORY / "daemon"), str(tmp_path / "good.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith(NotPermitted.__name__)
    assert "this process lacks CAP_BPF and CAP_NET_ADMIN and CAP_PERFMON" in done.stdout


WITHOUT_BTF = """
import sys
from pathlib import Path
from x0d.errors import X0dError
from x0d.kernel.libbpf import Libbpf
for file, program in (arguments.split(":") for arguments in sys.argv[1:]):
    try:
        print(program, Libbpf().load(Path(file).read_bytes(), program, {}).fd > 0)
    except X0dError as error:
        print(program, type(error).__name__, error)
try:
    Libbpf().enum_values("skb_drop_reason")
except X0dError as error:
    print(error)
"""


@pytest.mark.kernel
def test_without_btf(good: bytes, tmp_path: Path) -> None:
    """Where the kernel's BTF is hidden, XDP loads as ever, and what needs it says so."""
    traced = tiny.compile_c(tiny.LICENCE + 'SEC("tp_btf/kfree_skb") int t(void *c) { return 0; }', tmp_path)
    (tmp_path / "good.o").write_bytes(good)
    (tmp_path / "traced.o").write_bytes(traced)
    hidden = 'mount -t tmpfs x0dt-btf /sys/kernel/btf && exec "$@"'
    arguments = (f"{tmp_path}/good.o:counting", f"{tmp_path}/traced.o:t")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hidden, "sh", sys.executable, "-c", WITHOUT_BTF, *arguments],
        capture_output=True, text=True, check=False, env={"PYTHONPATH": str(REPOSITORY / "daemon")},
    )  # fmt: skip
    assert done.stderr == ""
    xdp, tracing, enumeration = done.stdout.splitlines()
    assert xdp == "counting True"
    assert tracing.startswith("t ProgramTypeRefused load program t: ESRCH: ")
    assert "failed to find valid kernel BTF" in tracing
    assert enumeration.startswith("read the kernel's BTF: ESRCH: it needs CONFIG_DEBUG_INFO_BTF")
