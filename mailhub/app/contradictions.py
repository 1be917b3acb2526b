"""Values that are each right and cannot be right together.

Each rule gives back the keys that it is about, the one to complain about first, and what was expected.  A rule whose
keys are already known to be wrong is not heard, so that one mistake is told once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from mailhub.app import units
from mailhub.app.config_errors import Key, dotted
from mailhub.app.config_values import listening

if TYPE_CHECKING:
    from mailhub.app.config import Config

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
)
