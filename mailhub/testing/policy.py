"""The questions that a policy is asked, in one line each, and its answer.

hub = build_hub()
opinion = answer(Greylist(hub).judge_recipient(transaction("a@b.example"), recipient("alice@example.test")))
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailhub.interfaces import IContent, IFile, IMessage
from mailhub.model import (
    Address,
    ForwardPath,
    Hello,
    Identity,
    MailParameters,
    Peer,
    RcptParameters,
    ReversePath,
    Session,
    Tls,
    Transaction,
)
from mailhub.policy.begin import begin
from mailhub.wire import header as header_section
from mailhub.wire.smtp.grammar import parse_address

Value = TypeVar("Value")


class StillWaiting(AssertionError):
    """The policy waits for something that the test has not let happen."""


def answer(work: Awaitable[Value]) -> Value:
    """What the policy says.  Raises what it raises, and StillWaiting if it is not done."""
    begun = begin(work)
    if not isinstance(begun, Deferred):
        return begun
    results: list[Value] = []
    errors: list[BaseException] = []
    begun.addCallbacks(results.append, lambda failure: errors.append(failure.value))
    if errors:
        raise errors[0]
    if not results:
        raise StillWaiting
    return results[0]


def session(
    role: str = "mta", ip: str = "192.0.2.1", hello: str | None = "client.example", login: str | None = None
) -> Session:
    """A session from this address; with a login, one under TLS that has logged in."""
    return Session(
        id="s1",
        role=role,
        peer=Peer(ip, 40000, "192.0.2.25", 25),
        hello=None if hello is None else Hello("EHLO", hello),
        tls=None if login is None else Tls("TLSv1.3", "TLS_AES_128_GCM_SHA256"),
        identity=None if login is None else Identity(login, "PLAIN"),
    )


def transaction(
    sender: str | Address | None = "sender@elsewhere.example",
    recipients: Sequence[str] = (),
    size: int | None = None,
    role: str = "mta",
    ip: str = "192.0.2.1",
    login: str | None = None,
) -> Transaction:
    """A transaction; `sender` None is the null reverse-path, `recipients` are those accepted before."""
    reverse_path: ReversePath = parse_address(sender) if isinstance(sender, str) else sender
    return Transaction(
        session=session(role, ip, login=login),
        reverse_path=reverse_path,
        parameters=MailParameters(size=size),
        recipients=tuple(map(recipient, recipients)),
    )


def recipient(address: str | Address, parameters: RcptParameters | None = None) -> ForwardPath:
    """A recipient as the client names it at RCPT."""
    parsed = parse_address(address) if isinstance(address, str) else address
    return ForwardPath(parsed) if parameters is None else ForwardPath(parsed, parameters)


@implementer(IFile)
class _File:
    """Opened for reading, so that writing fails as it would on a disk."""

    def __init__(self, octets: bytes) -> None:
        self._left = octets

    def write(self, octets: bytes) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def fsync(self) -> None:
        pass

    def file_system(self) -> int | None:
        return None

    def sync_file_system(self) -> None:
        pass

    def read(self, octets_max: int) -> bytes:
        octets, self._left = self._left[:octets_max], self._left[octets_max:]
        return octets

    def close(self) -> None:
        pass


@implementer(IContent)
class Content:
    """Octets as the content of a message."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self.size = len(octets)

    def whole(self) -> bytes | None:
        return self._octets

    def open(self) -> IFile:
        return _File(self._octets)


@implementer(IMessage)
class Message:
    """Octets, with CRLF line ends, as a content policy sees them."""

    def __init__(self, octets: bytes, queue_id: str = "q1") -> None:
        end = header_section.header_end(octets)
        self.queue_id = queue_id
        self.header = octets if end < 0 else octets[:end]
        self.content: IContent = Content(octets)

    def fields(self, name: str) -> Sequence[str]:
        return [body.decode("utf-8", "replace") for body in header_section.bodies(self.header, name.lower().encode())]
