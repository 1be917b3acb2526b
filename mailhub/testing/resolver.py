"""The DNS as a test wants it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailhub.interfaces import IResolver, ResolutionDeferred
from mailhub.model.dns import Answer

Records = Mapping[str, Iterable[Any]]


@implementer(IResolver)
class Resolver:
    """Answers from dictionaries; what is in none of them does not exist.

    Names in `broken` fail as SERVFAIL does; names in `silent` never answer; of the addresses of names in `halved` one
    family fails, and the records are those of the other.  Records are as IResolver describes them: a null MX is
    `(0, "")`.  `asked` has every question, as (method, name).
    """

    def __init__(
        self,
        mx: Records | None = None,
        addresses: Records | None = None,
        txt: Records | None = None,
        ptr: Records | None = None,
        tlsa: Records | None = None,
        broken: Iterable[str] = (),
        silent: Iterable[str] = (),
        halved: Iterable[str] = (),
    ) -> None:
        self.zones: dict[str, Records] = {
            "mx": mx or {},
            "addresses": addresses or {},
            "txt": txt or {},
            "ptr": ptr or {},
            "tlsa": tlsa or {},
        }
        self.broken = set(broken)
        self.silent = set(silent)
        self.halved = set(halved)
        self.asked: list[tuple[str, str]] = []

    async def mx(self, domain: str) -> Answer:
        return await self._answer("mx", domain)

    async def addresses(self, host: str) -> Answer:
        return await self._answer("addresses", host)

    async def txt(self, name: str) -> Answer:
        return await self._answer("txt", name)

    async def ptr(self, ip: str) -> Answer:
        return await self._answer("ptr", ip)

    async def tlsa(self, name: str) -> Answer:
        return await self._answer("tlsa", name)

    async def _answer(self, kind: str, name: str) -> Answer:
        self.asked.append((kind, name))
        if name in self.silent:
            await Deferred()
        if name in self.broken:
            raise ResolutionDeferred(f"SERVFAIL for {name}")
        exists = any(name in zone for zone in self.zones.values())
        is_partial = kind == "addresses" and name in self.halved
        return Answer(tuple(self.zones[kind].get(name, ())), exists=exists, is_partial=is_partial)
