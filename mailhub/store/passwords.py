"""Passwords at rest: argon2id hashes and SCRAM verifiers, and a short memory of what was proven.

A password is prepared with SASLprep (RFC 4013) before it is hashed, so that one typed on another keyboard is the same
one.  Nothing here tells a known login from an unknown one: for the unknown there is a hash that costs as much and a
verifier that looks as real.
"""

from __future__ import annotations

import binascii
import hmac
import re
from base64 import b64decode, b64encode
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import argon2
import argon2.low_level
from argon2.exceptions import Argon2Error, VerifyMismatchError
from scramp import ScramException, ScramMechanism  # type: ignore[import-untyped]
from scramp.utils import saslprep  # type: ignore[import-untyped]

from mailhub.interfaces import AccountsUnavailable
from mailhub.model import ScramVerifier
from mailhub.store.watched_file import read_bounded

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from mailhub.interfaces import IDisk

SCHEME = "{ARGON2ID}"
SALT_OCTETS = 16
PASSWORD_CHARACTERS_MAX = 1024

PROVEN_SECONDS = 300.0
PROVEN_ENTRIES_MAX = 4096

#: RFC 7677 section 4 asks for 4096 at least; more makes a stolen file dearer to search, and a login of a client that
#: does not keep its keys a little slower (about 20 ms).
SCRAM_ITERATIONS = 32_768
SCRAM_ITERATIONS_MIN = 4096
SCRAM_ITERATIONS_MAX = 1_000_000
_KEY_OCTETS = 32  # SHA-256


class Cost(NamedTuple):
    """What one argon2id hash costs: memory in KiB, passes, lanes."""

    memory_kib: int
    passes: int
    lanes: int


COST = Cost(memory_kib=19_456, passes=2, lanes=1)
#: What a hash made elsewhere may cost at most (Dovecot's default is 65,536 KiB): threads times this is our memory.
COST_MAX = Cost(memory_kib=131_072, passes=10, lanes=8)

_PHC = re.compile(r"\$argon2id\$v=19\$m=([1-9]\d{0,9}),t=([1-9]\d{0,4}),p=([1-9]\d{0,4})\$([^$]+)\$([^$]+)", re.ASCII)


# --- hashes ------------------------------------------------------------------------------------------------------


def prepare(password: str) -> str:
    """SASLprep (RFC 4013); a password that it forbids, or leaves empty, is used as it was given."""
    if password.isascii():
        return password
    with suppress(ScramException):
        return str(saslprep(password)) or password
    return password


def hash_password(password: str, salt: bytes) -> str:
    """`{ARGON2ID}$argon2id$...`; blocking, about 20 ms and COST.memory_kib.  Raises ValueError for an empty one."""
    if not password:
        raise ValueError("a password is not empty")
    phc = argon2.low_level.hash_secret(
        prepare(password).encode("utf-8", "surrogatepass"),
        salt,
        time_cost=COST.passes,
        memory_cost=COST.memory_kib,
        parallelism=COST.lanes,
        hash_len=_KEY_OCTETS,
        type=argon2.Type.ID,
    )
    return SCHEME + phc.decode("ascii")


def parse_hash(text: str) -> Cost:
    """The cost of a stored hash that we can verify.  Raises ValueError, saying why not, without quoting the hash."""
    scheme, brace, phc = text.partition("}")
    if not (brace and scheme.startswith("{")):
        raise ValueError(f"the password field does not begin with a scheme such as {SCHEME}")
    if scheme.upper() + brace != SCHEME:
        raise ValueError(f"the password scheme {scheme[:24] + brace!a} is not supported, only {SCHEME}")
    match = _PHC.fullmatch(phc)
    if not match:
        raise ValueError(f"what follows {SCHEME} is not an argon2id hash (version 19)")
    cost = Cost(int(match[1]), int(match[2]), int(match[3]))
    if any(here > limit for here, limit in zip(cost, COST_MAX, strict=True)):
        raise ValueError(f"the hash costs more than m={COST_MAX[0]},t={COST_MAX[1]},p={COST_MAX[2]}")
    if cost.memory_kib < 8 * cost.lanes:
        raise ValueError("the hash has fewer than 8 KiB of memory for each lane")
    for part, octets_min in ((match[4], 8), (match[5], 16)):
        if not octets_min <= len(_b64decode(part + "=" * (-len(part) % 4))) <= 64:
            raise ValueError("salt or tag of the hash has an odd length")
    return cost


def verify(stored: str, password: str) -> bool:
    """Whether `password` is the one behind a hash that `parse_hash` accepted; blocking.

    Raises AccountsUnavailable when argon2 could not run (no memory).
    """
    password = password[:PASSWORD_CHARACTERS_MAX]
    phc = stored.partition("}")[2].encode("ascii")
    # Another program may have hashed the password as it was given.  Whether there is a second spelling depends on
    # what the client sent alone, so trying both tells nothing about the account.
    for spelling in dict.fromkeys((prepare(password), password)):
        try:
            if argon2.low_level.verify_secret(phc, spelling.encode("utf-8", "surrogatepass"), argon2.Type.ID):
                return True
        except VerifyMismatchError:
            continue
        except (Argon2Error, MemoryError) as error:
            raise AccountsUnavailable(f"argon2: {error}") from error
    return False


def dummy_hash(cost: Cost = COST) -> str:
    """A hash that no password is behind, and that costs `cost` to find that out."""
    salt, tag = (b64encode(bytes(length)).decode("ascii").rstrip("=") for length in (SALT_OCTETS, _KEY_OCTETS))
    return f"{SCHEME}$argon2id$v=19$m={cost.memory_kib},t={cost.passes},p={cost.lanes}${salt}${tag}"


