"""The configuration as frozen values: read whole, checked whole, and right or refused.

The model below is the one list of all keys: names, types, defaults and descriptions.  The reference page, the comments
of etc/mailhub.toml and `mailhub check` all follow it, and tests keep them in step.  Attributes have the names of the
keys.  Durations are float seconds, sizes are octets, paths are absolute, domains are lower-case A-labels; a default is
written as a postmaster would write it and goes through the same checks as what a postmaster writes.

A role whose `listen` is empty is off.  Every mistake is reported, all at once, as a ConfigError.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from mailhub.app.config_errors import ConfigError, Key, Problem, dotted, line_of, lines, mistakes_in, undotted
from mailhub.app.config_values import (
    DnsServer,
    Domain,
    Endpoint,
    FilePath,
    Hop,
    Hostname,
    MailAddress,
    MaildirTemplate,
    Many,
    Network,
    Octets,
    OwnedAddress,
    Place,
    RouteDomain,
    Seconds,
    resolve,
)
from mailhub.app.contradictions import contradictions
from mailhub.app.worker import SPOOL, WORKERS_MAX
from mailhub.queue.tls_policy import TlsLevel

#: A configuration is small; a file beyond this is something else.
CONFIG_OCTETS_MAX = 4 * 1024 * 1024

#: For a configuration that stands in no file.
NO_LINES: Mapping[Key, int] = {}

#: The default of a key that has none.
REQUIRED = ...


#: The same for every role.
POLICY_TOLD = "Further rules, in the order in which they are asked, among those that always stand."


def setting(default: Any, told: str, **bounds: Any) -> Any:
    """A key of the model: its default as it would be written in the file, what is told about it, what it must keep."""
    return Field(default, description=told, **bounds)


def section() -> Any:
    """A table whose keys may all be left out."""
    return Field({})


class Section(BaseModel):
    """One table of the configuration: frozen, every key known, nothing converted silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


class Policy(Section):
    """One rule, in the order in which the rules are asked.  Keys beside these are the options of the policy itself."""

    model_config = ConfigDict(extra="allow")

    use: str = setting(REQUIRED, min_length=1, told="Name of the policy; `mailhub plugins` lists those that there are.")
    on_failure: Literal["defer", "ignore", "refuse"] = setting(
        "defer",
        told="What a failure or a missed deadline of the policy does: defer (451), ignore (as if it had "
        "no opinion) or refuse (550).",
    )
    deadline: Seconds = setting("30s", gt=0, told="How long one opinion may take.")
    shadow: bool = setting(False, told="Record the opinion, but never enforce it.")

    @property
    def options(self) -> Mapping[str, Any]:
        """What stands beside the keys above, as TOML gave it."""
        return dict(self.model_extra or {})

    @property
    def settings(self) -> Mapping[str, Any]:
        """The keys above."""
        return {name: getattr(self, name) for name in type(self).model_fields}


class Site(Section):
    """A certificate for clients that ask for one of these names (SNI, RFC 6066 section 3)."""

    names: Many[Domain] = setting(REQUIRED, min_length=1, told="Server names that get this certificate.")
    certificate: FilePath = setting(REQUIRED, told="PEM file: the certificate, then its chain.")
    key: FilePath = setting(REQUIRED, told="PEM file with the private key, without a passphrase.")


class Tls(Section):
    """Certificates.  The files are read again when they change and on SIGHUP."""

    certificate: FilePath | None = setting(
        None,
        told="PEM file: the certificate, then its chain.  Absent: a self-signed pair is made under {data}/tls, "
        "with a warning.",
    )
    key: FilePath | None = setting(None, told="PEM file with the private key, without a passphrase.")
    minimum: Literal["1.2", "1.3"] = setting("1.2", told="Lowest TLS version that is spoken.")
    site: Many[Site] = setting((), told="Further certificates, chosen by server name.")


