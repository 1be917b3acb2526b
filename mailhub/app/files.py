"""The files and directories of a hub, as the user needs them that it becomes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mailhub.app.config import Config
from mailhub.app.worker import NAME as WORKERS
from mailhub.app.worker import SPOOL, directories
from mailhub.store.maildrop import NAME as MAILDROP


def readable(config: Config) -> Iterator[Path]:
    """What we must be able to read as whoever we become."""
    yield config.source
    for path in (config.accounts.file, config.accounts.aliases):
        if path is not None and path.exists():  # one that is not there yet is made by `mailhub user add`
            yield path


def writable(config: Config) -> Iterator[Path]:
    """What we must be able to write: the places, and what an earlier run has left there, perhaps as somebody else."""
    yield from (config.data, config.log.file.parent, config.log.file)
    yield from (
        path
        for path in (
            config.data / WORKERS,
            config.data / MAILDROP,
            config.data / "policy-memory.db",
            config.data / "policy-memory.db-lock",
        )
        if path.exists()
    )
    for directory in directories(config.data).values():
        spool = directory / SPOOL
        yield from (path for path in (directory, spool) if path.exists())
        if spool.is_dir():
            yield from sorted(spool.iterdir())


def reread(config: Config) -> Iterator[Path]:
    """What is read again, when it changes or on SIGHUP."""
    passwords = (config.outbound.password_file, *(route.password_file for route in config.route))
    yield from (path for path in passwords if path is not None)
    yield from (path for path in (config.tls.certificate, config.tls.key) if path is not None)
    for site in config.tls.site:
        yield from (site.certificate, site.key)
