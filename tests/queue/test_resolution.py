"""From an address to where its mail ends."""

from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from zope.interface import implementer

from mailhub.interfaces import AccountsUnavailable, IAccounts
from mailhub.model import Account, Address, Alias, Mailbox, ScramVerifier
from mailhub.queue.resolution import DEPTH_MAX, EXPANSIONS_MAX, Destination, Resolution, Step, resolve

Value = TypeVar("Value")


def at(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    return Address(local, domain or "example.test")


def name(text: str) -> Address:
    return at(text if "@" in text else f"{text}@example.test")


@implementer(IAccounts)
class TableAccounts:
    """An honest, small IAccounts: mailboxes by name, aliases by name, "" for the catch-all."""

    def __init__(self, mailboxes: str, **aliases: str) -> None:
        self.found: dict[str, Account] = {word: Mailbox(name(word)) for word in mailboxes.split()}
        self.asked = 0
        for alias, targets in aliases.items():
            key = "" if alias == "catch_all" else alias
            self.found[key] = Alias(Address(key, "example.test"), tuple(name(word) for word in targets.split()))

    def hosts(self, domain: str) -> bool:
        return domain == "example.test"

    async def find(self, address: Address) -> Account | None:
        self.asked += 1
        found = self.found.get(address.local.lower())
        base, plus, detail = address.local.lower().partition("+")
        if found is None and plus and (found := self.found.get(base)) and isinstance(found, Mailbox):
            return Mailbox(found.address, detail, found.quota_octets, found.copies_to)
        return found or self.found.get("")

    async def authenticate(self, login: str, password: str) -> str | None:
        raise AccountsUnavailable

    async def scram_verifier(self, login: str) -> tuple[str | None, ScramVerifier]:
        raise AccountsUnavailable


def at_once(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """The result of a coroutine that must not wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


def resolved(accounts: TableAccounts, text: str) -> Resolution:
    return at_once(resolve(accounts, name(text)))


def ends(resolution: Resolution) -> list[str]:
    return [str(destination.address) for destination in resolution.destinations]


def test_a_mailbox_is_one_look() -> None:
    accounts = TableAccounts("alice")
    found = resolved(accounts, "Alice")
    assert found.destinations == (Destination(name("alice")),)
    assert found.refusal is None
    assert accounts.asked == 1


def test_the_detail_stays_on_the_address() -> None:
    assert ends(resolved(TableAccounts("alice"), "alice+lists")) == ["alice+lists@example.test"]


def test_nobody() -> None:
    found = resolved(TableAccounts("alice"), "bob")
    assert found.destinations == ()
    assert found.dangling == (name("bob"),)
    assert found.refusal is not None
    assert str(found.refusal).startswith("550 5.1.1 ")


def test_an_address_that_is_not_ours_ends_where_it_is() -> None:
    assert resolved(TableAccounts(""), "x@elsewhere.example") == Resolution((Destination(at("x@elsewhere.example")),))


def test_aliases_are_followed_and_told() -> None:
    found = resolved(TableAccounts("alice bob carol", team="alice other", other="bob carol"), "team")
    assert ends(found) == ["alice@example.test", "bob@example.test", "carol@example.test"]
    assert found.steps == (
        Step(name("team"), (name("alice"), name("other"))),
        Step(name("other"), (name("bob"), name("carol"))),
    )
    assert str(found.steps[0]) == "team@example.test -> alice@example.test, other@example.test"


def test_nobody_gets_it_twice() -> None:
    """RFC 5321 section 3.9."""
    found = resolved(TableAccounts("alice", team="alice other alice x@y.example", other="ALICE x@y.example"), "team")
    assert ends(found) == ["alice@example.test", "x@y.example"]


def test_a_forward_names_the_alias_that_sends_it_outside() -> None:
    found = resolved(TableAccounts("", team="away", away="x@y.example"), "team")
    assert found.destinations == (Destination(at("x@y.example"), forwarded_by=name("away")),)


def test_a_catch_all_forwards_as_the_address_that_was_caught() -> None:
    found = resolved(TableAccounts("", catch_all="x@y.example"), "whoever")
    assert found.destinations == (Destination(at("x@y.example"), forwarded_by=name("whoever")),)


def test_a_detail_goes_along_to_those_of_ours() -> None:
    found = resolved(TableAccounts("alice bob", team="alice bob+own x@y.example"), "team")
    assert ends(found) == ["alice@example.test", "bob+own@example.test", "x@y.example"]
    accounts = TableAccounts("alice bob", team="alice bob+own x@y.example")
    accounts.found["team+eu"] = accounts.found["team"]
    assert ends(resolved(accounts, "team+eu")) == ["alice+eu@example.test", "bob+own@example.test", "x@y.example"]


def test_a_mailbox_that_gives_copies_away() -> None:
    accounts = TableAccounts("alice bob")
    accounts.found["alice"] = Mailbox(name("alice"), copies_to=(name("bob"), at("x@y.example")))
    accounts.found["bob"] = Mailbox(name("bob"), copies_to=(name("alice"),))
    found = resolved(accounts, "alice")
    assert found.destinations == (
        Destination(name("alice")),
        Destination(name("bob")),
        Destination(at("x@y.example"), forwarded_by=name("alice")),
    )


def test_a_circle_alone_is_told_and_deferred() -> None:
    found = resolved(TableAccounts("", a="b", b="a"), "a")
    assert found.destinations == ()
    assert found.loops == (name("a"),)
    assert str(found.refusal).startswith("451 4.3.5 ")


def test_a_circle_costs_the_others_nothing() -> None:
    found = resolved(TableAccounts("alice", a="b alice", b="a nobody"), "a")
    assert ends(found) == ["alice@example.test"]
    assert (found.loops, found.dangling, found.refusal) == ((name("a"),), (name("nobody"),), None)


def test_all_targets_gone_is_nobody() -> None:
    assert str(resolved(TableAccounts("", team="alice"), "team").refusal).startswith("550 5.1.1 ")


def test_depth_is_bounded() -> None:
    chain = {f"a{number}": f"a{number + 1}" for number in range(DEPTH_MAX)}
    assert resolved(TableAccounts(f"a{DEPTH_MAX}", **chain), "a0").refusal is None
    chain[f"a{DEPTH_MAX}"] = "end"
    found = resolved(TableAccounts("end", **chain), "a0")
    assert found.is_cut
    assert str(found.refusal).startswith("451 4.3.5 ")


@pytest.mark.parametrize(("surplus", "cut"), [(0, False), (1, True)])
def test_width_is_bounded_and_a_cut_list_gets_nothing(surplus: int, cut: bool) -> None:
    targets = " ".join(f"x{number}@y.example" for number in range(EXPANSIONS_MAX - 1 + surplus))
    found = resolved(TableAccounts("", team=targets), "team")
    assert found.is_cut is cut
    assert (found.refusal is not None) is cut


def test_a_cut_ends_the_search() -> None:
    targets = " ".join(f"x{number}@y.example" for number in range(5 * EXPANSIONS_MAX))
    assert len(resolved(TableAccounts("", team=targets), "team").destinations) < EXPANSIONS_MAX


def test_a_bomb_of_aliases_ends() -> None:
    """Each alias leads to all others: followed once each, not once for each way there."""
    everybody = " ".join(f"a{number}" for number in range(30))
    accounts = TableAccounts("", **{f"a{number}": everybody for number in range(30)})
    resolved(accounts, "a0")
    assert accounts.asked <= EXPANSIONS_MAX + 1


def test_accounts_that_cannot_be_asked() -> None:
    class Unavailable(TableAccounts):
        async def find(self, address: Address) -> Account | None:
            raise AccountsUnavailable

    with pytest.raises(AccountsUnavailable):
        resolved(Unavailable(""), "alice")
