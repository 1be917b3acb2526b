"""Who is told what: the table of RFC 3461 section 4.1, whole."""

from itertools import chain, combinations

import pytest

from mailhub.dsn.rules import Action, needed
from mailhub.model import Address, Envelope, Recipient

BOB = Address("bob", "example.net")
ALICE = Address("alice", "example.org")

KINDS = ("SUCCESS", "FAILURE", "DELAY")
EVERY_NOTIFY = [frozenset(one) for one in chain.from_iterable(combinations(KINDS, n) for n in range(4))]
WANTED = {
    Action.FAILED: "FAILURE",
    Action.DELAYED: "DELAY",
    Action.DELIVERED: "SUCCESS",
    Action.RELAYED: "SUCCESS",
}


def envelope(sender: Address | None = ALICE) -> Envelope:
    return Envelope("q1", sender, (), 0.0)


@pytest.mark.parametrize("notify", EVERY_NOTIFY, ids=lambda notify: ",".join(sorted(notify)) or "none")
@pytest.mark.parametrize("action", Action)
def test_who_asks_for_a_kind_gets_it_and_no_other(action: Action, notify: frozenset[str]) -> None:
    by_default = not notify and action in (Action.FAILED, Action.DELAYED)
    assert needed(envelope(), Recipient(BOB, BOB, notify=notify), action) == (WANTED[action] in notify or by_default)


@pytest.mark.parametrize("action", Action)
def test_never_means_never(action: Action) -> None:
    assert not needed(envelope(), Recipient(BOB, BOB, notify=frozenset({"NEVER"})), action)
    # no client may send this; it still means never
    assert not needed(envelope(), Recipient(BOB, BOB, notify=frozenset({"NEVER", *KINDS})), action)


@pytest.mark.parametrize("notify", EVERY_NOTIFY)
@pytest.mark.parametrize("action", Action)
def test_never_about_a_message_from_nobody(action: Action, notify: frozenset[str]) -> None:
    assert not needed(envelope(None), Recipient(BOB, BOB, notify=notify), action)


def test_a_delay_is_told_once() -> None:
    recipient = Recipient(BOB, BOB, delay_told=True)
    assert not needed(envelope(), recipient, Action.DELAYED)
    assert needed(envelope(), recipient, Action.FAILED)
