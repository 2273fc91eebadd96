"""Sections, symbols and relocations of an object file, as a compiler for BPF writes them (System V ABI, ELF-64).

Only what an inspection needs: 64-bit, little-endian, relocatable.  Every offset and link is checked
before it is followed, so any bytes are read or refused.  A library that does it takes 50 ms to import, at
each start of the daemon.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from x0d.errors import InvalidInput

SECTIONS_MAX: Final = 1024
OBJECT_BYTES_MAX: Final = 16 << 20

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_RELOCATION: Final = struct.Struct("<QQ")
_MACHINE_BPF: Final = 247
_CLASS_64, _DATA_LITTLE, _KIND_RELOCATABLE = 2, 1, 1
PROGBITS: Final = 1
_NULL, _SYMTAB, _STRTAB, _NOTE, _NOBITS, _REL = 0, 2, 3, 7, 8, 9
_LLVM_ADDRSIG: Final = 0x6FFF4C03
_OPAQUE_TYPES: Final = frozenset({_NULL, PROGBITS, _STRTAB, _NOBITS, _LLVM_ADDRSIG, _NOTE})
_COMPRESSED: Final = 0x800
OBJECT_SYMBOL, FUNCTION_SYMBOL = 1, 2
"""Kinds of symbols."""


@dataclass(frozen=True, slots=True)
class Section:
    name: str
    kind: int
    content: bytes
    """Empty for one that takes no room in the file."""
    link: int
    """Number of the section that this one needs: a symbol table's names, relocations' symbols."""
    target: int
    """Of relocations: number of the section that they change."""


@dataclass(frozen=True, slots=True)
class Symbol:
    name: str
    kind: int
    section: int
    """Number of its section; above all numbers for one that has none."""
    start: int
    size: int


def require(holds: bool, reason: str) -> None:
    """Refuse what does not hold.  Raises InvalidInput."""
    if not holds:
        raise InvalidInput(reason)


def read_sections(elf: bytes) -> list[Section]:
    """Read the section table.

    Raises:
        InvalidInput: this is no 64-bit little-endian BPF object, or its tables lie or point outside of it.
    """
    require(elf[:4] == b"\x7fELF", "it is not an ELF file")
    require(len(elf) >= _HEADER.size, "it is cut short within its header")
    ident, kind, machine, _v, _entry, _ph, table_at, _f, _eh, _pe, _pn, entry_bytes, count, names = _HEADER.unpack_from(
        elf
    )
    require(len(elf) <= OBJECT_BYTES_MAX, f"it has {len(elf)} bytes, {OBJECT_BYTES_MAX} at most")
    require(ident[4] == _CLASS_64, "it is not a 64-bit object")
    require(ident[5] == _DATA_LITTLE, "it is a big-endian object, and this machine's programs are little-endian")
    require(machine == _MACHINE_BPF, f"it is for machine {machine}, not for BPF ({_MACHINE_BPF})")
    require(kind == _KIND_RELOCATABLE, f"it is of ELF type {kind}, not what a compiler makes (1)")
    require(entry_bytes == _SECTION.size and 0 < count <= SECTIONS_MAX, "its section table has no usable size")
    require(table_at + count * entry_bytes <= len(elf), "it is cut short: the section table is missing")
    table = [_SECTION.unpack_from(elf, table_at + i * entry_bytes) for i in range(count)]
    require(names < count and table[names][1] == _STRTAB, "its section names are missing")
    _check_tables(table, len(elf))
    strings = elf[table[names][4] : table[names][4] + table[names][5]]
    return [
        Section(
            _text(strings, row[0]), row[1], elf[row[4] : row[4] + row[5]] if row[1] != _NOBITS else b"", row[6], row[7]
        )
        for row in table
    ]


def _check_tables(table: list[tuple[int, ...]], file_bytes: int) -> None:
    held = sum(row[5] for row in table if row[1] != _NOBITS)
    require(held <= file_bytes, "it is cut short, or its sections overlap")
    require(sum(row[1] == _SYMTAB for row in table) == 1, "it has no symbol table, or several")
    for i, (_name, kind, flags, _address, offset, size, link, _info, _align, _item) in enumerate(table):
        whole = kind == _NOBITS or offset + size <= file_bytes
        require(whole, f"it is cut short within section {i}")
        require(not flags & _COMPRESSED, f"section {i} is compressed")
        linked = table[link][1] if link < len(table) else None
        if kind == _SYMTAB:
            require(linked == _STRTAB and size % _SYMBOL.size == 0, f"symbol table {i} is damaged")
        elif kind == _REL:
            require(linked == _SYMTAB and size % _RELOCATION.size == 0, f"relocations in section {i} are damaged")
        else:
            require(kind in _OPAQUE_TYPES, f"section {i} has the unknown type {kind:#x}")


def read_symbols(sections: list[Section]) -> list[Symbol]:
    """Read the symbol table, in its order."""
    table = next(section for section in sections if section.kind == _SYMTAB)
    strings = sections[table.link].content
    return [
        Symbol(_text(strings, name), info & 0xF, section, start, size)
        for name, info, _other, section, start, size in _SYMBOL.iter_unpack(table.content)
    ]


def read_relocations(sections: list[Section]) -> Iterator[tuple[int, int, int]]:
    """Number of the section that is changed, place in it, and number of the symbol that it gets."""
    for section in sections:
        if section.kind == _REL and section.target < len(sections):
            for place, info in _RELOCATION.iter_unpack(section.content):
                yield section.target, place, info >> 32


def _text(strings: bytes, start: int) -> str:
    """A name of a string table; empty where it would begin outside."""
    return strings[start:].split(b"\0", 1)[0].decode(errors="replace")
