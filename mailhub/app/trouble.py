"""What keeps a hub from starting, told to everybody who should know."""

from __future__ import annotations

import apsw
from twisted.logger import Logger

from mailhub.app.control import ControlError
from mailhub.app.launcher import Launcher, StartError
from mailhub.app.notify import Notifier
from mailhub.app.privileges import Person, PrivilegeError, acting_as
from mailhub.app.worker_brief import WorkerError
from mailhub.interfaces import SpoolError
from mailhub.net.listener import ListenError

#: What a start fails by that is no bug of ours: the text says it all.
TROUBLE = (SpoolError, PrivilegeError, ListenError, ControlError, WorkerError, OSError, apsw.Error)

_log = Logger(namespace="mailhub")


def cannot_start(error: Exception, person: Person | None, notifier: Notifier, launcher: Launcher) -> StartError:
    """Tell the log, the service manager and whoever waits; what it gives back ends the process, if raised in time."""
    cause = told(error)
    with acting_as(person):  # the log is written at once, and by whom it belongs to
        if isinstance(error, TROUBLE):
            _log.critical("cannot start: {cause}", cause=cause)
        else:
            _log.failure("cannot start, by a bug")
    notifier.status(f"cannot start: {cause}")
    return launcher.failed(f"cannot start: {cause}")


def told(error: Exception) -> str:
    """The cause in a line for the postmaster."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror or error}"
    return str(error) or type(error).__name__
