"""Whole sessions of a client: commands in any order, content, logins, garbage; by SMTP and by LMTP.

Beside the session a witness watches what it says and asks, and knows nothing but RFC 5321: who was greeted, which
transaction is open, how many recipients were accepted.  Whatever order the octets come in, and however they are cut, no
question may be asked that the witness did not expect.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from mailhub.model import Reply, reply
from mailhub.wire.smtp import events
from mailhub.wire.smtp.server import Extensions, Limits, ServerSession
from tests.fuzz.pieces import ways
from tests.fuzz.target import target

OFFERED = Extensions(
    "mx.example.test", size_max=200, starttls=True, auth=("PLAIN", "LOGIN"), binarymime=True, requiretls=True
)
SMALL = Limits(
    line_octets_max=100,
    auth_line_octets_max=140,
    content_line_octets_max=40,
    buffer_octets_max=200,
    recipients_max=4,
    errors_max=8,
    refused_recipients_max=3,
    idle_commands_max=10,
)
#: A 220 for STARTTLS is followed by tls_started at once; nobody mounts TLS here.
GREETING = Reply(220, "mx.example.test ESMTP")
HELLO = Reply(250, "mx.example.test")
START_TLS = reply(220, "2.0.0", "Go ahead")
WELCOME = reply(235, "2.7.0", "Welcome")
WRONG = reply(535, "5.7.8", "Wrong")
OK = reply(250, "2.1.0", "OK")
NOBODY = reply(550, "5.1.1", "Nobody")
LATER = reply(450, "4.2.0", "Later")
GO_ON = Reply(354, "Go on")
QUEUED = reply(250, "2.0.0", "Queued")
#: A session may be asked so many questions by so many octets, and some before the first.
EVENTS_PER_OCTET = 2
#: The longest reply to the shortest command, an empty line, of 2 octets.
OUTPUT_PER_OCTET = 300

_OPEN = b"EHLO x\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\n"
_DIALOGUES = (
    _OPEN + b"DATA\r\nSubject: x\r\n\r\n..hi\r\n.\r\nQUIT\r\n",
    b"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<Postmaster>\r\nDATA\r\nx\r\n.\r\nRSET\r\nNOOP\r\n",
    b"EHLO x\r\nMAIL FROM:<a@x> BODY=BINARYMIME\r\nRCPT TO:<b@x>\r\nBDAT 4\r\nabcdBDAT 5 LAST\r\nx\r\n.\nQUIT\r\n",
    b"EHLO x\r\nSTARTTLS\r\nEHLO y\r\nMAIL FROM:<a@x> SIZE=12 RET=HDRS ENVID=q\r\nRCPT TO:<n@x> NOTIFY=NEVER\r\n",
    b"EHLO x\r\nAUTH PLAIN AGEAYg==\r\nMAIL FROM:<a@x> AUTH=<>\r\nRCPT TO:<b@x>\r\nRCPT TO:<c@x>\r\nDATA\r\n.\r\n",
    b"EHLO x\r\nAUTH LOGIN\r\nYWxpY2U=\r\nd3Jvbmc=\r\n*\r\nEHLO y\r\nAUTH LOGIN YQ==\r\n=\r\nVRFY x\r\nHELP\r\n",
    _OPEN + b"RCPT TO:<l@x>\r\nDATA\r\n\n.\n\r\n.\r.\r\n.\r\nMAIL FROM:<>\r\n",
    _OPEN + b"BDAT 0\r\nBDAT 2\r\nhiRSET\r\nMAIL FROM:<a@x>\r\nBDAT 3 LAST\r\nabc",
)
_SEEDS = (
    *(role + dialogue for role in (b"0", b"1") for dialogue in _DIALOGUES),
    b"0GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"0\x16\x03\x01\x02\x00\x01",
)
_TOKENS = (
    b"EHLO x\r\n", b"HELO x\r\n", b"LHLO x\r\n", b"STARTTLS\r\n", b"AUTH PLAIN AGEAYg==\r\n", b"AUTH PLAIN\r\n",
    b"AUTH LOGIN\r\n", b"YWxpY2U=\r\n", b"*\r\n", b"=\r\n", b"MAIL FROM:<a@x>\r\n", b"MAIL FROM:<>\r\n",
    b"MAIL FROM:<a@x> BODY=BINARYMIME\r\n", b" SMTPUTF8", b" SIZE=999", b" BODY=8BITMIME", b" REQUIRETLS",
    b"RCPT TO:<b@x>\r\n",
    b"RCPT TO:<n@x>\r\n", b"RCPT TO:<l@x>\r\n", b"DATA\r\n", b"DATA\n", b".\r\n", b"\r\n.\r\n", b"\n.\r\n",
    b"\r\n.\n", b"\r.\r",
    b"..\r\n", b"BDAT 4\r\n", b"BDAT 3 LAST\r\n", b"BDAT 0 LAST\r\n", b"BDAT 99999999999999999999\r\n", b"abcd",
    b"RSET\r\n",
    b"NOOP\r\n", b"QUIT\r\n", b"VRFY x\r\n", b"EXPN x\r\n", b"\0", b"x" * 45, b"y" * 110, b"\r\n", b"\r", b"\n",
    b"ETRN x\r\n",
    b"EHLO x\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\n",
)  # fmt: skip


class Witness:
    """Plays one session to its end, and knows what may come when."""

    def __init__(self, lmtp: bool) -> None:
        self.session = ServerSession(OFFERED, SMALL, lmtp=lmtp)
        self.lmtp = lmtp
        self.told: list[Hashable] = []  # everything that happened, with pieces of content joined
        self.output = b""
        self.events = 0
        self._greeted = self._in_clear = False
        self._transaction = False
        self._accepted = 0
        self._content: bytes | None = None
        self._logged_in = self._in_login = False
        self._over = False

    def play(self, pieces: Sequence[bytes]) -> None:
        """The banner, then these, then the end of the connection."""
        self._run()
        for piece in pieces:
            self.session.receive(piece)
            self._run()
        self.session.connection_lost()
        self._run()
        assert self._over, "the session does not end with its connection"

    def _run(self) -> None:
        session = self.session
        while (event := session.next_event()) is not None:
            self.events += 1
            self._see(event)
            if isinstance(event, events.Question):
                self._answer(event)
                self.output += session.take_output()
                if session.awaits_tls:
                    session.tls_started()
                    session.extensions = replace(OFFERED, starttls=False)
                    self._greeted = self._logged_in = False
        self.output += session.take_output()

    def _see(self, event: events.Event) -> None:
        assert not self._over, "something happens after the end"
        if isinstance(event, events.ContentReceived):
            assert event.octets, "a piece of content is empty"
            assert self._content is not None, "content that nobody asked for"
            self._content += event.octets
            return
        self.told.append(event)
        if isinstance(event, events.TransactionAborted):
            assert self._transaction, "a transaction is aborted that is not open"
            self._end_transaction()
        elif isinstance(event, events.SessionEnded):
            assert not self._transaction, "the session ends, and a transaction is still open"
            self._over = True
        elif isinstance(event, events.CommandRefused):
            assert event.verb == "?" or event.verb.isalnum(), event

    def _answer(self, question: events.Question) -> None:
        respond = self.session.respond
        match question:
            case events.Connected():
                respond(GREETING)
            case events.HelloReceived(_, name):
                assert name.isprintable()
                assert len(name) <= 255
                self._greeted = True
                respond(HELLO)
            case events.StartTlsRequested():
                assert self._greeted
                assert not self._transaction
                respond(START_TLS)
            case events.AuthRequested(mechanism, initial):
                assert self._greeted
                assert not self._transaction
                assert not self._logged_in
                self._login(mechanism == "LOGIN" and initial is None, initial)
            case events.AuthContinued(response):
                assert self._in_login, "a response to no challenge"
                self._login(response == b"alice", response)
            case events.MailReceived():
                assert self._greeted
                assert not self._transaction, "MAIL inside of a transaction"
                self._transaction = True
                respond(OK)
            case events.RcptReceived(recipient, _):
                assert self._transaction, "RCPT without MAIL"
                verdict = NOBODY if recipient.local == "n" else LATER if recipient.local == "l" else OK
                self._accepted += verdict is OK
                assert self._accepted <= SMALL.recipients_max
                respond(verdict)
            case events.ContentRequested():
                assert self._transaction
                assert self._accepted, "content for nobody"
                self._content = b""
                respond(GO_ON)
            case events.ContentEnded(octets, fault):
                self._take(octets, fault)

    def _login(self, goes_on: bool, response: bytes | None) -> None:
        self._in_login = goes_on
        if goes_on:
            self.session.challenge(b"?")
        else:
            self._logged_in = response != b"wrong"
            self.session.respond(WELCOME if self._logged_in else WRONG)

    def _take(self, octets: int, fault: Reply | None) -> None:
        content = self._content
        assert content is not None, "the end of content that never began"
        assert octets == len(content), "the octets are not counted as they come"
        assert len(content) <= OFFERED.size_max
        self.told.append(content)
        answer = QUEUED if fault is None else fault
        accepted = self._accepted
        self._end_transaction()
        before = self.session.take_output()
        self.session.respond([answer] * accepted if self.lmtp else answer)
        said = self.session.take_output()
        assert said.count(b"\r\n") >= (accepted if self.lmtp else 1), "not a reply per recipient"
        self.output += before + said

    def _end_transaction(self) -> None:
        self._transaction = False
        self._accepted = 0
        self._content = None


def check_output(output: bytes) -> None:
    """Replies and nothing else: lines of printable ASCII, each at most 512 octets, each with a code."""
    lines = output.split(b"\r\n")
    assert lines.pop() == b"", "the output ends within a line"
    for line in lines:
        assert line[:3].isdigit(), line
        assert line[3:4] in b" -", line
        assert len(line) <= 510, line
        assert line.isascii(), line
        assert line.decode().isprintable(), line


@target(
    "smtp-session",
    "a whole SMTP or LMTP session: wire/smtp/server.py and server_commands.py with all below them",
    _SEEDS,
    _TOKENS,
    octets_max=4096,
    seconds_per_octet=200e-6,
    ci_inputs=8_000,
)
def session(octets: bytes) -> Hashable:
    """The first octet says whether it is LMTP; all that follow come from the client."""
    lmtp = octets[:1] == b"1"
    octets = octets[1:].replace(b"EHLO", b"LHLO") if lmtp else octets[1:]
    first: Witness | None = None
    for pieces in ways(octets):
        witness = Witness(lmtp)
        witness.play(pieces)
        if first is None:
            first = witness
            assert witness.events <= EVENTS_PER_OCTET * len(octets) + 8, "too many events"
            assert len(witness.output) <= OUTPUT_PER_OCTET * len(octets) + 1024, "more is said than was asked"
            check_output(witness.output)
        else:
            same = witness.told == first.told and witness.output == first.output
            # What is cut may be noticed too early or too late, but only where TLS or an unfinished line is about.
            assert same or is_about_time(octets), f"cut otherwise, it comes to {witness.told}, not {first.told}"
    assert first is not None
    return lmtp, tuple(each if isinstance(each, events.CommandRefused) else type(each).__name__ for each in first.told)


def is_about_time(octets: bytes) -> bool:
    """STARTTLS: what stands behind it in the same packet is an attack, and in the next one it is TLS."""
    return b"STARTTLS" in octets.upper()
