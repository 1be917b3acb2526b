"""Somebody else's mail server from Debian, run apart from this system: for comparison and for tests of getting along.

Mail servers cannot be installed side by side, so `tests/interop/install` only unpacks them, into CACHE.  Here one is
started in a mount namespace of its own, where its programs lie over /usr, its configuration and users over /etc; and
in a process namespace of its own, so that with its first process all of it is gone, children that went into the
background included.

The rule this file keeps: nothing outside of the namespace and of the directories that were handed in changes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import IO

CACHE = Path(
    os.environ.get("MAILHUB_INTEROP")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mailhub-interop"
)
START_SECONDS_MAX = 30.0

#: Users and groups that the servers want to become.  Where one of these names exists already, it is taken as it is.
USERS = {"postfix": 61001, "postdrop": 61002, "Debian-exim": 61003, "opensmtpd": 61004, "opensmtpq": 61005}

#: Each is an empty file system in memory, where no directory is bound over it.
EMPTIED = ("/run", "/var/lib", "/var/spool")


def run(
    script: str,
    root: Path,
    etc: Path,
    bound: Mapping[str, Path],
    place: Path,
    output: IO[bytes],
    before: Sequence[str] = (),
) -> subprocess.Popen[bytes]:
    """Begin a shell script in namespaces of its own, with the package tree `root` and the directory `etc` on top.

    `bound` are directories of ours by the names under which the script finds them.  `before` are shell commands that
    are run outside of the namespaces, by the process that becomes their parent.  It is over when this process is
    killed.
    """
    mounts = [f"mount --bind {quote(str(ours))} {folder}" for folder, ours in bound.items()]
    mounts += [f"mount -t tmpfs tmpfs {folder}" for folder in EMPTIED if folder not in bound]
    mounts += [overlay("/etc", etc, root / "etc"), overlay("/usr", root / "usr")]
    command = confined("\n".join((*mounts, script, "exit $?")))
    if before:
        command = ["sh", "-euc", "\n".join((*before, 'exec "$@"')), "sh", *command]
    return subprocess.Popen(  # noqa: S603 (the words are the caller's)
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=place,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
    )


def confined(script: str) -> list[str]:
    """The command that runs a shell script in its own namespaces, and ends with whoever started it.

    The shell must stay their first process, and not become a server: one that changes its user, or is set-user-ID, is
    not told of the end of its parent any more.
    """
    apart = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL"]
    return ["setpriv", "--pdeathsig", "KILL", *apart, "sh", "-euc", script]


def overlay(folder: str, *layers: Path) -> str:
    """The command that lays these layers, as far as they exist, over a directory of the system."""
    shown = ":".join([*(str(layer) for layer in layers if layer.is_dir()), folder])
    return f"mount -t overlay overlay -o {quote(f'lowerdir={shown}')} {folder}" if ":" in shown else ":"


def cannot_confine() -> str:
    """Why there can be no namespaces with overlays here, or an empty string."""
    if os.geteuid() != 0:
        return "that needs root"
    if any(shutil.which(tool) is None for tool in ("unshare", "setpriv", "mount")):
        return "util-linux is not installed"
    probe = "mount -t tmpfs tmpfs /run && mkdir /run/over && mount -t overlay overlay -o lowerdir=/run/over:/usr /usr"
    tried = subprocess.run(confined(probe), capture_output=True, text=True)  # noqa: S603 (a constant)
    return tried.stderr.strip()


def users() -> dict[str, str]:
    """This machine's users and groups, and those of the servers that are missing; by the name of their file in /etc."""
    tables = {}
    for name, line in (("passwd", "{0}:x:{1}:{1}::/nonexistent:/usr/sbin/nologin\n"), ("group", "{0}:x:{1}:\n")):
        text = Path("/etc", name).read_text()
        known = {each.partition(":")[0] for each in text.splitlines()}
        tables[name] = text + "".join(line.format(*user) for user in USERS.items() if user[0] not in known)
    return tables


def unpacked(name: str, program: str) -> tuple[str, dict[str, str]]:
    """A program of an unpacked package that needs no namespace: its path, and the environment in which it runs."""
    root = CACHE / name / "usr"
    folders = [root / "lib" / name, *(root / "lib").glob("*-linux-gnu*")]
    return str(root / "sbin" / program), {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, folders))}


# --- ports -----------------------------------------------------------------------------------------------------------


def answers(port: int) -> bool:
    """Whether anybody listens on this port."""
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def greets(port: int) -> bool:
    """Whether a server on this port says anything."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        return bool(connection.recv(1))
    return False


def wait_for_greeting(process: subprocess.Popen[bytes], port: int, told: Callable[[], str]) -> None:
    """Return when a server greets on this port.  Raises RuntimeError, with what it has `told`, if it does not."""
    ends_at = time.monotonic() + START_SECONDS_MAX
    while not greets(port):
        if process.poll() is not None or time.monotonic() > ends_at:
            raise RuntimeError(f"it has not started:\n{told()}")
        time.sleep(0.02)  # somebody else's process: there is nothing to wait on


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
