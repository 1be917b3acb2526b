"""The certificates that we serve, and what a TLS layer can tell about itself.

One store serves every listener.  It chooses the certificate by the name that the client asks for, and reads the files
again when they change.  The rule: what is served is always a whole, checked pair.  A new pair that cannot be used is
reported and the old one stays; a session never notices a reload, for it keeps the context that it began with.

The store is an `IOpenSSLServerConnectionCreator`: `transport.startTLS(store)` for STARTTLS, `store.wrap(factory)` for
TLS from the first octet.  Versions, ciphers and curves are Twisted's defaults, with TLS 1.2 as the lowest version.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from OpenSSL import SSL
from twisted.internet.interfaces import IHalfCloseableProtocol, IOpenSSLServerConnectionCreator
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from mailhub.model import Tls

if TYPE_CHECKING:
    from twisted.internet.interfaces import IProtocolFactory, IReactorTime, ITransport
    from twisted.protocols.tls import TLSMemoryBIOProtocol

#: The files are looked at for changes at most this often, when a connection begins.
CHECK_SECONDS = 5.0
#: A certificate that ends sooner than this is warned about, once a day.
EXPIRY_WARNING_SECONDS = 14 * 86400.0
#: Contexts are made anew this often, for their session ticket keys are as old as they are (RFC 5077 section 5.5).
TICKET_KEY_SECONDS = 12 * 3600.0
#: What a client may ask for with ALPN.  One that offers others only is no mail client: a browser, for example, that
#: somebody led to the wrong port (RFC 9325 section 3.8).  Factories may name more, by IProtocolNegotiationFactory.
APPLICATION_PROTOCOLS = (b"smtp", b"esmtp")
#: No certificate chain and no key is longer than this.
PEM_OCTETS_MAX = 1024 * 1024

_DAY_SECONDS = 86400.0
_LOWEST_VERSION = {"1.2": TLSVersion.TLSv1_2, "1.3": TLSVersion.TLSv1_3}
_PRIVATE_KEY = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.+?-----END \1-----", re.DOTALL)
_SERVER_NAME = re.compile(rb"[A-Za-z0-9_.-]{1,253}")

_Stamp: TypeAlias = tuple[tuple[int, int] | None, ...]


class CertificateError(Exception):
    """A certificate or key that cannot be used.  The text names the file and the reason, one line for each pair."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its chain (the server's own first) and its private key, both PEM; they may be one file."""

    certificate: str | os.PathLike[str]
    key: str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Site:
    """A pair for clients that ask for one of these names (SNI, RFC 6066 section 3).

    Names are lower-case A-labels.  `*.example.org` stands for every name with exactly one label before `example.org`
    (RFC 9525 section 6.3); a name in full goes before a wildcard.
    """

    names: tuple[str, ...]
    pair: Pair


@dataclass(slots=True)
class _Served:
    """What is served for one pair.  `stamp` is that of the files when they were last tried, with success or without."""

    pair: Pair
    stamp: _Stamp = ()
    key: Any = None
    chain: list[x509.Certificate] = field(default_factory=list)
    context: Any = None
    made_at: float = 0.0
    warned_at: float = -math.inf


