"""What is in a compiled BPF object, looked at before any of it goes to the kernel.

An object is an ELF file: programs in sections named after their kind, maps described in BTF, a
licence, and the number of the layout that its maps follow.  What x0d would not load, or could only
load to misread its maps, is refused here in a sentence, while nothing has been made yet; what only
the kernel can judge is left to it.

pyelftools trusts what it reads: a section that links to itself sends it round for ever.  So the
section table is checked first, and pyelftools sees only tables that hold together.  It takes some
50 ms to import, which is put off until an object is looked at.
"""

import hashlib
import io
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from x0d.errors import InvalidInput
from x0d.kernel import btf
from x0d.kernel.layout import LAYOUT_VERSION

if TYPE_CHECKING:
    from elftools.elf.sections import Section, Symbol

MAP_ENTRIES_MAX: Final = 1 << 26
"""Of one map; the kernel would try, and take the memory of everything else."""
SECTIONS_MAX: Final = 1024
OBJECT_BYTES_MAX: Final = 16 << 20
LICENCES_GPL: Final = frozenset(
    {"GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"}
)
"""Those that the kernel calls compatible with its own."""

LAYOUT_SECTION: Final = "x0d_layout"
_PROGRAM_NAMES: Final = ("xdp", "xdp.frags")
_TRACING: Final = ("tp_btf/", "raw_tp/")
_ORDINARY_NAMES: Final = frozenset(
    {"", ".text", ".symtab", ".strtab", ".shstrtab", ".maps", ".BTF", ".BTF.ext", "license", "version", ".comment"}
    | {".llvm_addrsig", ".eh_frame", ".rodata", ".data", ".bss", LAYOUT_SECTION}
)
_ORDINARY_BEGINNINGS: Final = (".rel", ".debug_", ".rodata.", ".data.", ".bss.", ".note")

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL_BYTES, _RELOCATION_BYTES = 24, 16
_MACHINE_BPF: Final = 247
_CLASS_64, _DATA_LITTLE, _KIND_RELOCATABLE = 2, 1, 1
_NULL, _PROGBITS, _SYMTAB, _STRTAB, _NOTE, _NOBITS, _REL = 0, 1, 2, 3, 7, 8, 9
_LLVM_ADDRSIG: Final = 0x6FFF4C03
_OPAQUE_TYPES: Final = frozenset({_NULL, _PROGBITS, _STRTAB, _NOBITS, _LLVM_ADDRSIG, _NOTE})
_COMPRESSED: Final = 0x800


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A compiled object that may be given to the kernel."""

    name: str
    """Of its file, without directory."""
    sha256: str
    """64 hexadecimal digits."""
    license: str
    """As the object states it."""
    layout_version: int
    """Of the structures in its maps; 0: it does not say."""
    has_btf: bool
    has_core_relocations: bool
    """It loads only where the kernel has BTF."""
    programs: tuple[tuple[str, str], ...]
    """Section and function of each, in the order of the file."""
    maps: tuple[str, ...]
    """Names, in the order of the file."""
    sections: tuple[str, ...]
    """Names of all sections, in the order of the file."""
    maps_of: Mapping[str, frozenset[str]]
    """Maps that a function may touch, by function; those that shared code touches are everybody's."""

    def unused_by(self, programs: Collection[str]) -> frozenset[str]:
        """Maps that need not be made when only these functions are loaded."""
        return frozenset(self.maps).difference(*(self.maps_of.get(program, frozenset()) for program in programs))


def inspect(elf: bytes, name: str, *, layout_version: int = LAYOUT_VERSION) -> ObjectInfo:
    """Look into an object; ``name`` is its file's, for the error.

    An object that states another layout than ``layout_version`` is refused, one that states none is not.

    Raises:
        InvalidInput: with the file's name and what is wrong with it.
    """
    try:
        _check_tables(elf)
        return _describe(elf, name, layout_version)
    except InvalidInput as fault:
        reason = f"{name}: {fault}"
        raise InvalidInput(reason) from fault


