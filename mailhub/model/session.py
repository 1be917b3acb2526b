"""Who is talking to us: one SMTP or LMTP session, as frozen values that policies may keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Peer:
    """The two ends of the connection.  `ip` is the canonical text of an IPv4 or IPv6 address (an IPv4-mapped IPv6
    address is written as IPv4), or "unix" for a peer on a UNIX socket."""

    ip: str
    port: int = 0
    local_ip: str = ""
    local_port: int = 0


@dataclass(frozen=True, slots=True)
class Tls:
    """The TLS layer of a session, once there is one."""

    version: str
    cipher: str
    server_name: str | None = None


class Hello(NamedTuple):
    """What the client called itself, and with which verb ("EHLO", "HELO" or "LHLO").  An unproven claim."""

    verb: str
    name: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Who logged in: the canonical account address, and the SASL mechanism that proved it."""

    login: str
    mechanism: str


class Session(NamedTuple):
    """One session as it stands now.  `id` is unique for the life of the installation; `role` is the role that listens
    ("mta", "msa" or "lmtp")."""

    id: str
    role: str
    peer: Peer
    hello: Hello | None = None
    tls: Tls | None = None
    identity: Identity | None = None

    @property
    def with_type(self) -> str:
        """The "with" word of the Received field (RFC 3848; UTF8 forms of RFC 6531 are the transaction's to add)."""
        if self.role == "lmtp":
            base = "LMTP"
        elif self.hello is not None and self.hello.verb == "HELO":
            return "SMTP"
        else:
            base = "ESMTP"
        return base + ("S" if self.tls else "") + ("A" if self.identity else "")
