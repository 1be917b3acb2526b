"""Logging in: every mechanism, and nothing to be learnt by whoever may not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from scramp import ScramClient, ScramMechanism
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mailhub.model import Identity, ScramVerifier
from mailhub.receiver.receiver import Challenge
from mailhub.receiver.throttle import Throttle
from mailhub.testing.accounts import Accounts
from mailhub.wire.smtp import events
from mailhub.wire.smtp.replies import LOGIN_GIVEN_UP

LOGIN, PASSWORD = "alice@example.test", "correct horse"
WELCOME = "235 2.7.0 Welcome"
WRONG = "535 5.7.8 Login or password is wrong"
TOO_MANY = "421 4.7.0 Too many failed logins, come back later"
BINDINGS = {"tls-exporter": b"e" * 32, "tls-server-end-point": b"s" * 32}


class ScramAccounts(Accounts):
    """Alice has a verifier; everybody else gets the same fake one each time."""

    asked = 0

    async def authenticate(self, login: str, password: str) -> str | None:
        self.asked += 1
        return await super().authenticate(login, password)

    async def scram_verifier(self, login: str) -> tuple[str | None, ScramVerifier]:
        self._check()
        known = login.lower() in self.passwords
        password, salt = (self.passwords[login.lower()], b"a" * 16) if known else ("", b"f" * 16)
        _, stored_key, server_key, iterations = ScramMechanism().make_auth_info(password or "-", 4096, salt)
        if not known:
            stored_key = bytes(32)
        return login.lower() if known else None, ScramVerifier(salt, iterations, stored_key, server_key)


@pytest.fixture
def client(desk: Callable[..., Any]) -> Any:
    made = desk(role="msa", accounts=ScramAccounts(passwords={LOGIN: PASSWORD})).greet()
    made.receiver.tls_started(made.receiver.session.tls, BINDINGS)
    return made


def plain(client: Any, login: str = LOGIN, password: str = PASSWORD, acting_for: str = "") -> str:
    return str(client.ask(events.AuthRequested("PLAIN", f"{acting_for}\0{login}\0{password}".encode())))


def scram(client: Any, mechanism: str, login: str, password: str, binding: tuple[str, bytes] | None = None) -> Any:
    """A whole exchange by scramp's client; its last answer."""
    theirs = ScramClient([mechanism], login, password, channel_binding=binding)
    said = client.ask(events.AuthRequested(mechanism, theirs.get_client_first().encode()))
    assert isinstance(said, Challenge)
    theirs.set_server_first(said.octets.decode())
    said = client.ask(events.AuthContinued(theirs.get_client_final().encode()))
    if isinstance(said, Challenge):
        theirs.set_server_final(said.octets.decode())  # the server has proven itself too
        said = client.ask(events.AuthContinued(b""))
    return said


# --- mechanisms ----------------------------------------------------------------------------------------------------


def test_plain(client: Any) -> None:
    assert plain(client) == WELCOME
    assert client.receiver.session.identity == Identity(LOGIN, "PLAIN")
    assert client.history.events[-1] == {
        "kind": "logged_in",
        "session_id": "s1",
        "queue_id": "",
        "login": LOGIN,
        "mechanism": "PLAIN",
        "peer": "192.0.2.1",
    }


def test_plain_without_initial_response(client: Any) -> None:
    assert client.ask(events.AuthRequested("PLAIN", None)) == Challenge(b"")
    assert str(client.ask(events.AuthContinued(f"\0{LOGIN}\0{PASSWORD}".encode()))) == WELCOME


def test_login(client: Any) -> None:
    assert client.ask(events.AuthRequested("LOGIN", None)) == Challenge(b"Username:")
    assert client.ask(events.AuthContinued(LOGIN.encode())) == Challenge(b"Password:")
    assert str(client.ask(events.AuthContinued(PASSWORD.encode()))) == WELCOME
    assert client.receiver.session.identity == Identity(LOGIN, "LOGIN")


@pytest.mark.parametrize(
    ("mechanism", "binding"),
    [
        ("SCRAM-SHA-256", None),
        ("SCRAM-SHA-256-PLUS", ("tls-exporter", b"e" * 32)),
        ("SCRAM-SHA-256-PLUS", ("tls-server-end-point", b"s" * 32)),
    ],
)
def test_scram(client: Any, mechanism: str, binding: tuple[str, bytes] | None) -> None:
    assert str(scram(client, mechanism, LOGIN, PASSWORD, binding)) == WELCOME
    assert client.receiver.session.identity == Identity(LOGIN, mechanism)
    assert str(scram(client, mechanism, LOGIN, "wrong", binding)) == WRONG


def test_a_proof_for_another_connection_is_refused(client: Any) -> None:
    assert str(scram(client, "SCRAM-SHA-256-PLUS", LOGIN, PASSWORD, ("tls-exporter", b"x" * 32))) == WRONG


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1", "CRAM-MD5", "EXTERNAL", "X"])
def test_other_mechanisms_are_not_offered(client: Any, mechanism: str) -> None:
    assert str(client.ask(events.AuthRequested(mechanism, b""))).startswith("504 5.5.4 ")


def test_plus_is_not_offered_where_nothing_can_be_bound_to(client: Any) -> None:
    client.receiver.tls_started(client.receiver.session.tls, {})
    assert str(client.ask(events.AuthRequested("SCRAM-SHA-256-PLUS", b"x"))).startswith("504 5.5.4 ")


def test_nonces_are_new_each_time(client: Any) -> None:
    first = [client.ask(events.AuthRequested("SCRAM-SHA-256", b"n,,n=x,r=abcdefghijklmnopqrst")) for _ in range(2)]
    assert first[0].octets != first[1].octets


