"""Waiting for somebody else's code, but not for ever.

The rule: when the deadline has passed, the answer is given at once, whatever the late work still does; it is cancelled,
and what then comes of it is ignored, be it a value or an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

Value = TypeVar("Value")


class DeadlineMissed(Exception):
    """There was no answer in time."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The work gave no value: what it raised, or DeadlineMissed."""

    failure: Failure


def within(steady: IReactorTime, seconds: float, work: Deferred[Value]) -> Deferred[Value | Failed]:
    """The value of `work`, or Failed: when it fails, and when it takes longer than `seconds`.

    The Deferred that is given back fails only when whoever holds it cancels it; the work is then cancelled too.  So a
    CancelledError that the work itself raises is never taken for one of the caller's.
    """

    def settle(result: Value | Failure) -> None:
        if timer.active():  # else the deadline or the caller was faster
            timer.cancel()
            answer.callback(Failed(result) if isinstance(result, Failure) else result)

    def give_up() -> None:
        # First the answer, then the cancelling: work that is cancelled may do anything, even give a value.
        missed = DeadlineMissed(f"no answer within {seconds:g} seconds")
        answer.callback(Failed(Failure(missed)))  # type: ignore[no-untyped-call]
        work.cancel()

    def abandon(_: Deferred[Value | Failed]) -> None:
        timer.cancel()
        work.cancel()

    answer: Deferred[Value | Failed] = Deferred(abandon)
    timer = steady.callLater(seconds, give_up)
    work.addBoth(settle)
    return answer
