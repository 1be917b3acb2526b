"""How well a connection to the next hop must be protected, and what a message itself may ask for.

Four levels: "none", "may", "require" (TLS, whoever is there), "verify" (TLS with a certificate for the host's name).
The router puts the level that holds for a route into it, together with whoever decided it.  MTA-STS and DANE will have
their say in the same place: the level and its source are the route's, not the deliverer's.

The rule: a message may raise the level of its route, and nothing lowers it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

from mailhub.model import Lmtp, Local, Nowhere, Route, Smtp, reply

TlsLevel: TypeAlias = Literal["none", "may", "require", "verify"]

LEVELS: tuple[TlsLevel, ...] = ("none", "may", "require", "verify")

# RFC 8689 section 6: X.7.30 is "REQUIRETLS support required".
NO_PROTECTED_WAY = reply(550, "5.7.30", "The message requires TLS on its whole way, and no such way leads there")


def requiring_tls(route: Route, is_proven: bool) -> Route:
    """The route for a message with REQUIRETLS (RFC 8689 section 4.2.1), or Nowhere.

    The host must prove by its certificate that it bears the right name, and the name itself must be proven
    (`is_proven`): written by the postmaster, or vouched for by DNSSEC.  A way that was set to go without TLS is
    refused; a UNIX socket does not leave this machine, and needs none.
    """
    match route:
        case Local() | Nowhere():
            return route
        case Lmtp(endpoint) if endpoint.startswith("unix:"):
            return route
        case Lmtp() | Smtp() if route.tls == "none":
            return Nowhere(NO_PROTECTED_WAY, f"{route.why}: TLS is off ({route.tls_source or 'by default'})")
        case Lmtp() | Smtp() if not is_proven:
            return Nowhere(NO_PROTECTED_WAY, f"{route.why}: DNSSEC does not vouch for the names of the mail hosts")
        case _:
            return replace(route, tls="verify", tls_source="REQUIRETLS")
