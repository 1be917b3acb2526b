"""Which addresses are this machine's own."""

import pytest
from twisted.internet.task import Clock

from mailhub.net import own_addresses
from mailhub.net.own_addresses import REMEMBER_SECONDS, REMEMBERED_MAX, OwnAddresses, can_bind


def test_the_kernel_knows() -> None:
    assert can_bind("127.0.0.1")
    assert not can_bind("192.0.2.1")
    assert not can_bind("2001:db8::1")
    assert not can_bind("not an address")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []

    def bind(address: str) -> bool:
        found.append(address)
        return address == "192.0.2.1"

    monkeypatch.setattr(own_addresses, "can_bind", bind)
    return found


def test_answers_are_remembered_for_a_while(asked: list[str]) -> None:
    clock = Clock()
    own = OwnAddresses(clock)
    assert own("192.0.2.1")
    assert own("192.0.2.1")
    assert not own("192.0.2.2")
    assert asked == ["192.0.2.1", "192.0.2.2"]
    clock.advance(REMEMBER_SECONDS)
    own("192.0.2.1")
    assert len(asked) == 3


def test_strangers_cannot_fill_the_memory(asked: list[str]) -> None:
    own = OwnAddresses(Clock())
    for number in range(REMEMBERED_MAX + 10):
        own(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(own._known) <= REMEMBERED_MAX
