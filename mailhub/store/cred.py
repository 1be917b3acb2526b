"""Any twisted.cred checker as the judge of passwords behind IAccounts.

Who has a mailbox and what is an alias still comes from `directory`; the checker (PAM, LDAP, a database, whatever there
is) only says whether a password is right.  What it proves must be an account of the directory: a login that owns no
mailbox here has nothing to send from.
"""

from __future__ import annotations

from twisted.cred.checkers import ANONYMOUS, ICredentialsChecker
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword, UsernamePassword
from twisted.cred.error import LoginFailed, UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailhub.interfaces import AccountsUnavailable, IAccounts
from mailhub.model import Account, Address, Mailbox, ScramVerifier
from mailhub.store import names, passwords
from mailhub.store.names import BadName


@implementer(IAccounts)
class CredAccounts:
    """`directory` with another way to prove a login.

    `checker` must take IUsernamePassword or IUsernameHashedPassword, with octets in UTF-8; else TypeError is raised.
    There are no verifiers behind such a checker, so every login with SCRAM fails, each at its end.
    """

    def __init__(self, directory: IAccounts, checker: ICredentialsChecker, secret: bytes) -> None:
        if not {IUsernamePassword, IUsernameHashedPassword} & set(checker.credentialInterfaces):
            raise TypeError(f"{checker!r} checks no passwords: it wants {list(checker.credentialInterfaces)}")
        self._directory = directory
        self._checker = checker
        self._secret = secret

    def hosts(self, domain: str) -> bool:
        return self._directory.hosts(domain)

    async def find(self, address: Address) -> Account | None:
        return await self._directory.find(address)

    async def authenticate(self, login: str, password: str) -> str | None:
        """As IAccounts.authenticate; the time that an unknown login takes is the checker's to keep level."""
        if (
            not 0 < len(login) <= names.LOGIN_CHARACTERS_MAX
            or not 0 < len(password) <= passwords.PASSWORD_CHARACTERS_MAX
        ):
            return None
        try:
            credentials = UsernamePassword(login.encode("utf-8"), password.encode("utf-8"))
        except UnicodeEncodeError:
            return None
        try:
            avatar_id = await _asked(self._checker, credentials)
        except (LoginFailed, UnauthorizedLogin):
            return None
        except Exception as error:
            raise AccountsUnavailable(f"the checker failed: {error}") from error
        if avatar_id is ANONYMOUS:
            return None
        try:
            address = names.parse_name(avatar_id.decode("utf-8") if isinstance(avatar_id, bytes) else str(avatar_id))
        except (BadName, UnicodeDecodeError):
            return None
        account = await self._directory.find(address)
        # A detail or an alias is no account of its own: alice+x must not log in as somebody beside alice.
        if isinstance(account, Mailbox) and account.address == address:
            return f"{address.local}@{address.domain}"
        return None

    async def scram_verifier(self, login: str) -> tuple[str | None, ScramVerifier]:
        return None, passwords.fake_verifier(self._secret, names.fold(login[: names.LOGIN_CHARACTERS_MAX]))


async def _asked(checker: ICredentialsChecker, credentials: UsernamePassword) -> object:
    """A checker answers with a Deferred, or, as many do, at once."""
    answer = checker.requestAvatarId(credentials)
    return await answer if isinstance(answer, Deferred) else answer
