"""Which hosts take mail for a domain (RFC 5321 section 5.1), and in which order they are tried.

The rule: a recipient fails only on what the DNS has said for certain.  Where anything that could have led somewhere
cannot be known now, the answer is a deferral.  Whoever owns a zone writes what he likes into it, so names and addresses
are looked at with suspicion, and never more than MX_MAX and ADDRESSES_MAX of them.

Addresses of one host come with IPv6 first and then in turns, so that a dialler that goes down the list, or starts one
attempt shortly after the other, falls back to the other family at its second try (RFC 8305 section 4).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, groupby, zip_longest
from typing import TypeAlias

from twisted.internet.defer import Deferred

from mailhub.interfaces import IResolver, ResolutionDeferred
from mailhub.model import Host, Nowhere, reply
from mailhub.model.dns import Answer
from mailhub.policy.begin import begin
from mailhub.queue.ourselves import Ip, Ourselves, ip_of

#: Mail hosts of one domain that are looked up; the best ones, where it has more.
MX_MAX = 20
#: Addresses of one host, and of all together, that are tried.
ADDRESSES_PER_HOST_MAX = 8
ADDRESSES_MAX = 40

#: What the name of a mail host looks like (RFC 1123 section 2.1), with the underscores that harm nobody.
_HOST_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_HOST_NAME_MAX = 253

NO_SUCH_DOMAIN = reply(550, "5.1.2", "The domain of this address does not exist")
NO_MAIL_HOST = reply(550, "5.1.2", "The domain of this address has neither a mail host nor an address")
NULL_MX = reply(556, "5.1.10", "The domain of this address takes no mail")
UNROUTABLE = reply(550, "5.4.4", "No mail host of this domain has an address")
LOOP = reply(554, "5.4.6", "Mail for this domain leads back to this host, which does not take it")
NOT_NOW = reply(451, "4.4.3", "The DNS does not say now where mail for this domain goes")
NO_NAMES = reply(451, "4.4.4", "The mail hosts of this domain have no usable names")


@dataclass(frozen=True, slots=True)
class MailHosts:
    """The hosts in the order in which they are tried.

    `how` is "MX", "address" (there is no MX record, so the domain is its own mail host) or "literal".  `is_proven` says
    that nobody could have put other names here: DNSSEC vouches for the MX records, or none were needed.  `expires_at`
    is a steady time, of the resolver's reactor.
    """

    hosts: tuple[Host, ...]
    how: str
    is_proven: bool = False
    expires_at: float = 0.0


#: Addresses of one host; None if they cannot be known now.
Known: TypeAlias = Answer | None


async def mail_hosts(
    resolver: IResolver,
    domain: str,
    chance: random.Random,
    ourselves: Ourselves,
    *,
    port: int = 25,
    ipv6: bool = True,
) -> MailHosts | Nowhere:
    """Where mail for this domain (A-labels, or an address literal) goes, or why it goes nowhere.

    Without `ipv6` such addresses are left out, as on a machine that has none.  It waits only for what the resolver does
    not know yet.
    """
    if domain.startswith("["):
        return _literal(domain, ourselves, port, ipv6)
    try:
        answer = await resolver.mx(domain)
    except ResolutionDeferred as problem:
        return Nowhere(NOT_NOW, str(problem))
    if not answer.exists:
        return Nowhere(NO_SUCH_DOMAIN, f"{domain} does not exist")
    if not answer.records:
        return await _implicit(resolver, domain, ourselves, port, ipv6)
    names = [(preference, host) for preference, host in answer.records if host]
    if not names:
        return Nowhere(NULL_MX, f"{domain} has a null MX (RFC 7505 section 3)")
    names = [(preference, host.lower().removesuffix(".")) for preference, host in names]
    names = [(preference, host) for preference, host in names if _is_host_name(host)]
    if not names:
        return Nowhere(NO_NAMES, f"no MX of {domain} names a host")
    hosts = await _by_mx(resolver, domain, _in_order(names, chance), chance, ourselves, port, ipv6)
    if isinstance(hosts, Nowhere):
        return hosts
    return MailHosts(hosts, "MX", answer.authenticated, answer.expires_at)


def needs_no_resolver(name: str) -> bool:
    """Whether the addresses of this host are always the same: an IP address stands for itself, and "localhost" is this
    machine (RFC 6761 section 6.3)."""
    return name == "localhost" or ip_of(name) is not None


async def host_addresses(
    resolver: IResolver, name: str, port: int, *, ipv6: bool = True
) -> tuple[Host, ...] | ResolutionDeferred:
    """The addresses of a host that the postmaster named, who is believed; none if it has none.  See needs_no_resolver
    for those that are found without asking."""
    if name == "localhost":
        return _hosts(name, _usable(("::1", "127.0.0.1"), ipv6, believed=True), port)
    if (ip := ip_of(name)) is not None:
        return (Host(name, ip.text, port),)
    try:
        answer = await resolver.addresses(name)
    except ResolutionDeferred as problem:
        return problem
    addresses = _usable(answer.records, ipv6, believed=True)
    if not addresses and answer.is_partial:
        return ResolutionDeferred(f"not all addresses of {name} can be known now")
    return _hosts(name, addresses, port)


# --- the three ways to be a mail host ----------------------------------------------------------------------------


def _literal(domain: str, ourselves: Ourselves, port: int, ipv6: bool) -> MailHosts | Nowhere:
    """RFC 5321 section 4.1.3: the address is the host."""
    text = domain[1:-1]
    if text[:5].lower() == "ipv6:":
        text = text[5:]
    ip = ip_of(text)
    if ip is None or not ip.is_host or (ip.is_ipv6 and not ipv6):
        return Nowhere(UNROUTABLE, f"{domain} is not the address of a host that we can reach")
    if ourselves.is_address(ip, port):
        return Nowhere(LOOP, f"{domain} is this host")
    return MailHosts((Host(ip.text, ip.text, port),), "literal", is_proven=True)


async def _implicit(
    resolver: IResolver, domain: str, ourselves: Ourselves, port: int, ipv6: bool
) -> MailHosts | Nowhere:
    """RFC 5321 section 5.1: without MX records the domain is treated as its own mail host."""
    try:
        answer = await resolver.addresses(domain)
    except ResolutionDeferred as problem:
        return Nowhere(NOT_NOW, str(problem))
    addresses = _usable(answer.records, ipv6)
    if not addresses and answer.is_partial:
        return Nowhere(NOT_NOW, f"{domain} has no MX, and not all of its addresses can be known now")
    if not addresses:
        return Nowhere(NO_MAIL_HOST, f"{domain} has no MX and no address")
    if ourselves.is_name(domain) or _are_ours(addresses, ourselves, port):
        return Nowhere(LOOP, f"{domain} has no MX, and its address is this host")
    return MailHosts(_hosts(domain, addresses, port), "address", True, answer.expires_at)


async def _by_mx(
    resolver: IResolver,
    domain: str,
    names: Sequence[tuple[int, str]],
    chance: random.Random,
    ourselves: Ourselves,
    port: int,
    ipv6: bool,
) -> tuple[Host, ...] | Nowhere:
    """The hosts of these MX records (in order), as far as they are better than we are."""
    # RFC 5321 section 5.1: where we are in the list, we and all that are no better are not for us to try.
    ours = min((preference for preference, host in names if ourselves.is_name(host)), default=None)
    better = [(preference, host) for preference, host in names if ours is None or preference < ours][:MX_MAX]
    known = await _look_up(resolver, [host for _, host in better])
    usable = [[] if answer is None else _usable(answer.records, ipv6) for answer in known]
    for (preference, _), addresses in zip(better, usable, strict=True):
        if _are_ours(addresses, ourselves, port) and (ours is None or preference < ours):
            ours = preference
    kept = [number for number, (preference, _) in enumerate(better) if ours is None or preference < ours]
    found = chain.from_iterable(_hosts(better[number][1], usable[number], port) for number in kept)
    hosts = tuple(found)[:ADDRESSES_MAX]
    if hosts:
        return hosts
    # What is known of a host may be of no use, and what is not known would be (without IPv6, for example).
    unknown = [better[number][1] for number in kept if (answer := known[number]) is None or answer.is_partial]
    if unknown:
        return Nowhere(NOT_NOW, f"MX of {domain}: the addresses of {unknown[0]} cannot be known now")
    if ours is not None:
        return Nowhere(LOOP, f"MX of {domain}: this host is the best one")
    return Nowhere(UNROUTABLE, f"MX of {domain}: no host has an address")


def _in_order(names: Sequence[tuple[int, str]], chance: random.Random) -> list[tuple[int, str]]:
    """Lowest preference first, equals in random order (RFC 5321 section 5.1), each host once."""
    found: dict[str, int] = {}
    for preference, group in groupby(sorted(names), key=lambda each: each[0]):
        equals = [host for _, host in group if host not in found]
        if len(equals) > 1:
            chance.shuffle(equals)
        found.update((host, preference) for host in equals)
    return [(preference, host) for host, preference in found.items()]


async def _look_up(resolver: IResolver, names: Sequence[str]) -> list[Known]:
    """All at the same time, so that ten hosts of a broken zone cost one time-out and not ten."""
    begun: list[Known | Deferred[Answer]] = []
    known: list[Known] = []
    try:
        for name in names:
            try:
                begun.append(begin(resolver.addresses(name)))
            except ResolutionDeferred:
                begun.append(None)
        for each in begun:
            if isinstance(each, Deferred):
                try:
                    known.append(await each)
                except ResolutionDeferred:
                    known.append(None)
            else:
                known.append(each)
    finally:
        for each in begun[len(known) :]:
            if isinstance(each, Deferred):  # somebody stopped us while we waited
                each.addErrback(lambda _: None)
                each.cancel()
    return known


# --- addresses ---------------------------------------------------------------------------------------------------


def _usable(records: Sequence[str], ipv6: bool, believed: bool = False) -> list[Ip]:
    """What can be the address of a host, each once, in the order of the DNS; from a stranger, no odd ones."""
    found: dict[str, Ip] = {}
    for record in records:
        ip = ip_of(record)
        if ip is not None and (believed or ip.is_host) and (ipv6 or not ip.is_ipv6):
            found[ip.text] = ip
    return list(found.values())


def _are_ours(addresses: Sequence[Ip], ourselves: Ourselves, port: int) -> bool:
    return any(ourselves.is_address(ip, port) for ip in addresses)


def _hosts(name: str, addresses: Sequence[Ip], port: int) -> tuple[Host, ...]:
    """IPv6 and IPv4 in turns; each family keeps the order of the DNS (RFC 5321 section 5.1)."""
    sixes = [ip for ip in addresses if ip.is_ipv6]
    fours = [ip for ip in addresses if not ip.is_ipv6]
    in_turns = [ip for pair in zip_longest(sixes, fours) for ip in pair if ip is not None]
    return tuple([Host(name, ip.text, port) for ip in in_turns[:ADDRESSES_PER_HOST_MAX]])


def _is_host_name(name: str) -> bool:
    return len(name) <= _HOST_NAME_MAX and _HOST_NAME.fullmatch(name) is not None and not name.split(".")[-1].isdigit()
