"""The next hop that a postmaster writes: which protocol, which host, which port."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Protocol: TypeAlias = Literal["smtp", "smtps", "lmtp", "unix", "mx"]


@dataclass(frozen=True, slots=True)
class NextHop:
    """What `to` says.  "mx" has no host: the MX records of the recipient's domain say it.  For "unix", LMTP over a
    socket, `host` is the absolute path and `port` 0."""

    protocol: Protocol
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        """As it is written in the configuration."""
        if self.protocol == "mx":
            return "mx"
        if self.protocol == "unix":
            return f"lmtp:unix:{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}:{host}:{self.port}"

    @property
    def endpoint(self) -> str:
        """A Twisted client endpoint string, with what must be escaped in one escaped."""
        host = self.host.replace("\\", "\\\\").replace(":", "\\:")
        return f"unix:{host}" if self.protocol == "unix" else f"tcp:{host}:{self.port}"


MX = NextHop("mx")
