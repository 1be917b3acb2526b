"""Starting asynchronous work without paying for what does not happen.

Most `async def` functions on the path of a message finish at their first step.  `begin` takes that step by hand: no
Deferred is made unless the work really waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Generator
from contextvars import Context, copy_context
from types import CoroutineType
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred

Value = TypeVar("Value")


def begin(work: Awaitable[Value]) -> Value | Deferred[Value]:
    """The value of `work` if it need not wait, else a Deferred of it.

    What the work raises before it first waits is raised here; later it fails the Deferred.  Cancelling the Deferred
    cancels what the work waits for.  Context variables that the work sets stay its own, as under
    Deferred.fromCoroutine.  A Deferred is given back as it is unless it has fired; one of a subclass is wrapped, so
    that `type(begun) is Deferred` tells the two results apart (isinstance is slow here, since Deferred has an ABC's
    metaclass).
    """
    if type(work) is Deferred and not work.called:
        return cast("Deferred[Value]", work)
    coroutine: Coroutine[Any, Any, Value] = work if type(work) is CoroutineType else _wait_for(work)
    context = copy_context()
    try:
        awaited = context.run(coroutine.send, None)
    except StopIteration as stop:
        value: Value = stop.value
        return value
    return Deferred.fromCoroutine(_go_on(coroutine, awaited, context))


async def _wait_for(work: Awaitable[Value]) -> Value:
    """Any awaitable as a coroutine; a TypeError for what cannot be awaited."""
    return await work


def _go_on(coroutine: Coroutine[Any, Any, Value], awaited: Any, context: Context) -> Generator[Any, Any, Value]:
    """The rest of a coroutine whose first step was taken and gave `awaited`.

    Deferred.fromCoroutine can only adopt work from its beginning.  This generator is that beginning: it hands on what
    the coroutine waits for, and gives the coroutine what comes back.
    """
    try:
        while True:
            try:
                result = yield awaited
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:
                awaited = context.run(coroutine.throw, error)
            else:
                awaited = context.run(coroutine.send, result)
    except StopIteration as stop:
        value: Value = stop.value
        return value
