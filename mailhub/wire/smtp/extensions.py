"""What a server offers after EHLO, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Extensions:
    """The service extensions on offer (RFC 5321 section 4.1.1.1), and the name of the host that offers them.

    `size_max` is in octets, 0 means no fixed limit (RFC 1870 section 4).  `auth` are the SASL mechanisms; with
    `auth_needs_tls` none is offered, and AUTH is answered with 538.  `limits_rcptmax` is told to the client (RFC 9422
    section 4) and 0 is not.  Raises ValueError for what contradicts itself.
    """

    hostname: str
    size_max: int = 0
    starttls: bool = False  # RFC 3207
    auth: tuple[str, ...] = ()  # RFC 4954
    auth_needs_tls: bool = False
    pipelining: bool = True  # RFC 2920
    size: bool = True  # RFC 1870
    eightbitmime: bool = True  # RFC 6152
    smtputf8: bool = True  # RFC 6531
    dsn: bool = True  # RFC 3461
    chunking: bool = True  # RFC 3030
    binarymime: bool = False  # RFC 3030
    requiretls: bool = False  # RFC 8689
    limits_rcptmax: int = 0  # RFC 9422
    #: The EHLO keywords with their parameters, in the order in which they are told.
    keywords: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (self.hostname.isascii() and self.hostname.isprintable()) or " " in self.hostname:
            raise ValueError(f"not a host name: {self.hostname!r}")
        if self.binarymime and not self.chunking:
            raise ValueError("BINARYMIME cannot be offered without CHUNKING (RFC 3030 section 3)")
        offers = (
            (self.pipelining, "PIPELINING"),
            (self.size, f"SIZE {self.size_max}"),
            (self.starttls, "STARTTLS"),
            (bool(self.auth) and not self.auth_needs_tls, f"AUTH {' '.join(self.auth)}"),
            (self.eightbitmime, "8BITMIME"),
            (self.smtputf8, "SMTPUTF8"),
            (self.dsn, "DSN"),
            (self.chunking, "CHUNKING"),
            (self.binarymime, "BINARYMIME"),
            (self.requiretls, "REQUIRETLS"),
            (self.limits_rcptmax > 0, f"LIMITS RCPTMAX={self.limits_rcptmax}"),
            (bool(self.hostname), "ENHANCEDSTATUSCODES"),  # RFC 2034: every reply of ours has one
        )
        keywords = tuple(keyword for offered, keyword in offers if offered)
        object.__setattr__(self, "keywords", keywords)


#: What a client has that said HELO: nothing.
NO_EXTENSIONS = Extensions(
    "", pipelining=False, size=False, eightbitmime=False, smtputf8=False, dsn=False, chunking=False
)
