"""The LMTP role: mail that other servers of ours hand in (RFC 2033).

What it says yes to is in the queue, durably, as with every other role: the reply for each recipient means that we have
taken responsibility, and a mailbox that cannot take the message then is our queue's business.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailhub.net.smtp import Manners
from mailhub.receiver.receiver import Reception
from mailhub.roles import offer as offers
from mailhub.roles.offer import Offer
from mailhub.roles.receiving import Door, Edge, ReceivingRole
from mailhub.roles.receiving import manners as manners_of


def manners(offer: Offer) -> Manners:
    """How it talks."""
    return manners_of(offer, offers.lmtp(offer))


def lmtp(edge: Edge, listen: Sequence[str], reception: Reception, offer: Offer) -> ReceivingRole:
    """The role as a service."""
    return ReceivingRole(edge, (Door("lmtp", listen),), reception, manners(offer))
