"""A certificate of our own making, for a hub whose postmaster has not configured one yet.

It encrypts, but nobody can know by it whom they talk to; so it comes with a warning at every start.  Certificate and
key are one file that is replaced in one step: a crash leaves the old pair or the new one, never a half of each.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.logger import Logger

from mailhub.net.tls import PEM_OCTETS_MAX, Pair

#: How long a certificate is valid: what public authorities give at most, so that nothing surprises.
VALID_DAYS = 397
#: One that ends sooner is made anew at start.
RENEW_DAYS = 30

_COMMON_NAME_CHARACTERS_MAX = 64  # ub-common-name of RFC 5280 appendix A.1
_log = Logger(namespace="mailhub.tls")


def ensure(
    directory: str | os.PathLike[str],
    hostname: str,
    now: float,
    *,
    owner: tuple[int, int] | None = None,
    log: Logger = _log,
) -> Pair:
    """The self-signed pair for `hostname` in `directory`, made if it is missing, broken, old or for another name.

    `now` is seconds since the epoch.  `owner` (uid, gid) is who must read it later, if we run as root now.  The key
    can be read by its owner alone; `self-signed.crt` beside it is the certificate without the key, to be given to
    clients.  Raises OSError when the directory cannot be written.
    """
    folder = Path(directory)
    file = folder / "self-signed.pem"
    if not _is_good(file, hostname, now):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        key, certificate = _make(hostname, now)
        _replace(file, certificate + key, 0o600, owner)
        _replace(folder / "self-signed.crt", certificate, 0o644, owner)
        log.info("made a self-signed certificate for {hostname}: {file}", hostname=hostname, file=str(file))
    log.warn(
        "No certificate is configured: {hostname} shows a self-signed one, which other people's programs do not trust. "
        "Set `certificate` and `key` in [tls].",
        hostname=hostname,
        file=str(file),
    )
    return Pair(file, file)


def _is_good(file: Path, hostname: str, now: float) -> bool:
    try:
        with file.open("rb") as stream:
            octets = stream.read(PEM_OCTETS_MAX)
        certificate = x509.load_pem_x509_certificate(octets)
        key = serialization.load_pem_private_key(octets[octets.index(b"-----BEGIN PRIVATE KEY") :], None)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        return (
            certificate.public_key() == key.public_key()
            and list(names) == [_general_name(hostname)]
            and begins <= now < ends - RENEW_DAYS * 86400
        )
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound):
        return False


def _make(hostname: str, now: float) -> tuple[bytes, bytes]:
    """A new key and its certificate, both PEM.  ECDSA P-256: every client knows it, and it is the cheapest to serve."""
    key = ec.generate_private_key(ec.SECP256R1())
    today = datetime.datetime.fromtimestamp(now, datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:_COMMON_NAME_CHARACTERS_MAX])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(hours=1))  # for clients whose clock is a little behind
        .not_valid_after(today + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(hostname)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)


def _general_name(hostname: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(hostname.strip("[]").removeprefix("IPv6:")))
    except ValueError:
        return x509.DNSName(hostname)


def _replace(file: Path, octets: bytes, mode: int, owner: tuple[int, int] | None) -> None:
    """Put `octets` under this name in one step.  Nobody but us can open it before its mode and owner are right."""
    new = file.with_name(f".{file.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(octets)
            if owner is not None:
                os.fchown(stream.fileno(), *owner)
            os.fchmod(stream.fileno(), mode)
        os.replace(new, file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
