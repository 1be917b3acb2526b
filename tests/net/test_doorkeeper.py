"""How many sessions there may be, and what counts as one address."""

from __future__ import annotations

import os
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailhub.net.descriptors import Descriptors
from mailhub.net.doorkeeper import TOO_MANY, TOO_MANY_FROM_ONE, Doorkeeper


def test_one_more_than_the_limit_is_told_to_come_back() -> None:
    door = Doorkeeper(3, 10)
    assert [door.admit(f"192.0.2.{n}") for n in range(4)] == [None, None, None, TOO_MANY]
    assert str(TOO_MANY).startswith("421 4.3.2 ")
    door.release("192.0.2.0")
    assert door.admit("192.0.2.9") is None


def test_one_address_has_a_limit_of_its_own() -> None:
    door = Doorkeeper(100, 2)
    assert [door.admit("192.0.2.1") for _ in range(3)] == [None, None, TOO_MANY_FROM_ONE]
    assert str(TOO_MANY_FROM_ONE).startswith("421 4.7.0 ")
    assert door.admit("192.0.2.2") is None
    door.release("192.0.2.1")
    assert door.admit("192.0.2.1") is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    door = Doorkeeper(100, 1)
    assert door.admit(one) is None
    assert door.admit(other) == (TOO_MANY_FROM_ONE if same else None)


def test_trusted_networks_and_unix_sockets_count_in_the_total_alone() -> None:
    door = Doorkeeper(9, 1, [ip_network("127.0.0.0/8"), ip_network("2001:db8::/32")])
    for ip in ("127.0.0.1", "2001:db8::1", "unix", "::ffff:127.0.0.1"):
        assert [door.admit(ip) for _ in range(2)] == [None, None]
    assert door.admit("192.0.2.1") is None
    assert door.admit("127.0.0.1") == TOO_MANY


def test_scarce_descriptors_turn_sessions_away() -> None:
    descriptors = Descriptors(limit=10_000)
    door = Doorkeeper(100, 100, descriptors=descriptors)
    descriptors.look()
    assert door.admit("192.0.2.1") is None
    descriptors.are_scarce = True
    assert door.admit("192.0.2.1") == TOO_MANY


def test_descriptors_are_scarce_when_a_new_one_falls_into_the_reserve() -> None:
    taken = os.open(os.devnull, os.O_RDONLY)
    os.close(taken)
    assert Descriptors(limit=taken + 1, reserve=1).look()
    assert not Descriptors(limit=taken + 2, reserve=1).look()


ADDRESSES = st.sampled_from(["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "unix"])


@given(st.lists(st.tuples(st.booleans(), ADDRESSES)))
def test_the_counts_are_those_of_the_sessions_and_the_table_holds_no_others(steps: list[tuple[bool, str]]) -> None:
    door = Doorkeeper(4, 2)
    inside: list[str] = []
    for comes, ip in steps:
        if comes:
            if door.admit(ip) is None:
                inside.append(ip)
        elif inside:
            door.release(inside.pop())
        assert door.sessions == len(inside) <= 4
        assert len(door._by_source) <= len(inside)
    for ip in inside:
        door.release(ip)
    assert door.sessions == 0
    assert not door._by_source
