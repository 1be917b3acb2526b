"""Any value as what JSON knows, and as text that cannot break a line or command a terminal."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from mailhub.model import Address, Reply

#: Of a value that nothing is known about, this much text is kept.
UNKNOWN_CHARACTERS_MAX = 1000


def plain(value: object) -> object:
    """`value` in terms that JSON knows: one step, the encoder comes back for what is inside.  Never raises."""
    kind = type(value)
    known = _KNOWN.get(kind)
    if known is not None:
        return known(value)
    try:
        if isinstance(value, Enum):
            return value.value
        if isinstance(value, BaseException):
            return f"{kind.__name__}: {value}"
        if isinstance(value, Mapping):
            return {str(key): inner for key, inner in value.items()}
        if isinstance(value, os.PathLike):
            return os.fsdecode(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return str(value)[:UNKNOWN_CHARACTERS_MAX]
    except Exception:
        return f"<{kind.__name__}>"


def printable(text: str) -> str:
    """The same text with everything escaped that is no visible character or space: line ends of every kind, terminal
    commands, characters that turn the direction of writing."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def _sorted(values: Any) -> list[Any]:
    return sorted(values, key=str)


def _text(octets: Any) -> str:
    return bytes(octets).decode("utf-8", "backslashreplace")


_KNOWN: dict[type, Callable[[Any], object]] = {
    Address: str,
    Reply: str,
    bytes: _text,
    bytearray: _text,
    memoryview: _text,
    set: _sorted,
    frozenset: _sorted,
}
