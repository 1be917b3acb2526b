"""Logins: what a client says to the SASL mechanisms that we offer."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Hashable

from scramp import ScramClient  # type: ignore[import-untyped]

from mailhub.model import ScramVerifier
from mailhub.store.passwords import make_verifier
from mailhub.wire import sasl
from tests.fuzz.target import target

_NONCE = "3rfcNHYJY1ZVvWVs7j3rfcNHYJY1ZV"
_BINDINGS = (sasl.ChannelBinding("tls-exporter", b"0123456789abcdef"),)
_PASSWORD = "correct horse"
_MADE = make_verifier(_PASSWORD, b"0123456789abcdef", 4096)
assert _MADE is not None
_VERIFIER: ScramVerifier = _MADE
_FAKE = ScramVerifier(b"fedcba9876543210", 4096, b"\1" * 32, b"\2" * 32)
_CLIENT_NONCE = "rOprNGfwEbeRWgbNEkqO"
_STEPS_MAX = 6


def _scram_login() -> bytes:
    """What a good client says, response by response."""
    client = ScramClient(["SCRAM-SHA-256"], "alice", _PASSWORD, c_nonce=_CLIENT_NONCE)
    exchange = sasl.begin("SCRAM-SHA-256", (), _NONCE)
    assert exchange is not None
    first = client.get_client_first()
    assert isinstance(exchange.start(first.encode()), sasl.NeedVerifier)
    challenge = exchange.verify_with("alice", _VERIFIER)
    assert isinstance(challenge, sasl.Challenge)
    client.set_server_first(challenge.octets.decode())
    return b"\x00" + "\n".join((first, client.get_client_final(), "")).encode()


_GOOD = _scram_login()
_FIRST = _GOOD[1:].split(b"\n")[0]
_BOTH_NONCES = (_CLIENT_NONCE + _NONCE).encode()


@target(
    "sasl-scram",
    "SCRAM-SHA-256 and -PLUS: wire/sasl/scram.py",
    (
        _GOOD,
        b"\x01p=tls-exporter,,n=alice,r=rOprNGfwEbeRWgbNEkqO\nc=" + b64encode(b"p=tls-exporter,,x") + b",r=x,p=AAAA",
        b"\x02y,,n=bob,r=rOprNGfwEbeRWgbNEkqO",
        b"\x00n,a=mallory,n=alice,r=rOprNGfwEbeRWgbNEkqO",
        b"\x00n,,n=a=2Cb=3D,r=rOprNGfwEbeRWgbNEkqO\nc=biws,r=" + _BOTH_NONCES + b",p=" + b"A" * 43 + b"=",
        b"\x00n,,m=x,n=alice,r=y",
        "\x00n,,n=\u00aa\u0301,r=y".encode(),
        b"\x00\n" + _FIRST,
    ),
    (
        b"n,,", b"y,,", b"p=tls-exporter,,", b"p=tls-unique,,", b"n=", b"alice", b"bob", b"r=", b",", b"c=biws",
        b",p=", b"=2C", b"=3D", b"=",
        b"m=", b"a=", b"\n", _CLIENT_NONCE.encode(), _NONCE.encode(), _FIRST, b"AAAA", "\u00ad".encode(),
        "\u0627\u0661".encode(), b"\xff",
    ),
    octets_max=4097,
    seconds_per_octet=100e-6,
)  # fmt: skip
def scram(octets: bytes) -> Hashable:
    """The first octet says which of both, and whether there is TLS; each line of the rest is a response."""
    dial = octets[0] if octets else 0
    bindings = _BINDINGS if dial & 3 else ()
    name = "SCRAM-SHA-256-PLUS" if dial & 1 else "SCRAM-SHA-256"
    return name, bool(bindings), play(name, bindings, octets[1:].split(b"\n"))


@target(
    "sasl-plain",
    "PLAIN and LOGIN: wire/sasl/plain.py and login.py",
    (b"\x00\0alice\0correct horse", b"\x00bob\0alice\0correct horse", b"\x00alice\0alice\0wrong",
    b"\x01alice\ncorrect horse", b"\x01\n\n", b"\x00\0\0\0"),
    (b"\0", b"alice", b"bob", b"\n", b"correct horse", b"wrong", b"\xff", "ü".encode()),
    ci_inputs=40_000,
)  # fmt: skip
def plain(octets: bytes) -> Hashable:
    """The first octet says which of both; each line of the rest is a response."""
    name = "LOGIN" if octets[:1] == b"\x01" else "PLAIN"
    return name, play(name, (), octets[1:].split(b"\n"))


def play(name: str, bindings: tuple[sasl.ChannelBinding, ...], responses: list[bytes]) -> Hashable:
    """One attempt; an account is known, and everybody else is not."""
    exchange = sasl.begin(name, bindings, _NONCE)
    assert exchange is not None
    waiting = iter(responses[:_STEPS_MAX])
    initial = next(waiting, None)
    proven: str | None = None
    step = exchange.start(initial or None)
    came_to = []
    while True:
        came_to.append(type(step).__name__)
        match step:
            case sasl.Challenge(challenge):
                assert len(challenge) <= 1024 + 2 * sum(map(len, responses))
                response = next(waiting, None)
                if response is None:
                    break
                step = exchange.step(response)
            case sasl.NeedPassword(login, password):
                assert login
                assert password
                assert "\0" not in login + password
                proven = login if (login, password) == ("alice", _PASSWORD) else None
                step = exchange.proved(proven)
            case sasl.NeedVerifier(login):
                known = login == "alice"
                proven = login if known else None
                step = exchange.verify_with(proven, _VERIFIER if known else _FAKE)
            case sasl.Done(login):
                assert login == proven == "alice", "somebody is let in who proved nothing"
                break
            case sasl.Refused(why) | sasl.Malformed(why):
                assert why
                return tuple(came_to), why[:30]
    return tuple(came_to)
