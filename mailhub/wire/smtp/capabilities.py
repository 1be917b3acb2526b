"""What a remote host offers, learnt from its answer to EHLO or LHLO (RFC 5321 section 4.1.1.1)."""

from __future__ import annotations

from dataclasses import dataclass

from mailhub.model import Reply

_DIGITS_MAX = 20  # RFC 1870 section 4: size-value = 1*20DIGIT


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The service extensions on offer.  `size_max` is in octets.  For all limits, 0 means that none is known."""

    pipelining: bool = False  # RFC 2920
    size: bool = False  # RFC 1870
    size_max: int = 0
    eightbitmime: bool = False  # RFC 6152
    smtputf8: bool = False  # RFC 6531
    dsn: bool = False  # RFC 3461
    chunking: bool = False  # RFC 3030
    binarymime: bool = False  # RFC 3030
    starttls: bool = False  # RFC 3207
    requiretls: bool = False  # RFC 8689
    auth: tuple[str, ...] = ()  # SASL mechanisms in upper case, RFC 4954
    transactions_max: int = 0  # of one session: MAILMAX, RFC 9422 section 4.1
    recipients_max: int = 0  # of one transaction: RCPTMAX, RFC 9422 section 4.2
    domains_max: int = 0  # of the recipients of one transaction: RCPTDOMAINMAX, RFC 9422 section 4.3


#: What a host has that knows HELO only.
NOTHING = Capabilities()


def parse(reply: Reply) -> Capabilities:
    """The capabilities in a positive reply.  Never raises: what is not understood is not offered."""
    offered: dict[str, list[str]] = {}
    for line in reply.more:
        keyword, *parameters = line.upper().split(" ")
        offered.setdefault(keyword, parameters)
    limits = dict(limit.partition("=")[::2] for limit in offered.get("LIMITS", ()))
    return Capabilities(
        pipelining="PIPELINING" in offered,
        size="SIZE" in offered,
        size_max=_number("".join(offered.get("SIZE", ()))),
        eightbitmime="8BITMIME" in offered,
        smtputf8="SMTPUTF8" in offered,
        dsn="DSN" in offered,
        chunking="CHUNKING" in offered,
        # RFC 3030 section 3: without CHUNKING there is no way to send it.
        binarymime="BINARYMIME" in offered and "CHUNKING" in offered,
        starttls="STARTTLS" in offered,
        requiretls="REQUIRETLS" in offered,
        auth=tuple(mechanism for mechanism in offered.get("AUTH", ()) if mechanism),
        transactions_max=_number(limits.get("MAILMAX", "")),
        recipients_max=_number(limits.get("RCPTMAX", "")),
        domains_max=_number(limits.get("RCPTDOMAINMAX", "")),
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX else 0
