"""The Sender Rewriting Scheme: forwarded mail gets a reverse-path of ours, so that SPF holds and bounces find home.

    SRS0=HASH=TT=source.example=user@ours        mail of user@source.example that we forward
    SRS1=HASH=first.example==REST@ours           mail that first.example has rewritten before us

HASH is a keyed one over the rest, TT the day in two letters.  Nothing is stored: a bounce to such an address is taken
only while its hash is right and its day not long ago, and goes on to the address inside.  A hash of four letters, as
everybody uses, leaves room for the address in the 64 octets of a local part; who guesses one in half a million tries
can write to one stranger through us for three weeks, and to nobody else.

What others read is the scheme of libsrs2 (which Debian's postsrsd is made of), letter by letter: with the same key
either takes what the other made.  Case means nothing, since some hosts on the way back do not keep it.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64encode
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from mailhub.interfaces import IAccounts
from mailhub.model import Account, Address, Alias, ReversePath, ScramVerifier
from mailhub.wire.smtp.grammar import DOMAIN_OCTETS_MAX, LOCAL_OCTETS_MAX, PATH_OCTETS_MAX, parse_address

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

HASH_CHARACTERS = 4
#: How long a bounce may take: longer than anybody keeps a message in a queue.
AGE_DAYS_MAX = 21

_DAY_SECONDS = 86400
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_DAYS = 1024  # two letters of base 32; then they begin again
#: Another host that has our keys may be a few minutes ahead, and so in tomorrow.
_DAYS_AHEAD_MAX = 1

_SRS0 = re.compile(
    r"(?i:SRS0)[=+-](?P<hash>[A-Za-z0-9+/]+)=(?P<day>[A-Za-z2-7]{2})=(?P<domain>[^=]+)=(?P<local>.+)", re.DOTALL
)
_SRS1 = re.compile(r"(?i:SRS1)[=+-](?P<hash>[A-Za-z0-9+/]+)=(?P<domain>[^=]+)=(?P<rest>[=+-].+)", re.DOTALL)
#: What another forwarder made: kept from the first separator on.
_FOREIGN_SRS0 = re.compile(r"(?i:SRS0)(?P<rest>[=+-].+)", re.DOTALL)
# The hash of its SRS1 means nothing to us and is dropped.
_FOREIGN_SRS1 = re.compile(r"(?i:SRS1)[=+-][^=]*=(?P<domain>[^=]+)=(?P<rest>[=+-].+)", re.DOTALL)


class Srs:
    """Rewrites and reads with these keys: the first one signs, all of them are believed, so that keys can be changed.

    `hosts` says which domains are ours: mail from there needs no rewriting.  Addresses are made in `domain`, or in that
    of the alias which forwards.  `clock` counts seconds since the epoch.  Raises ValueError without a key.
    """

    def __init__(
        self,
        keys: Sequence[bytes],
        clock: IReactorTime,
        hosts: Callable[[str], bool],
        *,
        domain: str | None = None,
        hash_characters: int = HASH_CHARACTERS,
        age_days_max: int = AGE_DAYS_MAX,
    ) -> None:
        if not keys or not all(keys):
            raise ValueError("SRS needs a key, and no key is empty")
        if not HASH_CHARACTERS <= hash_characters <= 20:
            raise ValueError(f"a hash has {HASH_CHARACTERS} to 20 characters")
        self._keys = tuple(keys)
        self._clock = clock
        self._hosts = hosts
        self._domain = domain
        self._hash_characters = hash_characters
        self._age_days_max = age_days_max

    def rewrite(self, reverse_path: ReversePath, forwarded_by: Address | None) -> ReversePath:
        """The reverse-path with which `forwarded_by`, an alias of ours, sends this mail on.

        As it was where nobody forwards, where it is null or ours, and where what would come out is longer than a path
        may be (RFC 5321 section 4.5.3.1), or leads back to nobody, since another forwarder has broken it: a bounce that
        gets home without SPF is better than none that does.
        """
        if reverse_path is None or forwarded_by is None or self._hosts(reverse_path.domain):
            return reverse_path
        local, domain = reverse_path.local, reverse_path.domain
        if (foreign := _FOREIGN_SRS1.fullmatch(local)) is not None:
            rewritten = self._srs1(foreign["domain"], foreign["rest"])
        elif (foreign := _FOREIGN_SRS0.fullmatch(local)) is not None:
            rewritten = self._srs1(domain, foreign["rest"])
        else:
            day = self._today()
            stamp = _ALPHABET[day >> 5] + _ALPHABET[day & 31]
            rewritten = f"SRS0={self._hash(self._keys[0], stamp, domain, local)}={stamp}={domain}={local}"
        address = Address(rewritten, self._domain or forwarded_by.domain)
        return address if _fits(address) and self.reverse(address) is not None else reverse_path

    def _srs1(self, domain: str, rest: str) -> str:
        return f"SRS1={self._hash(self._keys[0], domain, rest)}={domain}={rest}"

    def claims(self, address: Address) -> bool:
        """Whether this looks like an address that we have made."""
        local = address.local
        # Nearly no other address has that sign in it, and every recipient comes by here.
        return "=" in local and (_SRS0.fullmatch(local) or _SRS1.fullmatch(local)) is not None

    def reverse(self, address: Address) -> Address | None:
        """The address inside, if we made this one and it is not too old; else None."""
        local = address.local
        if (parts := _SRS0.fullmatch(local)) is not None:
            signed = self._is_signed(parts["hash"], parts["day"], parts["domain"], parts["local"])
            if signed and self._is_recent(parts["day"]):
                return _address(parts["local"], parts["domain"])
            return None
        parts = _SRS1.fullmatch(local)
        if parts is not None and self._is_signed(parts["hash"], parts["domain"], parts["rest"]):
            return _address(f"SRS0{parts['rest']}", parts["domain"])
        return None

    # --- day and hash ------------------------------------------------------------------------------------------

    def _today(self) -> int:
        return int(self._clock.seconds() // _DAY_SECONDS) % _DAYS

    def _is_recent(self, stamp: str) -> bool:
        high, low = (_ALPHABET.index(letter) for letter in stamp.upper())
        age = (self._today() - (high << 5 | low)) % _DAYS
        return age <= self._age_days_max or age >= _DAYS - _DAYS_AHEAD_MAX

    def _is_signed(self, given: str, *parts: str) -> bool:
        """Whether one of our keys makes this hash.  Every key is tried, and takes the same time whether it does."""
        if len(given) != self._hash_characters:
            return False
        folded = given.lower().encode()
        is_signed = False
        for key in self._keys:
            is_signed |= hmac.compare_digest(self._hash(key, *parts).lower().encode(), folded)
        return is_signed

    def _hash(self, key: bytes, *parts: str) -> str:
        # Of the letters, ASCII ones alone are folded, as C does it.
        octets = b"".join(part.encode("utf-8", "surrogatepass").lower() for part in parts)
        return b64encode(hmac.digest(key, octets, "sha1")).decode("ascii")[: self._hash_characters]


def _fits(address: Address) -> bool:
    """Within RFC 5321 sections 4.5.3.1.1 to 4.5.3.1.3, as it is written."""
    local, _, domain = str(address).rpartition("@")
    local_octets, domain_octets = len(local.encode("utf-8", "surrogatepass")), len(domain)
    return (
        local_octets <= LOCAL_OCTETS_MAX
        and domain_octets <= DOMAIN_OCTETS_MAX
        and local_octets + domain_octets + 3 <= PATH_OCTETS_MAX
    )


def _address(local: str, domain: str) -> Address | None:
    """What was inside, read as strictly as if a client had said it."""
    try:
        return parse_address(str(Address(local, domain)))
    except ValueError:
        return None


@implementer(IAccounts)
class SrsAccounts:
    """`accounts`, with an alias for every address that `srs` has made: it stands for the address inside.

    So a bounce to one is a recipient like any other: known at RCPT if its hash is right, nobody otherwise (a catch-all
    does not get it), and forwarded when it is resolved.
    """

    def __init__(self, accounts: IAccounts, srs: Srs) -> None:
        self._accounts = accounts
        self._srs = srs
        self.hosts = accounts.hosts

    def find(self, address: Address) -> Coroutine[Any, Any, Account | None]:
        if not self._srs.claims(address) or not self._accounts.hosts(address.domain):
            return self._accounts.find(address)
        return self._find_original(address)

    async def _find_original(self, address: Address) -> Account | None:
        original = self._srs.reverse(address)
        return None if original is None else Alias(address, (original,))

    async def authenticate(self, login: str, password: str) -> str | None:
        return await self._accounts.authenticate(login, password)

    async def scram_verifier(self, login: str) -> tuple[str | None, ScramVerifier]:
        return await self._accounts.scram_verifier(login)
