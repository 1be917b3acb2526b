"""What the tests of the SMTP server core share: somebody who answers the session's questions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from mailhub.model import EnhancedStatus, Reply, path
from mailhub.wire.smtp import events
from mailhub.wire.smtp.server import Extensions, Limits, ServerSession

HOST = "mx.example.test"

ANSWERS = {
    "CONNECT": f"220 {HOST} ESMTP mailhub",
    "EHLO": f"250 {HOST}",
    "HELO": f"250 {HOST}",
    "LHLO": f"250 {HOST}",
    "STARTTLS": "220 2.0.0 Ready to start TLS",
    "AUTH": "235 2.7.0 Welcome",
    "RESPONSE": "235 2.7.0 Welcome",
    "MAIL": "250 2.1.0 Sender OK",
    "RCPT": "250 2.1.5 Recipient OK",
    "DATA": "354 Send the message",
    "CONTENT": "250 2.0.0 Queued",
}


def reply_of(text: str) -> Reply:
    """`550 5.1.1 No such user` as a value."""
    code, _, rest = text.partition(" ")
    status, _, words = rest.partition(" ")
    try:
        return Reply(int(code), words, EnhancedStatus.parse(status))
    except ValueError:
        return Reply(int(code), rest)


class Conversation:
    """A session, and an adapter that answers each question at once as `answers` says.

    A key of `answers` is a word as in ANSWERS, alone or with its argument ("RCPT bob@example.test").  An answer of 334
    is a challenge; several replies to LMTP content are separated by " | ".
    """

    def __init__(
        self,
        answers: dict[str, str] | None = None,
        extensions: Extensions | None = None,
        limits: Limits | None = None,
        lmtp: bool = False,
    ) -> None:
        self.session = ServerSession(extensions or Extensions(HOST), limits or Limits(), lmtp=lmtp)
        self.answers = {**ANSWERS, **(answers or {})}
        self.events: list[events.Event] = []
        self.replies = b""
        self.messages: list[bytes] = []
        self._content: list[bytes] = []

    def begin(self) -> Conversation:
        """Have the banner said."""
        self.run()
        return self

    def send(self, octets: bytes) -> bytes:
        """Let these arrive in one piece, and give back what was said to them."""
        before = len(self.replies)
        self.session.receive(octets)
        self.run()
        return self.replies[before:]

    def say(self, *lines: str) -> list[str]:
        """Send each line by itself, and give back the lines of what was said to the last."""
        said = b""
        for line in lines:
            said = self.send(line.encode() + b"\r\n")
        return said.decode("ascii").splitlines()

    def run(self) -> None:
        while (event := self.session.next_event()) is not None:
            self._note(event)
            if isinstance(event, events.Question):
                self._answer(event)
            self.replies += self.session.take_output()
        self.replies += self.session.take_output()

    @property
    def is_over(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], events.SessionEnded)

    def _note(self, event: events.Event) -> None:
        if isinstance(event, events.ContentReceived):
            self._content.append(event.octets)
            if self.events and isinstance(self.events[-1], events.ContentReceived):
                event = events.ContentReceived(self.events.pop().octets + event.octets)
        self.events.append(event)

    def _answer(self, question: events.Question) -> None:
        if isinstance(question, events.ContentEnded):
            content, self._content = b"".join(self._content), []
            if question.fault is not None:
                self.session.respond(question.fault)
                return
            self.messages.append(content)
        key = _key(question)
        text = self.answers.get(key) or self.answers[key.split(" ")[0]]
        if text.startswith("334 "):
            self.session.challenge(text[4:].encode())
        elif " | " in text:
            self.session.respond([reply_of(part) for part in text.split(" | ")])
        else:
            self.session.respond(reply_of(text))
        if self.session.awaits_tls:
            self.replies += self.session.take_output()
            self.session.tls_started()
            self.session.extensions = replace(self.session.extensions, starttls=False, auth_needs_tls=False)


def _key(question: events.Question) -> str:
    match question:
        case events.Connected():
            return "CONNECT"
        case events.HelloReceived(verb, name):
            return f"{verb} {name}"
        case events.StartTlsRequested():
            return "STARTTLS"
        case events.AuthRequested(mechanism, _):
            return f"AUTH {mechanism}"
        case events.AuthContinued(response):
            return f"RESPONSE {response.decode('latin-1')}"
        case events.MailReceived(reverse_path, _):
            return f"MAIL {path(reverse_path)}"
        case events.RcptReceived(recipient, _):
            return f"RCPT {recipient}"
        case events.ContentRequested():
            return "DATA"
        case events.ContentEnded():
            return "CONTENT"


@pytest.fixture
def conversation() -> Callable[..., Conversation]:
    """`conversation(answers, extensions=..., limits=..., lmtp=...)`: a session that has not been greeted yet."""
    return Conversation
