"""Which addresses are those of this machine's interfaces, now: asked of the kernel, one address at a time.

A socket can be bound to an address only where it is ours.  That holds in containers and network namespaces, follows
addresses that come and go, and needs no list of interfaces.  (With net.ipv4.ip_nonlocal_bind every address looks like
ours; a machine that has it set can say who it is in `outbound.own_addresses`, and must not listen on the port that it
sends to.)
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

#: How long an answer holds, and how many are kept.
REMEMBER_SECONDS = 30.0
REMEMBERED_MAX = 10_000


def can_bind(address: str) -> bool:
    """Whether the kernel takes this IP address for one of ours.  It sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


class OwnAddresses:
    """`can_bind`, remembered for a while."""

    def __init__(self, steady: IReactorTime) -> None:
        self._steady = steady
        self._known: dict[str, bool] = {}
        self._since = steady.seconds()

    def __call__(self, address: str) -> bool:
        now = self._steady.seconds()
        if now - self._since >= REMEMBER_SECONDS or len(self._known) >= REMEMBERED_MAX:
            self._known.clear()
            self._since = now
        known = self._known.get(address)
        if known is None:
            known = self._known[address] = can_bind(address)
        return known
