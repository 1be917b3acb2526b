"""Logging in: a SASL exchange, the accounts it asks, and the throttle that makes guessing slow.

Whoever is turned away learns nothing: an unknown login, a wrong password and a login that may not log in get the same
reply after the same work.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twisted.internet.defer import CancelledError

from mailhub.interfaces import AccountsUnavailable, IAccounts, IHistory
from mailhub.model import Identity, Reply, Session
from mailhub.receiver import replies
from mailhub.receiver.throttle import Throttle
from mailhub.wire import sasl

#: What is offered under TLS, strongest first.
MECHANISMS = sasl.offered(tuple(sasl.ChannelBinding(kind, b"any") for kind in sasl.BINDING_TYPES))
#: The same where the TLS connection cannot be bound to.
MECHANISMS_WITHOUT_BINDING = sasl.offered()

_NONCE_BITS = 144


@dataclass(frozen=True)
class Logins:
    """Who may log in, and how often somebody may try.  `random` must be unguessable (random.SystemRandom)."""

    accounts: IAccounts
    throttle: Throttle
    history: IHistory
    random: random.Random
    tries_max: int = 3

    def begin(self, session: Session, mechanism: str, bindings: Mapping[str, bytes]) -> LoginAttempt | None:
        """One attempt to log in, or None if the mechanism is not offered."""
        nonce = f"{self.random.getrandbits(_NONCE_BITS):0{_NONCE_BITS // 4}x}"
        found: Sequence[sasl.ChannelBinding] = [
            sasl.ChannelBinding(kind, data) for kind, data in bindings.items() if kind in sasl.BINDING_TYPES
        ]
        exchange = sasl.begin(mechanism, tuple(found), nonce)
        return None if exchange is None else LoginAttempt(self, session, exchange)


class LoginAttempt:
    """One exchange.  Each step gives a challenge to send, the identity that was proven, or the reply that ends it."""

    def __init__(self, logins: Logins, session: Session, exchange: sasl.Exchange) -> None:
        self._logins = logins
        self._session = session
        self._exchange = exchange
        self._login = ""  # as the client gave it

    async def start(self, initial: bytes | None) -> bytes | Identity | Reply:
        if self._logins.throttle.turns_away(self._session.peer.ip):
            return self._refused(replies.TOO_MANY_LOGINS, "this address has failed too often")
        return await self._follow(self._exchange.start(initial))

    async def step(self, response: bytes) -> bytes | Identity | Reply:
        return await self._follow(self._exchange.step(response))

    async def _follow(self, step: sasl.Step) -> bytes | Identity | Reply:
        accounts, throttle, ip = self._logins.accounts, self._logins.throttle, self._session.peer.ip
        while True:
            match step:
                case sasl.Challenge(octets):
                    return octets
                case sasl.NeedPassword(login=login) | sasl.NeedVerifier(login=login):
                    self._login = login
                    if throttle.turns_away(ip, login):
                        return self._refused(replies.TOO_MANY_LOGINS, "this login has failed too often")
                    try:
                        if isinstance(step, sasl.NeedPassword):
                            step = self._exchange.proved(await accounts.authenticate(login, step.password))
                        else:
                            step = self._exchange.verify_with(*await accounts.scram_verifier(login))
                    except CancelledError:
                        # Gone before the answer, which has cost as much as any other: it counts, or else whoever cuts
                        # the connection each time could have passwords hashed without end.
                        throttle.failed(ip, login)
                        return self._refused(replies.LOGIN_UNAVAILABLE, "the client left before it was answered")
                    except AccountsUnavailable as error:
                        return self._refused(replies.LOGIN_UNAVAILABLE, str(error))
                case sasl.Done(login):
                    throttle.succeeded(ip, self._login)
                    identity = Identity(login, self._exchange.mechanism)
                    self._logins.history.record(
                        "logged_in", self._session.id, login=login, mechanism=identity.mechanism, peer=ip
                    )
                    return identity
                case sasl.Refused(why):
                    throttle.failed(ip, self._login)
                    return self._refused(replies.LOGIN_REFUSED, why)
                case sasl.Malformed(why):
                    return self._refused(replies.LOGIN_MALFORMED, why)

    def given_up(self, reply: Reply) -> None:
        """The client wants no more, or has sent what cannot be read; the wire has answered with this."""
        self._refused(reply, "the client gave up, or was not understood")

    def _refused(self, reply: Reply, why: str) -> Reply:
        self._logins.history.record(
            "login_refused",
            self._session.id,
            login=self._login[:320],
            mechanism=self._exchange.mechanism,
            peer=self._session.peer.ip,
            reply=reply,
            cause=why,
        )
        return reply
