"""Entries and limits in words, for the audit: what held before a change and what holds after it."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from x0d.policy.model import Limit, PackedPrefix, PrefixKey, Terms

TOLD_MAX: Final = 20
"""Further ones are a number: a request may have a thousand."""
NONE: Final = "none"


def deny_text(entries: Mapping[PrefixKey, Terms]) -> str:
    """Entries of the deny-list, such as ``192.0.2.7 for ever (spam), 2001:db8::/32 until 2026-01-02T03:04:05Z``."""
    shown = islice(entries.items(), TOLD_MAX)
    texts = [
        f"{PackedPrefix(*prefix)} {_until(terms.expires_unix_ms)}{_noted(terms.comment)}" for prefix, terms in shown
    ]
    return _joined(texts, len(entries))


def limit_text(limits: Collection[Limit]) -> str:
    """Limits, such as ``192.0.2.0/24 to 1000/s, burst 100, for ever``."""
    texts = [
        f"{limit.prefix} to {limit.rate_pps}/s, burst {limit.burst}, {_until(limit.expires_unix_ms)}"
        f"{_noted(limit.comment)}"
        for limit in islice(limits, TOLD_MAX)
    ]
    return _joined(texts, len(limits))


def load_text(entries: int, added: int, removed: int, *, dry_run: bool) -> tuple[str, str]:
    """Size of the deny-list before and after a load."""
    before, after = _counted(entries - added + removed), _counted(entries)
    if dry_run:
        return before, f"as before; the list that was tried has {after}: {added:,} more, {removed:,} fewer"
    return before, f"{after}: {added:,} added, {removed:,} removed"


def _counted(entries: int) -> str:
    return "1 entry" if entries == 1 else f"{entries:,} entries"


def _until(expires_unix_ms: int) -> str:
    if not expires_unix_ms:
        return "for ever"
    try:
        return f"until {datetime.fromtimestamp(expires_unix_ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):  # a year that calendars here do not have
        return f"until {expires_unix_ms} ms after 1970"


def _noted(comment: str) -> str:
    return f" ({comment})" if comment else ""


def _joined(texts: list[str], count: int) -> str:
    more = count - len(texts)
    return "; ".join([*texts, f"and {more:,} more"] if more else texts) or NONE