def _check_tables(elf: bytes) -> None:
    """Refuse what is no 64-bit little-endian BPF object, or whose tables lie or point outside of it."""
    _require(elf[:4] == b"\x7fELF", "it is not an ELF file")
    _require(len(elf) >= _HEADER.size, "it is cut short within its header")
    ident, kind, machine, _v, _entry, _ph, table_at, _f, _eh, _pe, _pn, entry_bytes, count, names = _HEADER.unpack_from(
        elf
    )
    _require(len(elf) <= OBJECT_BYTES_MAX, f"it has {len(elf)} bytes, {OBJECT_BYTES_MAX} at most")
    _require(ident[4] == _CLASS_64, "it is not a 64-bit object")
    _require(ident[5] == _DATA_LITTLE, "it is a big-endian object, and this machine's programs are little-endian")
    _require(machine == _MACHINE_BPF, f"it is for machine {machine}, not for BPF ({_MACHINE_BPF})")
    _require(kind == _KIND_RELOCATABLE, f"it is of ELF type {kind}, not what a compiler makes (1)")
    _require(entry_bytes == _SECTION.size and 0 < count <= SECTIONS_MAX, "its section table has no usable size")
    _require(table_at + count * entry_bytes <= len(elf), "it is cut short: the section table is missing")
    table = [_SECTION.unpack_from(elf, table_at + i * entry_bytes) for i in range(count)]
    _require(names < count and table[names][1] == _STRTAB, "its section names are missing")
    held = sum(row[5] for row in table if row[1] != _NOBITS)
    _require(held <= len(elf), "it is cut short, or its sections overlap")
    _require(sum(row[1] == _SYMTAB for row in table) == 1, "it has no symbol table, or several")
    for i, (_name, section_type, flags, _address, offset, size, link, _info, _align, _item) in enumerate(table):
        whole = section_type == _NOBITS or offset + size <= len(elf)
        _require(whole, f"it is cut short within section {i}")
        _require(not flags & _COMPRESSED, f"section {i} is compressed")
        linked = table[link][1] if link < count else None
        if section_type == _SYMTAB:
            _require(linked == _STRTAB and size % _SYMBOL_BYTES == 0, f"symbol table {i} is damaged")
        elif section_type == _REL:
            _require(linked == _SYMTAB and size % _RELOCATION_BYTES == 0, f"relocations in section {i} are damaged")
        else:
            _require(section_type in _OPAQUE_TYPES, f"section {i} has the unknown type {section_type:#x}")


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise InvalidInput(reason)


def _describe(elf: bytes, name: str, layout_version: int) -> ObjectInfo:
    from elftools.common.exceptions import ELFError  # noqa: PLC0415 - takes 50 ms

    try:
        parts = _read_parts(elf)
    except ELFError as error:
        reason = f"it is damaged: {error}"
        raise InvalidInput(reason) from error
    _check_sections(parts)
    licence = parts.content.get("license", b"").split(b"\0")[0].decode(errors="replace")
    _check_licence(licence, parts)
    stated_version = _read_layout_version(parts)
    _require(
        stated_version in {0, layout_version},
        f"its maps follow layout {stated_version}, this daemon reads layout {layout_version}; "
        "install both from one version",
    )
    sizes = btf.map_sizes(parts.content[".BTF"]) if ".BTF" in parts.content else {}
    for map_name, entries in sizes.items():
        _require(
            entries <= MAP_ENTRIES_MAX,
            f"map {map_name} is too large: {entries} entries, {MAP_ENTRIES_MAX} at most",
        )
    return ObjectInfo(
        name=name,
        sha256=hashlib.sha256(elf).hexdigest(),
        license=licence,
        layout_version=stated_version,
        has_btf=".BTF" in parts.content,
        has_core_relocations=btf.has_core_relocations(parts.content.get(".BTF.ext", b"")),
        programs=tuple((function.section, function.name) for function in parts.functions),
        maps=tuple(parts.maps),
        sections=tuple(parts.names),
        maps_of=_maps_of(parts),
    )


@dataclass(frozen=True, slots=True)
class _Function:
    section: str
    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Parts:
    """What of the file matters, by section name."""

    names: list[str]
    content: dict[str, bytes]
    functions: list[_Function]
    maps: list[str]
    touches: dict[str, list[tuple[int, str]]]
    """By section: places in it, and the map that is named there."""


