"""Work runs in other threads, its results come home, and there is a limit to what may wait."""

import threading

import pytest
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import TestCase

from mailhub.store.executor import ExecutorFull, ThreadExecutor


class ThreadExecutorTests(TestCase):
    def setUp(self) -> None:
        self.executor = ThreadExecutor(reactor, threads_max=1, calls_max=2)
        self.executor.start()
        self.addCleanup(self.executor.stop)

    async def test_a_result_comes_from_another_thread(self) -> None:
        thread = await self.executor.run(threading.current_thread)
        assert thread is not threading.current_thread()

    async def test_an_error_comes_home(self) -> None:
        with pytest.raises(ZeroDivisionError):
            await self.executor.run(divmod, 1, 0)

    async def test_too_much_is_refused_and_a_cancelled_call_keeps_its_place(self) -> None:
        go = threading.Event()
        first: Deferred[bool] = self.executor.run(go.wait, 10)
        second: Deferred[int] = self.executor.run(int, "2")
        first.cancel()
        with pytest.raises(CancelledError):
            await first
        with pytest.raises(ExecutorFull):
            await self.executor.run(int, "3")
        go.set()
        assert await second == 2
        assert await self.executor.run(int, "4") == 4
