"""What the tests of the receiver share: somebody at its desk who asks what a client would ask."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mailhub.model import NO_MAIL_PARAMETERS, NO_RCPT_PARAMETERS, Envelope, MailParameters, RcptParameters, Tls
from mailhub.model.address import Address
from mailhub.plugins.local_domains import LocalDomains
from mailhub.plugins.relay_for_authenticated import RelayForAuthenticated
from mailhub.policy.panel import Panel, Seat
from mailhub.receiver.login import Logins
from mailhub.receiver.receiver import Answers, Receiver, Reception
from mailhub.receiver.throttle import Throttle
from mailhub.testing.accounts import Accounts
from mailhub.testing.hub import History, build_hub
from mailhub.testing.policy import StillWaiting, answer, session
from mailhub.testing.spool import MemorySpool
from mailhub.wire.smtp import events
from mailhub.wire.smtp.grammar import parse_address

NOW = 1_750_000_000.0
TLS = Tls("TLSv1.3", "TLS_AES_128_GCM_SHA256")
MESSAGE = b"Subject: hello\r\n\r\nHow are you?\r\n"

ALIASES = {
    "postmaster@example.test": ["alice@example.test"],
    "team@example.test": ["alice@example.test", "bob@example.test"],
    "away@example.test": ["alice@elsewhere.example"],
}


class Desk:
    """A receiver in memory.  What it is asked is answered at once, or is a Deferred."""

    def __init__(self, policies: Sequence[object] = (), **changes: Any) -> None:
        self.clock = Clock()
        self.clock.rightNow = NOW
        self.history = History()
        self.accounts = changes.pop("accounts", None) or Accounts(
            aliases=ALIASES, passwords={"alice@example.test": "correct horse"}
        )
        self.spool = changes.pop("spool", None) or MemorySpool(self.clock, random.Random(1))
        answer(self.spool.open())
        role = changes.pop("role", "mta")
        hub = build_hub(role=role, clock=self.clock, accounts=self.accounts)
        seats = [each if isinstance(each, Seat) else Seat(type(each).__name__, each) for each in policies]
        seats += [Seat("local_domains", LocalDomains(hub))]
        if role == "msa":
            seats += [Seat("relay_for_authenticated", RelayForAuthenticated(hub))]
        self.throttle = changes.pop("throttle", None) or Throttle(self.clock)
        tries_max = changes.pop("tries_max", 3)
        self.reception = Reception(
            role=role,
            hostname="mail.example.test",
            postmaster_domain="example.test",
            panel=Panel(seats, self.clock, self.history),
            spool=self.spool,
            accounts=self.accounts,
            clock=self.clock,
            steady=self.clock,
            history=self.history,
            logins=Logins(self.accounts, self.throttle, self.history, random.Random(2), tries_max),
            submits=role == "msa",
            **changes,
        )
        self.receiver = Receiver(self.reception, session(role, hello=None))

    def ask(self, event: events.Event) -> Answers:
        return self.receiver.answer(event)

    def greet(self, verb: str = "EHLO") -> Desk:
        """Be connected and greeted."""
        assert str(self.ask(events.Connected())).startswith("220 ")
        assert str(self.ask(events.HelloReceived(verb, "client.example"))).startswith("250 ")
        return self

    def mail(self, sender: str | None = "sender@elsewhere.example", **parameters: Any) -> Answers:
        path = None if sender is None else parse_address(sender)
        values = MailParameters(**parameters) if parameters else NO_MAIL_PARAMETERS
        return self.ask(events.MailReceived(path, values))

    def rcpt(self, recipient: str | Address = "alice@example.test", **parameters: Any) -> Answers:
        address = parse_address(recipient) if isinstance(recipient, str) else recipient
        values = RcptParameters(**parameters) if parameters else NO_RCPT_PARAMETERS
        return self.ask(events.RcptReceived(address, values))

    def begin(self, *recipients: str, sender: str | None = "sender@elsewhere.example", **parameters: Any) -> Desk:
        """A transaction up to the 354."""
        assert str(self.mail(sender, **parameters)) == "250 2.1.0 Sender OK"
        for recipient in recipients or ("alice@example.test",):
            assert str(self.rcpt(recipient)) == "250 2.1.5 Recipient OK"
        assert str(self.ask(events.ContentRequested())).startswith("354 ")
        return self

    def content(self, octets: bytes = MESSAGE, piece: int = 65536) -> Answers:
        for start in range(0, len(octets), piece):
            assert self.ask(events.ContentReceived(octets[start : start + piece])) is None
        return self.ask(events.ContentEnded(len(octets), None))

    def send(self, octets: bytes = MESSAGE, *recipients: str, **parameters: Any) -> Answers:
        return self.begin(*recipients, **parameters).content(octets)

    def queued(self) -> list[Envelope]:
        return list(answer(self.spool.list(100)))

    def message(self) -> bytes:
        """The one message in the queue, as it goes on."""
        (envelope,) = self.queued()
        return envelope.prefix + self.spool.content(envelope.queue_id)

    def refusals(self) -> list[str]:
        return [str(event["reply"]) for event in self.history.events if event["kind"] == "refused"]

    def log_in(self, login: str = "alice@example.test", password: str = "correct horse") -> Desk:
        self.receiver.tls_started(TLS, {})
        self.ask(events.HelloReceived("EHLO", "client.example"))
        said = self.ask(events.AuthRequested("PLAIN", f"\0{login}\0{password}".encode()))
        assert str(said) == "235 2.7.0 Welcome"
        return self


def result(answers: Any) -> Any:
    """The value of a Deferred, which must have fired; it may be asked again."""
    assert isinstance(answers, Deferred)
    if isinstance(getattr(answers, "result", answers), Deferred):
        raise StillWaiting
    return answers.result


@pytest.fixture
def desk() -> Callable[..., Desk]:
    """`desk(policies, role=..., accounts=..., hops_max=..., ...)`."""
    return Desk


@pytest.fixture
def fired() -> Callable[[Any], Any]:
    """`fired(deferred)`: its value; an error if it has none yet."""
    return result
