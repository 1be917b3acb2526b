"""Floor 0: the words of mail as frozen values.  They import nothing but each other."""

from mailhub.model.account import Account, Alias, Mailbox, ScramVerifier
from mailhub.model.address import Address, ReversePath, path
from mailhub.model.envelope import Envelope, Recipient, State
from mailhub.model.outcome import Deferred, Delivered, Failed, Outcome
from mailhub.model.reply import EnhancedStatus, Reply, reply
from mailhub.model.route import Credentials, Host, Lmtp, Local, Nowhere, Pace, Route, Smtp
from mailhub.model.session import Hello, Identity, Peer, Session, Tls
from mailhub.model.transaction import (
    NO_MAIL_PARAMETERS,
    NO_RCPT_PARAMETERS,
    ForwardPath,
    MailParameters,
    RcptParameters,
    Transaction,
)

__all__ = [
    "NO_MAIL_PARAMETERS",
    "NO_RCPT_PARAMETERS",
    "Account",
    "Address",
    "Alias",
    "Credentials",
    "Deferred",
    "Delivered",
    "EnhancedStatus",
    "Envelope",
    "Failed",
    "ForwardPath",
    "Hello",
    "Host",
    "Identity",
    "Lmtp",
    "Local",
    "MailParameters",
    "Mailbox",
    "Nowhere",
    "Outcome",
    "Pace",
    "Peer",
    "RcptParameters",
    "Recipient",
    "Reply",
    "ReversePath",
    "Route",
    "ScramVerifier",
    "Session",
    "Smtp",
    "State",
    "Tls",
    "Transaction",
    "path",
    "reply",
]
