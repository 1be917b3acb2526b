"""IAccounts over the two text files of a small site: who has a mailbox, what is an alias, who can prove to be whom.

A look-up is a few dictionary accesses and never waits.  A login that is unknown costs what a known one costs: the same
argon2 run against a hash that nobody has the password of, the same SCRAM exchange against a verifier that is made up.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from zope.interface import implementer

from mailhub.interfaces import AccountsUnavailable, IAccounts, IExecutor
from mailhub.model import Account, Address, Alias, Mailbox, ScramVerifier
from mailhub.store import aliases_file, names, passwd_file, passwords
from mailhub.store.aliases_file import NO_ALIASES, AliasesFile
from mailhub.store.names import BadName, fold
from mailhub.store.passwd_file import NO_ACCOUNTS, AccountLine, AccountsFile
from mailhub.store.problem import Problem
from mailhub.store.watched_file import CHECK_SECONDS, WatchedFile

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

#: Logins that may wait for a thread that hashes; further ones are told to come back (454 4.7.0).
HASHES_PENDING_MAX = 100

_log = Logger()


class Directory:
    """Both files as one table.  Made anew whenever one of them was read again; never changed."""

    def __init__(
        self,
        domains: frozenset[str],
        accounts: AccountsFile,
        aliases: AliasesFile,
        quota_octets: int | None = None,
    ) -> None:
        self.accounts = accounts.accounts
        self._aliases = aliases
        self._found: dict[tuple[str, str], Account] = {}  # by folded local part and domain
        self._catch_alls: dict[str, Alias] = {}
        self.domains = domains
        for line in accounts.accounts.values():
            mailbox = line.mailbox
            if mailbox.quota_octets is None and quota_octets is not None:
                mailbox = replace(mailbox, quota_octets=quota_octets)
            self._found[mailbox.address.local, mailbox.address.domain] = mailbox
        for address, alias in aliases.aliases.items():
            alias = replace(alias, targets=tuple(self._placed(address, alias)))
            place = (address.local, address.domain)
            here = self._found.get(place)
            if not address.local:
                self._catch_alls[address.domain] = alias
            elif isinstance(here, Mailbox) and any(self._is(target, address) for target in alias.targets):
                # `alice: alice, bob` where alice is an account: a mailbox that gives copies away.
                others = tuple(target for target in alias.targets if not self._is(target, address))
                self._found[place] = replace(here, copies_to=others)
            else:
                self._found[place] = alias
        # A login that nobody has must cost and look like most of those that somebody has.
        costs = Counter(line.cost for line in self.accounts.values() if line.cost is not None)
        iterations = Counter(line.verifier.iterations for line in self.accounts.values() if line.verifier is not None)
        self.dummy_hash = passwords.dummy_hash(costs.most_common(1)[0][0] if costs else passwords.COST)
        self.iterations = iterations.most_common(1)[0][0] if iterations else passwords.SCRAM_ITERATIONS

    @staticmethod
    def _key(address: Address) -> Address:
        local = fold(address.local)
        return address if local == address.local else Address(local, address.domain)

    def _placed(self, address: Address, alias: Alias) -> Iterator[Address]:
        """The targets.  A bare name that nobody bears in the alias's own domain is the account of that name in another
        one, if there is exactly one: `postmaster: alice` then holds for all domains."""
        for written, target in zip(self._aliases.entry_of[address].targets, alias.targets, strict=True):
            base = Address(self._key(target).local.partition("+")[0], target.domain)
            if "@" not in written and base not in self.accounts and base not in self._aliases.aliases:
                elsewhere = [each for each in sorted(self.domains) if Address(base.local, each) in self.accounts]
                if len(elsewhere) == 1:
                    target = Address(target.local, elsewhere[0])
            yield target

    def _is(self, target: Address, address: Address) -> bool:
        """Whether the target is this very account, with a detail or without."""
        key = self._key(target)
        return key == address or (key.local.partition("+")[0], key.domain) == (address.local, address.domain)

    def find(self, address: Address) -> Account | None:
        """As IAccounts.find."""
        local, domain = fold(address.local), address.domain
        found = self._found.get((local, domain))
        if found is not None:
            return found
        name, plus, _ = local.partition("+")
        if plus:
            found = self._found.get((name, domain))
            if isinstance(found, Mailbox):
                # The detail as it was written; folding never makes or removes a plus sign.
                return replace(found, detail=address.local.partition("+")[2] or None)
            if found is not None:
                return found
        return self._catch_alls.get(domain)

    def _is_circle(self, address: Address) -> bool:
        """Whether all ways from this alias come back: to no mailbox, nobody outside, and no name that is missing."""
        followed: set[Address] = set()
        left = [address]
        while left:
            target = left.pop()
            found = self.find(target) if target.domain in self.domains else None
            if not isinstance(found, Alias):
                return False
            if found.address not in followed:
                followed.add(found.address)
                left += found.targets
        return True

    def problems(self, path: str) -> list[Problem]:
        """What only shows when both files are seen together; `path` is the aliases file."""
        found = []
        for address, alias in self._aliases.aliases.items():
            for target in self._placed(address, alias):
                if target.domain in self.domains and self.find(target) is None:
                    what = f"{target}, a target of alias {address.local}@{address.domain}, is nobody here"
                    found.append(
                        Problem(
                            path, self._aliases.entry_of[address].line, what, "Add the account or remove the target"
                        )
                    )
            if self._is_circle(address):
                what = f"alias {address.local}@{address.domain} leads in a circle, and to nobody"
                found.append(
                    Problem(path, self._aliases.entry_of[address].line, what, "Let one of them lead elsewhere")
                )
        for domain in sorted(self.domains):
            # RFC 5321 section 4.5.1: mail to postmaster must be taken in every domain.
            if self.find(Address("postmaster", domain)) is None:
                what = f"postmaster@{domain} is nobody, and must be somebody (RFC 5321 section 4.5.1)"
                found.append(Problem(path, 0, what, "Add an alias: `mailhub alias add postmaster TARGET`"))
        return found


@implementer(IAccounts)
class FileAccounts:
    """The accounts and aliases of the hosted `domains`, out of two files that may change at any time.

    A path that is None means that there are none of that kind.  `random` must be random.SystemRandom in a real hub,
    since the key of this process comes from it.  `secret` is that of the installation
    (`passwords.installation_secret`); without one the fake verifiers change with every start, and show whoever
    compares them that they are fakes.  `quota_octets` is for accounts without a quota of their own.
    """

    def __init__(
        self,
        domains: Iterable[str],
        accounts_path: Path | None,
        aliases_path: Path | None,
        steady: IReactorTime,
        executor: IExecutor,
        random: random.Random,
        *,
        secret: bytes | None = None,
        remember_seconds: float = passwords.PROVEN_SECONDS,
        hashes_pending_max: int = HASHES_PENDING_MAX,
        quota_octets: int | None = None,
    ) -> None:
        self.domains = frozenset(names.parse_domain(domain) for domain in domains)
        self._accounts_file: WatchedFile[AccountsFile] | None = None
        if accounts_path is not None:
            self._accounts_file = WatchedFile(
                accounts_path,
                partial(passwd_file.parse, domains=self.domains, path=str(accounts_path)),
                steady,
                remedy="Make it with `mailhub user add`, and readable for the user that the hub runs as",
            )
        self._aliases_file: WatchedFile[AliasesFile] | None = None
        if aliases_path is not None:
            self._aliases_file = WatchedFile(
                aliases_path,
                partial(aliases_file.parse, domains=self.domains, path=str(aliases_path)),
                steady,
                if_missing=NO_ALIASES,
            )
        self._steady = steady
        self._executor = executor
        self._secret = secret or random.randbytes(passwords.SECRET_OCTETS)
        self._proven = passwords.ProvenLogins(random.randbytes(32), steady, remember_seconds)
        self._hashes_pending = 0
        self._hashes_pending_max = hashes_pending_max
        self._quota_octets = quota_octets
        self._sources: tuple[AccountsFile, AliasesFile] = (NO_ACCOUNTS, NO_ALIASES)
        self._directory: Directory | None = None
        self._looked_at = 0.0
        self._reported: frozenset[Problem] = frozenset()
        self._troubles: list[Problem] = []

    # --- who there is ----------------------------------------------------------------------------------------------

    def hosts(self, domain: str) -> bool:
        return domain in self.domains

    async def find(self, address: Address) -> Account | None:
        """As IAccounts.find; never waits.  Raises AccountsUnavailable while the files could not be read even once."""
        return self._now().find(address)

    def problems(self) -> tuple[Problem, ...]:
        """All that is wrong with the two files, as they are now."""
        found: list[Problem] = []
        for file in (self._accounts_file, self._aliases_file):
            if file is None:
                continue
            with suppress(AccountsUnavailable):
                found += file.current().problems
            if file.problem is not None:
                found.append(file.problem)
        found += self._readable_by_all()
        with suppress(AccountsUnavailable):
            file = self._aliases_file or self._accounts_file
            found += self._now().problems("" if file is None else str(file.path))
        return tuple(found)

    def _readable_by_all(self) -> list[Problem]:
        if self._accounts_file is None:
            return []
        path = self._accounts_file.path
        try:
            if not os.stat(path).st_mode & 0o004:
                return []
        except OSError:
            return []
        return [Problem(str(path), 0, "every user of this machine can read the password hashes", f"chmod 640 {path}")]

    def tell_problems(self) -> None:
        """Log all that is wrong with the files, for the start; what changes later is logged as it is read."""
        self._tell(self.problems())

    def _now(self) -> Directory:
        """Looked for anew where the files may have to be looked at."""
        now = self._steady.seconds()
        directory = self._directory
        if directory is None or now - self._looked_at >= CHECK_SECONDS:
            self._looked_at = now
            try:
                directory = self._read()
            finally:
                self._tell_troubles()
        return directory

    def _tell_troubles(self) -> None:
        """A file that cannot be read is told when that begins, and when the reason changes."""
        troubles = [file.problem for file in (self._accounts_file, self._aliases_file) if file and file.problem]
        if troubles != self._troubles:
            for trouble in troubles:
                if trouble not in self._troubles:
                    _log.error("{problem}", problem=str(trouble))
            self._troubles = troubles

    def _read(self) -> Directory:
        accounts = NO_ACCOUNTS if self._accounts_file is None else self._accounts_file.current()
        aliases = NO_ALIASES if self._aliases_file is None else self._aliases_file.current()
        directory = self._directory
        if directory is None or self._sources[0] is not accounts or self._sources[1] is not aliases:
            self._sources = (accounts, aliases)
            directory = self._directory = Directory(self.domains, accounts, aliases, self._quota_octets)
            self._tell((*accounts.problems, *aliases.problems))
        return directory

    def _tell(self, problems: Iterable[Problem]) -> None:
        """Log each problem once, not at every change of a file that keeps it."""
        now = frozenset(problems)
        for problem in sorted(now - self._reported - set(self._troubles)):
            _log.warn("{problem}", problem=str(problem))
        self._reported = now

    # --- who can prove it --------------------------------------------------------------------------------------------

    def _line(self, login: str, directory: Directory) -> tuple[str, AccountLine | None]:
        """The login in its canonical form, be there such an account or not, and the account."""
        if "@" not in login and len(self.domains) == 1:
            login = f"{login}@{next(iter(self.domains))}"
        if len(login) > names.LOGIN_CHARACTERS_MAX:
            return fold(login[: names.LOGIN_CHARACTERS_MAX]), None
        try:
            address = names.parse_name(login)
        except BadName:
            return fold(login), None
        return f"{address.local}@{address.domain}", directory.accounts.get(address)

    async def authenticate(self, login: str, password: str) -> str | None:
        directory = self._now()
        canonical, line = self._line(login, directory)
        known = (
            line is not None and line.password is not None and 0 < len(password) <= passwords.PASSWORD_CHARACTERS_MAX
        )
        stored = line.password if known and line is not None and line.password is not None else directory.dummy_hash
        if known and self._proven.holds(canonical, password, stored):
            return canonical
        if self._hashes_pending >= self._hashes_pending_max:
            raise AccountsUnavailable("too many logins wait for their password to be checked")
        # Whoever stops waiting does not stop the thread, which counts until it is done.
        waiting: Deferred[bool] = Deferred()
        Deferred.fromCoroutine(self._hash(stored, password)).chainDeferred(waiting)
        try:
            proven = await waiting
        except (AccountsUnavailable, CancelledError):
            raise
        except Exception as error:
            raise AccountsUnavailable(f"the password could not be checked: {error}") from error
        if not (proven and known):
            return None
        self._proven.remember(canonical, password, stored)
        return canonical

    async def _hash(self, stored: str, password: str) -> bool:
        self._hashes_pending += 1
        try:
            return await self._executor.run(passwords.verify, stored, password)
        finally:
            self._hashes_pending -= 1

    async def scram_verifier(self, login: str) -> tuple[str | None, ScramVerifier]:
        directory = self._now()
        canonical, line = self._line(login, directory)
        if line is not None and line.verifier is not None:
            return canonical, line.verifier
        return None, passwords.fake_verifier(self._secret, canonical, directory.iterations)
