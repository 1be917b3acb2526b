"""`begin`: a value at once where nothing waits, and otherwise exactly what Deferred.fromCoroutine would have done."""

from __future__ import annotations

import gc
from contextvars import ContextVar
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, DeferredList, fail, succeed

from mailhub.policy.begin import begin

COLOUR: ContextVar[str] = ContextVar("COLOUR", default="none")


def outcome(work: Any) -> list[Any]:
    """A list that gets the value or the exception of a Deferred."""
    assert isinstance(work, Deferred)
    found: list[Any] = []
    work.addCallbacks(found.append, lambda failure: found.append(failure.value))
    return found


async def value(result: object) -> object:
    return result


def test_what_need_not_wait_gives_its_value_at_once() -> None:
    assert begin(value(7)) == 7
    assert begin(value(None)) is None


def test_what_has_been_waited_for_already_is_no_wait() -> None:
    async def work() -> int:
        return await succeed(3) + await succeed(4)

    assert begin(work()) == 7


def test_a_deferred_that_has_fired_is_no_wait_either() -> None:
    assert begin(succeed(3)) == 3
    with pytest.raises(KeyError):
        begin(fail(KeyError("early")))


def test_what_has_to_be_waited_for_is_a_plain_deferred() -> None:
    waiting: Deferred[int] = Deferred()
    assert begin(waiting) is waiting
    several = begin(DeferredList([waiting]))
    assert type(several) is Deferred
    found = outcome(several)
    waiting.callback(5)
    assert found == [[(True, 5)]]


def test_an_error_before_the_first_wait_is_raised() -> None:
    async def work() -> None:
        raise KeyError("early")

    with pytest.raises(KeyError, match="early"):
        begin(work())


def test_waiting_several_times() -> None:
    first: Deferred[int] = Deferred()
    second: Deferred[int] = Deferred()

    async def work() -> int:
        return await first * 10 + await second

    found = outcome(begin(work()))
    first.callback(4)
    assert found == []
    second.callback(2)
    assert found == [42]


def test_an_error_of_what_is_waited_for_arrives_inside() -> None:
    first: Deferred[int] = Deferred()
    second: Deferred[str] = Deferred()

    async def work() -> str:
        try:
            await first
        except ValueError as error:
            return f"{error} and {await second}"
        return "no error"

    found = outcome(begin(work()))
    first.errback(ValueError("caught"))
    second.callback("went on")
    assert found == ["caught and went on"]


def test_an_error_after_the_first_wait_fails_the_deferred() -> None:
    first: Deferred[None] = Deferred()

    async def work() -> None:
        await first
        raise KeyError("late")

    found = outcome(begin(work()))
    first.callback(None)
    assert isinstance(found[0], KeyError)


def test_stop_iteration_of_what_is_waited_for_does_not_end_the_work_with_a_value() -> None:
    first: Deferred[None] = Deferred()

    async def work() -> str:
        await first
        return "never"

    found = outcome(begin(work()))
    first.errback(StopIteration("not yours"))
    assert isinstance(found[0], RuntimeError)


def test_cancelling_cancels_what_is_waited_for_at_that_moment() -> None:
    cancelled: list[str] = []
    first: Deferred[None] = Deferred(lambda _: cancelled.append("first"))
    second: Deferred[None] = Deferred(lambda _: cancelled.append("second"))
    cleaned: list[bool] = []

    async def work() -> None:
        try:
            await first
            await second
        finally:
            cleaned.append(True)

    begun = begin(work())
    found = outcome(begun)
    first.callback(None)
    assert isinstance(begun, Deferred)
    begun.cancel()
    assert cancelled == ["second"]
    assert cleaned == [True]
    assert isinstance(found[0], CancelledError)


def test_context_variables_stay_inside_and_survive_waiting() -> None:
    first: Deferred[None] = Deferred()

    async def work() -> tuple[str, str]:
        before = COLOUR.get()
        COLOUR.set("inside")
        await first
        return before, COLOUR.get()

    token = COLOUR.set("outside")
    try:
        found = outcome(begin(work()))
        assert COLOUR.get() == "outside"
        COLOUR.set("changed meanwhile")
        first.callback(None)
        assert found == [("outside", "inside")]
        assert COLOUR.get() == "changed meanwhile"
    finally:
        COLOUR.reset(token)


def test_any_awaitable_will_do_and_nothing_else() -> None:
    waiting: Deferred[int] = Deferred()
    found = outcome(begin(waiting))
    waiting.callback(5)
    assert found == [5]
    with pytest.raises(TypeError):
        begin(17)  # type: ignore[arg-type]


def test_work_that_is_dropped_is_closed() -> None:
    closed: list[bool] = []

    async def work() -> None:
        try:
            await Deferred()
        finally:
            closed.append(True)

    begin(work())
    gc.collect()
    assert closed == [True]
