"""twistd, loaded once and forked for every start, so that a start costs what a hub does and not what its imports do.

As a program it reads one JSON line a start from its standard input and answers each with a process id.  It imports what
a hub imports, but no reactor: that is made in each child, as everything else is that a hub opens.  The bug that its
argument names (tests/crash/planted.py) is planted before.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

START_SECONDS_MAX = 60.0
_PR_SET_PDEATHSIG = 1


class Forked:
    """A process that `Loaded` has started; with the part of subprocess.Popen that is used here."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0  # its parent has seen it off, and only that knows how it ended
        return None

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def wait(self, seconds: float = START_SECONDS_MAX) -> int:
        ends_at = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > ends_at:
                raise subprocess.TimeoutExpired("hub", seconds)
            time.sleep(0.001)
        return 0


class Loaded:
    """The process that is forked; a context.  `bug` names what is planted into it, if anything is."""

    def __init__(self, bug: str = "") -> None:
        self._bug = bug

    def __enter__(self) -> Loaded:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.loaded", self._bug],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(START_SECONDS_MAX)

    def start(self, arguments: Sequence[str], place: Path, output: Path, environ: Mapping[str, str]) -> Forked:
        """`twistd ARGUMENTS` in a session of its own."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"arguments": list(arguments), "place": str(place), "output": str(output), "environ": dict(environ)}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        return Forked(int(self._process.stdout.readline()))


def become(order: Mapping[str, object]) -> None:
    """In the child: whatever twistd would find."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # no hub outlives the test, however that ends
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.chdir(str(order["place"]))
    os.environ.update({str(name): str(value) for name, value in dict(order["environ"]).items()})  # type: ignore[call-overload]
    output = os.open(str(order["output"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, standard in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, standard)
    os.closerange(3, max(output, nothing) + 1)
    sys.argv = ["twistd", *order["arguments"]]  # type: ignore[misc]
    from twisted.scripts.twistd import run

    run()


def main() -> None:
    import twisted.scripts.twistd  # noqa: F401 - loaded for the children

    import mailhub.app.service
    import mailhub.app.tree
    import mailhub.plugins.local_domains  # noqa: F401

    if sys.argv[1]:
        from tests.crash.planted import CHANGES

        CHANGES[sys.argv[1]]()
    assert "twisted.internet.reactor" not in sys.modules, "a reactor cannot be shared by children"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                become(order)
                status = 0
            except Exception:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
