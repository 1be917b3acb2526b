"""What workers of one hub tell each other about the memory of policies, so that all remember the same.

A key has a birth: when it was last put or deleted, and what with.  The rules, by which all workers come to the same
whichever of two changes they hear first:

- of two births the later one stands, and what belongs to an earlier one is passed over;
- increments are told as what they add, and add up;
- of two workers that began the same counter, the end that comes first is the end.

A birth is remembered only for the seconds in which somebody may not have heard of it; later everybody has.  What
expires, or is forgotten because there is too much, is not told: everybody does that alone.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64, crc32
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from mailhub.interfaces import ISiblings

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

TOPIC = "policy-memory"
#: A birth younger than this may be news to somebody; one older than twice this is forgotten.
FRESH_SECONDS = 5.0
BIRTHS_MAX = 100_000
#: News that wait until the file has been read.
HELD_MAX = 10_000
#: Two births of one key by one worker are at least so far apart.
_TICK_SECONDS = 1e-6

#: When, and the CRC-32 of the value, or -1 for a deletion: two workers may do different things at the same moment.
Birth = tuple[float, int]
#: What has no birth that anybody remembers.
UNBORN: Birth = (0.0, 0)


class Hearer(Protocol):
    """The part of a Namespace that hears."""

    def heard_put(self, key: str, value: bytes, expires_at: float) -> None: ...

    def heard_delete(self, key: str) -> None: ...

    def heard_increment(self, key: str, by: int, expires_at: float) -> None: ...

    def heard_same(self, key: str, expires_at: float) -> None: ...


class MemoryNews:
    """Tells siblings of changes, and has the `namespace` of a name change as they tell."""

    def __init__(self, clock: IReactorTime, siblings: ISiblings, namespace: Callable[[str], Hearer]) -> None:
        self._clock = clock
        self._siblings = siblings
        self._namespace = namespace
        self._births: OrderedDict[tuple[str, str], Birth] = OrderedDict()  # the oldest first
        self._held: list[Sequence[object]] | None = []
        #: By the types that the news consist of, which differ: they are looked at once for each change of all workers.
        self._hearing: dict[tuple[type, ...], Callable[..., None]] = {
            (str, str, float, int, str, float): self._heard_put,
            (str, str, float, int): self._heard_delete,
            (str, str, float, int, int, float): self._heard_increment,
        }
        siblings.hear(TOPIC, self._heard)

    def begin(self) -> None:
        """The file has been read: what was heard meanwhile is newer."""
        held, self._held = self._held or [], None
        for news in held:
            self._heard(news)

    # --- telling -------------------------------------------------------------------------------------------------

    def was_put(self, name: str, key: str, value: bytes, expires_at: float) -> None:
        when, mark = self._born(name, key, crc32(value))
        text = b2a_base64(value, newline=False).decode()
        self._siblings.tell(TOPIC, (name, key, when, mark, text, float(expires_at)))

    def was_deleted(self, name: str, key: str) -> None:
        when, mark = self._born(name, key, -1)
        self._siblings.tell(TOPIC, (name, key, when, mark))

    def was_incremented(self, name: str, key: str, by: int, expires_at: float) -> None:
        when, mark = self._births.get((name, key), UNBORN)
        self._siblings.tell(TOPIC, (name, key, when, mark, by, float(expires_at)))

    def _born(self, name: str, key: str, mark: int) -> Birth:
        birth = (max(float(self._clock.seconds()), self._births.get((name, key), UNBORN)[0] + _TICK_SECONDS), mark)
        self._note((name, key), birth)
        return birth

    def _note(self, key: tuple[str, str], birth: Birth) -> None:
        self._births[key] = birth
        self._births.move_to_end(key)
        while self._births:
            if len(self._births) <= BIRTHS_MAX and self._age(next(iter(self._births.values()))) <= 2 * FRESH_SECONDS:
                break
            self._births.popitem(last=False)

    def _age(self, birth: Birth) -> float:
        return abs(self._clock.seconds() - birth[0])  # a clock that was set back makes old ones, too

    # --- hearing -------------------------------------------------------------------------------------------------

    def _heard(self, news: Sequence[object]) -> None:
        if self._held is not None:
            if len(self._held) < HELD_MAX:
                self._held.append(news)
            return
        heard = self._hearing.get(tuple(map(type, news)))
        if heard is None:
            raise ValueError("expected a put, a delete or an increment")
        heard(*news)

    def _heard_put(self, name: str, key: str, when: float, mark: int, text: str, expires_at: float) -> None:
        value = a2b_base64(text, strict_mode=True)
        if self._is_later(name, key, (when, mark)):
            self._namespace(name).heard_put(key, value, expires_at)
        elif self._births.get((name, key)) == (when, mark):
            self._namespace(name).heard_same(key, expires_at)

    def _heard_delete(self, name: str, key: str, when: float, mark: int) -> None:
        if self._is_later(name, key, (when, mark)):
            self._namespace(name).heard_delete(key)

    def _heard_increment(self, name: str, key: str, when: float, mark: int, by: int, expires_at: float) -> None:
        ours = self._births.get((name, key), UNBORN)
        if (when, mark) >= ours or self._age(ours) > FRESH_SECONDS:
            self._namespace(name).heard_increment(key, by, expires_at)

    def _is_later(self, name: str, key: str, birth: Birth) -> bool:
        if birth <= self._births.get((name, key), UNBORN):
            return False
        self._note((name, key), birth)
        return True