def _read_parts(elf: bytes) -> _Parts:
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415 - takes 50 ms

    sections = list(ELFFile(io.BytesIO(elf)).iter_sections())
    names = [section.name for section in sections]
    wanted = {"license", LAYOUT_SECTION, ".BTF", ".BTF.ext"}
    content = {s.name: s.data() for s in sections if s.name in wanted and s["sh_type"] == "SHT_PROGBITS"}
    symbols = [symbol for section in sections for symbol in _symbols_of(section)]
    functions: list[tuple[int, _Function]] = []
    maps: dict[str, int] = {}
    for symbol in symbols:
        index, start, kind = symbol["st_shndx"], symbol["st_value"], symbol["st_info"]["type"]
        if not isinstance(index, int) or index >= len(sections):
            continue  # of no section, such as the name of the source
        if kind == "STT_FUNC" and _is_program(names[index]):
            functions.append((index, _Function(names[index], symbol.name, start, start + symbol["st_size"])))
        elif kind == "STT_OBJECT" and names[index] == ".maps":
            maps[symbol.name] = start
    touches: dict[str, list[tuple[int, str]]] = {}
    for section in sections:
        places = [(at, symbols[n].name) for at, n in _relocations_of(section, names) if n < len(symbols)]
        if places:
            target = names[section["sh_info"]]
            touches.setdefault(target, []).extend((at, name) for at, name in places if name in maps)
    functions.sort(key=lambda found: (found[0], found[1].start))
    ordered = sorted(maps, key=lambda found: maps[found])
    return _Parts(names, content, [function for _index, function in functions], ordered, touches)


def _symbols_of(section: "Section") -> "Iterator[Symbol]":
    from elftools.elf.sections import SymbolTableSection  # noqa: PLC0415 - takes 50 ms

    if isinstance(section, SymbolTableSection):
        yield from section.iter_symbols()


def _relocations_of(section: "Section", names: list[str]) -> Iterator[tuple[int, int]]:
    """Place and symbol's number of each, where the section's target is code or maps."""
    from elftools.elf.relocation import RelocationSection  # noqa: PLC0415 - takes 50 ms

    if not isinstance(section, RelocationSection) or section["sh_info"] >= len(names):
        return
    target = names[section["sh_info"]]
    if target in {".text", ".maps"} or _is_program(target):
        for relocation in section.iter_relocations():
            yield relocation["r_offset"], relocation["r_info_sym"]


def _is_program(section: str) -> bool:
    return section in _PROGRAM_NAMES or section.startswith(_TRACING)


def _check_sections(parts: _Parts) -> None:
    for section in parts.names:
        known = section in _ORDINARY_NAMES or section.startswith(_ORDINARY_BEGINNINGS) or _is_program(section)
        _require(known, f"section {section!r} is unknown; programs are in xdp, xdp.frags, tp_btf/ and raw_tp/")
    _require(bool(parts.functions), "it has no program")


def _check_licence(licence: str, parts: _Parts) -> None:
    _require(licence != "", "it states no licence: section license is missing or empty")
    needs_gpl = [function.name for function in parts.functions if function.section.startswith(_TRACING)]
    if needs_gpl and licence not in LICENCES_GPL:
        reason = f"its licence {licence!r} is not compatible with the GPL, which {needs_gpl[0]} needs to trace"
        raise InvalidInput(reason)


def _read_layout_version(parts: _Parts) -> int:
    raw = parts.content.get(LAYOUT_SECTION)
    if raw is None:
        return 0
    _require(len(raw) == 4, f"section {LAYOUT_SECTION} has {len(raw)} bytes, not 4")
    return int.from_bytes(raw, "little")


def _maps_of(parts: _Parts) -> dict[str, frozenset[str]]:
    # What .text and the maps themselves name belongs to all: a function's callees are not followed.
    shared = {name for section in (".text", ".maps") for _place, name in parts.touches.get(section, ())}
    return {
        function.name: frozenset(
            name for place, name in parts.touches.get(function.section, ()) if function.start <= place < function.end
        )
        | shared
        for function in parts.functions
    }
