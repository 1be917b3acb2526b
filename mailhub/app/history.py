"""History as the configuration wants it, for the hub that writes it and for the command that reads it."""

from __future__ import annotations

from mailhub.app.config import Config
from mailhub.history.database import HistoryDatabase
from mailhub.history.redaction import Redact, Redaction


def database(config: Config) -> HistoryDatabase | None:
    """Where events are kept, or None if none are."""
    history = config.history
    return HistoryDatabase(history.file, history.keep, history.size_max) if history.keep > 0 else None


def redaction(config: Config, secret: bytes) -> Redaction:
    """What becomes of addresses.  `secret` is that of the installation."""
    return Redaction(Redact(config.history.redact), secret)
