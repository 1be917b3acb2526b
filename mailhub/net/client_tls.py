"""TLS as a client: what we ask of the certificates of other hosts.

Two kinds.  Opportunistic TLS takes any certificate: it protects from who listens, and mail hosts that nobody vouches
for are many (RFC 7435).  Verified TLS wants a certificate for the host's name from an authority that we trust; names
and chains are looked at by OpenSSL and service_identity.  Both send the name (SNI) and want TLS 1.2 at least.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    TLSVersion,
    platformTrust,
    trustRootFromCertificates,
)
from zope.interface import implementer

from mailhub.net.tls import CertificateError

if TYPE_CHECKING:
    from twisted.protocols.tls import TLSMemoryBIOProtocol
    from twisted.python.failure import Failure

#: No file of trusted authorities is longer.
TRUST_OCTETS_MAX = 16 * 1024 * 1024

_LOWEST_VERSION = TLSVersion.TLSv1_2
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class ClientTls:
    """Settings for connections to other hosts.

    `authorities` is a PEM file of those that are trusted in place of the system's.  Blocking; raises CertificateError
    for a file that is of no use.
    """

    def __init__(self, authorities: str | os.PathLike[str] | None = None) -> None:
        trust = _system_authorities() if authorities is None else _read_authorities(authorities)
        # One context for all: the trusted authorities in it take a megabyte and some milliseconds.
        self._any: SSL.Context = CertificateOptions(raiseMinimumTo=_LOWEST_VERSION).getContext()
        self._trusted: SSL.Context = CertificateOptions(raiseMinimumTo=_LOWEST_VERSION, trustRoot=trust).getContext()

    def to_host(self, name: str, verify: bool) -> HostTls:
        """For connections to the host of this name (A-labels, or an IP address)."""
        return HostTls(self._trusted if verify else self._any, name, verify)


@implementer(IOpenSSLClientConnectionCreator)
class HostTls:
    """TLS with one host.  If it `verifies`, the chain is looked at in the handshake, and `check` looks at the name."""

    def __init__(self, context: SSL.Context, name: str, verifies: bool) -> None:
        self.name = name
        self.verifies = verifies
        self._context = context
        self._is_address = isIPAddress(name) or isIPv6Address(name)

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        # RFC 6066 section 3: an address is no server name.
        if self.name.isascii() and self.name and not self._is_address:
            connection.set_tlsext_host_name(self.name.encode("ascii"))
        return connection

    def check(self, connection: SSL.Connection) -> None:
        """Call it when the handshake is complete, before anything is said.  Raises VerificationError if the
        certificate is for another host (RFC 9525), CertificateError or ValueError if it cannot be told for which."""
        if not self.verifies:
            return
        if self._is_address:
            verify_ip_address(connection, self.name)
        else:
            verify_hostname(connection, self.name)


def why_failed(failure: Failure) -> str:
    """Why there is no TLS, for people: from the reason with which Twisted ended the connection."""
    error = failure.value
    if isinstance(error, SSL.Error):
        entries = error.args[0] if error.args and isinstance(error.args[0], list) else ()
        return "; ".join(str(entry[-1]) for entry in entries) or "no reason given"
    if isinstance(error, ConnectionDone | ConnectionLost):
        return "the host ended the connection during the handshake"
    return " ".join(failure.getErrorMessage().split())[:200] or type(error).__name__


def _system_authorities() -> Any:
    return platformTrust()  # type: ignore[no-untyped-call]


def _read_authorities(path: str | os.PathLike[str]) -> Any:
    try:
        with open(path, "rb") as file:
            octets = file.read(TRUST_OCTETS_MAX + 1)
    except OSError as error:
        raise CertificateError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(octets) > TRUST_OCTETS_MAX:
        raise CertificateError(f"{path}: is larger than {TRUST_OCTETS_MAX} octets: not a file of certificates")
    blocks = _CERTIFICATE.findall(octets)
    if not blocks:
        raise CertificateError(f"{path}: has no certificate in PEM form")
    try:
        return trustRootFromCertificates([Certificate.loadPEM(block) for block in blocks])  # type: ignore[no-untyped-call]
    except (SSL.Error, ValueError):
        raise CertificateError(f"{path}: has a damaged certificate") from None
