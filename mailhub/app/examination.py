"""What `mailhub check` looks at: everything that the configuration points to, without starting or changing anything.

The rule: what would keep the hub from starting, or from doing what the file says, is an error; what will surprise
somebody later is a warning.  Files are read as the user who runs the check; ports are not tried, since the hub that
runs may have them.
"""

from __future__ import annotations

import os
import pwd
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailhub.app import units
from mailhub.app.finding import Finding, Severity
from mailhub.app.inert import AtOnce, Forgetful, result, still_clock
from mailhub.app.worker_check import check_workers

if TYPE_CHECKING:
    from mailhub.app.config import Config
    from mailhub.plugin import Hub
    from mailhub.store.accounts import FileAccounts

#: RFC 2142 section 4 and RFC 5321 section 4.5.1: who must be reachable in every domain that takes mail.
MUST_BE_SOMEBODY = ("postmaster", "abuse")


def examine(config: Config, now: float) -> Iterator[Finding]:
    """Everything that is found, in the order of the file.  `now` is seconds since the epoch."""
    yield Finding(Severity.OK, str(config.source), "every key is known, and no two contradict each other")
    yield from _user(config)
    yield from _data(config)
    yield from check_workers(config)
    yield from _certificates(config, now)
    yield from _accounts(config, now)
    yield from _policies(config, now)
    yield from _outbound(config, now)


# --- who we are, and where we write ------------------------------------------------------------------------------


def _user(config: Config) -> Iterator[Finding]:
    if config.user is None:
        return
    from mailhub.app.privileges import Person, PrivilegeError

    try:
        person = Person.find(config.user, config.group)
    except PrivilegeError as error:
        key, _, message = str(error).partition(": ")
        yield Finding(Severity.ERROR, key, message)
        return
    if os.geteuid() not in (0, person.uid):
        yield Finding(Severity.WARNING, "user", f"only root can become {person.name}; this check runs as {_own_name()}")


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _data(config: Config) -> Iterator[Finding]:
    from mailhub.app.files import writable
    from mailhub.app.privileges import unusable

    wrong = False
    keys = {config.data: "data"}
    for key, file in (("log.file", config.log.file), ("history.file", config.history.file)):
        keys.setdefault(file.parent, key)
    for directory, key in keys.items():
        if (obstacle := _obstacle(directory)) is not None:
            wrong = True
            yield Finding(Severity.ERROR, key, obstacle)
    if wrong:
        return
    if left_over := unusable((), writable(config)):
        yield from (Finding(Severity.ERROR, "data", problem) for problem in left_over)
        return
    free = os.statvfs(_nearest(config.data))
    free_octets = free.f_bavail * free.f_frsize
    if free_octets < config.limits.reserve_octets:
        yield Finding(
            Severity.WARNING,
            "data",
            f"{config.data} has {units.size(free_octets // 10**6 * 10**6)} left; "
            f"below {units.size(config.limits.reserve_octets)} no mail is taken (limits.reserve)",
        )
    else:
        yield Finding(Severity.OK, "data", f"{config.data} can be written")


def _obstacle(directory: Path) -> str | None:
    """Why this directory cannot be written, or made and written; None if it can."""
    nearest = _nearest(directory)
    if not nearest.is_dir():
        return f"{nearest} is no directory"
    if not os.access(nearest, os.W_OK | os.X_OK):
        what = "cannot be written" if nearest == directory else f"cannot be made in {nearest}"
        return f"{directory} {what} by the user {_own_name()}"
    return None