class Limits(Section):
    """What one client, and all of them, may take.  They hold for the MTA, the MSA and LMTP alike."""

    message_octets: Octets = setting("50MB", ge=64 * 1024, told="Largest message: 552 5.3.4 beyond.")
    recipients: int = setting(
        1000, ge=100, told="Recipients of one message (RFC 5321 section 4.5.3.1.8): 452 4.5.3 beyond."
    )
    sessions: int = setting(1000, ge=1, told="Sessions at once, in all: 421 4.3.2 beyond.")
    sessions_per_address: int = setting(
        50, ge=1, told="Sessions at once from one IP address (IPv6: one /64): 421 4.7.0 beyond."
    )
    errors: int = setting(20, ge=1, told="Refused commands in one session before 421 4.7.0.")
    refused_recipients: int = setting(20, ge=1, told="Refused recipients in one session before 421 4.7.0.")
    idle_commands: int = setting(100, ge=1, told="NOOP, RSET, VRFY and the like in one session before 421 4.7.0.")
    command_seconds: Seconds = setting(
        "5m",
        gt=0,
        told="Longest wait for the next command or content (RFC 5321 section 4.5.3.2.7): 421 4.4.2 beyond.",
    )
    overload_command_seconds: Seconds = setting(
        "10s", gt=0, told="The same while nine tenths of `sessions` are in use."
    )
    tls_seconds: Seconds = setting("30s", gt=0, told="Longest TLS handshake.")
    content_octets_per_second: int = setting(
        100,
        ge=0,
        told="Slowest content, on average, once `command_seconds` have passed since its beginning: 421 4.4.2 below; "
        "0 turns it off.",
    )
    command_octets: Octets = setting("4KiB", ge=512, told="Longest command line: 500 5.5.2 beyond.")
    auth_octets: Octets = setting(
        "12KiB", ge=12288, told="Longest line of a login (RFC 4954 section 4): 500 5.5.6 beyond."
    )
    line_octets: Octets = setting(
        "64KiB", ge=998, told="Longest line of content, without its CRLF: 550 5.5.2 after its end."
    )
    hops: int = setting(50, ge=25, told="Received fields before a message counts as looping: 554 5.4.6 beyond.")
    reserve: float = setting(
        1.5,
        ge=1.0,
        allow_inf_nan=False,
        told="Free disk space below which no message is begun, as a multiple of `message_octets`: 452 4.3.1.",
    )
    backlog: int = setting(4096, ge=1, le=65535, told="Connections that wait to be accepted, for each port.")
    drain_seconds: Seconds = setting("20s", told="How long sessions may go on after SIGTERM before they get 421 4.3.2.")

    @property
    def reserve_octets(self) -> int:
        """The free space that must be left, in octets."""
        return int(self.reserve * self.message_octets)


class Role(Section):
    """What the listening roles have in common."""

    listen: Many[Endpoint] = ()
    policy: Many[Policy] = ()


class Mta(Role):
    """Mail from the world, for our domains only (port 25)."""

    listen: Many[Endpoint] = setting(
        (), told='Endpoints, for example `["tcp:25", "tcp6:25"]`.  Empty: the role is off.'
    )
    greet_delay: Seconds = setting(
        "500ms",
        le=30,
        told="Pause before the banner; who talks into it is no mail server: 554 5.5.0.",
    )
    policy: Many[Policy] = setting((), told=POLICY_TOLD)


class Caps(Section):
    """What one account may send.  A stolen password then does bounded harm.  450 4.7.1 beyond; 0 means no cap."""

    messages_per_hour: int = setting(200, ge=0, told="Messages an hour from one account.")
    messages_per_day: int = setting(1000, ge=0, told="Messages a day from one account.")
    recipients_per_hour: int = setting(500, ge=0, told="Recipients an hour from one account.")
    recipients_per_day: int = setting(2000, ge=0, told="Recipients a day from one account.")


class Throttle(Section):
    """Against guessing of passwords: beyond these, further logins get 421 4.7.0 without being looked at."""

    tries: int = setting(3, ge=1, told="Failed logins in one session before 421 4.7.0.")
    failures_per_address: int = setting(
        20, ge=1, told="Failed logins from one IP address (IPv6: one /64) within `window`."
    )
    failures_per_account: int = setting(50, ge=1, told="Failed logins to one account, from wherever, within `window`.")
    window: Seconds = setting("15m", gt=0, told="How long a failure counts.")


