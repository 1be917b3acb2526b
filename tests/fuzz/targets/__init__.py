"""All fuzz targets, one module for what belongs together.  Importing this package puts them into the registry."""

from __future__ import annotations

from tests.fuzz.targets import (
    address,
    client,
    command,
    content,
    dns,
    header,
    history,
    local,
    login,
    mime,
    names,
    notification,
    remote_reply,
    session,
    srs,
    tables,
)

__all__ = [
    "address",
    "client",
    "command",
    "content",
    "dns",
    "header",
    "history",
    "local",
    "login",
    "mime",
    "names",
    "notification",
    "remote_reply",
    "session",
    "srs",
    "tables",
]
