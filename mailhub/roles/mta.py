"""The MTA role: mail from the world, for our domains only (port 25, RFC 5321)."""

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
    return manners_of(offer, offers.mta(offer))


def mta(edge: Edge, listen: Sequence[str], reception: Reception, offer: Offer) -> ReceivingRole:
    """The role as a service."""
    return ReceivingRole(edge, (Door("mta", listen),), reception, manners(offer))
