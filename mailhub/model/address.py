"""Mail addresses as values.

Two spellings of one mailbox are one value: the local part is kept as it means, not as it was quoted (RFC 5321
section 4.1.2: a quoted and an unquoted form are equivalent), and the domain is kept in lower case as A-labels
(RFC 5890), so that equality and hashing need no further thought.  Only `mailhub.wire.smtp.grammar` makes an Address
out of a stranger's octets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

# RFC 5321 section 4.1.2 Dot-string, with the characters of RFC 6531 section 3.3 (UTF8-non-ascii) added to atext.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010FFFF-]+"
_DOT_STRING = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_NEEDS_BACKSLASH = re.compile(r'(["\\])')


@dataclass(frozen=True, slots=True)
class Address:
    """A mailbox: `local` without quotes, case kept; `domain` in lower case as A-labels, or an address literal."""

    local: str
    domain: str

    def __str__(self) -> str:
        """The shortest correct spelling, quoted only where it must be (RFC 5321 section 4.1.2)."""
        if _DOT_STRING.fullmatch(self.local):
            return f"{self.local}@{self.domain}"
        quoted = _NEEDS_BACKSLASH.sub(r"\\\1", self.local)
        return f'"{quoted}"@{self.domain}'

    @property
    def is_ascii(self) -> bool:
        """Whether a host without SMTPUTF8 can take this address (RFC 6531); the domain always is ASCII."""
        return self.local.isascii()

    @property
    def is_literal(self) -> bool:
        """Whether the domain is an address literal such as [192.0.2.1] (RFC 5321 section 4.1.3)."""
        return self.domain.startswith("[")


#: None is the null reverse-path "<>" of RFC 5321 section 4.5.5: a value, never the absence of one.
ReversePath: TypeAlias = Address | None


def path(address: ReversePath) -> str:
    """The address as it stands between MAIL FROM: and the parameters, angle brackets included."""
    return "<>" if address is None else f"<{address}>"
