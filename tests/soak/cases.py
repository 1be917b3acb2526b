"""`python -m tests.soak.cases FILES`: tests that are a part of the soak as they are, counted as JSON."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import Any

import pytest


class Count:
    """How many cases ended how."""

    def __init__(self) -> None:
        self.passed = self.failed = self.skipped = 0
        self.details: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed += 1
            self.details.append(report.nodeid)
        elif report.skipped:
            self.skipped += 1
        elif report.when == "call":
            self.passed += 1


def main() -> int:
    count, began_at = Count(), time.monotonic()
    with contextlib.redirect_stdout(sys.stderr):
        status = int(pytest.main(["-n", "0", *sys.argv[1:]], plugins=[count]))
    print(json.dumps({"seconds": round(time.monotonic() - began_at, 1), **vars(count)}))
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