class Msa(Role):
    """Mail from our users, who log in over TLS (RFC 6409)."""

    listen: Many[Endpoint] = setting(
        (), told='Endpoints with STARTTLS, for example `["tcp:587"]`.  Empty: there is none.'
    )
    listen_tls: Many[Endpoint] = setting(
        (),
        told='Endpoints with TLS from the first octet (RFC 8314), for example `["tcp:465"]`.  '
        "Where this and `listen` are empty, the role is off.",
    )
    policy: Many[Policy] = setting((), told=POLICY_TOLD)
    extra_addresses: Mapping[MailAddress, Many[OwnedAddress]] = setting(
        {},
        told="For each login, the addresses beside its own that it may send as; `@example.org` means all of "
        "that domain.",
    )
    caps: Caps = section()
    throttle: Throttle = section()


class Lmtp(Role):
    """Mail from our other servers, for our domains only (RFC 2033)."""

    listen: Many[Endpoint] = setting(
        (), told='Endpoints, for example `["unix:/run/mailhub/lmtp"]`.  Empty: the role is off.'
    )
    trusted: Many[Network] = setting(
        ("127.0.0.0/8", "::1"),
        told="Networks that may connect over TCP; all others are turned away.  A UNIX socket is trusted, "
        "for its permissions say who may use it.",
    )
    policy: Many[Policy] = setting((), told=POLICY_TOLD)


class Mda(Section):
    """Where local mail is kept."""

    domains: Many[Domain] = setting((), told="The domains for which we are the final destination.")
    maildir: MaildirTemplate = setting(
        "{data}/mail/{domain}/{local}/Maildir",
        told="The Maildir of each account; `{domain}` and `{local}` are those of its address.",
    )
    quota: Octets = setting(
        0,
        told="Largest mailbox, unless the account has a quota of its own: 452 4.2.2; 0 means no limit.",
    )

    @property
    def quota_octets(self) -> int | None:
        """The quota, or None for no limit."""
        return self.quota or None


class Accounts(Section):
    """Who has a mailbox, and which addresses stand for others.  Both files are read again when they change."""

    file: FilePath | None = setting(
        None, told="The accounts, one a line in passwd-file form; edited by `mailhub user`."
    )
    aliases: FilePath | None = setting(None, told="The aliases, `name: target, target`; edited by `mailhub alias`.")
    hash_threads: int = setting(
        2, ge=1, le=64, told="Passwords that are hashed at once; each takes a thread and 19 MiB."
    )
    hash_queue: int = setting(100, ge=1, told="Logins that may wait for that; further ones get 454 4.7.0.")
    remember: Seconds = setting(
        "1m", told="How long a proven login is believed without hashing again; 0s turns it off."
    )


class Queue(Section):
    """When deliveries are tried, and for how long."""

    retry: Many[Seconds] = setting(
        ("5m", "10m", "20m", "40m", "1h", "2h", "4h"),
        min_length=1,
        told="Waits between attempts; the last one repeats.",
    )
    give_up: Seconds = setting(
        "5d", told="Age at which a message that still cannot be delivered is returned to its sender."
    )
    warn_after: Seconds = setting(
        "4h", told="Age at which the sender is told, once, that the message is delayed; 0s: never."
    )
    concurrency: int = setting(1000, ge=1, le=10_000, told="Messages whose delivery is under way at once.")


class OutboundLimits(Section):
    """How hard one destination may be driven.  A route may say otherwise for itself."""

    per_destination: int = setting(20, ge=1, le=1000, told="Deliveries to one destination at once, at most.")
    messages_per_connection: int = setting(
        100, ge=1, told="Messages on one connection before it is closed; one that is idle is kept for the next."
    )
    messages_per_minute: int = setting(0, ge=0, told="Messages to one destination a minute; 0 means no limit.")


