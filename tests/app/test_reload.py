"""What a running hub takes over, and what it leaves for the next start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mailhub.app.config import Config, parse
from mailhub.app.reload import RELOADED, restart_needed, taken_over

BASE = """
hostname = "{hostname}"
data = "var"
[limits]
message_octets = "{message_octets}"
reserve = {reserve}
[mta]
listen = ["tcp:{port}"]
greet_delay = "{greet_delay}"
[msa.caps]
messages_per_hour = {messages_per_hour}
[mda]
domains = ["example.test"]
[accounts]
file = "accounts"
"""
OLD = {
    "hostname": "old.example.test",
    "message_octets": "1MB",
    "reserve": 1.5,
    "port": 25,
    "greet_delay": "1s",
    "messages_per_hour": 5,
}
NEW = {
    "hostname": "new.example.test",
    "message_octets": "2MB",
    "reserve": 2.5,
    "port": 26,
    "greet_delay": "2s",
    "messages_per_hour": 6,
}


def config(**values: Any) -> Config:
    return parse(BASE.format(**values), Path("/etc/mailhub.toml"))


def test_what_can_change_is_new_and_all_else_is_old() -> None:
    old, new = config(**OLD), config(**NEW)
    merged = taken_over(old, new)
    assert (merged.limits.message_octets, merged.mta.greet_delay) == (2_000_000, 2.0)
    assert merged.msa.caps.messages_per_hour == 6
    assert (merged.hostname, merged.limits.reserve, merged.mta.listen) == ("old.example.test", 1.5, ("tcp:25",))
    assert merged.source == new.source
    assert sorted(restart_needed(old, new)) == ["hostname", "limits.reserve", "mta.listen"]


def test_what_needs_a_restart_is_named_until_there_is_one() -> None:
    old, new = config(**OLD), config(**NEW)
    merged = taken_over(old, new)
    assert restart_needed(merged, new) == restart_needed(old, new)
    assert restart_needed(merged, old) == ()
    assert taken_over(merged, old) == old


def test_nothing_new_is_the_same() -> None:
    old = config(**OLD)
    assert taken_over(old, config(**OLD)) == old
    assert restart_needed(old, config(**OLD)) == ()


def test_every_key_that_is_said_to_be_taken_over_exists() -> None:
    found = set()

    def walk(table: Any, prefix: str) -> None:
        for name in type(table).model_fields:
            found.add(f"{prefix}{name}")
            if isinstance(getattr(table, name), BaseModel):
                walk(getattr(table, name), f"{prefix}{name}.")

    walk(config(**OLD), "")
    assert found >= RELOADED