def _nearest(path: Path) -> Path:
    """The path, or the nearest one above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


# --- certificates ------------------------------------------------------------------------------------------------


def _certificates(config: Config, now: float) -> Iterator[Finding]:
    from mailhub.app.certificate_check import check_certificate

    at = datetime.fromtimestamp(now, UTC)
    if config.tls.certificate is not None and config.tls.key is not None:
        yield from check_certificate("tls", config.tls.certificate, config.tls.key, [config.hostname], at)
    elif config.mta.listen or config.msa.listen or config.msa.listen_tls:
        yield Finding(
            Severity.WARNING,
            "tls.certificate",
            f"none is configured: a self-signed one is made under {config.tls_directory}, and no client will trust it",
        )
    for number, site in enumerate(config.tls.site):
        yield from check_certificate(f"tls.site[{number}]", site.certificate, site.key, site.names, at)


# --- accounts ----------------------------------------------------------------------------------------------------


def _file_accounts(config: Config, now: float) -> FileAccounts | None:
    """The accounts as the hub would see them."""
    if config.accounts.file is None:
        return None
    from mailhub.store.accounts import FileAccounts

    return FileAccounts(
        config.mda.domains,
        config.accounts.file,
        config.accounts.aliases,
        still_clock(now),
        AtOnce(),
        random.SystemRandom(),
    )


def _accounts(config: Config, now: float) -> Iterator[Finding]:
    accounts = _file_accounts(config, now)
    if accounts is None:
        return
    from mailhub.interfaces import AccountsUnavailable
    from mailhub.model import Address

    files = [path for path in (config.accounts.file, config.accounts.aliases) if path is not None]
    unreadable = {str(path) for path in files if _is_unreadable(path)}
    problems = sorted(set(accounts.problems()))
    for problem in problems:
        severity = Severity.ERROR if problem.path in unreadable and not problem.line else Severity.WARNING
        place = f"{problem.path}:{problem.line}" if problem.line else problem.path
        yield Finding(severity, place, f"{problem.what}. {problem.remedy}")
    told = " ".join(problem.what for problem in problems)
    for domain in config.mda.domains:
        for name in MUST_BE_SOMEBODY:
            try:
                nobody = result(accounts.find(Address(name, domain))) is None
            except AccountsUnavailable:
                return
            if nobody and f"{name}@{domain}" not in told:
                yield Finding(
                    Severity.WARNING,
                    "accounts.aliases",
                    f"{name}@{domain} is nobody, and people write there when something is wrong (RFC 2142 section 4). "
                    f"Add an alias: `mailhub alias add {name}@{domain} TARGET`",
                )
    if not problems:
        yield Finding(Severity.OK, "accounts", f"{config.accounts.file} and the aliases can be read")


def _is_unreadable(path: Path) -> bool:
    """Whether it is there and cannot be read; one that is not there yet is made by `mailhub user add`."""
    return path.exists() and not (path.is_file() and os.access(path, os.R_OK))


# --- policies ----------------------------------------------------------------------------------------------------


def _policies(config: Config, now: float) -> Iterator[Finding]:
    from mailhub.app.discovery import discover
    from mailhub.app.seating import seats

    discovery = discover(config.plugins.directories)
    for fault in discovery.faults:
        yield Finding(Severity.WARNING, "plugins", str(fault))
    for role in ("mta", "msa", "lmtp"):
        section = getattr(config, role)
        if not (section.listen or section.policy or getattr(section, "listen_tls", ())):
            continue
        taken, problems = seats(
            role, config.rules(role), config.standing_options, discovery, _hubs(config, role, now), config.source
        )
        for problem in config.located(problems):
            yield Finding(Severity.ERROR, problem.place, problem.told)
        if not problems:
            names = ", ".join(seat.name for seat in taken)
            yield Finding(Severity.OK, f"{role}.policy", f"asked in this order: {names}")


# --- the way out -------------------------------------------------------------------------------------------------


def _outbound(config: Config, now: float) -> Iterator[Finding]:
    from ipaddress import ip_address

    from mailhub.app.config_errors import ConfigError
    from mailhub.app.outbound import credentials, plan, route_policies
    from mailhub.store.disk import RealDisk
    from mailhub.store.secret_file import SecretError, read_keys

    wrong = False
    try:
        credentials(config)
    except ConfigError as error:
        wrong = True
        yield from (Finding(Severity.ERROR, problem.place, problem.told) for problem in error.problems)
    try:
        route_policies(config, _hubs(config, "outbound", now))
    except ConfigError as error:
        wrong = True
        yield from (Finding(Severity.ERROR, problem.place, problem.told) for problem in error.problems)
    if config.outbound.srs and os.path.lexists(config.srs_keys):
        try:
            read_keys(config.srs_keys, b"", RealDisk())
        except SecretError as error:
            wrong = True
            yield Finding(Severity.ERROR, "outbound.srs", str(error))
    if not all(any(ip_address(each) in own for own in config.outbound.own_addresses) for each in ("127.0.0.1", "::1")):
        yield Finding(
            Severity.WARNING,
            "outbound.own_addresses",
            "the loopback addresses are not in it: MX records of strangers can lead to servers on this machine",
        )
    if not wrong:
        where = "to the mail hosts of each domain" if config.outbound.smarthost is None else "by the smarthost"
        routes = f", after {len(config.route)} routes" if len(config.route) > 1 else ""
        routes = ", after 1 route" if len(config.route) == 1 else routes
        tls = plan(config).fallback.tls
        yield Finding(Severity.OK, "outbound", f'mail for others leaves {where}{routes}, TLS "{tls}"')


def _hubs(config: Config, role: str, now: float) -> Callable[[str], Hub]:
    """A hub for a policy that is made but never asked: what it could change is not there."""
    from twisted.logger import Logger

    from mailhub.plugin import Hub

    def hub_for(name: str) -> Hub:
        nothing: Any = None
        return Hub(
            hostname=config.hostname,
            role=role,
            clock=still_clock(now),
            random=random.SystemRandom(),
            resolver=nothing,
            accounts=_file_accounts(config, now) or nothing,
            mailboxes=nothing,
            memory=Forgetful(),
            executor=AtOnce(),
            log=Logger(namespace=f"mailhub.policy.{name}"),
        )

    return hub_for
