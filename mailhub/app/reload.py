"""What a hub takes over from a changed configuration while it runs, and what must wait for the next start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from mailhub.app.config import Config

#: What SIGHUP puts into effect, for sessions that begin later.
RELOADED = (
    "limits.message_octets",
    "limits.recipients",
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
)


def restart_needed(old: Config, new: Config) -> tuple[str, ...]:
    """The keys, in dotted form, that differ and are not among RELOADED."""
    return tuple(
        key
        for key in _differences(old, new, "")
        if not any(key == taken or key.startswith(f"{taken}.") for taken in RELOADED)
    )


def _differences(old: Any, new: Any, prefix: str) -> Iterator[str]:
    for name in type(old).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, BaseModel) and isinstance(after, BaseModel):
            yield from _differences(before, after, f"{prefix}{name}.")
        elif before != after:
            yield f"{prefix}{name}"
