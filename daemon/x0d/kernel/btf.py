"""BTF of an object file: how large its maps want to be, and whether it is to be relocated to the kernel.

BTF is a flat list of types that name each other by number, with one table of strings.  A map is a
variable in the data section ``.maps`` whose type is a structure; its member ``max_entries`` is a
pointer to an array, and the array's length is the number.  Only this is read.  The bytes come from
outside: whatever they are, the answer is a value or ``InvalidInput``.
"""

import struct
from dataclasses import dataclass
from typing import Final

from x0d.errors import InvalidInput

_MAGIC: Final = 0xEB9F
_HEADER: Final = struct.Struct("<HBBIIIII")
"""magic, version, flags, header bytes, then offset and length of the types and of the strings."""
_TYPE: Final = struct.Struct("<III")
"""Offset of the name, kind and count, size or another type's number."""
_TRIPLE: Final = struct.Struct("<III")
"""An array; a structure's member (name, type, offset); an entry of a data section (type, offset, size)."""
_EXT_RELOCATIONS: Final = struct.Struct("<II")
_EXT_RELOCATIONS_AT: Final = 24

_PTR, _ARRAY, _STRUCT, _VAR, _DATASEC = 2, 3, 4, 14, 15
_ALIASES: Final = frozenset({8, 9, 10, 11, 18})
"""typedef, volatile, const, restrict, type tag: names for another type."""
_ALIAS_DEPTH_MAX: Final = 32
_FIXED: Final = {0: 0, 1: 4, _PTR: 0, _ARRAY: 12, 7: 0, 8: 0, 9: 0, 10: 0, 11: 0, 12: 0, _VAR: 4, 16: 0, 17: 4, 18: 0}
"""Bytes after the head of a type, by kind."""
_PER_ITEM: Final = {_STRUCT: 12, 5: 12, 6: 8, 13: 8, _DATASEC: 12, 19: 12}
"""The same for each of its items."""


@dataclass(frozen=True, slots=True)
class _Type:
    name_at: int
    kind: int
    count: int
    other: int
    at: int
    """Where what follows the head begins."""


def map_sizes(section: bytes) -> dict[str, int]:
    """Entries of each map of the object that says so, by name; 0 entries are given when it is loaded.

    Raises:
        InvalidInput: not BTF, or not whole.
    """
    try:
        return _Btf(section).map_sizes()
    except (struct.error, IndexError) as error:
        reason = f"section .BTF is damaged: {error}"
        raise InvalidInput(reason) from error


def has_core_relocations(section: bytes) -> bool:
    """Whether section ``.BTF.ext`` asks for fields to be found in the running kernel's BTF."""
    if len(section) < _HEADER.size:
        return False
    header_bytes: int = struct.unpack_from("<I", section, 4)[0]
    if header_bytes < _EXT_RELOCATIONS_AT + _EXT_RELOCATIONS.size or len(section) < header_bytes:
        return False  # of before CO-RE
    _offset, length = _EXT_RELOCATIONS.unpack_from(section, _EXT_RELOCATIONS_AT)
    return int(length) > 4  # the size of a record stands alone when there is none


class _Btf:
    """The types of one section, read once."""

    def __init__(self, section: bytes) -> None:
        magic, _version, _flags, header_bytes, types_at, types_bytes, strings_at, strings_bytes = _HEADER.unpack_from(
            section
        )
        if magic != _MAGIC:
            reason = "section .BTF is damaged: it does not begin as BTF does"
            raise InvalidInput(reason)
        self._types_raw = section[header_bytes + types_at :][:types_bytes]
        self._strings = section[header_bytes + strings_at :][:strings_bytes]
        self._types = [_Type(0, 0, 0, 0, 0), *self._read_types()]

    def _read_types(self) -> list[_Type]:
        found: list[_Type] = []
        position = 0
        while position < len(self._types_raw):
            name_at, info, other = _TYPE.unpack_from(self._types_raw, position)
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            if kind not in _FIXED and kind not in _PER_ITEM:
                reason = f"section .BTF has a type of kind {kind}, which x0d does not know"
                raise InvalidInput(reason)
            position += _TYPE.size
            found.append(_Type(name_at, kind, count, other, position))
            position += _FIXED[kind] if kind in _FIXED else _PER_ITEM[kind] * count
        return found

    def map_sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for section in self._types:
            if section.kind != _DATASEC or self._text(section.name_at) != ".maps":
                continue
            for number, _offset, _size in self._triples(section):
                variable = self._types[number]
                if variable.kind == _VAR:
                    sizes[self._text(variable.name_at)] = self._entries_of(variable)
        return sizes

    def _entries_of(self, variable: _Type) -> int:
        definition = self._types[variable.other]
        for _step in range(_ALIAS_DEPTH_MAX):
            if definition.kind not in _ALIASES:
                break
            definition = self._types[definition.other]
        if definition.kind != _STRUCT:
            return 0
        for name_at, number, _offset in self._triples(definition):
            pointer = self._types[number]
            if self._text(name_at) == "max_entries" and pointer.kind == _PTR:
                array = self._types[pointer.other]
                if array.kind == _ARRAY:
                    _element, _index, length = _TRIPLE.unpack_from(self._types_raw, array.at)
                    return int(length)
        return 0

    def _triples(self, whole: _Type) -> list[tuple[int, int, int]]:
        raw = self._types_raw
        return [_TRIPLE.unpack_from(raw, whole.at + i * _TRIPLE.size) for i in range(whole.count)]

    def _text(self, at: int) -> str:
        end = self._strings.find(b"\0", at)
        return self._strings[at : max(end, 0)].decode(errors="replace")
