"""Reverse-paths of forwarded mail: out, back, and not back for anybody else."""

from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from mailhub.interfaces import IAccounts
from mailhub.model import Address, Alias, Mailbox
from mailhub.queue.resolution import Destination, resolve
from mailhub.queue.srs import AGE_DAYS_MAX, Srs, SrsAccounts
from mailhub.testing.accounts import Accounts
from mailhub.wire.smtp.grammar import parse_address

Value = TypeVar("Value")

DAY = 86400.0
KEYS = (b"the first key of all", b"an older one, still good")
ALIAS = Address("team", "ours.test")
SENDER = Address("Carol", "source.example")


def at_once(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """The result of a coroutine that must not wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: Value = stop.value
        return value
    raise AssertionError("it waited")


def scheme(clock: Clock | None = None, keys: tuple[bytes, ...] = KEYS, **options: Any) -> Srs:
    if clock is None:
        clock = Clock()
        clock.rightNow = 20_000 * DAY
    return Srs(keys, clock, lambda domain: domain == "ours.test", **options)


def forwarded(srs: Srs, sender: Address = SENDER) -> Address:
    address = srs.rewrite(sender, ALIAS)
    assert address is not None
    return address


def changed(address: Address, old: str, new: str) -> Address:
    assert old in address.local
    return Address(address.local.replace(old, new, 1), address.domain)


# --- out and back --------------------------------------------------------------------------------------------------


def test_the_form() -> None:
    address = forwarded(scheme())
    tag, digest, day, domain, local = address.local.split("=")
    assert (tag, domain, local) == ("SRS0", "source.example", "Carol")
    assert (len(digest), len(day)) == (4, 2)
    assert address.domain == "ours.test"


def test_out_and_back() -> None:
    srs = scheme()
    assert srs.reverse(forwarded(srs)) == SENDER


def test_case_is_lost_on_the_way() -> None:
    srs = scheme()
    address = forwarded(srs)
    assert srs.reverse(Address(address.local.lower(), address.domain)) == Address("carol", "source.example")
    assert srs.reverse(Address(address.local.upper(), address.domain)) == Address("CAROL", "source.example")


@given(
    st.one_of(
        st.emails().filter(lambda text: len(text.encode()) < 40),
        st.sampled_from(
            ['"a b"@x.example', '"a@b"@x.example', "a=b=c@x.example", "a+b@x.example", "ü@x.example", "x@[192.0.2.1]"]
        ),
        st.sampled_from(["x@[IPv6:2001:db8::1]", '"\\"\\\\"@x.example', "SRS0@x.example", "srs0=x@x.example"]),
        st.sampled_from(["SRS1=a=b@x.example", "SRS1=a=b=c@x.example", "srs@x.example", '"SRS0=a b"@x.example']),
    )
)
def test_every_sender_comes_back(text: str) -> None:
    srs = scheme()
    try:
        sender = parse_address(text)
    except ValueError:
        return
    address = forwarded(srs, sender)
    assert parse_address(str(address)) == address
    if address == sender:  # there was no room
        return
    assert address.domain == "ours.test"
    back = srs.reverse(address)
    assert back is not None
    if address.local.startswith("SRS1"):  # what another forwarder made goes back to where it was made
        assert back.local[5:] == sender.local[5:]
        assert back.domain == sender.domain
    else:
        assert back == sender


def test_what_another_forwarder_made_is_not_wrapped_again_and_again() -> None:
    srs = scheme()
    made_by_first = Address("SRS0=abcd=TT=source.example=carol", "first.example")
    second = forwarded(srs, made_by_first)
    assert second.local.startswith("SRS1=")
    assert second.local.endswith("=first.example==abcd=TT=source.example=carol")
    assert srs.reverse(second) == made_by_first
    made_by_second = Address(second.local, "second.example")
    third = forwarded(srs, made_by_second)
    assert third.local.endswith("=first.example==abcd=TT=source.example=carol")
    assert srs.reverse(third) == made_by_first


@pytest.mark.parametrize("separator", "=+-")
def test_the_separator_of_the_other_forwarder_is_kept(separator: str) -> None:
    srs = scheme()
    made_by_first = Address(f"SRS0{separator}abcd=TT=source.example=carol", "first.example")
    assert srs.reverse(forwarded(srs, made_by_first)) == made_by_first


@pytest.mark.parametrize(
    ("sender", "by"), [(None, ALIAS), (SENDER, None), (Address("alice", "ours.test"), ALIAS), (None, None)]
)
def test_what_needs_no_rewriting(sender: Address | None, by: Address | None) -> None:
    assert scheme().rewrite(sender, by) == sender


def test_what_would_be_too_long_stays_as_it_is() -> None:
    srs = scheme()
    room = 64 - len("SRS0=hhhh=tt=source.example=")
    fits, does_not = (Address("x" * length, "source.example") for length in (room, room + 1))
    assert len(forwarded(srs, fits).local) == 64
    assert srs.rewrite(does_not, ALIAS) == does_not
    quoted = Address("x y" + "x" * (room - 4), "source.example")  # the quotes count too
    assert srs.rewrite(quoted, ALIAS) == quoted


@pytest.mark.parametrize("broken", ["srs1-=.=-y", "SRS1=abcd=-x-==abcd=TT=x.test=y"])
def test_what_another_forwarder_broke_stays_as_it_is(broken: str) -> None:
    srs = scheme()
    sender = Address(broken, "second.example")
    assert srs.rewrite(sender, ALIAS) == sender, "rewritten, a bounce to it would find no home"


def test_a_domain_of_its_own() -> None:
    assert forwarded(scheme(domain="srs.test")).domain == "srs.test"


# --- not back ------------------------------------------------------------------------------------------------------


def test_every_letter_is_signed() -> None:
    srs = scheme()
    address = forwarded(srs)
    assert srs.reverse(changed(address, "Carol", "Dave")) is None
    assert srs.reverse(changed(address, "source", "target")) is None
    _, digest, day, *_ = address.local.split("=")
    other = "AAAA" if digest != "AAAA" else "BBBB"
    assert srs.reverse(changed(address, digest, other)) is None
    assert srs.reverse(changed(address, f"={day}=", "=AA=" if day != "AA" else "=AB=")) is None


@pytest.mark.parametrize("digest", ["", "A", "AAA", "AAAAA", "A" * 28, "====", "éééé"])
def test_a_hash_of_another_length_is_none(digest: str) -> None:
    assert scheme().reverse(changed(forwarded(scheme()), forwarded(scheme()).local.split("=")[1], digest)) is None


def test_every_letter_of_srs1_is_signed() -> None:
    srs = scheme()
    address = forwarded(srs, Address("SRS0=abcd=TT=source.example=carol", "first.example"))
    assert srs.reverse(changed(address, "first", "other")) is None
    assert srs.reverse(changed(address, "==abcd", "==abce")) is None
    assert srs.reverse(changed(address, "carol", "dave")) is None


@pytest.mark.parametrize(
    "local",
    ["carol", "SRS0", "SRS0=", "SRS0=a=b", "SRS0=a=b=c", "SRS0=a=TT=c=", "SRS1=a=b", "SRS2=a=b=c=d", "SRS0_a=TT=c=d"],
)
def test_what_is_not_ours(local: str) -> None:
    address = Address(local, "ours.test")
    assert scheme().reverse(address) is None


@pytest.mark.parametrize(("days", "good"), [(0, True), (1, True), (AGE_DAYS_MAX, True), (AGE_DAYS_MAX + 1, False)])
@pytest.mark.parametrize("first_day", [20_000, 20_479, 20_480])  # 20,480 is a multiple of 1,024: the days begin again
def test_three_weeks_is_long_enough_for_any_bounce(days: int, good: bool, first_day: int) -> None:
    clock = Clock()
    clock.rightNow = first_day * DAY
    srs = scheme(clock)
    address = forwarded(srs)
    clock.rightNow = (first_day + days) * DAY + DAY - 1
    assert (srs.reverse(address) is not None) is good


@pytest.mark.parametrize(("ahead", "good"), [(1, True), (2, False), (500, False)])
def test_a_host_that_shares_our_keys_may_be_a_little_ahead(ahead: int, good: bool) -> None:
    clock = Clock()
    clock.rightNow = 20_000 * DAY
    address = forwarded(scheme(clock))
    clock.rightNow = (20_000 - ahead) * DAY
    assert (scheme(clock).reverse(address) is not None) is good


def test_an_inside_that_is_no_address_is_not_believed_however_well_signed() -> None:
    """Whoever has our key, such as an older program, may have signed what we would not."""
    srs = scheme()
    for sender in (Address("a\r\nb", "x.example"), Address("a", "x..example"), Address("a", "x y")):
        assert srs.reverse(forwarded(srs, sender)) is None


# --- keys ----------------------------------------------------------------------------------------------------------


def test_keys_are_changed_without_losing_a_bounce() -> None:
    old, new = scheme(keys=(b"old",)), scheme(keys=(b"new", b"old"))
    assert new.reverse(forwarded(old)) == SENDER
    assert old.reverse(forwarded(new)) is None
    assert scheme(keys=(b"new",)).reverse(forwarded(old)) is None


@pytest.mark.parametrize("keys", [(), (b"",), (b"a", b"")])
def test_there_is_a_key(keys: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="key"):
        scheme(keys=keys)


@pytest.mark.parametrize("characters", [3, 21])
def test_a_hash_has_a_sensible_length(characters: int) -> None:
    with pytest.raises(ValueError, match="characters"):
        scheme(hash_characters=characters)


def test_a_longer_hash() -> None:
    srs = scheme(hash_characters=12)
    address = forwarded(srs)
    assert len(address.local.split("=")[1]) == 12
    assert srs.reverse(address) == SENDER
    assert srs.reverse(forwarded(scheme())) is None


# --- at RCPT -------------------------------------------------------------------------------------------------------


def wrapped() -> tuple[Srs, SrsAccounts]:
    srs = scheme()
    inner = Accounts(
        ["ours.test"],
        ["alice@ours.test", "srs0-mary@ours.test"],
        {"team@ours.test": ["out@far.example"], "@ours.test": ["alice@ours.test"]},
        {"alice@ours.test": "secret"},
    )
    return srs, SrsAccounts(inner, srs)


def test_it_is_accounts_as_before() -> None:
    _, accounts = wrapped()
    assert verifyObject(IAccounts, accounts)
    assert accounts.hosts("ours.test")
    assert not accounts.hosts("far.example")
    assert at_once(accounts.find(Address("alice", "ours.test"))) == Mailbox(Address("alice", "ours.test"))
    assert at_once(accounts.authenticate("alice@ours.test", "secret")) == "alice@ours.test"
    assert at_once(accounts.scram_verifier("alice@ours.test"))[0] is None


def test_a_bounce_is_an_alias_for_the_sender() -> None:
    srs, accounts = wrapped()
    address = forwarded(srs)
    assert at_once(accounts.find(address)) == Alias(address, (SENDER,))
    resolution = at_once(resolve(accounts, address))
    assert resolution.refusal is None
    assert resolution.destinations == (Destination(SENDER, forwarded_by=address),)


def test_a_forged_one_is_nobody_even_where_a_catch_all_takes_everything_else() -> None:
    srs, accounts = wrapped()
    forged = changed(forwarded(srs), "Carol", "victim")
    assert at_once(accounts.find(Address("whoever", "ours.test"))) is not None
    assert at_once(accounts.find(forged)) is None
    assert str(at_once(resolve(accounts, forged)).refusal).startswith("550 5.1.1 ")


def test_a_name_that_only_begins_like_one_is_a_name() -> None:
    _, accounts = wrapped()
    address = Address("srs0-mary", "ours.test")
    assert at_once(accounts.find(address)) == Mailbox(address)


def test_at_other_domains_it_is_none_of_ours() -> None:
    srs, accounts = wrapped()
    address = Address(forwarded(srs).local, "far.example")
    assert at_once(accounts.find(address)) is None


def test_a_sender_with_a_detail_gets_it_back_as_it_was() -> None:
    srs, accounts = wrapped()
    sender = Address("carol+lists", "source.example")
    assert at_once(resolve(accounts, forwarded(srs, sender))).destinations[0].address == sender
