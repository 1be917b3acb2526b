"""The MTA role: mail from the world, for our domains only (port 25, RFC 5321)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mailhub.net.smtp import Manners
from mailhub.receiver.receiver import Reception
from mailhub.roles.receiving import Door, Edge, Offer, ReceivingRole


def manners(offer: Offer) -> Manners:
    """No login is offered here: taking mail from users is the MSA's business (RFC 6409 section 3.1).

    REQUIRETLS is offered under TLS alone (RFC 8689 section 2): what cannot keep it on the way out is refused there.
    """
    return offer.manners(replace(offer.extensions, starttls=True), replace(offer.extensions, requiretls=True))


def mta(edge: Edge, listen: Sequence[str], reception: Reception, offer: Offer) -> ReceivingRole:
    """The role as a service."""
    return ReceivingRole(edge, (Door("mta", listen),), reception, manners(offer))
