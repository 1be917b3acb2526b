"""SASL on the server's side (RFC 4422), one small class per mechanism, without input or output."""

from __future__ import annotations

from mailhub.wire.sasl.exchange import (
    Challenge,
    Done,
    Exchange,
    Malformed,
    NeedPassword,
    NeedVerifier,
    Refused,
    Step,
)
from mailhub.wire.sasl.login import Login
from mailhub.wire.sasl.plain import Plain
from mailhub.wire.sasl.scram import BINDING_TYPES, ChannelBinding, Scram


def offered(bindings: tuple[ChannelBinding, ...] = ()) -> tuple[str, ...]:
    """The mechanisms to announce, strongest first.  The caller sees to it that there is TLS (RFC 4954 section 4)."""
    plus = ("SCRAM-SHA-256-PLUS",) if any(binding.type in BINDING_TYPES for binding in bindings) else ()
    return (*plus, "SCRAM-SHA-256", "PLAIN", "LOGIN")


def begin(mechanism: str, bindings: tuple[ChannelBinding, ...], nonce: str) -> Exchange | None:
    """An exchange of this mechanism (in any case), or None if it is not offered (504 5.5.4).

    `nonce` is at least 18 printable characters without a comma, unguessable and new each time; SCRAM alone uses it.
    """
    name = mechanism.upper()
    if name not in offered(bindings):
        return None
    match name:
        case "PLAIN":
            return Plain()
        case "LOGIN":
            return Login()
        case _:
            return Scram(name, bindings, nonce)


__all__ = [
    "BINDING_TYPES",
    "Challenge",
    "ChannelBinding",
    "Done",
    "Exchange",
    "Login",
    "Malformed",
    "NeedPassword",
    "NeedVerifier",
    "Plain",
    "Refused",
    "Scram",
    "Step",
    "begin",
    "offered",
]
