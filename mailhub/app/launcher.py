"""twistd, as it launches a hub: where the log goes, and how a start that fails is told.

A hub that cannot start ends with one clear line, and with a status that scripts can see.  twistd tells neither by
itself: in the background its first process waits for a word on a pipe, which comes before the reactor runs, and so
before the spool is open; in the foreground it exits with status 0, whatever made the reactor stop.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, NoReturn

from twisted.python.util import untilConcludes

from mailhub.app import log

if TYPE_CHECKING:
    from typing import TextIO

    from mailhub.history.log import HistoryLog

#: What twistd's waiting process reads.
_WORD_OCTETS_MAX = 100


class StartError(SystemExit, Exception):
    """The hub cannot start.  `code` is a text for the postmaster, or 1 where it has been told already.

    As a SystemExit it ends the process with status 1 and no traceback.  As an Exception it has twistd tidy up.
    """


class Launcher:
    """twistd, as far as it must know how the start went.  `options` are those of its command line.

    A `worker` of several is not launched by people: `is_foreground` says whether they see what it writes.
    """

    def __init__(
        self, options: MutableMapping[str, Any], is_foreground: bool | None = None, worker: int | None = None
    ) -> None:
        self._options = options
        if is_foreground is None:
            is_foreground = bool(options.get("nodaemon") or options.get("debug"))
        self.is_foreground = is_foreground
        self._worker = worker
        #: Where people read what happens to mail; twistd takes over sys.stdout later.
        self.terminal: TextIO | None = sys.stdout if is_foreground else None
        self._had_terminal = is_foreground and _is_terminal()
        self._waiting: int | None = None
        self._log: log.Observer | None = None

    def joined(self, application: Any, history: HistoryLog, level: str) -> None:
        """The hub has become part of twistd's application, which from now on logs as the configuration says."""
        self._log = log.set_up(self._options, application, history, level, self.is_foreground, self._worker)

    def words_for_workers(self, number: int) -> list[str]:
        """What twistd must be told for a worker, so that its text goes where ours goes; a file is its own, though."""
        words = []
        if self._options.get("logger"):
            words.append(f"--logger={self._options['logger']}")
        if self._options.get("syslog"):
            words += ["--syslog", f"--prefix={self._options.get('prefix', 'twisted')}"]
        if file := self._options.get("logfile"):
            words.append(f"--logfile={file if file == '-' else f'{file}.worker-{number}'}")
        if reactor := self._options.get("reactor"):
            words.append(f"--reactor={reactor}")
        return words

    def keep_waiting(self) -> None:
        """Whoever waits for us in the foreground goes on to wait until `started` or `failed`.

        We take the pipe out of twistd's hands: it finds none, and says nothing before its time.
        """
        self._waiting = self._options.pop("statusPipe", None)

    def on_hangup(self, call: Callable[[], None]) -> None:
        """Have this called on SIGHUP, as signal handlers are: in between anything."""
        signal.signal(signal.SIGHUP, lambda number, frame: call())

    def on_stop_again(self, reactor: Any, is_stopping: Callable[[], bool], call: Callable[[], None]) -> None:
        """Have this called on SIGTERM and SIGINT once the hub is stopping, as signal handlers are: in between anything.

        The first one is the reactor's; of another it would make a traceback, since it can be stopped only once.
        """
        reactor.callWhenRunning(self._listen_on, is_stopping, call)  # its own handlers are there then

    def _listen_on(self, is_stopping: Callable[[], bool], call: Callable[[], None]) -> None:
        heard: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            first = signal.getsignal(number)
            if not callable(first):
                continue  # nohup and shells have it ignored

            def handle(number: int, frame: Any, first: Callable[[int, Any], Any] = first) -> None:
                if heard or is_stopping():
                    call()
                else:
                    heard.append(number)
                    first(number, frame)

            signal.signal(number, handle)

    def started(self) -> None:
        """The hub serves."""
        self._tell(b"0")
        if self._log is not None:
            self._log.started()

    def failed(self, cause: str) -> StartError:
        """The hub does not, and this is why, in one line or more.  Gives back what twistd must get, if it still can."""
        self._tell(f"1 {cause}".encode("ascii", "backslashreplace")[:_WORD_OCTETS_MAX])
        if self.terminal is not None and log.has_own_log(self._options) and sys.__stderr__ is not None:
            sys.__stderr__.write(f"{cause}\n")  # whose log goes elsewhere still looks at the terminal
        return StartError(1)

    def give_up(self, reactor: Any) -> None:
        """End the process with status 1, if it runs already; what is raised in time ends it otherwise."""
        if reactor.running:
            end_with(1)
            reactor.stop()

    @property
    def is_deserted(self) -> bool:
        """Whether the terminal on which the hub was started is gone."""
        return self._had_terminal and not _is_terminal()

    def _tell(self, word: bytes) -> None:
        pipe, self._waiting = self._waiting, None
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                untilConcludes(os.write, pipe, word)
            os.close(pipe)


def _is_terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:
        return False


def refuse(message: str) -> NoReturn:
    """The command line or the configuration is wrong: status 2, and nothing was started."""
    sys.stderr.write(message.rstrip("\n") + "\n")
    raise SystemExit(2)


def end_with(status: int) -> None:
    """Have this process end with `status` once all that it still does is done; twistd itself would say 0."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(leave)