# --- verifiers ---------------------------------------------------------------------------------------------------


def make_verifier(password: str, salt: bytes, iterations: int = SCRAM_ITERATIONS) -> ScramVerifier | None:
    """The verifier of a password for SCRAM-SHA-256 (RFC 7677); blocking.  None if SASLprep forbids the password."""
    try:
        salt, stored_key, server_key, iterations = ScramMechanism("SCRAM-SHA-256").make_auth_info(
            password, iteration_count=iterations, salt=salt
        )
    except ScramException:
        return None
    return ScramVerifier(salt, iterations, stored_key, server_key)


def format_verifier(verifier: ScramVerifier) -> str:
    """`iterations,salt,stored key,server key`: what Dovecot writes behind {SCRAM-SHA-256}."""
    octets = (verifier.salt, verifier.stored_key, verifier.server_key)
    return ",".join((str(verifier.iterations), *(b64encode(part).decode("ascii") for part in octets)))


def parse_verifier(text: str) -> ScramVerifier:
    """The reverse.  Raises ValueError, saying why, without quoting the verifier."""
    parts = text.split(",")
    if len(parts) != 4:
        raise ValueError("a SCRAM verifier is ITERATIONS,SALT,STORED-KEY,SERVER-KEY")
    if not re.fullmatch(r"[1-9][0-9]{3,6}", parts[0]):
        raise ValueError("the iterations of the SCRAM verifier are not a sensible number")
    iterations = int(parts[0])
    if not SCRAM_ITERATIONS_MIN <= iterations <= SCRAM_ITERATIONS_MAX:
        raise ValueError(f"a SCRAM verifier has {SCRAM_ITERATIONS_MIN} to {SCRAM_ITERATIONS_MAX} iterations")
    salt, stored_key, server_key = (_b64decode(part) for part in parts[1:])
    if not 12 <= len(salt) <= 64 or len(stored_key) != _KEY_OCTETS or len(server_key) != _KEY_OCTETS:
        raise ValueError("salt or keys of the SCRAM verifier have the wrong length")
    return ScramVerifier(salt, iterations, stored_key, server_key)


def fake_verifier(secret: bytes, login: str, iterations: int = SCRAM_ITERATIONS) -> ScramVerifier:
    """A verifier that no password fits, always the same for one login of one installation.

    A salt that changed from one attempt to the next, or with a restart, would tell that nobody is behind it.
    """

    def derive(part: bytes) -> bytes:
        return hmac.digest(secret, part + b"\0" + login.encode("utf-8", "surrogatepass"), "sha256")

    return ScramVerifier(derive(b"salt")[:SALT_OCTETS], iterations, derive(b"stored key"), derive(b"server key"))


def _b64decode(text: str) -> bytes:
    try:
        return b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeError):
        raise ValueError("salt or key is not base 64") from None


# --- the secret behind the fakes ---------------------------------------------------------------------------------

SECRET_OCTETS = 32


def installation_secret(path: Path, fresh: bytes, disk: IDisk) -> bytes:
    """The secret of this installation: what `path` in the data directory holds, or `fresh`, which is then kept there.

    It guards no password: whoever reads it can tell fake verifiers from real ones.  Blocking; raises OSError.
    """
    try:
        secret, _ = read_bounded(path, SECRET_OCTETS)
    except FileNotFoundError:
        temporary = path.with_name(f".{path.name}.{fresh.hex()[:16]}.new")
        file = disk.create(str(temporary))
        try:
            file.write(fresh)
            file.fsync()
            # Several processes may start at once: the first name wins, and behind it the file is whole.
            with suppress(FileExistsError):
                disk.link(str(temporary), str(path))
        finally:
            file.close()
            disk.unlink(str(temporary))
        disk.fsync_directory(str(path.parent))
        secret, _ = read_bounded(path, SECRET_OCTETS)
    if len(secret) != SECRET_OCTETS:
        raise OSError(f"{path} does not hold {SECRET_OCTETS} octets; remove it, and a new one is made")
    return secret


# --- what was proven ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Proof:
    stored: str
    until: float


class ProvenLogins:
    """Which password proved which hash, for a few minutes, so that argon2 is off the hot path.

    Only successes are kept, under a keyed hash of login and password that means nothing outside this process.  A
    proof holds for the very hash that it was made against: a changed line in the file ends it at once.
    """

    def __init__(
        self, key: bytes, steady: IReactorTime, seconds: float = PROVEN_SECONDS, entries_max: int = PROVEN_ENTRIES_MAX
    ) -> None:
        self._key = key
        self._steady = steady
        self._seconds = seconds
        self._entries_max = entries_max
        self._proofs: OrderedDict[bytes, _Proof] = OrderedDict()

    def holds(self, login: str, password: str, stored: str) -> bool:
        """Whether this was proven lately."""
        name = self._name(login, password)
        proof = self._proofs.get(name)
        if proof is None:
            return False
        if self._steady.seconds() >= proof.until or proof.stored != stored:
            del self._proofs[name]
            return False
        self._proofs.move_to_end(name)
        return True

    def remember(self, login: str, password: str, stored: str) -> None:
        """Note a success."""
        name = self._name(login, password)
        self._proofs[name] = _Proof(stored, self._steady.seconds() + self._seconds)
        self._proofs.move_to_end(name)
        while len(self._proofs) > self._entries_max:
            self._proofs.popitem(last=False)

    def __len__(self) -> int:
        return len(self._proofs)

    def _name(self, login: str, password: str) -> bytes:
        octets = login.encode("utf-8", "surrogatepass")
        return hmac.digest(
            self._key, len(octets).to_bytes(4, "big") + octets + password.encode("utf-8", "surrogatepass"), "sha256"
        )
