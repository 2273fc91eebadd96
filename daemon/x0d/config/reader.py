"""Reads one table of a TOML document key by key and collects what is wrong with it.

A ``Section`` hands out typed values.  Where a value is missing, of a wrong type or out of range it
notes a ``ConfigProblem`` that names the key and what is allowed, and hands out the default, so that
reading goes on and every problem is found.  ``finish`` notes the keys that nobody asked for.
"""

import difflib
import re
from collections.abc import Mapping
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

from x0d.errors import ConfigProblem, InvalidInput
from x0d.identity.spiffe_id import TrustDomain
from x0d.mesh.model import Address, Prefix

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
INTERFACE = re.compile(r"[^/\s:]{1,15}")  # IFNAMSIZ less the NUL; the kernel refuses / : and spaces
INTERFACE_FORM = "the name of an interface other than lo, at most 15 bytes without / : and spaces"
PREFIX_DEFAULT = ip_network("192.0.2.1/32")
MAPPED_LENGTH = 96  # of ::ffff:0.0.0.0/96, which has all of IPv4
MISSING = object()


def check_name(name: str) -> bool:
    """Whether this can be a node's name: it becomes part of its SPIFFE ID."""
    return NAME.fullmatch(name) is not None


class Section:
    """One table of the document; see the module."""

    def __init__(self, table: Mapping[str, object], path: str, problems: list[ConfigProblem]) -> None:
        self._table = table
        self._path = path
        self._problems = problems
        self._known: list[str] = []

    def problem(self, key: str, reason: str) -> None:
        """Note a problem of a key of this table."""
        self._problems.append(ConfigProblem(self._join(key), reason))

    def finish(self) -> None:
        """Note every key that was never asked for."""
        for key in self._table:
            if key not in self._known:
                close = difflib.get_close_matches(key, self._known, n=1)
                hint = f' (did you mean "{close[0]}"?)' if close else ""
                self.problem(key, f"unknown key{hint}. Allowed: {', '.join(sorted(self._known))}")

    def _take(self, key: str) -> object:
        self._known.append(key)
        return self._table.get(key, MISSING)

    def _wrong(self, key: str, value: object, allowed: str) -> None:
        shown = "true" if value is True else "false" if value is False else repr(value)
        self.problem(key, f"is {shown[:80]}; allowed: {allowed}")

    def table(self, key: str, *, required: bool = False) -> "Section":
        """A table below this one; an empty one where it is missing."""
        value = self._take(key)
        if value is MISSING and required:
            self.problem(key, f"the table [{key}] is missing")
        elif value is not MISSING and not isinstance(value, dict):
            self._wrong(key, value, f"a table [{key}]")
        return Section(value if isinstance(value, dict) else {}, self._join(key), self._problems)

    def tables(self, key: str, count_max: int) -> list["Section"]:
        """An array of tables; an empty one where it is missing."""
        value = self._take(key)
        if value is MISSING:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self._wrong(key, value, f"tables [[{self._join(key)}]]")
            return []
        if len(value) > count_max:
            self.problem(key, f"has {len(value)} entries; allowed: at most {count_max}")
        return [Section(item, f"{self._join(key)}[{index}]", self._problems) for index, item in enumerate(value)]

    def _join(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number in a closed range."""
        value = self._take(key)
        if value is MISSING:
            return default
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self._wrong(key, value, f"a whole number from {low} to {high}")
        return default

    def boolean(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._take(key)
        if value is MISSING:
            return default
        if isinstance(value, bool):
            return value
        self._wrong(key, value, "true or false")
        return default

    def choice(self, key: str, allowed: tuple[str, ...], default: str) -> str:
        """One of a few words."""
        value = self._take(key)
        if value is MISSING:
            return default
        if isinstance(value, str) and value in allowed:
            return value
        self._wrong(key, value, ", ".join(f'"{word}"' for word in allowed))
        return default

    def choices(self, key: str, allowed: tuple[str, ...], default: tuple[str, ...]) -> tuple[str, ...]:
        """An array of some of a few words, each once."""
        value = self._take(key)
        if value is MISSING:
            return default
        if isinstance(value, list) and all(item in allowed for item in value) and len(set(value)) == len(value):
            return tuple(value)
        self._wrong(key, value, "an array of " + ", ".join(f'"{word}"' for word in allowed) + ", each at most once")
        return default

    def text(self, key: str, default: str, pattern: str) -> str:
        """A string that matches a pattern as a whole."""
        value = self._take(key)
        if value is MISSING:
            return default
        if isinstance(value, str) and re.fullmatch(pattern, value):
            return value
        self._wrong(key, value, f"a string of the form {pattern}")
        return default

    def texts(self, key: str, count_max: int, pattern: str, form: str) -> tuple[str, ...]:
        """An array of strings that match a pattern; ``form`` names it for people."""
        value = self._take(key)
        if value is MISSING:
            return ()
        if (
            isinstance(value, list)
            and len(value) <= count_max
            and all(isinstance(item, str) and re.fullmatch(pattern, item) for item in value)
        ):
            return tuple(value)
        self._wrong(key, value, f"an array of at most {count_max} strings {form}")
        return ()

    def name(self, key: str) -> str:
        """A node's name; required."""
        value = self._take(key)
        if value is MISSING:
            self.problem(key, "is missing; give the node's name")
        elif not isinstance(value, str) or not check_name(value):
            self._wrong(key, value, "lower-case letters, digits and inner hyphens, at most 63")
        else:
            return value
        return "invalid"

    def directory(self, key: str, default: Path) -> Path:
        """An absolute path."""
        value = self._take(key)
        if value is MISSING:
            return default
        if isinstance(value, str) and value.startswith("/") and "\0" not in value:
            return Path(value)
        self._wrong(key, value, "an absolute path")
        return default

    def optional_directory(self, key: str) -> Path | None:
        """An absolute path, or None where it is missing."""
        path = self.directory(key, Path())
        return None if path == Path() else path

    def is_given(self, key: str) -> bool:
        """Whether the key is there, whatever its value."""
        return key in self._table

    def optional_file(self, key: str) -> Path | None:
        """An absolute path of a file, or None where it is missing."""
        return self.optional_directory(key)

    def trust_domain(self, key: str, default: TrustDomain | None) -> TrustDomain | None:
        """A trust domain's name; None only where it is missing or wrong and there is no default."""
        value = self._take(key)
        if value is MISSING:
            if default is None:
                self.problem(key, "is missing; give the trust domain's name")
            return default
        if isinstance(value, str) and not value.startswith("spiffe:"):
            try:
                return TrustDomain.parse(value)
            except InvalidInput:
                pass
        self._wrong(key, value, "a trust domain's name: a-z, 0-9, '.', '-' and '_', at most 255")
        return default

    def address(self, key: str, default: str) -> str:
        """An IP address, as text."""
        value = self._take(key)
        if value is MISSING:
            return default
        if isinstance(value, str) and _address(value):
            return value
        self._wrong(key, value, "an IPv4 or IPv6 address")
        return default

    def neighbour_address(self, key: str) -> Address:
        """A neighbour's address on the link: IPv4 unicast or IPv6 link-local; required."""
        value = self._take(key)
        address = _address(value) if isinstance(value, str) else None
        if value is MISSING:
            self.problem(key, "is missing; give the neighbour's address on that interface")
        elif address is None or address.is_multicast or address.is_unspecified or address.is_loopback:
            self._wrong(key, value, "an IPv4 address or an IPv6 link-local address")
        elif address.version == 6 and (not address.is_link_local or address.scope_id):
            self._wrong(key, value, "an IPv4 address or an IPv6 link-local address (fe80::/10), without a zone")
        else:
            return address
        return ip_address("192.0.2.1")

    def interface(self, key: str) -> str:
        """An interface's name; required."""
        value = self._take(key)
        if isinstance(value, str) and _is_mesh_interface(value):
            return value
        if value is MISSING:
            self.problem(key, "is missing; give the interface that leads to the neighbour")
        else:
            self._wrong(key, value, INTERFACE_FORM)
        return "invalid"

    def interfaces(self, key: str) -> tuple[str, ...]:
        """An array of interface names."""
        value = self._take(key)
        if value is MISSING:
            return ()
        if not isinstance(value, list):
            self._wrong(key, value, "an array of interface names")
            return ()
        found: dict[str, int] = {}
        for index, item in enumerate(value):
            if not isinstance(item, str) or not _is_mesh_interface(item):
                self._wrong(f"{key}[{index}]", item, INTERFACE_FORM)
            elif item in found:
                self.problem(f"{key}[{index}]", f'"{item}" is also {key}[{found[item]}]; name it once')
            else:
                found[item] = index
        return tuple(found)

    def prefix(self, key: str, default: Prefix) -> Prefix:
        """An address with its prefix length; required."""
        value = self._take(key)
        if value is MISSING:
            self.problem(key, 'is missing; give it such as "10.255.0.1/32"')
            return default
        prefix = _prefix(value)
        if prefix is None:
            self._wrong(key, value, 'an address with its prefix length, such as "10.255.0.1/32"')
            return default
        return default if self._is_mapped(key, prefix) else prefix

    def prefixes(self, key: str, count_max: int) -> tuple[Prefix, ...]:
        """An array of prefixes; a default in place of each that is refused, so that indexes stay."""
        value = self._take(key)
        if value is MISSING:
            return ()
        if not isinstance(value, list):
            self._wrong(key, value, f'an array of at most {count_max} networks such as "192.0.2.0/24"')
            return ()
        if len(value) > count_max:
            self.problem(key, f"has {len(value)} entries; allowed: at most {count_max}")
        prefixes = [_prefix(item) for item in value]
        for index, (item, prefix) in enumerate(zip(value, prefixes, strict=True)):
            if prefix is None:
                self._wrong(f"{key}[{index}]", item, 'a network such as "192.0.2.0/24", host bits zero')
            elif self._is_mapped(f"{key}[{index}]", prefix):
                prefixes[index] = None
        return tuple(prefix or PREFIX_DEFAULT for prefix in prefixes)

    def _is_mapped(self, key: str, prefix: Prefix) -> bool:
        """Refuse IPv4 written as IPv6: no packet has such an address, so the prefix would mean nothing."""
        address = prefix.network_address
        if isinstance(address, IPv4Address) or address.ipv4_mapped is None or prefix.prefixlen < MAPPED_LENGTH:
            return False
        self.problem(
            key, f'is "{prefix}"; write the IPv4 network: "{address.ipv4_mapped}/{prefix.prefixlen - MAPPED_LENGTH}"'
        )
        return True


def _is_mesh_interface(name: str) -> bool:
    """Whether an interface of this name can lead to a neighbour: the loopback device leads nowhere."""
    return INTERFACE.fullmatch(name) is not None and name != "lo"


def _address(value: str) -> Address | None:
    try:
        return ip_address(value)
    except ValueError:
        return None


def _prefix(value: object) -> Prefix | None:
    if not isinstance(value, str) or "/" not in value:
        return None
    try:
        return ip_network(value)
    except ValueError:
        return None
