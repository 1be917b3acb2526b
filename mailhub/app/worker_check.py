"""What `mailhub check` says of workers: whether they are too many, and what waits from a time with more of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mailhub.app.finding import Finding, Severity
from mailhub.app.waiting import waiting
from mailhub.app.worker import HISTORY_OCTETS_MIN, SPOOL, Worker, directories

if TYPE_CHECKING:
    from mailhub.app.config import Config


def check_workers(config: Config) -> Iterator[Finding]:
    """Nothing at all for a hub that has never had more than one."""
    processors = len(os.sched_getaffinity(0))
    if config.workers > 1:
        if config.workers > processors:
            yield Finding(
                Severity.WARNING,
                "workers",
                f"{config.workers} are more than the {_count(processors, 'processor')} that this check may use: the"
                " others take memory, and make nothing faster",
            )
        else:
            yield Finding(Severity.OK, "workers", f"{config.workers}, on {_count(processors, 'processor')}")
        yield from _shares(config)
    yield from _left_over(config)


def _shares(config: Config) -> Iterator[Finding]:
    """Limits so small that the least share of each worker makes more than the whole."""
    wholes = {
        "limits.sessions": config.limits.sessions,
        "outbound.limits.per_destination": config.outbound.limits.per_destination,
        "outbound.limits.messages_per_minute": config.outbound.limits.messages_per_minute,
    }
    for number, route in enumerate(config.route):
        wholes[f"route[{number}].per_destination"] = route.per_destination or 0
        wholes[f"route[{number}].messages_per_minute"] = route.messages_per_minute or 0
    each = Worker(1, config.workers)
    for key, whole in wholes.items():
        if 0 < whole < config.workers:
            yield Finding(
                Severity.WARNING,
                key,
                f"{whole} cannot be shared by {config.workers} workers: each has {each.share(whole)}, in all they have"
                f" {each.share(whole) * config.workers}",
            )
    if config.history.size_max < HISTORY_OCTETS_MIN * config.workers:
        yield Finding(
            Severity.WARNING,
            "history.size_max",
            f"no worker has less than {HISTORY_OCTETS_MIN // 1024**2} MiB: {config.workers} of them have"
            f" {HISTORY_OCTETS_MIN * config.workers // 1024**2} MiB",
        )


def _left_over(config: Config) -> Iterator[Finding]:
    for number, place in directories(config.data).items():
        if number <= config.workers:
            continue
        count = waiting(place / SPOOL)
        if count is None:
            yield Finding(Severity.WARNING, "workers", f"the queue in {place / SPOOL} cannot be looked into")
        elif count:
            where = f"{place / SPOOL}, the queue of a worker of a time with more of them"
            yield Finding(
                Severity.OK, "workers", f"{_count(count, 'message')} in {where}: delivered by a process of its own"
            )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
