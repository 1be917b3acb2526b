"""What an address of ours stands for: a mailbox, or an alias for others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from mailhub.model.address import Address


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An account of ours.  `address` is its canonical name; `detail` what stood behind the plus sign, or None;
    `quota_octets` None means no limit.  `copies_to` are further addresses that an alias of the same name gives a copy
    (`alice: alice, alice@elsewhere.example`)."""

    address: Address
    detail: str | None = None
    quota_octets: int | None = None
    copies_to: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Alias:
    """An address that stands for others, ours or outside.  `address` is the name of the entry that matched (a
    catch-all has an empty local part)."""

    address: Address
    targets: tuple[Address, ...]


Account: TypeAlias = Mailbox | Alias


@dataclass(frozen=True, slots=True)
class ScramVerifier:
    """What a server keeps instead of a password (RFC 5802 section 3): it proves a login without knowing it."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes
