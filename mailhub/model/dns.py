"""An answer of the DNS as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """`records` as the asked method of IResolver describes them; none for NXDOMAIN and for no data.

    `exists` is False for NXDOMAIN alone.  `authenticated` is the AD bit.  `expires_at` is a steady time, of the
    resolver's reactor.  `is_partial` says that some records may be missing, since part of the question got no answer.
    """

    records: tuple[Any, ...]
    exists: bool = True
    authenticated: bool = False
    expires_at: float = 0.0
    is_partial: bool = False
