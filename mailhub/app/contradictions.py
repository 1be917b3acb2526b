"""Values that are each right and cannot be right together.

Each rule gives back the keys that it is about, the one to complain about first, and what was expected.  A rule whose
keys are already known to be wrong is not heard, so that one mistake is told once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeAlias

from mailhub.app import units
from mailhub.app.config_errors import Key, dotted
from mailhub.app.config_values import listening

if TYPE_CHECKING:
    from mailhub.app.config import Config, Outbound, Route
    from mailhub.queue.next_hop import NextHop

Contradiction: TypeAlias = tuple[tuple[Key, ...], str]


def contradictions(config: Config) -> Iterator[Contradiction]:
    """All of them, in the order of the rules below."""
    for rule in _RULES:
        yield from rule(config)


def _tls_pair(config: Config) -> Iterator[Contradiction]:
    certificate, key = ("tls", "certificate"), ("tls", "key")
    if config.tls.certificate is not None and config.tls.key is None:
        yield (certificate, key), "expected tls.key beside it: a certificate is of no use without its private key"
    if config.tls.key is not None and config.tls.certificate is None:
        yield (key, certificate), "expected tls.certificate beside it: a private key is of no use without one"
    seen: dict[str, int] = {}
    for number, site in enumerate(config.tls.site):
        for name in site.names:
            if name in seen:
                keys: tuple[Key, ...] = (("tls", "site", number, "names"), ("tls", "site", seen[name], "names"))
                yield keys, f'expected each name once, "{name}" is also in {dotted(keys[1])}'
            seen[name] = number


def _listening_roles_have_what_they_need(config: Config) -> Iterator[Contradiction]:
    domains: Key = ("mda", "domains")
    for role in ("mta", "lmtp"):
        if getattr(config, role).listen and not config.mda.domains:
            yield (
                (domains, (role, "listen")),
                f"expected at least one domain: {role}.listen takes mail for our domains, and there are none",
            )
    for name in ("listen", "listen_tls"):
        if getattr(config.msa, name) and config.accounts.file is None:
            yield (
                (("accounts", "file"), ("msa", name)),
                f"expected a file: the users of msa.{name} must log in, and there is nobody who could",
            )
            break
    listening_for_us = next((role for role in ("mta", "lmtp") if getattr(config, role).listen), None)
    if listening_for_us and config.mda.domains and config.accounts.file is None and config.accounts.aliases is None:
        yield (
            (("accounts", "file"), ("accounts", "aliases"), domains, (listening_for_us, "listen")),
            f"expected a file, here or in accounts.aliases: {listening_for_us}.listen takes mail, and nobody is here",
        )


def _ports_are_bound_once(config: Config) -> Iterator[Contradiction]:
    seen: list[tuple[Key, str]] = []
    for section, name in (("mta", "listen"), ("msa", "listen"), ("msa", "listen_tls"), ("lmtp", "listen")):
        for number, endpoint in enumerate(getattr(getattr(config, section), name)):
            key: Key = (section, name, number)
            for other_key, other in seen:
                if listening(endpoint).collides(listening(other)):
                    yield (key, other_key), f'expected a port of its own, "{other}" is taken by {dotted(other_key)}'
                    break
            seen.append((key, endpoint))


def _mailboxes_are_apart(config: Config) -> Iterator[Contradiction]:
    domains = config.mda.domains
    for number, name in enumerate(domains):
        if name in domains[:number]:
            yield ((("mda", "domains"),), f'expected each domain once, "{name}" comes twice')
    if len(set(domains)) > 1 and "{domain}" not in config.mda.maildir:
        yield (
            (("mda", "maildir"), ("mda", "domains")),
            "expected {domain} in it: with several domains, accounts of the same name would share one Maildir",
        )


def _files_are_apart(config: Config) -> Iterator[Contradiction]:
    if config.accounts.file is not None and config.accounts.file == config.accounts.aliases:
        yield ((("accounts", "aliases"), ("accounts", "file")), "expected another file than accounts.file")


def _limits_fit(config: Config) -> Iterator[Contradiction]:
    limits = config.limits
    if limits.sessions_per_address > limits.sessions:
        yield (
            (("limits", "sessions_per_address"), ("limits", "sessions")),
            f"expected at most limits.sessions, which is {limits.sessions}",
        )
    if limits.overload_command_seconds > limits.command_seconds:
        yield (
            (("limits", "overload_command_seconds"), ("limits", "command_seconds")),
            f"expected at most limits.command_seconds, which is {units.duration(limits.command_seconds)}",
        )


def _queue_times_fit(config: Config) -> Iterator[Contradiction]:
    queue = config.queue
    for number, wait in enumerate(queue.retry):
        if wait < 1:
            yield ((("queue", "retry", number),), "expected at least 1s between two attempts")
    if queue.retry[0] >= queue.give_up:
        yield (
            (("queue", "give_up"), ("queue", "retry")),
            f"expected more than the first wait of queue.retry, which is {units.duration(queue.retry[0])}",
        )
    if queue.warn_after >= queue.give_up:
        yield (
            (("queue", "warn_after"), ("queue", "give_up")),
            f"expected less than queue.give_up, which is {units.duration(queue.give_up)}",
        )


def _caps_fit(config: Config) -> Iterator[Contradiction]:
    caps = config.msa.caps
    for what in ("messages", "recipients"):
        hour, day = getattr(caps, f"{what}_per_hour"), getattr(caps, f"{what}_per_day")
        if hour and day and hour > day:
            yield (
                (("msa", "caps", f"{what}_per_hour"), ("msa", "caps", f"{what}_per_day")),
                f"expected at most msa.caps.{what}_per_day, which is {day}",
            )


def _group_has_a_user(config: Config) -> Iterator[Contradiction]:
    if config.group is not None and config.user is None:
        yield ((("group",), ("user",)), "expected user beside it: root with another group is still root")


# --- the way out -------------------------------------------------------------------------------------------------


def _routes_are_for_somebody(config: Config) -> Iterator[Contradiction]:
    seen: dict[tuple[str | None, str | None], int] = {}
    for number, route in enumerate(config.route):
        domain, sender = ("route", number, "domain"), ("route", number, "sender")
        if route.domain is None and route.sender is None:
            yield (
                (domain, sender),
                "expected a domain, or a sender beside it: a way for all mail is what outbound.smarthost is for",
            )
            continue
        if route.domain in config.mda.domains:
            yield (
                (domain, ("mda", "domains")),
                f'expected another domain: "{route.domain}" is one of mda.domains, so its mail stays here',
            )
        whom = (route.domain, route.sender)
        if whom in seen:
            other: Key = ("route", seen[whom])
            yield (
                (domain if route.domain else sender, other),
                f"expected mail that {dotted(other)} does not take before",
            )
        seen.setdefault(whom, number)
        if route.give_up is not None and route.give_up <= (route.retry or config.queue.retry)[0]:
            yield ((("route", number, "give_up"), ("route", number, "retry")), "expected more than the first wait")
        for wait_number, wait in enumerate(route.retry or ()):
            if wait < 1:
                yield ((("route", number, "retry", wait_number),), "expected at least 1s between two attempts")


def _next_hops_are_usable(config: Config) -> Iterator[Contradiction]:
    outbound = config.outbound
    if outbound.smarthost is not None and outbound.smarthost.protocol == "mx":
        yield ((("outbound", "smarthost"),), 'expected a host; without a smarthost all mail goes by "mx"')
    elif outbound.smarthost is None and outbound.login is not None:
        yield ((("outbound", "smarthost"), ("outbound", "login")), "expected a host: there is a login for one")
    else:
        yield from _next_hop_is_usable(config, ("outbound",), "smarthost", outbound, outbound.smarthost)
    for number, route in enumerate(config.route):
        yield from _next_hop_is_usable(config, ("route", number), "to", route, route.to)


def _next_hop_is_usable(
    config: Config, table: Key, name: str, way: Outbound | Route, to: NextHop | None
) -> Iterator[Contradiction]:
    to_key, login, file, tls = ((*table, each) for each in (name, "login", "password_file", "tls"))
    if way.login is not None and way.password_file is None:
        yield (file, login), "expected a file with the password beside the login"
    elif way.password_file is not None and way.login is None:
        yield (login, file), "expected a user name beside the password"
    elif way.login is not None and to is not None and to.protocol not in ("smtp", "smtps"):
        yield (login, to_key), f'expected none: we log in over "smtp:" and "smtps:" alone, and {name} is "{to}"'
    elif way.login is not None and way.tls in ("none", "may"):
        yield (tls, login), 'expected "verify" or "require": a password never goes over the network in the clear'
    elif to is not None and to.protocol == "smtps" and way.tls in ("none", "may"):
        yield (tls, to_key), 'expected "verify" or "require": "smtps:" is TLS from the first octet'
    elif to is not None and to.protocol == "unix" and way.tls not in (None, "none"):
        yield (tls, to_key), 'expected "none": no TLS is spoken over a UNIX socket'
    if to is not None and (listener := _our_own(config, to)) is not None:
        yield (to_key, listener), f"expected another host: this is our own {dotted(listener)}"


def _our_own(config: Config, to: NextHop) -> Key | None:
    """The listener of ours that this next hop is, as far as the file alone can tell."""
    for role, name in (("mta", "listen"), ("msa", "listen"), ("msa", "listen_tls"), ("lmtp", "listen")):
        for number, endpoint in enumerate(getattr(getattr(config, role), name)):
            door = listening(endpoint)
            if to.protocol == "unix":
                found = door.path == to.host
            else:
                found = door.port == to.port and _is_us(config, to.host, door.interface)
            if found:
                return (role, name, number)
    return None


def _is_us(config: Config, host: str, interface: str) -> bool:
    if host in ("localhost", config.hostname) or host == interface:
        return True
    try:
        return not interface and ip_address(host).is_loopback
    except ValueError:
        return False


def _srs_domain_is_ours(config: Config) -> Iterator[Contradiction]:
    domain = config.outbound.srs_domain
    if domain is not None and domain not in config.mda.domains:
        yield (
            (("outbound", "srs_domain"), ("mda", "domains")),
            f'expected one of mda.domains: bounces come back to "{domain}", and must be taken',
        )


_RULES: tuple[Callable[[Config], Iterator[Contradiction]], ...] = (
    _tls_pair,
    _listening_roles_have_what_they_need,
    _ports_are_bound_once,
    _mailboxes_are_apart,
    _files_are_apart,
    _limits_fit,
    _queue_times_fit,
    _caps_fit,
    _group_has_a_user,
    _routes_are_for_somebody,
    _next_hops_are_usable,
    _srs_domain_is_ours,
)
