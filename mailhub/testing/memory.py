"""A policy's memory in a dictionary, under the test's clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from zope.interface import implementer

from mailhub.interfaces import IKeyValueStore

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime


@implementer(IKeyValueStore)
class Memory:
    """Entries expire as in the real one.  Bounded too: at `entries_max` the one that would expire first goes."""

    def __init__(self, clock: IReactorTime, entries_max: int = 100_000) -> None:
        self._clock = clock
        self._entries_max = entries_max
        self._entries: dict[str, tuple[bytes | int, float]] = {}

    def get(self, key: str) -> bytes | None:
        value = self._value(key)
        return str(value).encode() if isinstance(value, int) else value

    def put(self, key: str, value: bytes, seconds: float) -> None:
        self._keep(key, value, self._clock.seconds() + seconds)

    def delete(self, key: str) -> None:
        self._entries.pop(key, None)

    def increment(self, key: str, by: int, seconds: float) -> int:
        value = self._value(key)
        if isinstance(value, int):
            expires_at = self._entries[key][1]
            self._keep(key, value + by, expires_at)
            return value + by
        self._keep(key, by, self._clock.seconds() + seconds)
        return by

    def keys(self, prefix: str = "") -> Iterable[str]:
        return [key for key in list(self._entries) if key.startswith(prefix) and self._value(key) is not None]

    def _value(self, key: str) -> bytes | int | None:
        value, expires_at = self._entries.get(key, (None, 0.0))
        if value is not None and expires_at <= self._clock.seconds():
            del self._entries[key]
            return None
        return value

    def _keep(self, key: str, value: bytes | int, expires_at: float) -> None:
        if key not in self._entries and len(self._entries) >= self._entries_max:
            del self._entries[min(self._entries, key=lambda each: self._entries[each][1])]
        self._entries[key] = (value, expires_at)
