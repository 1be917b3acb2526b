"""The client's side of the control socket: one request, and the hub's answers as they come.  Blocking; no Twisted."""

from __future__ import annotations

import json
import os
import pwd
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from mailhub.app.control_path import NAME, socket_path

#: The hub sends no longer line.
LINE_OCTETS_MAX = 1024 * 1024
#: How long the hub may think between two lines; operations wait for deliveries under way for a part of that.
ANSWER_SECONDS_MAX = 60.0


class NoAnswer(Exception):
    """The hub cannot be asked; the text says why and what can be done."""


class NotRunning(NoAnswer):
    """Nobody listens there."""


class Refused(Exception):
    """The hub says no; the text is its own."""


class Request:
    """A request to the process that keeps its control socket in `directory`, sent when this is made.  It ends with
    `with`.

    Raises NoAnswer.
    """

    def __init__(self, directory: Path, do: str, seconds_max: float = ANSWER_SECONDS_MAX, **request: Any) -> None:
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connection.settimeout(seconds_max)
            _connect(self._connection, directory)
            self._connection.sendall(json.dumps({"do": do, **request}).encode("ascii") + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the hub has said why, and closed
        except TimeoutError:
            self._connection.close()
            raise NoAnswer("the hub does not answer; is it overloaded?") from None
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *why: object) -> None:
        self._connection.close()

    def answers(self) -> Iterator[dict[str, Any]]:
        """As they come; the last has the key "done".  Raises NoAnswer and Refused."""
        return _answers(self._connection)


def ask(data: Path, do: str, seconds_max: float = ANSWER_SECONDS_MAX, **request: Any) -> Iterator[dict[str, Any]]:
    """The answers of the hub that runs on this data directory; the last has the key "done".

    Raises NoAnswer, also when the hub ends in the middle, and Refused.
    """
    with Request(data, do, seconds_max, **request) as sent:
        yield from sent.answers()


def _answers(connection: socket.socket) -> Iterator[dict[str, Any]]:
    with connection.makefile("rb") as lines:
        while True:
            try:
                line = lines.readline(LINE_OCTETS_MAX)
            except TimeoutError:
                raise NoAnswer("the hub does not answer; is it overloaded?") from None
            except OSError:
                line = b""
            if not line.endswith(b"\n"):
                raise NoAnswer("the hub ended before it had answered")
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                raise Refused(str(answer["error"]))
            yield answer
            if "done" in answer:
                return


def _connect(connection: socket.socket, data: Path) -> None:
    path = data / NAME
    try:
        with socket_path(path) as name:
            connection.connect(name)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        database = data / "spool" / "queue.db"
        raise NotRunning(
            f"no hub runs on this data directory ({data}): start it, or look with sqlite3 {database}"
        ) from None
    except PermissionError:
        me, owner = _user_name(os.geteuid()), _owner(path)
        raise NoAnswer(f"user {me} may not ask the hub at {path}: do it as root, or sudo -u {owner}") from None
    except OSError as error:
        raise NoAnswer(f"the hub at {path} cannot be asked: {error.strerror or error}") from None


def _owner(path: Path) -> str:
    for place in (path, *path.parents):
        try:
            return _user_name(place.stat().st_uid)
        except OSError:
            continue
    return "USER"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
