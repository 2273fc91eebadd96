"""What the deny-list's and the limits' part of the API needs of the service that keeps them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from x0d.policy.model import DenyEntry, Limit, PackedPrefix


class DenyRow(NamedTuple):
    """An entry and the packets that it has dropped."""

    entry: DenyEntry
    hits: int


class LimitRow(NamedTuple):
    """A limit and the packets that it has dropped."""

    limit: Limit
    hits: int


class Removed(NamedTuple):
    """What a removal has done."""

    removed: int
    """How many there were."""
    not_there: tuple[PackedPrefix, ...]
    """Those of the prefixes asked for that there was nothing of, in the order of asking."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a whole new deny-list has changed."""

    entries: int
    added: int
    removed: int
    duplicates: int
    """Lines that said what an earlier one had said."""
    warnings: tuple[str, ...]
    """What was forced, and what keeps the list from taking effect, in sentences."""
    took_ms: float


class DenyLoad(Protocol):
    """A whole deny-list on its way in; nothing is in force until ``finish`` returns."""

    @property
    def lines(self) -> int:
        """Lines read so far."""

    @property
    def entries(self) -> int:
        """Entries among them."""

    async def feed(self, text: str) -> None:
        """Read whole lines.  Raises InvalidInput, TooMany."""

    async def finish(self) -> Loaded:
        """Check the list and put it in force, or change nothing.

        Raises:
            InvalidInput: names the lines that are wrong.
            WouldLockOut, TooMany, KernelRefused, StorageFailed.
        """

    def abandon(self) -> None:
        """Forget what was read; nothing happens after ``finish``."""


class PolicyView(Protocol):
    """Deny-list and limits."""

    async def list_deny(self, match: PackedPrefix | None) -> Sequence[DenyRow]:
        """Entries that cover ``match`` or lie in it, by prefix; None: all.  Raises KernelRefused."""

    async def add_deny(
        self,
        prefixes: Sequence[PackedPrefix],
        *,
        duration_s: int,
        comment: str,
        force: bool,
        caller_addresses: Sequence[str],
    ) -> tuple[Sequence[DenyEntry], Sequence[str]]:
        """Add entries or change them; ``duration_s`` 0: for ever.  Answers the entries and what was forced.

        Raises:
            WouldLockOut, InvalidInput, TooMany, KernelRefused, StorageFailed: nothing has changed.
        """

    async def remove_deny(self, prefixes: Sequence[PackedPrefix]) -> Removed:
        """Remove entries.  Raises NotThere if there was none."""

    def begin_load(self, *, name: str, force: bool, caller_addresses: Sequence[str], dry_run: bool) -> DenyLoad:
        """Start to replace the list.  Raises Busy."""

    async def list_limits(self) -> Sequence[LimitRow]:
        """Every limit, by prefix.  Raises KernelRefused."""

    async def add_limit(
        self,
        prefix: PackedPrefix,
        *,
        rate_pps: int,
        burst: int,
        duration_s: int,
        comment: str,
        force: bool,
        caller_addresses: Sequence[str],
    ) -> tuple[Limit, Sequence[str]]:
        """Add a limit or change it; ``burst`` 0: a tenth of a second's.  Raises as ``add_deny``."""

    async def remove_limits(self, prefixes: Sequence[PackedPrefix]) -> Removed:
        """Remove limits.  Raises NotThere if there was none."""
