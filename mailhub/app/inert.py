"""Stand-ins for a hub that is looked at and never runs: time stands still, work is done at once, nothing is kept."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from zope.interface import implementer

from mailhub.interfaces import IExecutor, IKeyValueStore

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

Value = TypeVar("Value")


def still_clock(now: float) -> IReactorTime:
    """A clock that always says `now`, in seconds since the epoch."""
    from twisted.internet.task import Clock

    clock = Clock()
    clock.rightNow = now
    return clock


def result(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """What a coroutine gives that need not wait.  RuntimeError if it wants to."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: Value = stop.value
        return value
    coroutine.close()
    raise RuntimeError("it waits, and nothing will ever wake it")


@implementer(IExecutor)
class AtOnce:
    """Blocking work is done by whoever asks for it."""

    async def run(self, function: Callable[..., Value], *arguments: object) -> Value:
        return function(*arguments)


@implementer(IKeyValueStore)
class Forgetful:
    """A memory in which nothing stays."""

    def get(self, key: str) -> bytes | None:
        return None

    def put(self, key: str, value: bytes, seconds: float) -> None:
        pass

    def delete(self, key: str) -> None:
        pass

    def increment(self, key: str, by: int, seconds: float) -> int:
        return by

    def keys(self, prefix: str = "") -> Iterable[str]:
        return ()
