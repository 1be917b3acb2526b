"""A scripted client: sends one mail in one session, and knows afterwards what it may believe.

The rule: only a 250 to the end of the content is an acknowledgement.  A connection that was lost behind the last dot
leaves the client in doubt, and what happens then is nobody's fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import ClientFactory, Protocol, connectionDone

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from mailhub.testing.internet import Internet

#: How long a reply is waited for.
PATIENCE_SECONDS = 600.0
REPLY_OCTETS_MAX = 64 * 1024


@dataclass(frozen=True)
class Mail:
    """What somebody wants to send.  `content` has CRLF line ends (the last one is added); `sender` "" is nobody."""

    content: bytes
    sender: str = "sender@client.example"
    recipients: Sequence[str] = ("alice@example.test",)
    #: Behind MAIL and RCPT, such as " BODY=8BITMIME" and " NOTIFY=NEVER".
    parameters: str = ""
    recipient_parameters: str = ""
    #: MAIL, RCPT and DATA in one go.
    pipelined: bool = False
    #: The client goes away behind so many octets of the content, without a word.
    leaves_after: int | None = None


@dataclass
class Attempt:
    """What came of it.  `replies` are the final lines of all replies, the banner's first."""

    mail: Mail
    ip: str
    to: str
    #: Recipients that were taken, and the reply to each that was asked for.
    accepted: list[str] = field(default_factory=list)
    rcpt_replies: dict[str, str] = field(default_factory=dict)
    replies: list[str] = field(default_factory=list)
    is_over: bool = False
    #: The content was sent with its end, so what became of it is the server's to say.
    was_sent: bool = False
    #: The reply to the content, or the one that ended the attempt; "" where the connection was lost.
    reply: str = ""
    began_at: float = 0.0

    @property
    def is_acknowledged(self) -> bool:
        """Whether the server has taken the mail, with all that this means."""
        return self.was_sent and self.reply.startswith("250")

    @property
    def is_in_doubt(self) -> bool:
        """Whether the mail may have been taken, without a word about it."""
        return self.was_sent and not self.reply

    @property
    def queue_id(self) -> str:
        """As the server said it; "" where it did not."""
        return self.reply.rpartition("Queued as ")[2].strip() if self.is_acknowledged else ""


def begin(internet: Internet, ip: str, to: tuple[str, int], mail: Mail) -> Attempt:
    """Begin to send from this address; time has to pass for the rest."""
    attempt = Attempt(mail, ip, to[0], began_at=internet.rightNow)
    host = internet.host_at(ip) or internet.host(ip)
    host.connectTCP(*to, _Factory(attempt, host.callLater), timeout=60)
    return attempt


class _Factory(ClientFactory):
    noisy = False

    def __init__(self, attempt: Attempt, call_later: Callable[..., Any]) -> None:
        self.attempt = attempt
        self.call_later = call_later

    def buildProtocol(self, addr: Any) -> Protocol:
        return _Session(self.attempt, self.call_later)

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self.attempt.is_over = True


class _Session(Protocol):
    transport: Any

    def __init__(self, attempt: Attempt, call_later: Callable[..., Any]) -> None:
        self._attempt = attempt
        self._mail = attempt.mail
        self._octets = b""
        self._steps = self._dialogue()
        self._late = call_later(PATIENCE_SECONDS, self._give_up)

    def connectionMade(self) -> None:
        next(self._steps)

    def dataReceived(self, data: bytes) -> None:
        self._octets += data
        while not self._attempt.is_over:
            line, end, rest = self._octets.partition(b"\r\n")
            if not end:
                if len(self._octets) > REPLY_OCTETS_MAX:
                    self._end()
                return
            self._octets = rest
            if line[3:4] == b"-":
                continue
            text = line.decode("ascii", "replace")
            self._attempt.replies.append(text)
            try:
                self._steps.send(text)
            except StopIteration:
                self._end()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end()

    def _give_up(self) -> None:
        self._end(abort=True)

    def _end(self, abort: bool = False) -> None:
        if self._late.active():
            self._late.cancel()
        if not self._attempt.is_over:
            self._attempt.is_over = True
            if abort:
                self.transport.abortConnection()
            else:
                self.transport.loseConnection()

    def _dialogue(self) -> Any:
        """Yields for each reply; returns when there is no more to say."""
        attempt, mail = self._attempt, self._mail
        banner = yield
        if not self._went(banner):
            return
        self._say("EHLO client.example")
        if not self._went((yield)):
            return
        commands = [f"MAIL FROM:<{mail.sender}>{mail.parameters}"]
        commands += [f"RCPT TO:<{recipient}>{mail.recipient_parameters}" for recipient in mail.recipients]
        if mail.pipelined:
            self._say("\r\n".join([*commands, "DATA"]))
        else:
            self._say(commands[0])
        said = yield
        mail_went = self._went(said)
        if not mail_went and not mail.pipelined:
            return
        for number, recipient in enumerate(mail.recipients, 1):
            if not mail.pipelined:
                self._say(commands[number])
            said = yield
            attempt.rcpt_replies[recipient] = said
            if said.startswith("25"):
                attempt.accepted.append(recipient)
            elif mail_went:
                attempt.reply = said
        if not attempt.accepted and not mail.pipelined:
            return
        if not mail.pipelined:
            self._say("DATA")
        said = yield
        if not said.startswith("354"):
            attempt.reply = attempt.reply or said
            return
        attempt.reply = ""
        octets = mail.content.replace(b"\r\n.", b"\r\n..")
        if octets.startswith(b"."):
            octets = b"." + octets
        if not octets.endswith(b"\r\n"):
            octets += b"\r\n"  # as mail programs do: only a line of its own is the end
        if mail.leaves_after is not None:
            self.transport.write(octets[: mail.leaves_after])
            self._end(abort=True)
            return
        attempt.was_sent = True
        self.transport.write(octets + b".\r\n")
        attempt.reply = yield
        self._say("QUIT")

    def _went(self, said: str) -> bool:
        if not said.startswith("2"):
            self._attempt.reply = said
            return False
        return True

    def _say(self, text: str) -> None:
        self.transport.write(text.encode() + b"\r\n")
