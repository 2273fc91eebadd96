"""From a view's frozen dataclass to the proto message with the same field names."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message

Reply = TypeVar("Reply", bound=Message)


def to_message(value: object, kind: type[Reply]) -> Reply:
    """Build a ``kind`` from a dataclass; nested dataclasses and sequences of them become messages.

    Raises:
        ValueError, TypeError: a field that ``kind`` does not have or does not hold; the views and
            the protos differ then, which a test excludes.
    """
    return kind(**_content(value))


def _content(value: Any) -> dict[str, Any]:  # noqa: ANN401 - any of the views' dataclasses
    return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}


def _plain(value: object) -> object:
    """Protobuf's constructors take dicts for messages and lists for repeated fields."""
    if is_dataclass(value):
        return _content(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value
