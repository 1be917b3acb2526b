"""A series of crashes or abuses as a test runs it: a process of its own, whose findings are JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def found_by(seconds_max: float, module: str, *arguments: str) -> dict[str, Any]:
    """What `python -m MODULE ARGUMENTS` has found; a skip, and a loud one, where it cannot be tried."""
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=seconds_max,
        check=False,
    )
    if ended.returncode == 2:
        pytest.skip(f"NOT TESTED: {ended.stderr.strip()}")
    assert ended.returncode in (0, 1), ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    print(found)
    return found
