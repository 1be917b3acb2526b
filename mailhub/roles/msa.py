"""The MSA role: mail from our users, who log in over TLS (port 587, RFC 6409; port 465, RFC 8314)."""

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
    return manners_of(offer, offers.msa(offer))


def msa(
    edge: Edge, listen: Sequence[str], listen_tls: Sequence[str], reception: Reception, offer: Offer
) -> ReceivingRole:
    """The role as a service: STARTTLS on `listen`, TLS from the first octet on `listen_tls`."""
    doors = (Door("msa", listen), Door("msa-tls", listen_tls, implicit_tls=True))
    return ReceivingRole(edge, doors, reception, manners(offer))
