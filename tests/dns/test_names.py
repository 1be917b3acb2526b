"""What clients are called: told when it is known, bounded, and never a trouble for anybody."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from mailhub.dns.names import ANSWER_SECONDS_MAX, ASKING_MAX, PeerNames
from mailhub.interfaces import IPeerNames
from mailhub.testing.resolver import Resolver


def looked_up(resolver: Any, ip: str = "192.0.2.1") -> list[Any]:
    told: list[Any] = []
    PeerNames(resolver, Clock()).look_up(ip, told.append)
    return told


def test_it_provides_its_interface() -> None:
    assert verifyObject(IPeerNames, PeerNames(Resolver(), Clock()))


@pytest.mark.parametrize(
    ("resolver", "facts"),
    [
        (
            Resolver(ptr={"192.0.2.1": ["c.example"]}, addresses={"c.example": ["2001:db8::1", "192.0.2.1"]}),
            {"ptr": "c.example", "ptr_confirmed": True},
        ),
        (
            Resolver(ptr={"192.0.2.1": ["c.example"]}, addresses={"c.example": ["192.0.2.9"]}),
            {"ptr": "c.example", "ptr_confirmed": False},
        ),
        (Resolver(ptr={"192.0.2.1": ["c.example"]}, broken=["c.example"]), {"ptr": "c.example"}),
        (Resolver(), {"ptr_cause": "the DNS has none"}),
        (Resolver(broken=["192.0.2.1"]), {"ptr_cause": "SERVFAIL for 192.0.2.1"}),
    ],
)
def test_what_is_told(resolver: Resolver, facts: dict[str, object]) -> None:
    assert looked_up(resolver) == [facts]


@pytest.mark.parametrize("ip", ["unix", "127.0.0.1", "::1", "fe80::1", "169.254.7.7"])
def test_what_never_left_this_machine_is_not_asked_for(ip: str) -> None:
    resolver = Resolver()
    assert looked_up(resolver, ip) == []
    assert resolver.asked == []


def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    clock, told = Clock(), list[Any]()
    names = PeerNames(Resolver(silent=["192.0.2.1"]), clock)
    names.look_up("192.0.2.1", told.append)
    assert (told, names.asking) == ([], 1)
    clock.advance(ANSWER_SECONDS_MAX)
    assert (told, names.asking) == ([{"ptr_cause": "no answer within 30 s"}], 0)
    assert not clock.getDelayedCalls()


def test_only_so_many_are_asked_for_at_once() -> None:
    told: list[Any] = []
    names = PeerNames(Resolver(silent=[f"192.0.2.{number}" for number in range(ASKING_MAX)]), Clock())
    for number in range(ASKING_MAX):
        names.look_up(f"192.0.2.{number}", told.append)
    assert told == []
    names.look_up("198.51.100.1", told.append)
    assert told == [{"ptr_cause": "too many names were being looked up"}]


def test_a_bug_at_once_is_a_fact() -> None:
    class Broken(Resolver):
        async def ptr(self, ip: str) -> Any:
            raise ValueError("oops")

    assert looked_up(Broken()) == [{"ptr_cause": "ValueError: oops"}]


def test_a_bug_of_the_resolver_is_a_fact_as_well() -> None:
    class Broken(Resolver):
        async def ptr(self, ip: str) -> Any:
            await self.wait
            raise ValueError("oops")

        def __init__(self) -> None:
            super().__init__()
            self.wait: Deferred[None] = Deferred()

    resolver, told = Broken(), list[Any]()
    names = PeerNames(resolver, Clock())
    names.look_up("192.0.2.1", told.append)
    resolver.wait.callback(None)
    assert told == [{"ptr_cause": "ValueError: oops"}]
    assert names.asking == 0
