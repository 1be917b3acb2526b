"""The DNS of a World, asked by the real resolver."""

from __future__ import annotations

import random
from collections.abc import Awaitable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mailhub.dns.resolver import Resolver
from mailhub.dns.server import server
from mailhub.interfaces import ResolutionDeferred
from mailhub.testing.internet import Internet
from mailhub.testing.zone import ADDRESS, Zone


class Names:
    def __init__(self) -> None:
        self.internet = Internet(random.Random(1))
        self.zone = Zone(self.internet)
        self.zone.put("far.example. MX 10 mx.far.example.", "mx.far.example. A 192.0.2.7")
        host = self.internet.host("192.0.2.1")
        self.resolver = Resolver(host, random.Random(1), [server(ADDRESS)], backend=self.zone.backend(host))

    def ask(self, question: Awaitable[Any]) -> Any:
        results: list[Any] = []

        async def wait() -> Any:
            return await question

        Deferred.fromCoroutine(wait()).addBoth(results.append)
        self.internet.advance(60)
        (result,) = results
        if isinstance(result, Failure):
            result.raiseException()
        return result


def test_records_no_data_and_no_name() -> None:
    names = Names()
    assert names.ask(names.resolver.mx("far.example")).records == ((10, "mx.far.example"),)
    assert names.ask(names.resolver.addresses("mx.far.example")).records == ("192.0.2.7",)
    nothing, nobody = names.ask(names.resolver.txt("far.example")), names.ask(names.resolver.mx("nobody.example"))
    assert (nothing.records, nothing.exists, nobody.records, nobody.exists) == ((), True, (), False)


@pytest.mark.parametrize("trouble", ["broken", "silent"])
def test_trouble_is_no_answer(trouble: str) -> None:
    names = Names()
    getattr(names.zone, trouble).add("far.example")
    with pytest.raises(ResolutionDeferred):
        names.ask(names.resolver.mx("far.example"))
    getattr(names.zone, trouble).clear()
    assert names.ask(names.resolver.mx("far.example")).exists


def test_what_is_truncated_is_asked_for_over_tcp() -> None:
    names = Names()
    names.zone.truncated.add("far.example")
    assert names.ask(names.resolver.mx("far.example")).records == ((10, "mx.far.example"),)
    assert names.zone.asked["far.example", "MX"] == 2


def test_a_change_is_seen_when_the_old_answer_has_expired() -> None:
    names = Names()
    names.ask(names.resolver.mx("far.example"))
    names.zone.change("far.example. MX 10 mx.elsewhere.example.")
    assert names.ask(names.resolver.mx("far.example")).records == ((10, "mx.far.example"),)
    names.internet.advance(300)
    assert names.ask(names.resolver.mx("far.example")).records == ((10, "mx.elsewhere.example"),)
