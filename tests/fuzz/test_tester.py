"""Who fuzzes the fuzzer: bugs planted into the parsers are found with the inputs that `make test` tries, and a
failing input is made small, kept, and replayed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tests.fuzz.targets  # noqa: F401
from mailhub.dns import records
from mailhub.model import Delivered
from mailhub.store import folder_name, names
from mailhub.wire import header, mailboxes
from mailhub.wire.smtp import client, content, events, grammar, remote_reply, server, stuffing
from tests.fuzz import engine_hypothesis, engine_own
from tests.fuzz import trial as trial_module
from tests.fuzz.result import ROOT, Result, keep, told
from tests.fuzz.target import REGISTRY, Target
from tests.fuzz.trial import Failure, Trial

Plant = Callable[[pytest.MonkeyPatch], None]


def _patched(place: Any, name: str, value: Any) -> Plant:
    return lambda patch: patch.setattr(place, name, value)


def _bare_line_feed_ends(patch: pytest.MonkeyPatch) -> None:
    """The oldest one: LF.LF is an end, too."""
    feed = content.DotDecoder.feed

    def wrong(self: Any, buffer: bytes, offset: int = 0) -> tuple[bytes, int]:
        return feed(self, buffer.replace(b"\n.\n", b"\r\n.\r\n"), offset)

    patch.setattr(content.DotDecoder, "feed", wrong)


def _dots_are_stuffed_by_piece(patch: pytest.MonkeyPatch) -> None:
    """The state of the line is forgotten between two pieces."""
    encode = stuffing.DotEncoder.encode

    def wrong(self: Any, octets: bytes) -> bytes:
        self._at_line_start = False
        return encode(self, octets)

    patch.setattr(stuffing.DotEncoder, "encode", wrong)


def _domain_error_escapes(patch: pytest.MonkeyPatch) -> None:
    """An exception that nobody declared, for rare octets."""
    domain = grammar._domain

    def wrong(octets: bytes) -> str:
        if b"xn--" in octets:
            raise IndexError("label")
        return domain(octets)

    patch.setattr(grammar, "_domain", wrong)


def _challenge_is_decoded_loosely(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(grammar, "a2b_base64", lambda octets, strict_mode: __import__("binascii").a2b_base64(octets))


def _nobody_hears_of_an_aborted_transaction(patch: pytest.MonkeyPatch) -> None:
    """So that it stays open, for whoever comes next."""
    next_event = server.ServerSession.next_event

    def wrong(self: Any) -> Any:
        event = next_event(self)
        return next_event(self) if isinstance(event, events.TransactionAborted) else event

    patch.setattr(server.ServerSession, "next_event", wrong)


def _delivered_by_354(patch: pytest.MonkeyPatch) -> None:
    """What the host says last is believed, whatever its class."""
    patch.setattr(client, "_outcome", lambda said, detail: Delivered(said, detail))


def _comments_take_quadratic_time(patch: pytest.MonkeyPatch) -> None:
    tokens = mailboxes._tokens

    def wrong(field: str) -> Any:
        for at in range(len(field)):
            sum(1 for character in field[:at] if character == "(")
        return tokens(field)

    patch.setattr(mailboxes, "_tokens", wrong)


def _regex_runs_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(records, "_LABEL", re.compile(r"(?:[a-z0-9_]+-?)+"))


def _every_name_is_remembered(patch: pytest.MonkeyPatch) -> None:
    remembered: list[str] = []
    fold = names.fold

    def wrong(local: str) -> str:
        remembered.append(local * 200)
        return fold(local)

    patch.setattr(names, "fold", wrong)


PLANTED: list[tuple[str, Plant]] = [
    ("content-data", _bare_line_feed_ends),
    ("content-data", _patched(content, "_FAULTS", content._FAULTS[:2])),  # NUL is content
    ("content-out", _dots_are_stuffed_by_piece),
    ("rcpt", _domain_error_escapes),
    ("rcpt", _patched(grammar, "_CONTROL", re.compile("[\x00-\x1f]"))),  # C1 controls get through
    ("argument", _challenge_is_decoded_loosely),
    ("smtp-session", _nobody_hears_of_an_aborted_transaction),
    ("smtp-client", _delivered_by_354),
    ("remote-reply", _patched(remote_reply, "_STATUS", re.compile(r"([0-9])\.([0-9]{1,9})\.([0-9]+)(?: +|$)"))),
    ("header", _patched(header, "_FIELD_NAME", re.compile(rb"[!-~]+"))),
    ("mailboxes", _comments_take_quadratic_time),
    ("dns-name", _regex_runs_for_ever),
    ("folder-name", _patched(folder_name, "_SHIFTED", re.compile(r"&([^-]+)-"))),
]


def _name(planted: Any) -> str:
    return str(getattr(planted, "__name__", planted))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "plant"), PLANTED, ids=_name)
def test_a_planted_bug_is_found_with_the_inputs_of_ci(name: str, plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_module, "ENDLESS_SECONDS", 0.5)
    plant(monkeypatch)
    failure = first_failure(REGISTRY[name])
    assert failure is not None, "nobody noticed"
    if not failure.signature.startswith(("TooSlow", "Endless")):
        monkeypatch.undo()
        assert Trial(REGISTRY[name]).failure(failure.octets) is None, "it fails without the bug as well"


def first_failure(target: Target) -> Failure | None:
    """As `make test` would find it, in small steps so that nothing is done once it is found."""
    for seed in range(10):
        result = engine_own.run(target, target.ci_inputs // 10, seed)
        if result.failures:
            return result.failures[0]
    return None


_LEAK = """
import pytest
from tests.fuzz import engine_own, test_tester
from tests.fuzz.target import REGISTRY
test_tester._every_name_is_remembered(pytest.MonkeyPatch())
result = engine_own.run(REGISTRY["account-name"], 10_000)
print(result)
raise SystemExit(0 if result.is_flat else 3)
"""


def test_memory_that_grows_is_noticed() -> None:
    """In a process of its own: one that has run many tests has much memory that it can take before it grows."""
    done = subprocess.run([sys.executable, "-c", _LEAK], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 3, done.stdout + done.stderr


def test_hypothesis_finds_a_planted_bug_too(monkeypatch: pytest.MonkeyPatch) -> None:
    _dots_are_stuffed_by_piece(monkeypatch)
    result = engine_hypothesis.run(REGISTRY["content-out"], 200)
    assert [failure.octets for failure in result.failures] == [b""], "the simplest input"


# --- what becomes of a failing input ---------------------------------------------------------------------------------


def _breaks_at_x(octets: bytes) -> int:
    assert b"xy" not in octets, "xy"
    return len(octets)


SMALL = Target("small", "nothing", _breaks_at_x, (b"abxcd", b"y", b"12345"), (b"x", b"y"))


def test_a_failing_input_is_made_small_and_told_with_the_command_that_replays_it(tmp_path: Path) -> None:
    result = engine_own.run(SMALL, 5000)
    assert result.unhandled > 1
    assert [failure.octets for failure in result.failures] == [b"xy"], "one place, one failure, no octet too many"
    text = told(result.failures[0], "small")
    assert "replay: python -m tests.fuzz --target small --replay 'b'\"'\"'xy'\"'\"''" in text
    [kept] = keep(result.failures, "small", tmp_path)
    assert kept.read_bytes() == b"xy"
    assert kept.parent == tmp_path / "small"


def test_the_same_seed_makes_the_same_inputs() -> None:
    def inputs(seed: int) -> list[bytes]:
        seen: list[bytes] = []
        engine_own.run(
            Target("seen", "nothing", lambda octets: seen.append(octets), SMALL.seeds, SMALL.tokens), 500, seed
        )
        return seen

    assert inputs(1) == inputs(1)
    assert inputs(1) != inputs(2)
    assert len(set(inputs(1))) > 250


def test_an_input_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_module, "ENDLESS_SECONDS", 0.2)

    def endless(octets: bytes) -> None:
        while octets == b"stop":
            pass

    result: Result = engine_own.run(Target("endless", "nothing", endless, (b"a", b"stop", b"b")), 10)
    assert [failure.signature for failure in result.failures] == ["Endless"]
    assert result.inputs == 10, "and those behind it are tried"
