"""What is wrong in a file that a postmaster edits, as a value: a broken line is reported, the rest serve."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One fault.  `line` counts from 1; 0 means the file as a whole.  `what` never contains credentials."""

    path: str
    line: int
    what: str
    remedy: str

    def __str__(self) -> str:
        """`accounts:12: no ":" in this line. Write ...`, as compilers do, so that editors can jump there."""
        where = f"{self.path}:{self.line}" if self.line else self.path
        return f"{where}: {self.what}. {self.remedy}."
