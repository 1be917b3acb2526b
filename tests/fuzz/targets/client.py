"""Our own client against a host that says whatever it likes, and may hang up after any octet.

What must hold: each transaction ends once, with one outcome for each recipient; a recipient is delivered only after the
whole content went out and a 2yz came; nothing is done after the end; a password never leaves without TLS.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Hashable
from itertools import pairwise

from mailhub.model import Address, Deferred, Delivered, Failed, ForwardPath
from mailhub.store.passwords import make_verifier
from mailhub.wire import sasl
from mailhub.wire.smtp.client import ClientSession
from mailhub.wire.smtp.client_events import (
    Closed,
    ContentWanted,
    DowngradeWanted,
    Idle,
    Mail,
    Options,
    TlsWanted,
    TransactionEnded,
)
from mailhub.wire.smtp.client_login import Credentials, LoginFault, choose
from tests.fuzz.pieces import cut
from tests.fuzz.target import target

_CREDENTIALS = Credentials("alice", "correct horse battery", "fyko+d2lbbFgONRv9qkxdawL")
_SECRETS = (
    b"correct horse battery",
    b64encode(b"correct horse battery"),
    b64encode(b"\0alice\0correct horse battery"),
)
_CONTENT = b"Subject: x\r\n\r\n.dot\r\nend\r\n"
_RECIPIENTS = tuple(
    ForwardPath(Address(local, domain))
    for local, domain in (("a", "x"), ("b", "x"), ("ü", "y"), ("c", "z"), ("d", "x"))
)
_MAILS = (
    Mail(Address("s", "x"), _RECIPIENTS[:1], len(_CONTENT), content=_CONTENT),
    Mail(Address("s", "x"), _RECIPIENTS, len(_CONTENT), content=_CONTENT),
    Mail(None, _RECIPIENTS[:2], len(_CONTENT)),
    Mail(Address("s", "x"), _RECIPIENTS[:2], len(_CONTENT), body="8BITMIME", content=_CONTENT),
    Mail(Address("s", "x"), _RECIPIENTS[:4:3], len(_CONTENT), body="BINARYMIME"),
)
#: Transactions that are begun in one session.
_TRANSACTIONS_MAX = 4
_DOWNGRADES_MAX = 3

_OPEN = b"220 mx\r\n250-mx\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-PIPELINING\r\n250-SMTPUTF8\r\n250 DSN\r\n"
_CHUNKS = b"220 mx\r\n250-mx\r\n250-8BITMIME\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 BINARYMIME\r\n"
_SLOW = b"220 mx\r\n250 mx\r\n"
_LOGIN = b"250-mx\r\n250 AUTH PLAIN LOGIN\r\n235 ok\r\n"
_SECURE = b"220 mx\r\n250-mx\r\n250-AUTH PLAIN LOGIN\r\n250 STARTTLS\r\n220 go\r\n" + _LOGIN
_TAKEN = b"250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n"

_TOKENS = (
    b"220 mx\r\n", b"250 ok\r\n", b"250-mx\r\n", b"250 PIPELINING\r\n", b"250 CHUNKING\r\n", b"250-BINARYMIME\r\n",
    b"250-8BITMIME\r\n",
    b"250-STARTTLS\r\n", b"250 AUTH PLAIN LOGIN SCRAM-SHA-256\r\n", b"235 ok\r\n", b"334 \r\n",
    b"334 VXNlcm5hbWU6\r\n", b"354 go\r\n",
    b"421 bye\r\n", b"450 later\r\n", b"452 4.5.3 too many\r\n", b"550 5.1.1 nobody\r\n", b"552 too many\r\n",
    b"554 no\r\n",
    b"503 5.5.1 order\r\n", b"250-LIMITS RCPTMAX=2 MAILMAX=1 RCPTDOMAINMAX=1\r\n", b"250-SIZE 5\r\n", b"221 bye\r\n",
    b"199 x\r\n",
    b"250", b"\r\n", b"-", b"220 go\r\n", b"334 =\r\n", _OPEN, _CHUNKS, _TAKEN,
)  # fmt: skip


class Driver:
    """Answers what the session wants, with what the dial says."""

    def __init__(self, dial: int) -> None:
        self.lmtp = bool(dial & 1)
        self.has_login = bool(dial & 2)
        self.session = ClientSession(
            Options(
                "client.test",
                lmtp=self.lmtp,
                tls="none" if dial & 4 else "may",
                credentials=_CREDENTIALS if self.has_login else None,
                recipients_in_flight_max=2 if dial & 8 else 100,
            )
        )
        self._dial = dial
        self.sent = b""
        self._in_clear = True
        self._mail: Mail | None = None
        self._mails = self._downgrades = 0
        self._given = 0
        self._sent_before = 0
        self.told: list[str] = []
        self.closed = False

    def drive(self) -> None:
        while True:
            self._write()
            event = self.session.next_event()
            if event is None:
                assert self.session.is_over or self.session.is_idle or self.session.deadline(), "nothing will ever come"
                return
            assert not self.closed, "something is wanted after the end"
            self._do(event)

    def _write(self) -> None:
        output = self.session.take_output()
        if self._in_clear and self.has_login:
            assert not any(secret in output for secret in _SECRETS), "the password leaves without TLS"
        self.sent += output

    def _do(self, event: object) -> None:
        session = self.session
        match event:
            case TlsWanted():
                self._in_clear = False
                if self._dial & 16:
                    session.tls_failed("no\r\nhandshake")
                else:
                    session.tls_started(verified=True)
            case Idle():
                assert self._mail is None
                if self._mails == _TRANSACTIONS_MAX:
                    session.quit()
                else:
                    self._begin(_MAILS[(self._dial + self._mails) % len(_MAILS)])
                    self._mails += 1
            case DowngradeWanted(to):
                mail, self._mail = self._mail, None
                self._downgrades += 1
                assert mail is not None
                assert mail.body != "7BIT"
                assert self._downgrades <= _DOWNGRADES_MAX * _TRANSACTIONS_MAX, "it never stops"
                self._begin(Mail(mail.reverse_path, mail.recipients, mail.size, to, content=mail.content))
            case ContentWanted():
                assert self._mail is not None
                piece = _CONTENT[self._given : self._given + 9]
                self._given += len(piece)
                session.content(piece, ends=self._given == len(_CONTENT))
            case TransactionEnded(outcomes, _):
                self._end(outcomes)
            case Closed(why, _):
                assert self._mail is None, "the session ends before its transaction"
                assert why is None or why.text.isprintable()
                self.closed = True
                self.told.append(f"closed {why and why.code}")

    def _begin(self, mail: Mail) -> None:
        self._mail = mail
        self._given = 0
        self._sent_before = len(self.sent)
        self.session.begin(mail)

    def _end(self, outcomes: object) -> None:
        mail, self._mail = self._mail, None
        assert mail is not None, "a transaction ends that was not begun"
        assert isinstance(outcomes, tuple)
        assert len(outcomes) == len(mail.recipients)
        sent = self.sent[self._sent_before :]
        for recipient, outcome in zip(mail.recipients, outcomes, strict=True):
            if isinstance(outcome, Delivered):
                assert 200 <= outcome.reply.code < 300
                assert f"RCPT TO:<{recipient.address}>".encode() in sent, "delivered, and never named"
                assert b"end\r\n" in sent, "delivered, and the content was not sent"
                assert b"\r\n.\r\n" in sent or b" LAST\r\n" in sent
            elif isinstance(outcome, Failed):
                assert outcome.reply.code >= 500, "failed by something that is not permanent"
            else:
                assert outcome is None or isinstance(outcome, Deferred)
        self.told.append(",".join(type(outcome).__name__[:3] for outcome in outcomes))


@target(
    "smtp-client",
    "our client against a hostile host: wire/smtp/client.py with all below it",
    (
        *(dial + _OPEN + _TAKEN for dial in (b"\0", b"\x08", b"\x20")),
        *(bytes((dial,)) + _CHUNKS + b"250 ok\r\n250 ok\r\n250 taken\r\n" for dial in (0, 3 << 5, 4 << 5, 36)),
        b"\0" + _SLOW + _TAKEN + _TAKEN + b"250 reset\r\n550 no\r\n",
        b"\1" + _OPEN + b"250 ok\r\n250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n250 a\r\n450 b\r\n",
        b"\2" + _SECURE + _TAKEN,
        b"\6" + _SECURE,
        b"\x12" + _SECURE,
        b"\0" + _OPEN + b"250 ok\r\n550 no\r\n554 none\r\n421 bye\r\n",
        b"\x00500 who\r\n",
        b"\x01220 mx\r\n550 what\r\n250 helo\r\n",
    ),
    _TOKENS,
    octets_max=8 * 1024,
    seconds_per_octet=100e-6,
    ci_inputs=15_000,
)
def client(octets: bytes) -> Hashable:
    """The first octet says what we want; the rest comes from the host, line by line and in other pieces."""
    dial, said = (octets[0], octets[1:]) if octets else (0, b"")
    ends = [0, *(at + 1 for at, octet in enumerate(said) if octet == 10), len(said)]
    by_line = [said[begin:end] for begin, end in pairwise(ends) if begin < end]
    came_to: list[Hashable] = []
    for pieces in (by_line, [piece for line in by_line for piece in cut(line)], cut(said)):
        driver = Driver(dial)
        driver.drive()
        for piece in pieces:
            driver.session.receive(piece)
            driver.drive()
        if dial & 64:
            driver.session.timed_out()
            driver.drive()
        driver.session.connection_lost()
        driver.drive()
        assert driver.closed
        check_sent(driver)
        came_to.append(tuple(driver.told[:6]))
    assert came_to[0] == came_to[1], "cut within lines, it comes to something else"
    return came_to[0], came_to[2]


def check_sent(driver: Driver) -> None:
    """What is no content is one command a line."""
    for line in driver.sent.split(b"\r\n"):
        assert b"\r" not in line
        assert b"\n" not in line
        assert b"\0" not in line
    # QUIT may be said once, and then nothing.
    assert driver.sent.count(b"QUIT\r\n") <= 1
    if b"QUIT\r\n" in driver.sent:
        assert driver.sent.endswith(b"QUIT\r\n"), "something is said after QUIT"


def _scram_login() -> bytes:
    """What a good host says, challenge by challenge."""
    exchange = sasl.begin("SCRAM-SHA-256", (), "3rfcNHYJY1ZVvWVs7j3rfcNHYJY1ZV")
    verifier = make_verifier(_CREDENTIALS.password, b"0123456789abcdef", 4096)
    mechanism = choose(_CREDENTIALS, ("SCRAM-SHA-256",))
    assert exchange is not None
    assert verifier is not None
    assert mechanism is not None
    exchange.start(mechanism.initial)
    first = exchange.verify_with("alice", verifier)
    assert isinstance(first, sasl.Challenge)
    last = exchange.step(mechanism.respond(first.octets))
    assert isinstance(last, sasl.Challenge)
    return first.octets + b"\n" + last.octets


@target(
    "client-login",
    "challenges of a smarthost: wire/smtp/client_login.py",
    (
        b"0" + _scram_login(),
        b"0r=fyko+d2lbbFgONRv9qkxdawLx,s=QSXCR+Q6sek8bf92,i=4096",
        b"0r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1\nv=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        b"0e=other-error",
        b"1Username:\nPassword:\nonce more",
        b"2\n",
    ),
    (b"r=", b",s=", b",i=", b"fyko+d2lbbFgONRv9qkxdawL", b"QSXC", b"=", b"1", b"4096", b"\n", b"v=", b"AAAA", b",",
    b"m=x", b"e=", b"\xff"),
    octets_max=2048,
    seconds_per_octet=100e-6,
    ci_inputs=8_000,
)  # fmt: skip
def client_login(octets: bytes) -> Hashable:
    """The first octet chooses a mechanism; each line of the rest is a decoded challenge."""
    offered = (("SCRAM-SHA-256",), ("LOGIN",), ("PLAIN",))[(octets[0] if octets else 0) % 3]
    mechanism = choose(_CREDENTIALS, offered)
    assert mechanism is not None
    came_to = []
    try:
        for challenge in octets[1:].split(b"\n")[:4]:
            response = mechanism.respond(challenge)
            assert len(response) <= 4 * len(octets) + 400
            came_to.append(len(response))
        mechanism.accepted()
    except LoginFault as fault:
        return offered, tuple(came_to), str(fault)[:40]
    return offered, tuple(came_to)
