"""Durations and sizes as people write them: "5m", "1h30m", "50MB", "64KiB".

Each unit is written out, so that no number has to be guessed at; `duration` and `size` undo `seconds` and `octets`.
"""

from __future__ import annotations

import re
from fractions import Fraction

#: Seconds of each unit, largest first, in thousandths so that all arithmetic is exact.
_MILLISECONDS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_DURATION = re.compile(r"(?:\d{1,12}(?:\.\d{1,6})?(?:ms|[wdhms]))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[wdhms])", re.ASCII)

#: Octets of each unit: powers of 1000 (IEC 80000-13 kB, MB, ...) and of 1024 (KiB, MiB, ...).
_OCTETS = {
    "TiB": 1024**4,
    "TB": 1000**4,
    "GiB": 1024**3,
    "GB": 1000**3,
    "MiB": 1024**2,
    "MB": 1000**2,
    "KiB": 1024,
    "kB": 1000,
    "B": 1,
}
_OCTETS_BY_LOWER_CASE = {unit.lower(): octets for unit, octets in _OCTETS.items()}
_SIZE = re.compile(r"(\d{1,15})(?:\.(\d{1,6}))? ?([kmgt]i?b|b)", re.ASCII | re.IGNORECASE)

DURATION_EXPECTED = 'a duration such as "30s", "5m", "4h" or "1h30m" (units: ms, s, m, h, d, w)'
SIZE_EXPECTED = 'a size such as "50MB", "64KiB" or a number of octets (units: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)'


def seconds(text: str) -> float:
    """The seconds in "5m" or "1h30m".  Units go from large to small and none comes twice; else ValueError."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"expected {DURATION_EXPECTED}")
    parts = _DURATION_PART.findall(text)
    sizes = [_MILLISECONDS[unit] for _, unit in parts]
    if sizes != sorted(set(sizes), reverse=True):
        raise ValueError(f"expected {DURATION_EXPECTED}, the larger units first and each at most once")
    return float(sum(Fraction(number) * _MILLISECONDS[unit] for number, unit in parts) / 1000)


def octets(text: str) -> int:
    """The octets in "50MB" (50,000,000) or "64KiB" (65,536).  Raises ValueError, also for a fraction of an octet."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"expected {SIZE_EXPECTED}")
    whole, fraction, unit = match.groups()
    exact = Fraction(f"{whole}.{fraction or 0}") * _OCTETS_BY_LOWER_CASE[unit.lower()]
    if exact.denominator != 1:
        raise ValueError("expected a whole number of octets")
    return int(exact)


def duration(seconds: float) -> str:
    """The shortest exact spelling down to a millisecond: 5400.0 is "1h30m", 0.5 is "500ms"."""
    left = round(seconds * 1000)
    if left == 0:
        return "0s"
    parts = []
    for unit, milliseconds in _MILLISECONDS.items():
        if unit == "w":  # "14d" is easier to compare with "5d" than "2w"
            continue
        count, left = divmod(left, milliseconds)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def size(octets: int) -> str:
    """The spelling with the largest unit that divides it: 50,000,000 is "50MB", 65,536 is "64KiB"."""
    if octets == 0:
        return "0B"
    unit = next(unit for unit, each in _OCTETS.items() if octets % each == 0)
    return f"{octets // _OCTETS[unit]}{unit}"
