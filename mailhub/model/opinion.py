"""What a policy may say.

A Reply is an opinion: positive accepts, 4yz defers, 5yz refuses.  None has no opinion.  Prepend has none either, but
header fields to add to the message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from mailhub.model.reply import Reply


@dataclass(frozen=True, slots=True)
class Prepend:
    """Header fields to put before the message, topmost first: (name, body).  Raises ValueError for what is no field."""

    fields: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        # Whoever writes a policy checks no types, and what is wrong here is theirs as long as they are the caller.
        if not isinstance(self.fields, tuple) or any(
            not isinstance(pair, tuple) or [type(part) for part in pair] != [str, str] for pair in self.fields
        ):
            raise ValueError('header fields are a tuple of pairs of text: (("Name", "body"),)')
        for name, body in self.fields:
            if not name or not all(33 <= ord(character) <= 126 and character != ":" for character in name):
                raise ValueError(f"not a header field name (RFC 5322 section 2.2): {name!r}")
            if any(character in body for character in "\r\n\0"):
                raise ValueError(f"the body of field {name} has a line end or NUL; folding is done for you")
            if any("\ud800" <= character <= "\udfff" for character in body):
                raise ValueError(f"the body of field {name} has octets that were not decoded (surrogates)")


Opinion: TypeAlias = Reply | Prepend | None
