"""`sendmail -bs`: a program of the host speaks SMTP with us on its own pipes.

It is the session of the network, on standard input and output; the answers are simple, since whoever may write into the
maildrop may send.  A 250 to the content means that the message is on disk in the maildrop.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

from mailhub.app.cli import sendmail
from mailhub.model import Address, Reply, ReversePath, reply
from mailhub.wire.smtp import events
from mailhub.wire.smtp.extensions import Extensions
from mailhub.wire.smtp.server import Limits, ServerSession

if TYPE_CHECKING:
    from mailhub.app.config import Config

_PIECE_OCTETS = 64 * 1024

_WELCOME = Reply(250, "At your service")
_SENDER_OK = reply(250, "2.1.0", "Sender OK")
_RECIPIENT_OK = reply(250, "2.1.5", "Recipient OK")
_SEND_CONTENT = Reply(354, "Send the message, end it with <CRLF>.<CRLF>")
_TAKEN = reply(250, "2.0.0", "Taken, and left for the hub")
_NOBODY = reply(550, "5.1.1", "No such user here")
_NOT_ALLOWED = reply(550, "5.7.1", "You may not send from this host")
_LATER = reply(451, "4.3.0", "Local trouble, please try again later")
_NOT_OFFERED = reply(502, "5.5.1", "Not offered here")


def serve(config: Config, stdin: BinaryIO, stdout: BinaryIO) -> int:
    """One session, until QUIT or the end of the input; the exit status."""
    dialogue = _Dialogue(config)
    try:
        while dialogue.go_on(stdout):
            octets = os.read(stdin.fileno(), _PIECE_OCTETS)
            if not octets:
                dialogue.session.connection_lost()
                dialogue.go_on(stdout)
                break
            dialogue.session.receive(octets)
    except BrokenPipeError:
        return os.EX_IOERR
    finally:
        dialogue.abandon()
    return os.EX_OK


class _Dialogue:
    def __init__(self, config: Config) -> None:
        limits = config.limits
        self.session = ServerSession(
            Extensions(config.hostname, size_max=limits.message_octets, dsn=False),
            Limits(content_line_octets_max=limits.line_octets, recipients_max=limits.recipients),
        )
        self._config = config
        self._reverse_path: ReversePath = None
        self._recipients: list[Address] = []
        self._leaving: sendmail.Leaving | None = None
        self._fault: Reply | None = None

    def go_on(self, stdout: BinaryIO) -> bool:
        """Answer all that has come, and write the answers; whether the session goes on."""
        is_over = False
        while (event := self.session.next_event()) is not None:
            is_over = is_over or isinstance(event, events.SessionEnded)
            answer = self._answer(event)
            if answer is not None:
                self.session.respond(answer)
        stdout.write(self.session.take_output())
        stdout.flush()
        return not is_over

    def abandon(self) -> None:
        """Leave nothing of what was under way."""
        leaving, self._leaving = self._leaving, None
        if leaving is not None:
            leaving.discard()

    def _answer(self, event: events.Event) -> Reply | None:
        match event:
            case events.Connected():
                return Reply(220, f"{self._config.hostname} ESMTP mailhub")
            case events.HelloReceived():
                self.abandon()
                return _WELCOME
            case events.MailReceived(reverse_path=reverse_path):
                self._reverse_path, self._recipients = reverse_path, []
                return _SENDER_OK
            case events.RcptReceived(recipient=recipient):
                return self._recipient(recipient)
            case events.ContentRequested():
                return self._begin()
            case events.ContentReceived(octets=octets):
                self._write(octets)
            case events.ContentEnded(fault=fault):
                return self._end(fault)
            case events.TransactionAborted() | events.SessionEnded():
                self.abandon()
            case events.AuthRequested() | events.AuthContinued() | events.StartTlsRequested():
                return _NOT_OFFERED
        return None

    def _recipient(self, recipient: Address) -> Reply:
        if not recipient.domain:  # RFC 5321 section 4.5.1: postmaster needs no domain
            recipient = Address(recipient.local, sendmail.origin_of(self._config))
        try:
            sendmail.verify(self._config.data, [recipient])
        except sendmail.Fault:
            return _NOBODY
        self._recipients.append(recipient)
        return _RECIPIENT_OK

    def _begin(self) -> Reply:
        self._fault = None
        recipients: Sequence[Address] = tuple(dict.fromkeys(self._recipients))
        try:
            self._leaving = sendmail.Leaving(self._config, self._reverse_path, tuple(recipients))
        except sendmail.Fault as fault:
            return _meaning(fault)
        return _SEND_CONTENT

    def _write(self, octets: bytes) -> None:
        if self._leaving is not None and self._fault is None:
            try:
                self._leaving.write(octets)
            except sendmail.Fault as fault:
                self._fault = _meaning(fault)

    def _end(self, fault: Reply | None) -> Reply:
        leaving, self._leaving = self._leaving, None
        assert leaving is not None
        fault = fault or self._fault
        try:
            if fault is not None:
                return fault
            leaving.commit()
        except sendmail.Fault as trouble:
            return _meaning(trouble)
        finally:
            leaving.discard()
        sendmail.collect(self._config.data)
        return _TAKEN


def _meaning(fault: sendmail.Fault) -> Reply:
    return _NOT_ALLOWED if fault.status == os.EX_NOPERM else _LATER
