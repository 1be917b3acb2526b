"""Mail addresses in history, as far as the postmaster wants to know them.

What is redacted never reaches a disk: neither the facts of an event nor the words of other hosts that quote an address.
The domain stays, for without it no story could be understood, and so does a Message-ID, by which other hosts ask.  A
file keeps its name and folder, and not the directories above, which are named after the mailbox.

With HASH every address keeps a name of its own, so that its stories can still be asked for; who has the key can find
out whether a name belongs to an address that they guess.  The key is that of the installation, and not in the history.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from enum import StrEnum

from mailhub.history.plain import plain
from mailhub.model import Address, Reply

_DIGEST_OCTETS = 6
#: In the place of every local part, with LOCAL.
_ANYBODY = "***"
#: Lists inside lists and tables inside tables, so deep.
_DEPTH_MAX = 4

# Whatever could be an address, also within other text: a local part (atoms or quoted, RFC 5321 section 4.1.2), then a
# domain or an address literal.
_ADDRESS = re.compile(r'(?:"(?:[^"\\]|\\.){1,320}"|[^\s<>()\[\],;:"@\\]{1,320})@(\[[^\s\[\]]{1,64}\]|[\w.-]{1,255})')
#: Facts that look like addresses and are none.
_KEPT = frozenset({"message_id"})
#: Facts that may name a file; the directories above it are named after mailboxes.
_WITH_PATHS = frozenset({"cause", "detail", "error"})
_PATH = re.compile(r"(?<![\w@:/.])/(?:[^\s/]+/)+([^\s/]+/[^\s/]+)")


class Redact(StrEnum):
    """How much of an address is kept.  The names are those of the configuration."""

    NONE = "none"  # all of it
    LOCAL = "local"  # its domain
    HASH = "hash"  # its domain, and a name that stands for the rest


class Redaction:
    """`key` is a secret that stays the same for the life of the installation."""

    def __init__(self, how: Redact = Redact.NONE, key: bytes = b"") -> None:
        self.how = how
        self._key = hashlib.blake2b(key, person=b"mailhub history").digest()

    def __bool__(self) -> bool:
        """Whether anything is redacted."""
        return self.how is not Redact.NONE

    def address(self, address: str) -> str:
        """What stands in the place of this address."""
        local, at, domain = address.rpartition("@")
        if not at or not local or self.how is Redact.NONE:
            return address
        if self.how is Redact.LOCAL:
            return f"{_ANYBODY}@{domain}"
        digest = hashlib.blake2b(
            address.lower().encode("utf-8", "surrogatepass"), key=self._key, digest_size=_DIGEST_OCTETS
        )
        return f"~{digest.hexdigest()}@{domain}"

    def text(self, text: str) -> str:
        """The text with every address in it redacted."""
        return _ADDRESS.sub(lambda match: self.address(match.group()), text) if "@" in text else text

    def facts(self, facts: Mapping[str, object]) -> dict[str, object]:
        """The facts of an event, redacted.  Never raises for what is in them."""
        found = {name: value if name in _KEPT else self._value(value) for name, value in facts.items()}
        for name in _WITH_PATHS.intersection(found):
            value = found[name]
            if isinstance(value, str):
                is_path = value.startswith("/")
                found[name] = ".../" + "/".join(value.split("/")[-2:]) if is_path else _PATH.sub(r".../\1", value)
        return found

    def _value(self, value: object, depth: int = 0) -> object:
        match value:
            case str():
                return self.text(value)
            case None | bool() | int() | float():
                return value
            case Address():
                return self.address(str(value))
            case Reply():
                return self.text(str(value))
        if depth >= _DEPTH_MAX:
            return self.text(_shown(value))
        if isinstance(value, list | tuple | set | frozenset):
            return [self._value(each, depth + 1) for each in value]
        if isinstance(value, Mapping):
            return {self.text(_shown(name)): self._value(each, depth + 1) for name, each in value.items()}
        known = plain(value)
        return self._value(known, depth + 1) if known is not value else self.text(_shown(value))


def is_anybody(address: str) -> bool:
    """Whether that is what LOCAL leaves of an address: it may stand for more than one."""
    return address.startswith(f"{_ANYBODY}@")


def _shown(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


#: Everything is kept as it is.
UNREDACTED = Redaction()
