"""docs/reference/cli.md knows every command and every option that there is; and what holds for all of them."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mailhub.app.cli import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "cli.md").read_text()
SAMPLE = ROOT / "etc" / "mailhub.toml"


def commands(group: click.Group, above: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{above} {name}")
        else:
            yield f"{above} {name}", command


def test_every_command_and_every_option_is_described() -> None:
    found = dict(commands(main, "mailhub"))
    assert found
    for name, command in found.items():
        (line,) = re.findall(rf"^    ({re.escape(name)} .*)$", PAGE, re.MULTILINE)
        options = {option for each in command.params if isinstance(each, click.Option) for option in each.opts}
        assert options == set(re.findall(r"--[a-z-]+", line)), name


def test_no_command_is_described_that_is_not_there() -> None:
    described = set(re.findall(r"^    (mailhub(?: [a-z]+)+)", PAGE, re.MULTILINE))
    assert described == {name for name, _ in commands(main, "mailhub")}


@pytest.mark.parametrize(
    "words",
    [("--help",), ("why", "--help"), ("plugins",), ("demo", "--once"), ("check",)],
    ids=lambda words: " ".join(words),
)
def test_who_stops_reading_sees_no_traceback(words: tuple[str, ...]) -> None:
    """As in `mailhub demo --once | head -1`: the reader is gone before anything is said."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "mailhub", *words],
            env={**os.environ, "MAILHUB_CONFIG": str(SAMPLE)},
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, b"")
