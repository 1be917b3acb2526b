"""What a hub takes over from a changed configuration while it runs, and what must wait for the next start.

The rule: a key is in RELOADED or it needs a restart, and until then its old value holds.  Nothing is half new.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from mailhub.app.config import Config

#: What SIGHUP puts into effect, for sessions that begin later.
RELOADED = frozenset(
    {
        "limits.message_octets",
        "limits.recipients",
        "limits.sessions",
        "limits.sessions_per_address",
        "limits.errors",
        "limits.refused_recipients",
        "limits.idle_commands",
        "limits.command_seconds",
        "limits.overload_command_seconds",
        "limits.tls_seconds",
        "limits.content_octets_per_second",
        "limits.command_octets",
        "limits.auth_octets",
        "limits.line_octets",
        "limits.hops",
        "mta.greet_delay",
        "mta.policy",
        "msa.policy",
        "msa.caps",
        "msa.extra_addresses",
        "msa.throttle.tries",
        "lmtp.policy",
        "lmtp.trusted",
        "outbound.smarthost",
        "outbound.login",
        "outbound.password_file",
        "outbound.tls",
        "outbound.port",
        "outbound.ipv6",
        "outbound.policy",
        "route",
        "plugins.directories",
    }
)


def taken_over(old: Config, new: Config) -> Config:
    """`new`, where what needs a restart is as it was in `old`."""
    merged: Config = _merged(old, new, "")
    is_in_place = merged.own_directory == old.own_directory
    return merged if is_in_place else merged.with_own_directory(old.own_directory)


def _merged(old: Any, new: Any, prefix: str) -> Any:
    kept: dict[str, Any] = {}
    for name in type(old).model_fields:
        key, before, after = f"{prefix}{name}", getattr(old, name), getattr(new, name)
        if key in RELOADED or before == after:
            continue
        is_table = isinstance(before, BaseModel) and isinstance(after, BaseModel)
        kept[name] = _merged(before, after, f"{key}.") if is_table else before
    return new.model_copy(update=kept) if kept else new


def restart_needed(old: Config, new: Config) -> tuple[str, ...]:
    """The keys, in dotted form, that differ and are not among RELOADED."""
    return tuple(_differences(old, new, ""))


def _differences(old: Any, new: Any, prefix: str) -> Iterator[str]:
    for name in type(old).model_fields:
        key, before, after = f"{prefix}{name}", getattr(old, name), getattr(new, name)
        if key in RELOADED or before == after:
            continue
        if isinstance(before, BaseModel) and isinstance(after, BaseModel):
            yield from _differences(before, after, f"{key}.")
        else:
            yield key
