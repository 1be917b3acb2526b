"""One thing that `mailhub check` found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much it matters: it is as it should be, it will surprise somebody, or the hub will not start."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """`about` is a dotted key of the configuration, or a place FILE:LINE."""

    severity: Severity
    about: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity.value:<8} {self.about}: {self.message}"
