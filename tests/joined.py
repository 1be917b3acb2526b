"""Workers joined in memory: real siblings through a real exchange, and each octet goes on when the test says so."""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import Logger

from mailhub.app.siblings import GATHER_SECONDS, Exchange, Siblings


class Channel:
    """One direction of a pipe, which the test reads."""

    def __init__(self) -> None:
        self.written: deque[bytes] = deque()
        self.producer: Any = None

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def registerProducer(self, producer: object, streaming: bool) -> None:
        assert streaming
        self.producer = producer


class Joined:
    """So many workers, by their numbers from 1."""

    def __init__(self, count: int, clock: Clock) -> None:
        self.clock = clock
        self.said: list[str] = []
        self.lost: list[int] = []
        self.log = Logger(observer=lambda event: self.said.append(event["log_format"].format(**event)))
        self.exchange = Exchange(self.log)
        self.up: dict[int, Channel] = {}
        self.down: dict[int, Channel] = {}
        self.siblings: dict[int, Siblings] = {}
        for number in range(1, count + 1):
            self.join(number)

    def join(self, number: int) -> Siblings:
        one = self.siblings[number] = Siblings(self.clock, self.log)
        one.lost = lambda: self.lost.append(number)
        self.up[number], self.down[number] = Channel(), Channel()
        one.makeConnection(self.up[number])
        self.exchange.join(number, self.down[number])
        return one

    def leave(self, number: int) -> None:
        """It dies: what it has not written is lost."""
        self.exchange.leave(number)
        del self.siblings[number], self.up[number], self.down[number]

    def carry_up(self, number: int) -> bool:
        """One piece of what this worker wrote reaches the exchange."""
        written = self.up[number].written
        if written:
            self.exchange.received(number, written.popleft())
            return True
        return False

    def carry_down(self, number: int) -> bool:
        """One piece of what others wrote reaches this worker."""
        written = self.down[number].written
        if written:
            self.siblings[number].dataReceived(written.popleft())
            return True
        return False

    def settle(self, seconds: float = GATHER_SECONDS) -> None:
        """Time passes, and everybody has heard everything."""
        self.clock.advance(seconds)
        while any(self.carry_up(number) or self.carry_down(number) for number in list(self.siblings)):
            pass
