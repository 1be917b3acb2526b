"""What twistd calls: the options of `twistd mailhub`, and the service that they make.

A mistake on the command line or in the configuration is told before anything starts, with exit status 2; a port that
cannot be bound or a spool that cannot be opened ends the start with status 1.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from twisted.python import usage

if TYPE_CHECKING:
    from twisted.application.service import IService

    from mailhub.app.config import Config
    from mailhub.app.tree import Hub

#: What a process can do, and the keys that say where it listens for that; "mda" delivers here, "outbound" elsewhere.
ROLES = {"mta": ("listen",), "msa": ("listen", "listen_tls"), "lmtp": ("listen",), "mda": (), "outbound": ()}


class Options(usage.Options):
    """The command line behind `twistd mailhub`."""

    synopsis = "[options]"
    longdesc = (
        "Runs the mail system that the configuration describes.  See what it says, without starting anything, with "
        "`mailhub check --config FILE`."
    )
    optFlags = [  # noqa: RUF012
        ["worker", None, "Used by mailhub itself: be one of the several processes of a hub."],
    ]
    optParameters = [  # noqa: RUF012  (Twisted's way of declaring them)
        ["config", "c", "/etc/mailhub/mailhub.toml", "The configuration file."],
        ["roles", "r", "", f"Only these roles, comma-separated, of: {', '.join(ROLES)}.  Default: all configured."],
    ]

    def postOptions(self) -> None:
        """Read the configuration, so that a mistake is told before anything is started."""
        from mailhub.app.config import load
        from mailhub.app.config_errors import ConfigError
        from mailhub.app.launcher import refuse

        if self["worker"]:
            from mailhub.app import worker_brief

            try:
                self["brief"] = worker_brief.read()
            except EOFError:
                refuse("--worker is for mailhub itself: set `workers` in the configuration, and leave it out")
            return
        chosen = [name.strip() for name in self["roles"].split(",") if name.strip()]
        unknown = [name for name in chosen if name not in ROLES]
        if unknown:
            refuse(f"--roles: there is no role {unknown[0]!r}; roles are {', '.join(ROLES)}")
        try:
            config = self["loaded"] = load(self["config"])
        except ConfigError as error:
            refuse(str(error))
        for name in chosen:
            if not _is_configured(config, name):
                keys = " and ".join(f"{name}.{key}" for key in ROLES[name])
                refuse(f"--roles: {name} would listen nowhere, since {config.source} sets no {keys}")
        self["chosen"] = frozenset(chosen) or frozenset(name for name in ROLES if _is_configured(config, name))


def _is_configured(config: Config, role: str) -> bool:
    return not ROLES[role] or any(getattr(getattr(config, role), key) for key in ROLES[role])


def makeService(options: Options) -> IService:
    """The whole hub as one service.  Raises SystemExit, with the cause told."""
    from twisted.internet import reactor

    from mailhub.app import garbage
    from mailhub.app.config_errors import ConfigError
    from mailhub.app.launcher import refuse
    from mailhub.app.time_of_day import make_steady

    make_steady(reactor)  # nothing waits yet
    try:
        hub = _make(options, reactor)
    except ConfigError as error:
        refuse(str(error))
    reactor.callWhenRunning(garbage.settle)
    return hub


def _make(options: Options, reactor: Any) -> Hub:
    """The whole of a hub, its first process, or a worker of it.  Raises ConfigError and StartError."""
    from mailhub.app import supervisor, worker_process
    from mailhub.app.launcher import Launcher
    from mailhub.app.tree import Hub

    twistd: Any = options.parent
    if options["worker"]:
        return worker_process.make(options["brief"], twistd, reactor, os.environ)
    kind = supervisor.Supervisor if supervisor.is_needed(options["loaded"]) else Hub
    return kind(options["loaded"], options["chosen"], reactor, os.environ, Launcher(twistd))
