"""A memory for answers that forgets: by age, by number and by size, the least recently used first.

The rule: whatever strangers make us ask, the cache never holds more than its two limits.  Time comes in with each
call, and only goes on.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Value]):
    value: Value
    expires_at: float
    octets: int


class Cache(Generic[Key, Value]):
    """At most `entries_max` values that weigh at most `octets_max` together."""

    def __init__(self, entries_max: int, octets_max: int) -> None:
        self.entries_max = entries_max
        self.octets_max = octets_max
        self.octets = 0
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key, now: float) -> Value | None:
        """What was put, unless its time is over at `now`."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry.expires_at:
            self.discard(key)
            return None
        self._entries.move_to_end(key)
        return entry.value

    def put(self, key: Key, value: Value, now: float, seconds: float, octets: int = 0) -> None:
        """Keep `value` for so many seconds from `now`, at the cost of the least recently used."""
        self.discard(key)
        if seconds <= 0 or octets > self.octets_max:
            return
        self._entries[key] = _Entry(value, now + seconds, octets)
        self.octets += octets
        while len(self._entries) > self.entries_max or self.octets > self.octets_max:
            _, oldest = self._entries.popitem(last=False)
            self.octets -= oldest.octets

    def discard(self, key: Key) -> None:
        """Forget one value; harmless if there is none."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.octets -= entry.octets

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.octets = 0
