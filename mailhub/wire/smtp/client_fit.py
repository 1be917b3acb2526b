"""What of a message a host can take, found out from what it offers and before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mailhub.model import Reply, reply
from mailhub.wire.smtp.capabilities import Capabilities
from mailhub.wire.smtp.client_events import Body, Mail

TOO_BIG = reply(552, "5.3.4", "The message is larger than the remote host takes")
NO_SMTPUTF8 = reply(553, "5.6.7", "The message needs SMTPUTF8, which the remote host does not offer")
NO_REQUIRETLS = reply(550, "5.7.30", "The message needs REQUIRETLS, which the remote host does not offer under TLS")
#: What one host lacks another may have.
LACKING = (TOO_BIG, NO_SMTPUTF8, NO_REQUIRETLS)


class Fit(NamedTuple):
    """`refusal` is the reason why nobody can have the message from this host; None if somebody can.

    `trying` are the indexes of the recipients to be named now, `foreign` of those who would need SMTPUTF8 and cannot
    have it; the others are for a further transaction.  `smtputf8` says whether MAIL has that parameter, `downgrade`
    what the content must be made into first, or None.
    """

    refusal: Reply | None = None
    trying: Sequence[int] = ()
    foreign: Sequence[int] = ()
    smtputf8: bool = False
    downgrade: Body | None = None


def fit(mail: Mail, offered: Capabilities, *, verified_tls: bool, lmtp: bool) -> Fit:
    """See what the host can take of it."""
    if offered.size_max and mail.size > offered.size_max:
        return Fit(TOO_BIG)  # RFC 1870 section 6.1
    # RFC 8689 section 4.2.1: nobody else may read it on the way, and the next host has to see to that in its turn.
    if mail.parameters.requiretls and not (offered.requiretls and verified_tls):
        return Fit(NO_REQUIRETLS)
    recipients = mail.recipients
    trying: Sequence[int] = range(len(recipients))
    sender = mail.reverse_path
    needs_utf8 = mail.utf8_header or not (sender is None or sender.local.isascii())
    foreign = [index for index, recipient in enumerate(recipients) if not recipient.address.local.isascii()]
    smtputf8 = needs_utf8 or mail.parameters.smtputf8 or bool(foreign)
    if smtputf8 and not offered.smtputf8:
        if needs_utf8 or len(foreign) == len(recipients):
            return Fit(NO_SMTPUTF8)
        # RFC 6531 section 3.2: the others can have it all the same.
        smtputf8 = False
        trying = [index for index in trying if recipients[index].address.local.isascii()]
    else:
        foreign = []
    if offered.domains_max:
        trying = _of_few_domains(mail, trying, offered.domains_max)
    if offered.recipients_max:
        trying = trying[: offered.recipients_max]
    return Fit(None, trying, foreign, smtputf8, _downgrade(mail.body, offered, lmtp))


def _downgrade(body: Body, offered: Capabilities, lmtp: bool) -> Body | None:
    if body == "7BIT":
        return None
    # Binary content needs BDAT, which our side of LMTP does not use (client.py).
    if body == "BINARYMIME" and not (offered.binarymime and offered.chunking and not lmtp):
        return "8BITMIME" if offered.eightbitmime else "7BIT"
    if body == "8BITMIME" and not offered.eightbitmime:
        return "7BIT"
    return None


def _of_few_domains(mail: Mail, trying: Sequence[int], domains_max: int) -> list[int]:
    """Those of the first `domains_max` domains."""
    domains: set[str] = set()
    chosen = []
    for index in trying:
        domain = mail.recipients[index].address.domain
        if domain in domains or len(domains) < domains_max:
            domains.add(domain)
            chosen.append(index)
    return chosen
