"""Inputs out of inputs: words of a language put together, and what is known cut, joined, doubled and bent.

Deterministic: the same seed makes the same inputs, as long as the same ones lead to something new.  Most inputs are
short, since short ones reach as much and take less; one in STRETCHED_EVERY is a piece repeated to the full length,
which is where work that is not linear shows itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

Thing = TypeVar("Thing")

ORDINARY_OCTETS_MAX = 600
STRETCHED_EVERY = 2000
#: Inputs kept since they led to something new; beyond that a new one takes the place of an old one.
KEPT_MAX = 1000
GENERATED_TOKENS_MAX = 12

#: Octets that mean something to one parser or another.
INTERESTING = tuple(
    bytes((octet,)) for octet in b"\0\t\n\r \"#%&'()*+,-./0159:;<=>?@AZ[\\]^_`az{|}~\x7f\x80\x85\xa0\xc3\xff"
)
WORDS = (
    b"\r\n", b"\r\n\r\n", b"\r\n.\r\n", b"\n.\n", b"\r.\r", b"\r\r\n", b"..", b"\0", b"\xc3\xa4", b"\xe2\x80\xa8",
    b"\xc2\x85",
    b"\xed\xa0\x80", b"\xf4\x8f\xbf\xbf", b"\xef\xbb\xbf", b"\xe2\x80\xae", b"%s", b"\\", b'"', b"=", b"==",
    b"\x1b[31m",
    b"-1", b"0", b"4294967296", b"18446744073709551616", b"99999999999999999999", b"1e999", b"x" * 64, b"x" * 256,
)  # fmt: skip


class Mutation:
    """Makes inputs from `seeds` and `tokens`; `keep` tells it of one that led to something new."""

    def __init__(self, seeds: Sequence[bytes], tokens: Sequence[bytes], octets_max: int, seed: int) -> None:
        self._random = random.Random(seed)
        self._chance = self._random.random
        self._corpus = [seed[:octets_max] for seed in seeds] or [b""]
        self._first_kept = len(self._corpus)
        self._tokens = [*tokens, *WORDS] if tokens else list(WORDS)
        self._own_tokens = list(tokens) or list(WORDS)
        self._octets_max = octets_max
        self._made = 0

    def keep(self, octets: bytes) -> None:
        """Build on this one, too."""
        if len(octets) > ORDINARY_OCTETS_MAX:
            return
        if len(self._corpus) - self._first_kept < KEPT_MAX:
            self._corpus.append(octets)
        else:
            self._corpus[self._first_kept + self._below(KEPT_MAX)] = octets

    def make(self) -> bytes:
        """The next input."""
        self._made += 1
        if self._made % STRETCHED_EVERY == STRETCHED_EVERY // 2:
            return self._stretched()
        kind = self._chance()
        if kind < 0.15:
            octets = b"".join([self._pick(self._own_tokens) for _ in range(1 + self._below(GENERATED_TOKENS_MAX))])
        else:
            octets = self._pick(self._corpus)
        if kind > 0.05:
            for _ in range(1 + int(self._chance() ** 2 * 5)):
                octets = self._pick(_MUTATIONS)(self, octets)
        return octets if len(octets) <= ORDINARY_OCTETS_MAX else octets[:ORDINARY_OCTETS_MAX]

    def _stretched(self) -> bytes:
        """Something known, with a piece in it again and again, as long as it may be."""
        base = self._pick(self._corpus)
        begin, end = self._slice(base)
        piece = (base[begin:end] if self._chance() < 0.5 else b"") or self._pick(self._tokens)
        room = max(0, self._octets_max - len(base))
        return base[:end] + piece * (room // len(piece)) + base[end:]

    # --- chance ------------------------------------------------------------------------------------------------

    def _below(self, number: int) -> int:
        return int(self._chance() * number)

    def _pick(self, things: Sequence[Thing]) -> Thing:
        return things[int(self._chance() * len(things))]

    def _slice(self, octets: bytes) -> tuple[int, int]:
        begin = self._below(len(octets) + 1)
        return begin, begin + self._below(min(len(octets) - begin, 32) + 1)

    # --- one change --------------------------------------------------------------------------------------------

    def _bend(self, octets: bytes) -> bytes:
        at = self._below(len(octets))
        return octets[:at] + bytes((self._below(256),)) + octets[at + 1 :]

    def _replace(self, octets: bytes) -> bytes:
        at = self._below(len(octets))
        return octets[:at] + self._pick(INTERESTING) + octets[at + 1 :]

    def _insert(self, octets: bytes) -> bytes:
        at = self._below(len(octets) + 1)
        return octets[:at] + self._pick(INTERESTING) + octets[at:]

    def _insert_token(self, octets: bytes) -> bytes:
        at = self._below(len(octets) + 1)
        return octets[:at] + self._pick(self._tokens) + octets[at:]

    def _put_token(self, octets: bytes) -> bytes:
        begin, end = self._slice(octets)
        return octets[:begin] + self._pick(self._tokens) + octets[end:]

    def _cut(self, octets: bytes) -> bytes:
        begin, end = self._slice(octets)
        return octets[:begin] + octets[end:]

    def _end_early(self, octets: bytes) -> bytes:
        return octets[: self._below(len(octets) + 1)]

    def _double(self, octets: bytes) -> bytes:
        begin, end = self._slice(octets)
        return octets[:end] + octets[begin:end] * (1 + self._below(3)) + octets[end:]

    def _join(self, octets: bytes) -> bytes:
        other = self._pick(self._corpus)
        return octets[: self._below(len(octets) + 1)] + other[self._below(len(other) + 1) :]

    def _append(self, octets: bytes) -> bytes:
        return octets + self._pick(self._corpus)

    def _swap_case(self, octets: bytes) -> bytes:
        begin, end = self._slice(octets)
        return octets[:begin] + octets[begin:end].swapcase() + octets[end:]

    def _move(self, octets: bytes) -> bytes:
        begin, end = self._slice(octets)
        rest = octets[:begin] + octets[end:]
        at = self._below(len(rest) + 1)
        return rest[:at] + octets[begin:end] + rest[at:]


_MUTATIONS: tuple[Callable[[Mutation, bytes], bytes], ...] = (
    Mutation._bend,
    Mutation._replace,
    Mutation._replace,
    Mutation._insert,
    Mutation._insert,
    Mutation._insert_token,
    Mutation._insert_token,
    Mutation._put_token,
    Mutation._put_token,
    Mutation._cut,
    Mutation._cut,
    Mutation._end_early,
    Mutation._double,
    Mutation._join,
    Mutation._append,
    Mutation._swap_case,
    Mutation._move,
)