class Outbound(Section):
    """How mail for other people's domains leaves: to the mail hosts of each domain, or all of it to a smarthost."""

    smarthost: Hop | None = setting(
        None,
        told='Where all mail goes that no route knows, for example `"smtp:relay.example.net:587"`.  Absent: to the '
        "mail hosts that the DNS names.",
    )
    login: str | None = setting(None, min_length=1, told="User name at the smarthost.")
    password_file: FilePath | None = setting(
        None, told="File with the password for it, on one line, that not everybody may read."
    )
    tls: TlsLevel | None = setting(
        None,
        told="TLS to the smarthost or to mail hosts: none, may (where it is offered), require (whoever is there) or "
        "verify (with a certificate for the host's name).  Absent: verify with a login or smtps, else may.",
    )
    port: int = setting(25, ge=1, le=65535, told="Port of the mail hosts that the DNS names.")
    ipv6: bool = setting(True, told="Whether this machine reaches IPv6 addresses.")
    own_addresses: Many[Network] = setting(
        ("127.0.0.0/8", "::1"),
        told="Networks that are this machine: an MX record that leads there leads back to us, and is not followed.  "
        "Add your public addresses if you are behind NAT.",
    )
    srs: bool = setting(
        True,
        told="Give mail that an alias forwards a reverse-path of ours (SRS), so that it passes SPF and its bounces "
        "find home.",
    )
    srs_domain: Domain | None = setting(
        None, told="Domain of these reverse-paths, one of `mda.domains`.  Absent: that of the alias."
    )
    limits: OutboundLimits = section()
    policy: Many[Policy] = setting((), told="Rules that choose routes, asked before all others.")


class Route(Section):
    """Another way for some mail, by the recipient's domain, the sender, or both.  The first entry that fits holds."""

    domain: RouteDomain | None = setting(
        None, told="Domain of the recipient; `.example.org` means all domains below that one.  Absent: any."
    )
    sender: OwnedAddress | None = setting(
        None, told="Address of the sender; `@example.org` means all of that domain.  Absent: any."
    )
    to: Hop = setting(
        REQUIRED,
        told='Next hop: `"smtp:HOST:PORT"`, `"smtps:HOST:PORT"` (TLS from the first octet), `"lmtp:HOST:PORT"`, '
        '`"lmtp:unix:/path"`, or `"mx"` for the mail hosts of the domain.',
    )
    login: str | None = setting(None, min_length=1, told="User name at the next hop.")
    password_file: FilePath | None = setting(
        None, told="File with the password for it, on one line, that not everybody may read."
    )
    tls: TlsLevel | None = setting(
        None, told="As `outbound.tls`.  Absent: verify with a login or smtps, none on a UNIX socket, else may."
    )
    per_destination: int | None = setting(None, ge=1, le=1000, told="As in `outbound.limits`, for this route.")
    messages_per_minute: int | None = setting(None, ge=0, told="As in `outbound.limits`, for this route.")
    retry: Many[Seconds] | None = setting(None, min_length=1, told="As `queue.retry`, for this route.")
    give_up: Seconds | None = setting(None, gt=0, told="As `queue.give_up`, for this route.")


class Dns(Section):
    """Who answers our questions about names."""

    servers: Many[DnsServer] = setting(
        (), told='Resolvers, for example `["127.0.0.1:53"]`.  Empty: those of the system.'
    )
    timeout: Seconds = setting("5s", gt=0, told="Longest wait for one answer of one server.")


class Log(Section):
    """What is told while the hub runs: to people on standard output, to machines in a file."""

    file: FilePath = setting("{data}/log/mailhub.jsonl", told="One JSON object a line.")
    level: Literal["debug", "info", "warn", "error"] = setting("info", told="The least that is logged.")


class History(Section):
    """The story of every message, refused ones included, which `mailhub why` tells.  No content, no passwords."""

    file: FilePath = setting("{data}/history.db", told="The database.")
    keep: Seconds = setting("90d", told="Age at which events are forgotten; 0s: nothing is kept in the database.")
    size_max: Octets = setting(
        "1GB", ge=16 * 1024 * 1024, told="Largest database; beyond that the oldest is forgotten."
    )
    names: bool = setting(
        True, told="Whether the DNS is asked for the name of each client (PTR).  No session waits for the answer."
    )
    redact: Literal["none", "local", "hash"] = setting(
        "none",
        told="What becomes of mail addresses here and in `log.file`: none (they are kept), local (only the domain is) "
        "or hash (the domain, and a name for the rest by which `mailhub why` still finds it).",
    )


