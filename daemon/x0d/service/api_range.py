"""Numbers of a request: 0 stands for a default, all else must be in its range."""

from x0d.errors import InvalidInput


def in_range(field: str, value: int, least: int, most: int, *, default: int | None = None) -> int:
    """Return the value, or the default for 0.

    Raises:
        InvalidInput: names the field and its range.
    """
    if value == 0 and default is not None:
        return default
    if not least <= value <= most:
        instead = f", 0 for {default:,}" if default is not None else ""
        raise InvalidInput(f"{field} is {value:,}; {least:,} to {most:,} is allowed{instead}")
    return value
