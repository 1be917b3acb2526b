"""One mail transaction (RFC 5321 section 3.3): the reverse-path, the recipients so far, and what was asked for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mailhub.model.address import Address, ReversePath
from mailhub.model.session import Hello, Identity, Peer, Session, Tls


@dataclass(frozen=True, slots=True)
class MailParameters:
    """The parameters of MAIL, parsed.  None or False: not given."""

    size: int | None = None  # octets, RFC 1870
    body: str | None = None  # "7BIT", "8BITMIME" (RFC 6152) or "BINARYMIME" (RFC 3030)
    smtputf8: bool = False  # RFC 6531
    ret: str | None = None  # "FULL" or "HDRS", RFC 3461 section 4.3
    envid: str | None = None  # decoded xtext, RFC 3461 section 4.4
    requiretls: bool = False  # RFC 8689
    auth: str | None = None  # decoded xtext of AUTH=, RFC 4954 section 5; taken note of, never believed


@dataclass(frozen=True, slots=True)
class RcptParameters:
    """The parameters of RCPT, parsed."""

    #: Of "NEVER", "SUCCESS", "FAILURE", "DELAY" (RFC 3461 section 4.1); empty when not given.
    notify: frozenset[str] = frozenset()
    orcpt: tuple[str, str] | None = None  # address type and decoded address, RFC 3461 section 4.2


NO_MAIL_PARAMETERS = MailParameters()
NO_RCPT_PARAMETERS = RcptParameters()


class ForwardPath(NamedTuple):
    """A recipient as the client named it, with its parameters."""

    address: Address
    parameters: RcptParameters = NO_RCPT_PARAMETERS


class Transaction(NamedTuple):
    """What a policy sees of the transaction under way.  `recipients` are those accepted so far."""

    session: Session
    reverse_path: ReversePath
    parameters: MailParameters = NO_MAIL_PARAMETERS
    recipients: tuple[ForwardPath, ...] = ()

    @property
    def peer(self) -> Peer:
        return self.session.peer

    @property
    def hello(self) -> Hello | None:
        return self.session.hello

    @property
    def tls(self) -> Tls | None:
        return self.session.tls

    @property
    def identity(self) -> Identity | None:
        return self.session.identity
