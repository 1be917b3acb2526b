"""A client in memory: one mail handed in, command by command, to a real session and a real receiver.

The rule: nothing of the protocol is done twice.  What is said here goes through the parser of the product as octets,
what it asks is answered by the product's receiver, and what comes back is read as octets too.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from mailhub.receiver import replies
from mailhub.receiver.receiver import Answer, Challenge, Receiver
from mailhub.wire.smtp import events
from mailhub.wire.smtp.server import ServerSession

#: Stands for the password where nobody asks for it.
ANY_PASSWORD = "any"  # noqa: S105

_log = Logger()


@dataclass(frozen=True)
class Mail:
    """What is handed in.  Addresses stand as they are written between the angle brackets, whatever they are."""

    sender: str
    recipients: Sequence[str]
    content: bytes
    hello: str
    login: str = ""

    @property
    def parameters(self) -> str:
        """Those of MAIL, as a good client gives them."""
        given = [f" SIZE={len(self.content)}"]
        if not self.content.isascii():
            given.append(" BODY=8BITMIME")
        if not all(address.isascii() for address in (self.sender, *self.recipients)):
            given.append(" SMTPUTF8")
        return "".join(given)


@dataclass(frozen=True)
class Answered:
    """What the server said to one command; of several replies at once the first."""

    text: str

    @property
    def is_positive(self) -> bool:
        return self.text[:1] in ("2", "3")


@dataclass(frozen=True)
class Heard:
    """How it went: what decided about all of the mail (None if nothing did), and the answer to each recipient."""

    all: Answered | None
    recipients: Sequence[tuple[str, Answered]]


class Dialogue:
    """One session.  `mail` is handed in; the verb is LHLO for a `wire` that speaks LMTP."""

    def __init__(self, wire: ServerSession, receiver: Receiver) -> None:
        self._wire = wire
        self._receiver = receiver
        self._is_over = False

    async def hand_in(self, mail: Mail) -> Heard:
        """All of it, up to the first answer that ends it."""
        for command in self._opening(mail):
            answer = await self._say(command)
            if not answer.is_positive:
                return Heard(answer, ())
        recipients = [(each, await self._say(f"RCPT TO:<{each}>\r\n".encode())) for each in mail.recipients]
        last = None
        if any(answer.is_positive for _, answer in recipients):
            last = await self._say(b"DATA\r\n")
            if last.is_positive:
                last = await self._say(_stuffed(mail.content))
        await self._say(b"QUIT\r\n")
        return Heard(None if last is None or last.is_positive else last, recipients)

    def _opening(self, mail: Mail) -> Iterator[bytes]:
        yield b""  # for the banner
        verb = "LHLO" if self._receiver.reception.role == "lmtp" else "EHLO"
        yield f"{verb} {mail.hello}\r\n".encode()
        if mail.login:
            response = base64.b64encode(f"\0{mail.login}\0{ANY_PASSWORD}".encode())
            yield b"AUTH PLAIN " + response + b"\r\n"
        yield f"MAIL FROM:<{mail.sender}>{mail.parameters}\r\n".encode()

    async def _say(self, octets: bytes) -> Answered:
        """Send this, have everything answered that it leads to, and give back what the server says."""
        if octets:
            self._wire.receive(octets)
        while not self._is_over:
            event = self._wire.next_event()
            if event is None:
                break
            answer = await self._answer(event)
            if isinstance(answer, Challenge):
                self._wire.challenge(answer.octets)
            elif answer is not None:
                self._wire.respond(answer)
            elif isinstance(event, events.SessionEnded):
                self._is_over = True
        return Answered(_first_reply(self._wire.take_output()))

    async def _answer(self, event: events.Event) -> Answer:
        """A bug costs what it costs a client."""
        try:
            answer = self._receiver.answer(event)
            return await answer if isinstance(answer, Deferred) else answer
        except Exception:
            _log.failure("no answer to {event}", event=type(event).__name__)
            return replies.LOCAL_TROUBLE if isinstance(event, events.Question) else None


def _stuffed(content: bytes) -> bytes:
    """As DATA wants it (RFC 5321 section 4.5.2); stray line ends go as they are, since we want to see them refused."""
    if not content.endswith(b"\r\n"):
        content += b"\r\n"
    dot = b"." if content.startswith(b".") else b""
    return dot + content.replace(b"\r\n.", b"\r\n..") + b".\r\n"


def _first_reply(output: bytes) -> str:
    """The last line of it, which has the code and the status."""
    for line in output.decode("utf-8", "replace").split("\r\n"):
        if line[3:4] != "-":
            return line
    return ""
