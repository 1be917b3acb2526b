"""The way out, made from the configuration: the plan of the router, the passwords for it, and the rewriting of senders.

What may change while the hub runs (`plan`, `credentials`, `route_policies`) is made anew on SIGHUP; whatever is wrong
with it is a Problem with its key, as for everything else in the file.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from mailhub.app.config import Config, Outbound, Route
from mailhub.app.config_errors import ConfigError, Problem, dotted
from mailhub.app.config_values import listening
from mailhub.app.discovery import discover
from mailhub.app.seating import HubFor, seat
from mailhub.interfaces import IAccounts, IDisk, IHistory, IResolver
from mailhub.model import Credentials, Pace
from mailhub.policy.panel import Seat
from mailhub.queue.next_hop import MX, NextHop
from mailhub.queue.ourselves import Ourselves
from mailhub.queue.outside import Entries, Entry, OutsideRouter, Plan, Way
from mailhub.queue.srs import Srs
from mailhub.queue.tls_policy import TlsLevel
from mailhub.store.secret_file import FRESH_KEY_OCTETS, SecretError, read_keys, read_password

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime


def plan(config: Config) -> Plan:
    """Which mail goes where, as the file says."""
    outbound = config.outbound
    name = "outbound" if outbound.smarthost is None else "outbound.smarthost"
    return Plan(
        fallback=_way(name, outbound.smarthost or MX, outbound, Pace()),
        entries=Entries([_entry(f"route[{number}]", route) for number, route in enumerate(config.route)]),
        mx_port=outbound.port,
        ipv6=outbound.ipv6,
    )


def _entry(name: str, route: Route) -> Entry:
    pace = Pace(route.per_destination, route.messages_per_minute, route.retry, route.give_up)
    return Entry(_way(name, route.to, route, pace), route.domain or "", route.sender or "")


def _way(name: str, to: NextHop, table: Outbound | Route, pace: Pace) -> Way:
    tls, source = _tls(name, to, table)
    return Way(name, to, tls, source, _login(name, to, table), pace)


def _tls(name: str, to: NextHop, table: Outbound | Route) -> tuple[TlsLevel, str]:
    """The level, and whose it is: what the file says, else what is prudent."""
    if table.tls is not None:
        return table.tls, f"{name.partition('.smarthost')[0]}.tls"
    if table.login is not None or to.protocol == "smtps":
        return "verify", "by default"
    return ("none" if to.protocol == "unix" else "may"), "by default"


def _login(name: str, to: NextHop, table: Outbound | Route) -> str | None:
    """The key of the credentials.  The host is part of it: no route can ever bear the password of another host."""
    return None if table.login is None else f"{table.login} at {to} ({name})"


def credentials(config: Config) -> Mapping[str, Credentials]:
    """The passwords, by the login of the route.  Blocking; raises ConfigError with every file that is of no use."""
    found: dict[str, Credentials] = {}
    problems: list[Problem] = []
    outbound = config.outbound
    tables: list[tuple[str, NextHop | None, Outbound | Route, str]] = [
        ("outbound.smarthost", outbound.smarthost, outbound, "outbound.password_file")
    ]
    for number, route in enumerate(config.route):
        name = dotted(("route", number))
        tables.append((name, route.to, route, f"{name}.password_file"))
    for name, to, table, key in tables:
        login = None if to is None else _login(name, to, table)
        if login is None or table.login is None or table.password_file is None:
            continue
        try:
            found[login] = Credentials(table.login, read_password(table.password_file))
        except SecretError as error:
            problems.append(Problem(config.source, key, str(error)))
    if problems:
        raise ConfigError(config.located(problems))
    return found


def route_policies(config: Config, hub_for: HubFor) -> tuple[Seat, ...]:
    """The seats of `[[outbound.policy]]`.  Raises ConfigError."""
    if not config.outbound.policy:
        return ()
    discovery = discover(config.plugins.directories)
    taken: list[Seat] = []
    problems: list[Problem] = []
    for number, rule in enumerate(config.rules("outbound")):
        made = seat(rule, f"outbound.policy[{number}]", discovery, hub_for, config.source)
        if isinstance(made, Seat):
            taken.append(made)
        else:
            problems += made
    if problems:
        raise ConfigError(config.located(problems))
    return tuple(taken)


def ourselves(config: Config, is_local: Callable[[str], bool]) -> Ourselves:
    """Who we are.  `is_local` knows the addresses of this machine (mailhub.net.own_addresses)."""
    return Ourselves(config.hostname, config.outbound.own_addresses, _mta_ports(config), is_local)


def _mta_ports(config: Config) -> Iterator[int]:
    for endpoint in config.mta.listen:
        port = listening(endpoint).port
        if port:
            yield port


def outside_router(
    config: Config,
    resolver: IResolver,
    chance: random.Random,
    steady: IReactorTime,
    is_local: Callable[[str], bool],
    policies: tuple[Seat, ...] = (),
    history: IHistory | None = None,
) -> OutsideRouter:
    """The router for what is not ours.  On SIGHUP: `router.renew(plan(config), policies)`."""
    return OutsideRouter(resolver, chance, steady, ourselves(config, is_local), plan(config), policies, history)


def srs(
    config: Config,
    accounts: IAccounts,
    chance: random.Random,
    clock: IReactorTime,
    disk: IDisk,
    owner: tuple[int, int] | None = None,
) -> Srs | None:
    """The rewriting of reverse-paths, or None where it is turned off.  The key is made at the first start, for `owner`.

    Blocking; raises ConfigError.
    """
    if not config.outbound.srs:
        return None
    try:
        keys = read_keys(config.srs_keys, chance.randbytes(FRESH_KEY_OCTETS), disk, owner)
    except SecretError as error:
        raise ConfigError([Problem(config.source, "outbound.srs", str(error))]) from None
    return Srs(keys, clock, accounts.hosts, domain=config.outbound.srs_domain)
