"""Whether a certificate and its key are fit to be shown to a client, found out before one asks.

Nothing is started and nothing is trusted: files are read, parsed and compared.
"""

from __future__ import annotations

import stat
from collections.abc import Generator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from mailhub.app.finding import Finding, Severity

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

#: A certificate that ends within this time is worth a warning.
ENDS_SOON_DAYS = 14
#: Certificates and keys are small; a file beyond this is something else.
PEM_OCTETS_MAX = 1024 * 1024


def check_certificate(
    key: str, certificate: Path, private_key: Path, names: Sequence[str], now: datetime
) -> Iterator[Finding]:
    """What is wrong with this pair, or that it is right.  `key` is the table in the configuration; `now` has a zone.

    `names` are those that clients will compare with the certificate.
    """
    chain = yield from _read_chain(f"{key}.certificate", certificate)
    secret = yield from _read_key(f"{key}.key", private_key)
    if not chain or secret is None:
        return
    leaf, wrong = chain[0], False
    if leaf.public_key() != secret.public_key():
        wrong = True
        yield Finding(Severity.ERROR, f"{key}.key", f"{private_key} is not the key of {certificate}")
    if now < leaf.not_valid_before_utc:
        wrong = True
        begins = _day(leaf.not_valid_before_utc)
        yield Finding(Severity.ERROR, f"{key}.certificate", f"{certificate} is not valid before {begins}")
    if now >= leaf.not_valid_after_utc:
        wrong = True
        yield Finding(Severity.ERROR, f"{key}.certificate", f"{certificate} ended on {_day(leaf.not_valid_after_utc)}")
    elif leaf.not_valid_after_utc - now < timedelta(days=ENDS_SOON_DAYS):
        yield Finding(Severity.WARNING, f"{key}.certificate", f"{certificate} ends on {_day(leaf.not_valid_after_utc)}")
    covered = _names_of(leaf)
    for name in names:
        if not any(_matches(name, pattern) for pattern in covered):
            told = ", ".join(covered) or "no name at all"
            yield Finding(
                Severity.WARNING,
                f"{key}.certificate",
                f"{certificate} is for {told}, not for {name}: clients that verify will refuse it",
            )
    if not wrong:
        yield Finding(
            Severity.OK, f"{key}.certificate", f"{certificate} and its key fit, until {_day(leaf.not_valid_after_utc)}"
        )


def _read(key: str, path: Path) -> Generator[Finding, None, bytes | None]:
    """Yields what is wrong; returns the octets or None."""
    try:
        with path.open("rb") as file:
            return file.read(PEM_OCTETS_MAX)
    except OSError as error:
        yield Finding(Severity.ERROR, key, f"{path} cannot be read: {error.strerror or error}")
    return None


def _read_chain(key: str, path: Path) -> Generator[Finding, None, list[Certificate]]:
    from cryptography import x509

    octets = yield from _read(key, path)
    if octets is None:
        return []
    try:
        return x509.load_pem_x509_certificates(octets)
    except ValueError:
        yield Finding(Severity.ERROR, key, f"{path} has no certificate in PEM form that can be read")
        return []


def _read_key(key: str, path: Path) -> Generator[Finding, None, PrivateKeyTypes | None]:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    octets = yield from _read(key, path)
    if octets is None:
        return None
    if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        yield Finding(Severity.WARNING, key, f"{path} can be read by everybody on this machine: chmod 0600 {path}")
    try:
        return load_pem_private_key(octets, password=None)
    except TypeError:
        yield Finding(Severity.ERROR, key, f"{path} is protected by a passphrase, and nobody is there to type it")
    except (ValueError, UnsupportedAlgorithm):
        yield Finding(Severity.ERROR, key, f"{path} has no private key in PEM form that can be read")
    return None


def _names_of(certificate: Certificate) -> list[str]:
    """The dNSNames (RFC 9525 section 6.3: the common name is not asked)."""
    from cryptography import x509

    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [name.lower() for name in extension.value.get_values_for_type(x509.DNSName)]


def _matches(name: str, pattern: str) -> bool:
    """RFC 9525 section 6.3: a "*" stands for exactly one label, the first.  A hint for people, no access decision."""
    if pattern.startswith("*."):
        return name.partition(".")[2] == pattern[2:]
    return name == pattern


def _day(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d")
