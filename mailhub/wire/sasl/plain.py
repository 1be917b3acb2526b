"""PLAIN (RFC 4616): authorization identity, login and password in one message, separated by NUL."""

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


class Plain(Exchange):
    """To act for somebody else is not offered: the authorization identity is empty or the login itself."""

    mechanism = "PLAIN"

    def __init__(self) -> None:
        self._asked: tuple[str, str] | None = None

    def start(self, initial: bytes | None) -> Step:
        return Challenge(b"") if initial is None else self.step(initial)

    def step(self, response: bytes) -> Step:
        # RFC 4616 section 2: message = [authzid] UTF8NUL authcid UTF8NUL passwd
        if len(response) > 2 * LOGIN_OCTETS_MAX + PASSWORD_OCTETS_MAX + 2:
            return Malformed("the message is too long")
        fields = response.split(b"\0")
        if len(fields) != 3:
            return Malformed(f"the message has {len(fields) - 1} NUL, not two")
        acting_for = text_of(fields[0], LOGIN_OCTETS_MAX, "authorization identity") if fields[0] else ""
        login = text_of(fields[1], LOGIN_OCTETS_MAX, "login")
        password = text_of(fields[2], PASSWORD_OCTETS_MAX, "password")
        if isinstance(acting_for, Malformed):
            return acting_for
        if isinstance(login, Malformed):
            return login
        if isinstance(password, Malformed):
            return password
        self._asked = (acting_for, login)
        return NeedPassword(login, password)

    def proved(self, login: str | None) -> Step:
        if self._asked is None:
            raise RuntimeError("no password was asked for")
        (acting_for, asked), self._asked = self._asked, None
        if login is None:
            return Refused("login or password is wrong")
        # Only now, so that the answer does not come sooner for a login that exists.
        if acting_for and acting_for.lower() not in (asked.lower(), login.lower()):
            return Refused(f"{login} asked to act for somebody else")
        return Done(login)
