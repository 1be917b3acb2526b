"""strace, for a while, on a hub that runs: to see its calls, or to have the kernel answer some of them otherwise."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.crash.victim import until

ATTACH_SECONDS_MAX = 20.0


class CannotTrace(Exception):
    """strace is missing or may not attach itself; the text says why."""


@contextlib.contextmanager
def traced(pid: int, output: Path, *arguments: str) -> Iterator[None]:
    """strace on all threads of this process.  Raises CannotTrace."""
    program = shutil.which("strace")
    if program is None:
        raise CannotTrace("strace is not installed (tests/crash/install)")
    tracer = subprocess.Popen(
        [program, "-f", "-qq", "-y", "-s", "0", "-o", str(output), *arguments, "-p", str(pid)],
        stderr=subprocess.PIPE,
    )

    def is_attached() -> bool:
        if tracer.poll() is not None:
            return True
        try:
            statuses = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
        except OSError:
            return False
        return all(f"TracerPid:\t{tracer.pid}" in status for status in statuses)

    try:
        if not until(is_attached, ATTACH_SECONDS_MAX, 0.002) or tracer.poll() is not None:
            raise CannotTrace(tracer.communicate()[1].decode() if tracer.poll() is not None else "it does not attach")
        yield
    finally:
        if tracer.poll() is None:
            tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=ATTACH_SECONDS_MAX)
