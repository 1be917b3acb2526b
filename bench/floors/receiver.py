"""`python -m bench.floors.receiver`: what the receiver and its standing policies cost for one message, in microseconds.

The events that a client causes are made beforehand, and a spool that keeps nothing tells a commit as the real one does:
later.  So what is measured is the answering alone: panel, policies, accounts, resolution, envelope.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from zope.interface import implementer

from bench.floors.stopwatch import measure, profile
from mailhub.app.discovery import discover
from mailhub.app.seating import seats
from mailhub.interfaces import IContent, IDraft, IHistory, ISpool
from mailhub.model import NO_MAIL_PARAMETERS, NO_RCPT_PARAMETERS, Address, Envelope, Peer, Reply, Session, Tls
from mailhub.policy.panel import Panel
from mailhub.queue.srs import Srs, SrsAccounts
from mailhub.receiver.login import Logins
from mailhub.receiver.receiver import Receiver, Reception
from mailhub.receiver.throttle import Throttle
from mailhub.store.accounts import FileAccounts
from mailhub.store.keyvalue import KEYS_MAX, NAMESPACE_OCTETS_MAX, Namespace
from mailhub.store.spool_content import MemoryContent
from mailhub.testing.hub import Executor, build_hub
from mailhub.wire.smtp import events

NOW = 1_750_000_000.0
RECIPIENTS = 10
HEADER = (
    b"Received: from relay.elsewhere.example by mx.elsewhere.example; Sat, 14 Jun 2025 10:00:00 +0000\r\n"
    b"From: Alice <alice@example.test>\r\nTo: user0@example.test\r\nDate: Sat, 14 Jun 2025 10:00:00 +0000\r\n"
    b"Message-ID: <1@elsewhere.example>\r\nSubject: how it goes\r\n\r\n"
)
CONTENT = HEADER + (b"All is well here, thank you. " * 2 + b"\r\n") * 64
TLS = Tls("TLSv1.3", "TLS_AES_128_GCM_SHA256")
LOGIN = b"\0alice@example.test\0correct horse"


@implementer(IDraft)
class Draft:
    def __init__(self, spool: Spool) -> None:
        self.queue_id = "01jxqk2v8r0abcdef"
        self.size = 0
        self._spool = spool
        self._octets: list[bytes] = []

    def write(self, octets: bytes) -> None:
        self._octets.append(octets)
        self.size += len(octets)

    def content(self) -> IContent:
        return MemoryContent(b"".join(self._octets))

    def commit(self, envelope: Envelope) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self._spool.waiting.append(done)
        return done

    def discard(self) -> None:
        self._octets = []


class Spool:
    """Keeps nothing, and says so when it is asked to: as a group commit does, after the receiver has returned."""

    def __init__(self) -> None:
        self.waiting: list[Deferred[None]] = []

    def room(self, octets: int) -> bool:
        return True

    def draft(self) -> IDraft:
        return Draft(self)

    def tell(self) -> None:
        waiting, self.waiting = self.waiting, []
        for done in waiting:
            done.callback(None)


@implementer(IHistory)
class NoHistory:
    def record(self, kind: str, session_id: str = "", queue_id: str = "", **facts: object) -> None:
        """Nothing."""


class Passwords(FileAccounts):
    """The files of a site, but a password is proven without the hash, which would cost more than all the rest."""

    async def authenticate(self, login: str, password: str) -> str | None:
        return login


class Stage:
    """A reception of the given role as the product builds it, and sessions in it."""

    def __init__(self, role: str, directory: Path) -> None:
        self.role = role
        self.clock = cast(IReactorTime, Clock())
        cast(Clock, self.clock).advance(NOW)
        names = ["alice@example.test:-", *(f"user{n}@example.test:-" for n in range(100))]
        (directory / "accounts").write_text("\n".join(names) + "\n")
        (directory / "aliases").write_text("postmaster: alice\n")
        chance = random.Random(1)
        files = Passwords(
            ["example.test"], directory / "accounts", directory / "aliases", self.clock, Executor(), chance
        )
        accounts = SrsAccounts(files, Srs([b"key"], self.clock, files.hosts))
        self.spool = Spool()
        history = NoHistory()
        options = {
            "submission_caps": dict.fromkeys(
                ("messages_per_hour", "messages_per_day", "recipients_per_hour", "recipients_per_day"), 10**9
            )
        }

        def hub_for(name: str) -> Any:
            memory = Namespace(name, self.clock, {}, KEYS_MAX, NAMESPACE_OCTETS_MAX)
            return build_hub(role, clock=self.clock, accounts=accounts, memory=memory)

        taken, problems = seats(role, (), options, discover(), hub_for, Path("bench"))
        assert not problems, problems
        throttle = Throttle(self.clock)
        self.reception = Reception(
            role=role,
            hostname="mx.example.test",
            postmaster_domain="example.test",
            panel=Panel(taken, self.clock, history),
            spool=cast(ISpool, self.spool),
            accounts=accounts,
            clock=self.clock,
            steady=self.clock,
            history=history,
            logins=Logins(accounts, throttle, history, chance) if role == "msa" else None,
            submits=role == "msa",
        )

    def greeting(self) -> list[events.Event]:
        hello = events.HelloReceived("EHLO", "client.example")
        if self.role == "mta":
            return [events.Connected(), hello]
        return [events.Connected(), hello, events.StartTlsRequested(), hello, events.AuthRequested("PLAIN", LOGIN)]

    def transaction(self, recipients: int) -> list[events.Event]:
        sender = Address("alice", "example.test" if self.role == "msa" else "elsewhere.example")
        named = [
            events.RcptReceived(Address(f"user{n}", "example.test"), NO_RCPT_PARAMETERS) for n in range(recipients)
        ]
        return [
            events.MailReceived(sender, NO_MAIL_PARAMETERS),
            *named,
            events.ContentRequested(),
            events.ContentReceived(CONTENT),
            events.ContentEnded(len(CONTENT), None),
        ]

    def session(self, happening: Sequence[events.Event]) -> Receiver:
        """One connection from its beginning to its end; AssertionError if anything is refused."""
        receiver = Receiver(
            self.reception, Session("mta-684d5a80-1", self.role, Peer("192.0.2.1", 40000, "192.0.2.25", 25))
        )
        for event in happening:
            answer = receiver.answer(event)
            if type(answer) is Deferred:
                kept: list[Any] = []
                answer.addBoth(kept.append)
                self.spool.tell()
                (answer,) = kept
            if type(event) is events.StartTlsRequested:
                receiver.tls_started(TLS, {})
            assert answer is None or (isinstance(answer, Reply) and answer.is_positive), answer
        return receiver


def cases(directory: Path) -> dict[str, tuple[Stage, Sequence[events.Event], int]]:
    """By name: the stage, what happens in one session, and the messages in it."""
    mta, msa = Stage("mta", directory), Stage("msa", directory)
    end = events.SessionEnded()
    return {
        "mta, one message a connection": (mta, [*mta.greeting(), *mta.transaction(1), end], 1),
        "mta, reused connection": (mta, [*mta.greeting(), *mta.transaction(1) * 10, end], 10),
        f"mta, {RECIPIENTS} recipients": (mta, [*mta.greeting(), *mta.transaction(RECIPIENTS), end], 1),
        "msa with login": (msa, [*msa.greeting(), *msa.transaction(1), end], 1),
        "msa, reused connection": (msa, [*msa.greeting(), *msa.transaction(1) * 10, end], 10),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.floors.receiver", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--profile", action="store_true", help="show where the time goes instead")
    parser.add_argument("--only", default="", help="only cases with this in their names")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each case (2)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        wanted = {name: case for name, case in cases(Path(directory)).items() if arguments.only in name}
        works = {name: partial(stage.session, happening) for name, (stage, happening, _) in wanted.items()}
        if arguments.profile:
            for name, work in works.items():
                print(name)
                profile(work, max(1, 2000 // wanted[name][2]))
            return
        for name, (least, median) in measure(works, arguments.seconds).items():
            messages = wanted[name][2]
            print(f"{name:34} {least / messages:8.1f} {median / messages:8.1f}   us a message (minimum, median)")


if __name__ == "__main__":
    main()
