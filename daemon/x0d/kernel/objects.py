"""What is in a compiled BPF object, looked at before any of it goes to the kernel.

An object is an ELF file: programs in sections named after their kind, maps described in BTF, a
licence, and the number of the layout that its maps follow.  What x0d would not load, or could only
load to misread its maps, is refused here in a sentence, while nothing has been made yet; what only
the kernel can judge is left to it.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from x0d.errors import InvalidInput
from x0d.kernel import btf, elf
from x0d.kernel.layout import LAYOUT_VERSION

MAP_ENTRIES_MAX: Final = 1 << 26
"""Of one map; the kernel would try, and take the memory of everything else."""
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


def inspect(content: bytes, name: str, *, layout_version: int = LAYOUT_VERSION) -> ObjectInfo:
    """Look into an object; ``name`` is its file's, for the error.

    An object that states another layout than ``layout_version`` is refused, one that states none is not.

    Raises:
        InvalidInput: with the file's name and what is wrong with it.
    """
    try:
        return _describe(content, name, layout_version)
    except InvalidInput as fault:
        reason = f"{name}: {fault}"
        raise InvalidInput(reason) from fault


def _describe(content: bytes, name: str, layout_version: int) -> ObjectInfo:
    parts = _read_parts(content)
    _check_sections(parts)
    licence = parts.content.get("license", b"").split(b"\0")[0].decode(errors="replace")
    _check_licence(licence, parts)
    stated_version = _read_layout_version(parts)
    elf.require(
        stated_version in {0, layout_version},
        f"its maps follow layout {stated_version}, this daemon reads layout {layout_version}; "
        "install both from one version",
    )
    sizes = btf.map_sizes(parts.content[".BTF"]) if ".BTF" in parts.content else {}
    for map_name, entries in sizes.items():
        elf.require(
            entries <= MAP_ENTRIES_MAX,
            f"map {map_name} is too large: {entries} entries, {MAP_ENTRIES_MAX} at most",
        )
    return ObjectInfo(
        name=name,
        sha256=hashlib.sha256(content).hexdigest(),
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


def _read_parts(content: bytes) -> _Parts:
    sections = elf.read_sections(content)
    names = [section.name for section in sections]
    wanted = {"license", LAYOUT_SECTION, ".BTF", ".BTF.ext"}
    symbols = elf.read_symbols(sections)
    functions: list[tuple[int, _Function]] = []
    maps: dict[str, int] = {}
    for symbol in symbols:
        if symbol.section >= len(sections):
            continue  # of no section, such as the name of the source
        within = names[symbol.section]
        if symbol.kind == elf.FUNCTION_SYMBOL and _is_program(within):
            end = symbol.start + symbol.size
            functions.append((symbol.section, _Function(within, symbol.name, symbol.start, end)))
        elif symbol.kind == elf.OBJECT_SYMBOL and within == ".maps":
            maps[symbol.name] = symbol.start
    touches: dict[str, list[tuple[int, str]]] = {}
    for target, place, number in elf.read_relocations(sections):
        is_read = names[target] in {".text", ".maps"} or _is_program(names[target])
        if is_read and number < len(symbols) and symbols[number].name in maps:
            touches.setdefault(names[target], []).append((place, symbols[number].name))
    functions.sort(key=lambda found: (found[0], found[1].start))
    return _Parts(
        names,
        {each.name: each.content for each in sections if each.name in wanted and each.kind == elf.PROGBITS},
        [function for _index, function in functions],
        sorted(maps, key=lambda found: maps[found]),
        touches,
    )


def _is_program(section: str) -> bool:
    return section in _PROGRAM_NAMES or section.startswith(_TRACING)


def _check_sections(parts: _Parts) -> None:
    for section in parts.names:
        known = section in _ORDINARY_NAMES or section.startswith(_ORDINARY_BEGINNINGS) or _is_program(section)
        elf.require(known, f"section {section!r} is unknown; programs are in xdp, xdp.frags, tp_btf/ and raw_tp/")
    elf.require(bool(parts.functions), "it has no program")


def _check_licence(licence: str, parts: _Parts) -> None:
    elf.require(licence != "", "it states no licence: section license is missing or empty")
    needs_gpl = [function.name for function in parts.functions if function.section.startswith(_TRACING)]
    if needs_gpl and licence not in LICENCES_GPL:
        reason = f"its licence {licence!r} is not compatible with the GPL, which {needs_gpl[0]} needs to trace"
        raise InvalidInput(reason)


def _read_layout_version(parts: _Parts) -> int:
    raw = parts.content.get(LAYOUT_SECTION)
    if raw is None:
        return 0
    elf.require(len(raw) == 4, f"section {LAYOUT_SECTION} has {len(raw)} bytes, not 4")
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
