"""What each role offers in its answer to a hello, in the clear and under TLS, and how patient it is.

The rule: values alone, and no sockets, so that what would be said to a client can be known without any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from mailhub.receiver.login import MECHANISMS
from mailhub.wire.smtp.extensions import Extensions
from mailhub.wire.smtp.server import Limits


@dataclass(frozen=True)
class Offer:
    """What may change while a role runs: the extensions that every role offers at least, its limits, its patience."""

    extensions: Extensions
    limits: Limits
    idle_seconds: float = 300.0
    hurried_idle_seconds: float = 10.0
    tls_seconds: float = 30.0
    content_rate_min: int = 100


class Offered(NamedTuple):
    """By one role."""

    in_clear: Extensions
    under_tls: Extensions


def mta(offer: Offer) -> Offered:
    """No login is offered here: taking mail from users is the MSA's business (RFC 6409 section 3.1).

    REQUIRETLS is offered under TLS alone (RFC 8689 section 2): what cannot keep it on the way out is refused there.
    """
    return Offered(replace(offer.extensions, starttls=True), replace(offer.extensions, requiretls=True))


def msa(offer: Offer) -> Offered:
    """Logins are offered under TLS alone: a password never crosses the network in the clear."""
    return Offered(
        replace(offer.extensions, starttls=True, auth=MECHANISMS, auth_needs_tls=True),
        replace(offer.extensions, auth=MECHANISMS, requiretls=True),
    )


def lmtp(offer: Offer) -> Offered:
    """In the clear: LMTP stays on the host, or within a network that the configuration calls trusted."""
    return Offered(offer.extensions, offer.extensions)


#: By role.
OFFERED: Mapping[str, Callable[[Offer], Offered]] = {"mta": mta, "msa": msa, "lmtp": lmtp}
