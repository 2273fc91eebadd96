"""How long an entry holds: ``90s``, ``15m``, ``1h30m``, ``7d``, ``2w``."""

import re
from typing import Final

from x0d.errors import InvalidInput
from x0d.policy.model import shown

DURATION_S_MAX: Final = 10 * 365 * 86_400
"""Ten years; whoever wants more wants an entry that never expires."""
SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}

_PART = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_WHOLE = re.compile(r"(?:\d{1,9}[smhdw]){1,5}", re.ASCII)


def parse_duration(text: str) -> int:
    """Read a duration; the answer is in seconds, 1 to ``DURATION_S_MAX``.

    Raises:
        InvalidInput: it is none, or out of range.
    """
    if not _WHOLE.fullmatch(text):
        raise InvalidInput(f"{shown(text)} is no duration: write such as 90s, 15m, 1h30m, 7d or 2w")
    seconds = sum(int(number) * SECONDS[unit] for number, unit in _PART.findall(text))
    if not 1 <= seconds <= DURATION_S_MAX:
        raise InvalidInput(f"{shown(text)}: a duration is 1 second to 10 years")
    return seconds
