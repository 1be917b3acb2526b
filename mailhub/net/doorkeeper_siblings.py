"""The limit of sessions from one address, for all workers of a hub together.

Every worker tells how many sessions it has now from each address that came or went, gathered for a moment, and from
time to time from all: a number that was lost is set right by the next one.  The rule: nobody is asked.  A worker admits
by what it has heard, so a burst within that moment may come to a few sessions more than the limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from mailhub.interfaces import ISiblings
from mailhub.model import Reply
from mailhub.net.descriptors import Descriptors
from mailhub.net.doorkeeper import TOO_MANY_FROM_ONE, Doorkeeper, source_of

TOPIC = "sessions"
#: How long what came and went is gathered; siblings gather for a moment more.
GATHER_SECONDS = 0.01
#: All counts are told so often.
RESTATE_SECONDS = 10.0
#: Who has said nothing for so long is dead, and its sessions with it.
SILENT_SECONDS = 3 * RESTATE_SECONDS
#: Addresses in one piece of news.
TOLD_MAX = 1000
#: Addresses of one sibling, and siblings, that are remembered.  Those that died lately are among them.
SOURCES_MAX = 100_000
SIBLINGS_MAX = 1024
#: Octets of chance in a mark.
MARK_OCTETS = 8

Counts = dict[str | bytes, int]


@dataclass
class _Other:
    """A sibling: its sessions by address, and when it has last said anything."""

    heard_at: float
    counts: Counts = field(default_factory=dict)


class SharedDoorkeeper(Doorkeeper):
    """A doorkeeper whose siblings count, too.  `mark` tells this life of this worker from all others."""

    def __init__(
        self,
        sessions_max: int,
        sessions_per_address_max: int,
        trusted: Sequence[IPv4Network | IPv6Network] = (),
        descriptors: Descriptors | None = None,
        *,
        steady: IReactorTime,
        siblings: ISiblings,
        mark: str,
    ) -> None:
        super().__init__(sessions_max, sessions_per_address_max, trusted, descriptors)
        self._steady = steady
        self._siblings = siblings
        self._mark = mark
        self._moved: set[str | bytes] = set()
        self._timer: IDelayedCall | None = None
        self._restating: IDelayedCall | None = None
        self._others: dict[str, _Other] = {}
        siblings.hear(TOPIC, self._heard)

    def admit(self, ip: str) -> Reply | None:
        refusal = super().admit(ip)
        if refusal is TOO_MANY_FROM_ONE and self._forget_the_dead():
            refusal = super().admit(ip)
        if refusal is None:
            self._note(ip)
        return refusal

    def release(self, ip: str) -> None:
        super().release(ip)
        self._note(ip)

    # --- telling -------------------------------------------------------------------------------------------------

    def _note(self, ip: str) -> None:
        self._moved.add(source_of(ip))
        if self._timer is None:
            self._timer = self._steady.callLater(GATHER_SECONDS, self._tell_moved)

    def _tell_moved(self) -> None:
        self._timer = None
        moved, self._moved = self._moved, set()
        self._tell(moved, is_all=False)
        if self._restating is None:
            self._restating = self._steady.callLater(RESTATE_SECONDS, self._restate)

    def _restate(self) -> None:
        self._restating = None
        self._tell(self._by_source, is_all=True)
        if self._by_source:
            self._restating = self._steady.callLater(RESTATE_SECONDS, self._restate)

    def _tell(self, sources: Iterable[str | bytes], is_all: bool) -> None:
        counts = [(_text(source), self._by_source.get(source, 0)) for source in sources]
        for begin in range(0, max(1, len(counts)), TOLD_MAX):
            # The first piece of all takes the place of what was told before, the others are added to it.
            self._siblings.tell(TOPIC, (self._mark, is_all and not begin, dict(counts[begin : begin + TOLD_MAX])))

    # --- hearing -------------------------------------------------------------------------------------------------

    def _heard(self, news: Sequence[object]) -> None:
        match news:
            case [str(mark), bool(is_all), dict(told)] if all(type(count) is int for count in told.values()):
                pass
            case _:
                raise ValueError("expected a mark, whether this is all, and counts by address")
        other = self._others.get(mark)
        if other is None:
            self._forget_the_dead()
            if len(self._others) >= SIBLINGS_MAX:
                return
            other = self._others[mark] = _Other(self._steady.seconds())
        other.heard_at = self._steady.seconds()
        if is_all:
            self._forget(other)
        for text, count in told.items():
            self._set(other, _source(text), count)

    def _set(self, other: _Other, source: str | bytes, count: int) -> None:
        before = other.counts.pop(source, 0)
        if count <= 0 or len(other.counts) >= SOURCES_MAX:
            count = 0
        else:
            other.counts[source] = count
        total = self._elsewhere.get(source, 0) + count - before
        if total:
            self._elsewhere[source] = total
        else:
            self._elsewhere.pop(source, None)

    def _forget(self, other: _Other) -> None:
        for source in list(other.counts):
            self._set(other, source, 0)

    def _forget_the_dead(self) -> bool:
        """Whether there was any."""
        now = self._steady.seconds()
        dead = [mark for mark, other in self._others.items() if now - other.heard_at >= SILENT_SECONDS]
        for mark in dead:
            self._forget(self._others.pop(mark))
        return bool(dead)


def _text(source: str | bytes) -> str:
    return source if isinstance(source, str) else "/" + source.hex()


def _source(text: str) -> str | bytes:
    return bytes.fromhex(text[1:]) if text.startswith("/") else text
