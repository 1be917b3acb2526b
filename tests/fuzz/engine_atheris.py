"""atheris as an engine: libFuzzer, steered by the branches that inputs take.  Optional: `pip install .[fuzz]`.

libFuzzer ends its process when it is done or when it has found something, so each target runs in a process of its own,
which is this module: `python -m tests.fuzz.engine_atheris TARGET INPUTS SEED DIRECTORY`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.fuzz.result import ROOT, Result, memory_octets, peak_octets
from tests.fuzz.target import REGISTRY, Target
from tests.fuzz.trial import Trial

MISSING = "atheris does not import here: pip install '.[fuzz]' (CPython on Linux), or take another engine"
#: How long one target may run, in seconds for an input, beside the minute that instrumentation may take.
SECONDS_PER_INPUT = 0.05
_STATE = "state.json"


def is_there() -> bool:
    """Whether atheris can be imported."""
    return importlib.util.find_spec("atheris") is not None


def run(target: Target, inputs: int, seed: int = 0) -> Result:
    """Put the regressions, the seeds and `inputs` in all to the target, in a process of its own.

    Raises RuntimeError where atheris is missing, or where its process ends before it has begun.
    """
    if not is_there():
        raise RuntimeError(MISSING)
    result = Result(target.name, "atheris", seed)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "corpus").mkdir()
        known = [path.read_bytes() for path in target.regressions()]
        result.regressions = len(known)
        for number, octets in enumerate([*known, *target.seeds]):
            (directory / "corpus" / f"{number:04}").write_bytes(octets)
        words = ['"' + "".join(f"\\x{octet:02x}" for octet in token) + '"\n' for token in target.tokens if token]
        (directory / "words").write_text("".join(words))
        (directory / _STATE).write_text("{}")
        ended = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.engine_atheris", target.name, str(inputs), str(seed), name],
            cwd=ROOT,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60 + inputs * SECONDS_PER_INPUT,
            check=False,
        )
        state = json.loads((directory / _STATE).read_text())
        broken = [path.read_bytes() for path in sorted(directory.glob("*-*")) if path.is_file()]
    if not state:
        raise RuntimeError(f"atheris has not begun: {ended.stderr[-2000:]}")
    result.inputs, result.memory, result.peak = state["inputs"], state["memory"], state["peak"]
    trial = Trial(target)
    for octets in broken:
        failure = trial.failure(octets)
        if failure is not None:
            result.failures.append(trial.shrunk(failure))
    result.unhandled = max(len(broken), len(result.failures), int(ended.returncode != 0))
    result.seconds = time.monotonic() - begun
    return result


def _child(name: str, inputs: int, seed: int, directory: Path) -> None:
    """In its own process: never returns."""
    atheris: Any = importlib.import_module("atheris")

    with atheris.instrument_imports(include=["mailhub"]):
        import tests.fuzz.targets  # noqa: F401

    trial = Trial(REGISTRY[name])
    memory = [memory_octets()]
    before = peak_octets()
    quarter = max(1, inputs // 4)

    def one(octets: bytes) -> None:
        trial.run(octets)
        if trial.tried % quarter == 0 or trial.tried == 1:
            if trial.tried > 1:
                memory.append(memory_octets())
            state = {"inputs": trial.tried, "memory": memory, "peak": max(0, peak_octets() - before)}
            (directory / _STATE).write_text(json.dumps(state))

    arguments = [
        sys.argv[0],
        f"-runs={inputs}",
        f"-seed={seed + 1}",  # 0 means "any" to libFuzzer
        f"-max_len={REGISTRY[name].octets_max}",
        f"-dict={directory / 'words'}",
        f"-artifact_prefix={directory}{os.sep}",
        "-rss_limit_mb=0",
        str(directory / "corpus"),
    ]
    atheris.Setup(arguments, one)
    atheris.Fuzz()


if __name__ == "__main__":
    _child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
