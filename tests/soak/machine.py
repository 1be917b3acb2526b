"""Where and on what something was measured: enough to judge the figures, and nothing that names the host."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from tests.soak.parts import ROOT

#: What is measured.  The commit is the last one that changed it, whatever was done to tests and pages since.
_PRODUCT = ("mailhub", "twisted", "setup.cfg")


def _git(*words: str) -> str:
    try:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def circumstances() -> dict[str, object]:
    """Date, commit and machine."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    kernel = re.match(r"[\d.]+", platform.release())
    changed = " with changes" if _git("status", "--porcelain", "--", *_PRODUCT) else ""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": (_git("log", "-1", "--format=%h", "--abbrev=10", "--", *_PRODUCT) or "unknown") + changed,
        "machine": {
            "processor": " ".join(model[1].split()) if model else platform.machine(),
            "cores": os.cpu_count(),
            "memory_gib": round(int(memory[1]) / 2**20) if memory else 0,
            "kernel": f"{platform.system()} {kernel[0] if kernel else ''}".strip(),
            "python": platform.python_version(),
        },
    }
