"""The MSA role: mail from our users, who log in over TLS (port 587, RFC 6409; port 465, RFC 8314)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mailhub.net.smtp import Manners
from mailhub.receiver.login import MECHANISMS
from mailhub.receiver.receiver import Reception
from mailhub.roles.receiving import Door, Edge, Offer, ReceivingRole


def manners(offer: Offer) -> Manners:
    """Logins are offered under TLS alone: a password never crosses the network in the clear."""
    return offer.manners(
        replace(offer.extensions, starttls=True, auth=MECHANISMS, auth_needs_tls=True),
        replace(offer.extensions, auth=MECHANISMS, requiretls=True),
    )


def msa(
    edge: Edge, listen: Sequence[str], listen_tls: Sequence[str], reception: Reception, offer: Offer
) -> ReceivingRole:
    """The role as a service: STARTTLS on `listen`, TLS from the first octet on `listen_tls`."""
    doors = (Door("msa", listen), Door("msa-tls", listen_tls, implicit_tls=True))
    return ReceivingRole(edge, doors, reception, manners(offer))
