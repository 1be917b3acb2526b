"""What twistd calls: the options of `twistd mailhub`, and the service that they make.

A mistake in the configuration is told before anything starts, with exit status 2; a port that cannot be bound or a
spool that cannot be opened ends the start with one line and exit status 1.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from twisted.python import usage

if TYPE_CHECKING:
    from twisted.application.service import IService

ROLES = ("mta", "msa", "lmtp", "mda")


class Options(usage.Options):
    """The command line behind `twistd mailhub`."""

    synopsis = "[options]"
    longdesc = (
        "Runs the mail system that the configuration describes.  See what it says, without starting anything, with "
        "`mailhub check --config FILE`."
    )
    optParameters = [  # noqa: RUF012  (Twisted's way of declaring them)
        ["config", "c", "/etc/mailhub/mailhub.toml", "The configuration file."],
        ["roles", "r", "", f"Only these roles, comma-separated, of: {', '.join(ROLES)}.  Default: all configured."],
    ]

    def postOptions(self) -> None:
        """Read the configuration, so that a mistake is told before anything is started."""
        from mailhub.app.config import load
        from mailhub.app.config_errors import ConfigError

        chosen = [name.strip() for name in self["roles"].split(",") if name.strip()]
        unknown = [name for name in chosen if name not in ROLES]
        if unknown:
            _refuse(f"--roles: there is no role {unknown[0]!r}; roles are {', '.join(ROLES)}")
        self["chosen"] = frozenset(chosen or ROLES)
        try:
            self["loaded"] = load(self["config"])
        except ConfigError as error:
            _refuse(str(error))


def _refuse(message: str) -> None:
    sys.stderr.write(message.rstrip("\n") + "\n")
    raise SystemExit(2)


def makeService(options: Options) -> IService:
    """The whole hub as one service."""
    from twisted.internet import reactor

    from mailhub.app import log
    from mailhub.app.tree import Hub

    twistd: Any = options.parent
    foreground = bool(twistd.get("nodaemon") or twistd.get("debug"))
    hub = Hub(options["loaded"], options["chosen"], reactor, os.environ, sys.stdout if foreground else None)
    hub.on_parent = lambda application: log.set_up(
        twistd, application, hub.house.history, options["loaded"].log.level
    )
    return hub