@implementer(IOpenSSLServerConnectionCreator)
class CertificateStore:
    """The pairs that are served: a default, and one for each site.

    `minimum` is the lowest TLS version, "1.2" or "1.3".  `clock` is for validity.  Raises
    CertificateError when any pair cannot be used: a server that starts serves all that was configured.
    """

    def __init__(
        self,
        default: Pair,
        sites: Sequence[Site] = (),
        *,
        clock: IReactorTime,
        steady: IReactorTime,
        minimum: str = "1.2",
        log: Logger | None = None,
    ) -> None:
        self._clock = clock
        self._steady = steady
        self._minimum = _LOWEST_VERSION[minimum]
        self._log = Logger(namespace="mailhub.tls") if log is None else log
        self._default = _Served(default)
        self._all = [self._default]
        self._by_name: dict[str, _Served] = {}
        for site in sites:
            served = _Served(site.pair)
            self._all.append(served)
            for name in site.names:
                self._by_name[name.lower()] = served
        self._checked_at = steady.seconds()
        problems = [problem for served in self._all if (problem := self._take(served)) is not None]
        if problems:
            raise CertificateError("\n".join(problems))

    # --- for connections -----------------------------------------------------------------------------------------

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """A connection that answers for the default until the client has said which name it wants."""
        if self._steady.seconds() - self._checked_at >= CHECK_SECONDS:
            self.check_changed()
        return _Connection(self._default.context, protocol)

    def wrap(self, factory: IProtocolFactory) -> TLSMemoryBIOFactory:
        """The same factory behind TLS from the first octet (RFC 8314 section 3)."""
        return TLSMemoryBIOFactory(self, False, factory, self._steady)

    def certificate_for(self, server_name: str | None) -> x509.Certificate:
        """The certificate that a client gets that asks for this name, or for none."""
        return self._find(server_name).chain[0]

    def _find(self, server_name: str | None) -> _Served:
        if server_name is None or not self._by_name:
            return self._default
        name = server_name.lower().rstrip(".")
        found = self._by_name.get(name)
        if found is None:
            found = self._by_name.get("*." + name.partition(".")[2])
        return self._default if found is None else found

    def _context_for(self, server_name: bytes | None) -> SSL.Context | None:
        """OpenSSL asks, in the middle of a handshake; None keeps the default."""
        served = self._find(_readable(server_name))
        return None if served is self._default else served.context

    # --- reloading -----------------------------------------------------------------------------------------------

    def reload(self) -> tuple[str, ...]:
        """Read every file again now (SIGHUP).  Gives back the problems, which are logged too; old pairs stay then."""
        self._checked_at = self._steady.seconds()
        return tuple(problem for served in self._all if (problem := self._take_again(served)) is not None)

    def check_changed(self) -> None:
        """Read again what has changed on disk since it was last read; make contexts new whose ticket keys are old."""
        now = self._checked_at = self._steady.seconds()
        for served in self._all:
            if _stamp(served.pair) != served.stamp:
                self._take_again(served)
            elif now - served.made_at > TICKET_KEY_SECONDS:
                served.context = self._context(served.key, served.chain)
                served.made_at = now
            self._warn_of_expiry(served)

    def _take_again(self, served: _Served) -> str | None:
        problem = self._take(served)
        certificate = str(served.pair.certificate)
        if problem is None:
            self._log.info("certificate {certificate} was read again", certificate=certificate)
        else:
            self._log.error(
                "new certificate not taken, the old one is still served: {problem}",
                certificate=certificate,
                problem=problem,
            )
        return problem

    def _take(self, served: _Served) -> str | None:
        """Serve what the files hold now.  Gives back the problem, and changes nothing, if that cannot be done."""
        # The stamp is taken first: what changes while we read is then seen as a change at the next check.
        served.stamp = _stamp(served.pair)
        try:
            key, chain = _read_pair(served.pair)
            context = self._context(key, chain)
        except CertificateError as error:
            return str(error)
        except (SSL.Error, TypeError, ValueError) as error:
            return f"{served.pair.certificate}: OpenSSL does not take it: {_openssl_reason(error)}"
        served.key, served.chain, served.context = key, chain, context
        served.made_at = self._steady.seconds()
        served.warned_at = -math.inf
        self._warn_of_open_key(served)
        self._warn_of_expiry(served)
        return None

    def _context(self, key: Any, chain: Sequence[x509.Certificate]) -> SSL.Context:
        """A context as Twisted makes it.  Sessions resume by tickets alone, which cost us no memory; the caches of
        OpenSSL stay off."""
        # Twisted hands these on to pyOpenSSL, which wants the values of `cryptography` now; the annotations are older.
        own: Any = chain[0]
        issuers: list[Any] = list(chain[1:])
        context: SSL.Context = CertificateOptions(
            privateKey=key,
            certificate=own,
            extraCertChain=issuers,
            raiseMinimumTo=self._minimum,
            acceptableProtocols=APPLICATION_PROTOCOLS,
            enableSessionTickets=True,
            contextForServerName=self._context_for,
        ).getContext()
        return context

    # --- warnings ------------------------------------------------------------------------------------------------

    def _warn_of_expiry(self, served: _Served) -> None:
        now = self._steady.seconds()
        if not served.chain or now - served.warned_at < _DAY_SECONDS:
            return
        left = served.chain[0].not_valid_after_utc.timestamp() - self._clock.seconds()
        if left >= EXPIRY_WARNING_SECONDS:
            return
        served.warned_at = now
        certificate, ends = str(served.pair.certificate), f"{served.chain[0].not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        if left <= 0:
            self._log.error("certificate {certificate} expired on {ends}", certificate=certificate, ends=ends)
        else:
            self._log.warn(
                "certificate {certificate} expires in {days} days, on {ends}",
                certificate=certificate,
                days=int(left // _DAY_SECONDS),
                ends=ends,
            )

    def _warn_of_open_key(self, served: _Served) -> None:
        try:
            mode = os.stat(served.pair.key).st_mode
        except OSError:
            return
        if mode & 0o004:
            self._log.warn("the private key {key} can be read by every user of this host", key=str(served.pair.key))


class _Connection(SSL.Connection):
    """A connection that can go on writing when the client has ended its direction (RFC 8446 section 6.1).

    Twisted closes both directions at once, and what the client still waits for is lost.  Here a protocol that takes
    half-closed connections is told by `readConnectionLost`, and closes when it has said everything.
    """

    def __init__(self, context: SSL.Context, protocol: TLSMemoryBIOProtocol) -> None:
        super().__init__(context, None)
        self._protocol = protocol
        self._has_ended = False

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        """See OpenSSL.SSL.Connection.  Behind the client's close_notify there is nothing to read, ever."""
        if not self._has_ended:
            try:
                return super().recv(bufsiz, flags)
            except SSL.ZeroReturnError:
                wrapped = self._protocol.wrappedProtocol
                if self._protocol.disconnecting or not IHalfCloseableProtocol.providedBy(wrapped):
                    raise  # both directions have ended
                self._has_ended = True
                # The end of the TCP stream comes next.  It says nothing new, but would close both directions.
                transport: Any = self._protocol.transport
                transport.pauseProducing()
                wrapped.readConnectionLost()
        raise SSL.WantReadError


# --- reading files ---------------------------------------------------------------------------------------------------


def _stamp(pair: Pair) -> _Stamp:
    """What changes whenever one of the files is replaced, rewritten or gets another mode."""
    stamps: list[tuple[int, int] | None] = []
    for path in (pair.certificate, pair.key):
        try:
            found = os.stat(path)
            stamps.append((found.st_ctime_ns, found.st_ino))
        except OSError:
            stamps.append(None)
    return tuple(stamps)


def _read_pair(pair: Pair) -> tuple[Any, list[x509.Certificate]]:
    """The key and the chain.  Raises CertificateError."""
    try:
        chain = x509.load_pem_x509_certificates(_read(pair.certificate))
    except ValueError:
        raise CertificateError(f"{pair.certificate}: has no certificate in PEM form, or a damaged one") from None
    block = _PRIVATE_KEY.search(_read(pair.key))
    if block is None:
        raise CertificateError(f"{pair.key}: has no private key in PEM form")
    try:
        key = serialization.load_pem_private_key(block.group(), None)
    except TypeError:
        raise CertificateError(
            f"{pair.key}: the key is locked with a passphrase; a server that starts unattended needs one without"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{pair.key}: the private key is damaged or of an unknown kind") from None
    owners = [certificate.public_key() == key.public_key() for certificate in chain]
    if not owners[0]:
        reason = (
            "the certificate of the server must stand first in the file, before those of its issuers"
            if any(owners)
            else f"does not belong to the key {pair.key}"
        )
        raise CertificateError(f"{pair.certificate}: {reason}")
    return key, chain


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            octets = file.read(PEM_OCTETS_MAX + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CertificateError(f"{path}: cannot be read: {reason[:1].lower()}{reason[1:]}") from None
    if len(octets) > PEM_OCTETS_MAX:
        raise CertificateError(f"{path}: is larger than {PEM_OCTETS_MAX} octets: not a PEM file")
    return octets


def _openssl_reason(error: Exception) -> str:
    """The words of OpenSSL, without its numbers."""
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        return "; ".join(str(entry[-1]) for entry in error.args[0]) or "no reason given"
    return str(error) or type(error).__name__


# --- what a TLS layer says about itself ------------------------------------------------------------------------------


def describe(transport: ITransport) -> Tls:
    """Version, cipher and the name that the client asked for, of a transport whose handshake is complete.

    Raises TypeError when there is no TLS on this transport.
    """
    connection = _connection(transport)
    return Tls(
        version=connection.get_protocol_version_name(),
        cipher=connection.get_cipher_name() or "",
        server_name=_readable(connection.get_servername()),
    )


def channel_bindings(transport: ITransport) -> Mapping[str, bytes]:
    """The channel bindings that SCRAM-...-PLUS may use on this transport, by their registered names, best first.

    Raises TypeError when there is no TLS on this transport.
    """
    connection = _connection(transport)
    certificate = connection.get_certificate(as_cryptography=True)
    found = {
        "tls-exporter": tls_exporter(connection),
        "tls-server-end-point": None if certificate is None else server_end_point(certificate),
    }
    return {name: value for name, value in found.items() if value is not None}


def tls_exporter(connection: SSL.Connection) -> bytes | None:
    """The binding of RFC 9266 section 2: 32 octets of exported keying material, empty context.

    None below TLS 1.3, where it is unique only under conditions that we cannot see (RFC 9266 section 4.1).
    """
    if connection.get_protocol_version() != SSL.TLS1_3_VERSION:
        return None
    return connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")


def server_end_point(certificate: x509.Certificate) -> bytes | None:
    """The binding of RFC 5929 section 4.1: a hash of the server's certificate.

    The hash is that of the certificate's signature, but SHA-256 in place of MD5 and SHA-1.  None where the signature
    has no single hash function (Ed25519, Ed448), for then the RFC leaves the binding undefined.
    """
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None
    if algorithm is None:
        return None
    if isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        algorithm = hashes.SHA256()
    return certificate.fingerprint(algorithm)


def _connection(transport: ITransport) -> SSL.Connection:
    """Twisted gives OpenSSL's connection as the transport's handle, with TLS from the start and after STARTTLS."""
    get_handle = getattr(transport, "getHandle", None)
    handle = get_handle() if get_handle is not None else None
    if not isinstance(handle, SSL.Connection):
        raise TypeError("there is no TLS on this transport")
    return handle


def _readable(server_name: bytes | None) -> str | None:
    """The name of SNI as text; None for what is no host name, for it comes from a stranger."""
    if server_name is None or not _SERVER_NAME.fullmatch(server_name):
        return None
    return server_name.decode("ascii").lower()
