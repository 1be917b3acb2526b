"""Every parser keeps its promises: inputs that once broke one, and new ones, as many as `make test` has time for.

More of them: `python -m tests.fuzz --help`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import tests.fuzz.targets  # noqa: F401
from tests.fuzz import engine_atheris, engine_hypothesis, engine_own
from tests.fuzz.result import ROOT, told
from tests.fuzz.target import REGISTRY, REGRESSIONS, Target
from tests.fuzz.trial import Trial

TARGETS = [pytest.param(each, id=each.name) for each in REGISTRY.values()]
#: Hypothesis is slower by far, and finds other things.
HYPOTHESIS_INPUTS = 60
ATHERIS_INPUTS = 3000


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_that_once_broke_it_do_not_any_more(target: Target) -> None:
    trial = Trial(target)
    for path in target.regressions():
        failure = trial.failure(path.read_bytes())
        assert failure is None, told(failure, target.name)


def test_every_kept_input_belongs_to_a_target() -> None:
    assert {path.name for path in REGRESSIONS.iterdir() if path.is_dir()} <= set(REGISTRY)
    assert {path.suffix for path in REGRESSIONS.rglob("*") if path.is_file()} == {".bin"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("target", TARGETS)
def test_made_up_inputs_come_to_a_value_or_a_declared_refusal(target: Target) -> None:
    result = engine_own.run(target, target.ci_inputs)
    assert not result.failures, "\n".join(told(failure, target.name) for failure in result.failures)
    assert result.unhandled == 0
    assert result.inputs >= target.ci_inputs
    assert result.outcomes > 1, "all inputs come to the same: the target looks at nothing"
    assert result.is_flat, f"memory grows: {result}"


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_of_hypothesis_do_too(target: Target) -> None:
    result = engine_hypothesis.run(target, HYPOTHESIS_INPUTS)
    assert not result.failures, "\n".join(told(failure, target.name) for failure in result.failures)
    assert result.inputs >= HYPOTHESIS_INPUTS // 2


@pytest.mark.skipif(not engine_atheris.is_there(), reason=engine_atheris.MISSING)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["mail", "remote-reply"])
def test_inputs_of_atheris_do_too(name: str) -> None:
    result = engine_atheris.run(REGISTRY[name], ATHERIS_INPUTS)
    assert not result.failures, "\n".join(told(failure, name) for failure in result.failures)
    assert result.unhandled == 0
    assert result.inputs >= ATHERIS_INPUTS * 3 // 4


# --- the targets -----------------------------------------------------------------------------------------------------

#: What reads octets or text from outside: whoever adds such a room adds a target, or says here why not.
PARSERS = {
    "mailhub/wire/smtp/server.py",
    "mailhub/wire/smtp/server_commands.py",
    "mailhub/wire/smtp/grammar.py",
    "mailhub/wire/smtp/content.py",
    "mailhub/wire/smtp/stuffing.py",
    "mailhub/wire/smtp/remote_reply.py",
    "mailhub/wire/smtp/capabilities.py",
    "mailhub/wire/smtp/client.py",
    "mailhub/wire/smtp/client_login.py",
    "mailhub/wire/smtp/client_commands.py",
    "mailhub/wire/header.py",
    "mailhub/wire/mailboxes.py",
    "mailhub/wire/mime_downgrade.py",
    "mailhub/wire/sasl/plain.py",
    "mailhub/wire/sasl/login.py",
    "mailhub/wire/sasl/scram.py",
    "mailhub/dns/resolver.py",
    "mailhub/dns/records.py",
    "mailhub/queue/srs.py",
    "mailhub/store/passwd_file.py",
    "mailhub/store/passwords.py",
    "mailhub/store/aliases_file.py",
    "mailhub/store/names.py",
    "mailhub/store/folder_name.py",
    "mailhub/store/maildir_name.py",
    "mailhub/store/maildrop.py",
    "mailhub/history/pages.py",
    "mailhub/history/words.py",
    "mailhub/app/control.py",
    "mailhub/app/control_queue.py",
    "mailhub/app/config.py",
    "mailhub/app/units.py",
    "mailhub/app/cli/sendmail_message.py",
}


def test_every_parser_has_a_target_that_names_it() -> None:
    named = " ".join(each.parser for each in REGISTRY.values())
    for parser in PARSERS:
        assert (ROOT / parser).exists(), f"{parser} has gone elsewhere: say where"
        assert Path(parser).name in named, f"no target says that it fuzzes {parser}"
    for path in re.findall(r"\b(\w+(?:/\w+)+\.py)", named):
        assert (ROOT / "mailhub" / path).exists(), path


@pytest.mark.parametrize("target", TARGETS)
def test_no_seed_breaks_anything_and_seeds_differ(target: Target) -> None:
    assert len(target.seeds) == len(set(target.seeds)) >= 3
    # Where most come to the same, something stands before the parser that lets nothing through.
    assert len({repr(target.check(seed)) for seed in target.seeds}) * 2 >= min(len(target.seeds), 12)


# --- the command line ------------------------------------------------------------------------------------------------


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *words], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_command_runs_a_target_and_tells_in_json() -> None:
    ended = run("--target", "units", "--inputs", "500", "--json")
    assert ended.returncode == 0, ended.stderr
    for word in ('"target": "units"', '"inputs": 500', '"unhandled": 0', '"commit"', '"date"', '"memory_end_kib"'):
        assert word in ended.stdout


def test_the_command_replays_a_literal_and_a_kept_file() -> None:
    kept = REGISTRY["srs"].regressions()[0]
    for given in ("b'alice@source.example'", str(kept)):
        ended = run("--target", "srs", "--replay", given)
        assert ended.returncode == 0, ended.stderr
        assert "keeps its promises" in ended.stdout


@pytest.mark.parametrize(
    ("words", "told_why"),
    [
        (("--target", "nothing"), "there is no target nothing"),
        (("--replay", "b''"), "--replay needs one --target"),
        (("--inputs", "-1"), "not negative"),
        (("--target", "srs", "--replay", "no such file"), "neither a file nor a literal"),
    ],
)
def test_a_wrong_command_is_told(words: tuple[str, ...], told_why: str) -> None:
    ended = run(*words)
    assert ended.returncode == 2
    assert told_why in ended.stderr
