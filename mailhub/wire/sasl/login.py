"""LOGIN: never standardized, and still what some clients speak: login and password, each after a challenge."""

from __future__ import annotations

from mailhub.wire.sasl.exchange import (
    LOGIN_OCTETS_MAX,
    PASSWORD_OCTETS_MAX,
    Challenge,
    Done,
    Exchange,
    Malformed,
    NeedPassword,
    Refused,
    Step,
    text_of,
)

#: Clients compare these, so they are as everybody sends them.
ASK_LOGIN = Challenge(b"Username:")
ASK_PASSWORD = Challenge(b"Password:")


class Login(Exchange):
    """An initial response, where one is given, is the login."""

    mechanism = "LOGIN"

    def __init__(self) -> None:
        self._login: str | None = None
        self._asked = False

    def start(self, initial: bytes | None) -> Step:
        return ASK_LOGIN if initial is None else self.step(initial)

    def step(self, response: bytes) -> Step:
        if self._login is None:
            login = text_of(response, LOGIN_OCTETS_MAX, "login")
            if isinstance(login, Malformed):
                return login
            self._login = login
            return ASK_PASSWORD
        if self._asked:
            raise RuntimeError("the password was given already")
        password = text_of(response, PASSWORD_OCTETS_MAX, "password")
        if isinstance(password, Malformed):
            return password
        self._asked = True
        return NeedPassword(self._login, password)

    def proved(self, login: str | None) -> Step:
        if not self._asked:
            raise RuntimeError("no password was asked for")
        return Refused("login or password is wrong") if login is None else Done(login)