class Plugins(Section):
    """Where policies are looked for, beside installed packages."""

    directories: Many[FilePath] = setting(
        (), told="Directories of Python files; what they make is found as if it were installed."
    )


class Config(Section):
    """Everything that a postmaster decides.  Made by `load` and `parse` only."""

    hostname: Hostname = setting(
        REQUIRED, told="Our full name in the DNS, said in the banner, to other hosts and in Received fields."
    )
    data: FilePath = setting(
        REQUIRED, told="Directory of the queue, the mail and all else that is written at run time."
    )
    workers: int = setting(
        1,
        ge=1,
        le=WORKERS_MAX,
        told="Processes that do the work.  One is enough for most; more than there are processors are of no use.",
    )
    user: str | None = setting(
        None, min_length=1, told="User to become once the ports are bound.  Absent: stay who we are."
    )
    group: str | None = setting(None, min_length=1, told="Group to become.  Absent: that of `user`.")
    tls: Tls = section()
    limits: Limits = section()
    mta: Mta = section()
    msa: Msa = section()
    lmtp: Lmtp = section()
    mda: Mda = section()
    accounts: Accounts = section()
    queue: Queue = section()
    outbound: Outbound = section()
    route: Many[Route] = setting((), told="Other ways for some mail, in the order in which they are looked at.")
    dns: Dns = section()
    log: Log = section()
    history: History = section()
    plugins: Plugins = section()

    _file: Path = PrivateAttr()
    _own_directory: Path | None = PrivateAttr(None)
    _lines: Mapping[Key, int] = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        self._file, self._lines = context.file, context.lines

    @property
    def source(self) -> Path:
        """The file that was read, absolute."""
        return self._file

    def rules(self, role: str) -> tuple[Policy, ...]:
        """The policies that the file configures for "mta", "msa", "lmtp" or "outbound", in order, no standing ones.

        Where the file names a rule that `standing_options` is about, those options hold for it as well, unless its own
        table says otherwise: naming a rule to move it does not lift the caps that another section sets.
        """
        configured: tuple[Policy, ...] = getattr(self, role).policy
        options = self.standing_options
        return tuple(
            Policy.model_construct(**{**options.get(policy.use, {}), **policy.options, **policy.settings})
            for policy in configured
        )

    @property
    def standing_options(self) -> Mapping[str, Mapping[str, Any]]:
        """What other sections say about our own rules, by policy; the names are those of the options there."""
        return {
            "sender_owned": {"extra": self.msa.extra_addresses},
            "submission_caps": self.msa.caps.model_dump(),
            "trusted_peers": {"networks": self.lmtp.trusted},
            "quota": {"default_octets": self.mda.quota},
        }

    def located(self, problems: Iterable[Problem]) -> tuple[Problem, ...]:
        """Problems that were found later on, with the lines of the file where their keys stand."""
        return tuple(
            replace(problem, line=line_of(undotted(problem.key), self._lines)) if problem.line is None else problem
            for problem in problems
        )

    @property
    def tls_directory(self) -> Path:
        """Where the self-signed pair is kept if no certificate is configured."""
        return self.data / "tls"

    @property
    def srs_keys(self) -> Path:
        """Where the keys of rewritten reverse-paths are kept."""
        return self.data / "srs-keys"

    @property
    def own_directory(self) -> Path:
        """What no other process uses is kept here: the data directory, unless this is one of several workers."""
        return self.data if self._own_directory is None else self._own_directory

    def with_own_directory(self, directory: Path) -> Config:
        """The same configuration for a process that keeps its own things there."""
        changed = self.model_copy()
        changed._own_directory = directory
        return changed

    @property
    def spool_directory(self) -> Path:
        """Where the queue database and large content are kept."""
        return self.own_directory / SPOOL


