"""The LMTP role: mail that other servers of ours hand in (RFC 2033).

What it says yes to is in the queue, durably, as with every other role: the reply for each recipient means that we have
taken responsibility, and a mailbox that cannot take the message then is our queue's business.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailhub.net.smtp import Manners
from mailhub.receiver.receiver import Reception
from mailhub.roles.receiving import Door, Edge, Offer, ReceivingRole


def manners(offer: Offer) -> Manners:
    """In the clear: LMTP stays on the host, or within a network that the configuration calls trusted."""
    return offer.manners(offer.extensions, offer.extensions)


def lmtp(edge: Edge, listen: Sequence[str], reception: Reception, offer: Offer) -> ReceivingRole:
    """The role as a service."""
    return ReceivingRole(edge, (Door("lmtp", listen),), reception, manners(offer))
