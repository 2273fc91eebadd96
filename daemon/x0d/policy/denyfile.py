"""A deny-list file, read in pieces: one prefix a line.

    192.0.2.1                    # after an entry: its comment
    198.51.100.0/24  for=1h      # counted from the moment of loading
    2001:db8::/32

Blank lines and lines of comment alone are passed over; CRLF and a byte-order mark are as good as none.
A file with a fault is refused as a whole, so reading goes on after one to tell several at once.  A
prefix that comes again counts as a duplicate, and its last line holds.
"""

import re
from typing import Final

from x0d.errors import InvalidInput
from x0d.policy.durations import parse_duration
from x0d.policy.model import PrefixKey, Terms, clean_comment, mask, parse_prefix, shown

FAULTS_MAX: Final = 10
"""Faults told of; beyond them nothing more is read."""
LINE_CHARACTERS_MAX: Final = 4096
BYTE_ORDER_MARK: Final = "\ufeff"
FOREVER: Final = Terms()
"""One object for all entries that have no expiry and no comment."""

_PLAIN_IPV4 = re.compile(r"^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?:/(\d{1,2}))?$", re.ASCII | re.MULTILINE)
_OCTETS = {str(number): number for number in range(256)}
_LENGTHS = {str(number): number for number in range(33)}


def _plain_ipv4(lines: list[str]) -> list[PrefixKey] | None:
    """Read lines that have an IPv4 address or prefix each and nothing else, in a microsecond; None for all else."""
    found = _PLAIN_IPV4.findall("\n".join(lines))
    if len(found) != len(lines):
        return None
    try:
        return [
            (mask(bytes((_OCTETS[one], _OCTETS[two], _OCTETS[three], _OCTETS[four])), _LENGTHS[tail]), _LENGTHS[tail])
            if tail
            else (bytes((_OCTETS[one], _OCTETS[two], _OCTETS[three], _OCTETS[four])), 32)
            for one, two, three, four, tail in found
        ]
    except KeyError:  # an octet above 255, a zero in front
        return None


def _check_length(line: str) -> None:
    """Of a longer line, a comment too, only the beginning may have been kept: nothing may be read from that."""
    if len(line) > LINE_CHARACTERS_MAX:
        raise InvalidInput(
            f"{shown(line[: LINE_CHARACTERS_MAX + 1].strip())}: a line is at most {LINE_CHARACTERS_MAX} characters"
        )


class DenyFileReader:
    """Takes a file's text piece by piece, cut anywhere, and gives its entries."""

    def __init__(self, now_unix_ms: int) -> None:
        self._now_unix_ms = now_unix_ms
        self._entries: dict[PrefixKey, Terms] = {}
        self._faults: list[str] = []
        self._rest = ""
        self._begun = False
        self._last_rest, self._last_terms = "", FOREVER
        self.lines = 0
        """Lines read so far."""
        self.duplicates = 0
        """Entries whose prefix had been there already."""

    @property
    def entries(self) -> int:
        """Different prefixes read so far."""
        return len(self._entries)

    def feed(self, text: str) -> None:
        """Read a piece; what is wrong with it is told by ``finish``."""
        if len(self._faults) == FAULTS_MAX:
            return
        if not self._begun and text:
            self._begun = True
            text = text.removeprefix(BYTE_ORDER_MARK)
        lines = text.split("\n")
        lines[0] = self._rest + lines[0]
        self._rest = lines.pop()[: LINE_CHARACTERS_MAX + 1]  # one more than allowed: enough to tell that it is too long
        self._read(lines)

    def finish(self) -> dict[PrefixKey, Terms]:
        """Give what was read, in the order of the file.

        Raises:
            InvalidInput: a sentence for each of the first ``FAULTS_MAX`` faulty lines.
        """
        if self._rest and len(self._faults) < FAULTS_MAX:
            last, self._rest = self._rest, ""
            self._read([last])
        if self._faults:
            raise InvalidInput("; ".join(self._faults))
        return self._entries

    def _read(self, lines: list[str]) -> None:
        entries, number = self._entries, self.lines
        plain = _plain_ipv4(lines)
        if plain is not None:
            before = len(entries)
            entries.update(dict.fromkeys(plain, FOREVER))
            self.duplicates += len(plain) - (len(entries) - before)
            self.lines += len(lines)
            return
        for number, line in enumerate(lines, start=self.lines + 1):
            first, *rest = line[: LINE_CHARACTERS_MAX + 1].split(None, 1) or ("#",)
            if "#" in first:
                first, _, glued = first.partition("#")
                rest = ["#" + " ".join([glued, *rest])]
            if not first and len(line) <= LINE_CHARACTERS_MAX:
                continue
            try:
                _check_length(line)
                prefix = parse_prefix(first)
                terms = self._read_terms(rest[0]) if rest else FOREVER
            except InvalidInput as fault:
                self._faults.append(f"line {number}: {fault}")
                if len(self._faults) == FAULTS_MAX:
                    break
                continue
            key = prefix.address, prefix.length
            self.duplicates += key in entries
            entries[key] = terms
        self.lines = number

    def _read_terms(self, rest: str) -> Terms:
        """Read what follows the prefix; lines in a row often say the same, and share one object."""
        if rest == self._last_rest:
            return self._last_terms
        before, _, comment = rest.partition("#")
        expires_unix_ms = 0
        for word in before.split():
            if not word.startswith("for=") or expires_unix_ms:
                raise InvalidInput(f"{shown(before.strip())}: only one for=DURATION or a # comment may follow a prefix")
            expires_unix_ms = self._now_unix_ms + parse_duration(word.removeprefix("for=")) * 1000
        self._last_rest, self._last_terms = rest, Terms(expires_unix_ms, clean_comment(comment))
        return self._last_terms