def load(path: str | Path) -> Config:
    """Read the file.  Raises ConfigError with every mistake in it."""
    file = Path(path).absolute()
    try:
        with file.open("rb") as stream:
            octets = stream.read(CONFIG_OCTETS_MAX + 1)
    except OSError as error:
        raise ConfigError([Problem(file, "", f"cannot be read: {error.strerror or error}")]) from None
    if len(octets) > CONFIG_OCTETS_MAX:
        raise ConfigError([Problem(file, "", f"is larger than {CONFIG_OCTETS_MAX} octets: not a configuration")])
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(file, "", "expected UTF-8, as TOML is", line)]) from None
    return parse(text, file)


def parse(text: str, file: Path) -> Config:
    """Read the text of a configuration as if it stood in `file` (absolute).  Raises ConfigError."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_broken(file, text, str(error))]) from None
    except ValueError:  # what Python, and not TOML, has a limit for
        raise ConfigError([_broken(file, text, "a number has too many digits")]) from None
    except RecursionError:
        raise ConfigError([_broken(file, text, "arrays or tables are nested too deeply")]) from None
    return from_tables(raw, file, lines(text))


def from_tables(raw: Mapping[str, Any], file: Path, found: Mapping[Key, int] = NO_LINES) -> Config:
    """Read a configuration that is parsed already; `found` says on which lines of `file` it stands.

    Raises ConfigError.
    """
    place = _place(raw, file, found)
    mistakes: dict[Key, str] = {}
    stands_at: dict[Key, int | None] = {}
    config: Config | None = None
    try:
        config = Config.model_validate(raw, context=place)
    except ValidationError as error:
        for key, message in mistakes_in(error, Config, raw):
            mistakes.setdefault(key, message)
        config = _without(raw, mistakes, place)
    if config is not None:
        for keys, message in contradictions(config):
            if not any(_overlap(key, bad) for key in keys for bad in mistakes):
                mistakes.setdefault(keys[0], message)
                stands_at[keys[0]] = next(filter(None, (line_of(key, found) for key in keys)), None)
    if mistakes or config is None:
        raise ConfigError(
            Problem(file, dotted(key), message, stands_at.get(key, line_of(key, found)))
            for key, message in mistakes.items()
        )
    return config


def _place(raw: Mapping[str, Any], file: Path, found: Mapping[Key, int]) -> Place:
    """What paths refer to.  A data directory that is missing or no string is reported by the model."""
    bare = Place(file, file.parent, found)
    data = raw.get("data")
    return replace(bare, data=resolve(data, bare)) if isinstance(data, str) and data else bare


_BROKEN_PLACE = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|(?P<end>end of document))\)$")


def _broken(file: Path, text: str, told: str) -> Problem:
    """What tomllib says, with its place where compilers put it."""
    match = _BROKEN_PLACE.search(told)
    if match is None:
        return Problem(file, "", f"broken TOML: {told}")
    message = f"broken TOML: {told[: match.start()]}"
    if match["end"]:
        return Problem(file, "", f"{message} at the end of the file", max(1, len(text.splitlines())))
    return Problem(file, "", message, int(match["line"]), int(match["column"]))


def _without(raw: Mapping[str, Any], mistakes: Iterable[Key], place: Place) -> Config | None:
    """The same configuration with what is wrong in it left out, so that contradictions in the rest are seen too."""
    kept: Any = deepcopy(dict(raw))
    for key in mistakes:
        *tables, name = itertools.takewhile(lambda part: isinstance(part, str), key)
        table = kept
        for part in tables:
            table = table.get(part) if isinstance(table, dict) else None
        if isinstance(table, dict):
            table.pop(name, None)
    kept.setdefault("hostname", "placeholder.invalid")
    kept.setdefault("data", str(place.data))
    try:
        return Config.model_validate(kept, context=place)
    except ValidationError:
        return None


def _overlap(one: Key, other: Key) -> bool:
    """Whether one of the two stands inside the other."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]
