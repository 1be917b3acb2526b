"""Blocking work in a bounded pool of threads: the real IWorkers.

The pool is started and stopped by whoever composes the services; nothing starts it by accident.  Both the threads and
the work that waits for one are bounded, so that a slow disk shows as a refusal and not as memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from mailhub.interfaces import IWorkers

Value = TypeVar("Value")

THREADS_MAX = 8
#: Calls that wait for a thread or run in one.  More than this means that the disk or the CPU has given up.
CALLS_MAX = 10_000


class ExecutorFull(Exception):
    """Too much work waits already; whoever asked must come back later."""


@implementer(IWorkers)
class ThreadExecutor:
    """A pool of at most `threads_max` threads that reports to this reactor."""

    def __init__(
        self,
        reactor: IReactorFromThreads,
        threads_max: int = THREADS_MAX,
        name: str = "mailhub-work",
        calls_max: int = CALLS_MAX,
    ) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, threads_max, name)
        self._calls = 0
        self._calls_max = calls_max

    def start(self) -> None:
        self._pool.start()

    def stop(self) -> None:
        """Finish what was asked for, then end the threads.  Blocks for as long as that takes."""
        self._pool.stop()

    def run(self, function: Callable[..., Value], *arguments: object) -> Deferred[Value]:
        """As IExecutor.  Fails with ExecutorFull when `calls_max` calls are under way or waiting.

        Cancelling the Deferred does not stop the function; its result is then dropped.
        """
        if self._calls >= self._calls_max:
            return fail(ExecutorFull(f"{self._calls} calls are waiting already"))
        self._calls += 1
        done: Deferred[Value] = Deferred()
        # The pool's own result goes through _ended first: a caller that cancelled does not free its thread.
        work: Deferred[Value] = deferToThreadPool(self._reactor, self._pool, function, *arguments)
        work.addBoth(self._ended, done)
        return done

    def _ended(self, result: Value | Failure, done: Deferred[Value]) -> None:
        self._calls -= 1
        if isinstance(result, Failure):
            done.errback(result)
        else:
            done.callback(result)
