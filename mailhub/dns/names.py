"""What the DNS calls a client (PTR), and whether that name leads back to it: for its story alone.

The rule: nobody waits for a name, and none decides anything.  The question is asked beside the session; what comes of
it, a failure included, is told to whoever asked as facts, never as an error.  Who asks again soon is answered from the
resolver's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from mailhub.interfaces import IPeerNames, IResolver, ResolutionDeferred
from mailhub.policy.begin import begin

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

#: Names that are looked up at once; clients beyond that are told of without one.
ASKING_MAX = 100
#: How long one may take.
ANSWER_SECONDS_MAX = 30.0
#: A longer name is none (RFC 1035 section 3.1).
NAME_CHARACTERS_MAX = 255

Facts = Mapping[str, object]
_TOO_MANY: Facts = {"ptr_cause": "too many names were being looked up"}
_NONE: Facts = {"ptr_cause": "the DNS has none"}


@implementer(IPeerNames)
class PeerNames:
    """Asks `resolver`; `steady` limits how long."""

    def __init__(self, resolver: IResolver, steady: IReactorTime) -> None:
        self._resolver = resolver
        self._steady = steady
        self.asking = 0

    def look_up(self, ip: str, told: Callable[[Facts], None]) -> None:
        """As IPeerNames.  What never left this machine has no name: "unix", loopback and link-local addresses."""
        if ip == "unix" or ip.startswith(("127.", "169.254.", "fe80:")) or ip == "::1":
            return
        if self.asking >= ASKING_MAX:
            told(_TOO_MANY)
            return
        try:
            found = begin(self._find(ip))
        except Exception:
            found = {"ptr_cause": _cause(Failure())}  # type: ignore[no-untyped-call]
        if not isinstance(found, Deferred):
            told(found)
            return
        self.asking += 1
        timer = self._steady.callLater(ANSWER_SECONDS_MAX, found.cancel)

        def ended(result: Facts | Failure) -> None:
            self.asking -= 1
            if timer.active():
                timer.cancel()
            told({"ptr_cause": _cause(result)} if isinstance(result, Failure) else result)

        found.addBoth(ended)

    async def _find(self, ip: str) -> Facts:
        try:
            names = (await self._resolver.ptr(ip)).records
        except ResolutionDeferred as problem:
            return {"ptr_cause": str(problem)[:NAME_CHARACTERS_MAX]}
        if not names:
            return _NONE
        name = str(names[0])[:NAME_CHARACTERS_MAX]
        try:
            back = (await self._resolver.addresses(name)).records
        except ResolutionDeferred:
            return {"ptr": name}  # whether it leads back is not known
        return {"ptr": name, "ptr_confirmed": ip in back}


def _cause(failure: Failure) -> str:
    if failure.check(CancelledError):  # type: ignore[no-untyped-call]
        return f"no answer within {ANSWER_SECONDS_MAX:.0f} s"
    return f"{type(failure.value).__name__}: {failure.value}"[:NAME_CHARACTERS_MAX]