# --- refusals ------------------------------------------------------------------------------------------------------


def test_an_unknown_login_and_a_wrong_password_look_the_same(client: Any) -> None:
    assert plain(client, password="wrong") == plain(client, login="nobody@example.test") == WRONG
    assert client.accounts.asked == 2  # the same work was done for both


def test_an_unknown_login_goes_the_whole_way_of_scram(client: Any) -> None:
    assert str(scram(client, "SCRAM-SHA-256", "nobody@example.test", PASSWORD)) == WRONG
    assert str(scram(client, "SCRAM-SHA-256", LOGIN, "wrong")) == WRONG


def test_who_acts_for_somebody_else_is_refused(client: Any) -> None:
    assert plain(client, acting_for="bob@example.test") == WRONG
    assert plain(client, acting_for=LOGIN) == WELCOME


@pytest.mark.parametrize(
    "initial", [b"", b"no nul", b"\0\0", b"\0a\0", b"a\0b\0c\0d", b"\0\xff\0x", b"\0a\0" + b"x" * 2000]
)
def test_what_is_no_response_is_no_guess(client: Any, initial: bytes) -> None:
    for _ in range(5):
        assert str(client.ask(events.AuthRequested("PLAIN", initial))).startswith("501 5.5.2 ")
    assert plain(client) == WELCOME


def test_accounts_that_cannot_be_asked_are_no_refusal(client: Any) -> None:
    client.accounts.available = False
    for _ in range(5):
        assert plain(client).startswith("454 4.7.0 ")
    assert str(client.ask(events.AuthRequested("SCRAM-SHA-256", b"n,,n=x,r=abcdefghijklmnopqrst"))).startswith("454 ")
    client.accounts.available = True
    assert plain(client) == WELCOME


def test_credentials_are_not_told_to_history(client: Any) -> None:
    plain(client, password="hunter2")
    plain(client)
    told = repr(client.history.events)
    assert "hunter2" not in told
    assert PASSWORD not in told


def test_a_login_given_up_begins_anew(client: Any) -> None:
    client.ask(events.AuthRequested("LOGIN", None))
    assert client.ask(events.AuthAborted(LOGIN_GIVEN_UP)) is None
    assert client.ask(events.AuthRequested("LOGIN", None)) == Challenge(b"Username:")


def test_a_slow_hash_makes_the_client_wait(desk: Callable[..., Any], fired: Callable[[Any], Any]) -> None:
    class Slow(Accounts):
        hashing: Deferred[str | None] = Deferred()

        async def authenticate(self, login: str, password: str) -> str | None:
            return await self.hashing

    accounts = Slow()
    client = desk(role="msa", accounts=accounts).greet()
    said = client.ask(events.AuthRequested("PLAIN", b"\0a\0b"))
    accounts.hashing.callback(LOGIN)
    assert str(fired(said)) == WELCOME


# --- the throttle --------------------------------------------------------------------------------------------------


def test_too_many_tries_end_the_session(client: Any) -> None:
    assert [plain(client, password="wrong") for _ in range(3)] == [WRONG, WRONG, TOO_MANY]


def test_tries_count_whatever_the_mechanism(client: Any) -> None:
    plain(client, password="wrong")
    scram(client, "SCRAM-SHA-256", LOGIN, "wrong")
    client.ask(events.AuthRequested("LOGIN", LOGIN.encode()))
    assert str(client.ask(events.AuthContinued(b"wrong"))) == TOO_MANY


def test_too_many_from_one_address_are_turned_away_unseen(desk: Callable[..., Any]) -> None:
    clock = Clock()
    throttle = Throttle(clock, per_address_max=4, window_seconds=60)
    accounts = ScramAccounts(passwords={LOGIN: PASSWORD})
    for _ in range(2):
        client = desk(role="msa", accounts=accounts, throttle=throttle).greet()
        plain(client, login="nobody@example.test", password="wrong")
        plain(client, password="wrong")
    client = desk(role="msa", accounts=accounts, throttle=throttle).greet()
    asked = accounts.asked
    assert plain(client) == TOO_MANY
    assert str(client.ask(events.AuthRequested("LOGIN", None))) == TOO_MANY
    assert accounts.asked == asked
    clock.advance(60)
    assert plain(client) == WELCOME


def test_who_leaves_before_the_answer_has_guessed_all_the_same(desk: Callable[..., Any]) -> None:
    class Slow(ScramAccounts):
        async def authenticate(self, login: str, password: str) -> str | None:
            self.asked += 1
            return await Deferred[str | None]()

    throttle = Throttle(Clock(), per_address_max=2)
    accounts = Slow(passwords={LOGIN: PASSWORD})
    for _ in range(2):
        client = desk(role="msa", accounts=accounts, throttle=throttle).greet()
        client.ask(events.AuthRequested("PLAIN", b"\0a\0b")).cancel()
        client.receiver.ended()
        assert client.history.events[-1]["cause"] == "the client left before it was answered"
    client = desk(role="msa", accounts=accounts, throttle=throttle).greet()
    assert plain(client) == TOO_MANY
    assert accounts.asked == 2


def test_a_login_that_is_guessed_from_everywhere_is_turned_away(desk: Callable[..., Any]) -> None:
    throttle = Throttle(Clock(), per_login_max=5)
    for number in range(5):
        throttle.failed(f"198.51.100.{number}", LOGIN)
    client = desk(role="msa", throttle=throttle).greet()
    assert plain(client) == TOO_MANY
    assert str(client.ask(events.AuthRequested("SCRAM-SHA-256", f"n,,n={LOGIN},r={'x' * 20}".encode()))) == TOO_MANY
