"""The house in order: what the pages promise is there, and the list of RFCs is the one that the code follows."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CITATION = re.compile(r"\bRFC (\d{3,5})\b")
# The second one of "RFC 5321 and 5322": cited without being found.
SHY_CITATION = re.compile(r"\bRFC \d{3,5}(?:,| and| or) \d{4,5}\b|\bRFC\d|\brfc \d")
ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+) \|$", re.MULTILINE)
PATH_IN_ROW = re.compile(r"`([a-z0-9_/]+\.py)`")


def text_files() -> Iterator[Path]:
    """What belongs to the project: known to git, or new; in a release without git everything but what is made."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout.split("\n")
        found = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        places = ("mailhub", "twisted", "tests", "docs", "etc", "bench")
        found = [path for place in places for path in (ROOT / place).rglob("*")] + list(ROOT.glob("*.*"))
    return (path for path in found if path.is_file() and path.suffix not in (".pyc", ".cache"))


def code() -> list[Path]:
    return [
        path
        for path in text_files()
        if path.relative_to(ROOT).parts[0] in ("mailhub", "twisted", "etc") and path.suffix in (".py", ".toml")
    ]


# --- RFCs ------------------------------------------------------------------------------------------------------------


def cited() -> dict[str, set[str]]:
    """The numbers, and the files that cite each, relative to mailhub/."""
    found: dict[str, set[str]] = {}
    for path in code():
        for number in CITATION.findall(path.read_text()):
            found.setdefault(number, set()).add(str(path.relative_to(ROOT)).removeprefix("mailhub/"))
    return found


def rows() -> list[tuple[str, str, str, str]]:
    return ROW.findall((ROOT / "docs" / "rfcs.md").read_text())


def test_every_rfc_that_the_code_cites_is_listed_and_no_other() -> None:
    listed = {number for number, *_ in rows()}
    missing = [f"RFC {number}, in {min(files)}" for number, files in cited().items() if number not in listed]
    assert missing == [], "add a row for each of these to docs/rfcs.md"
    assert listed - set(cited()) == set(), "nobody cites these any more: remove their rows from docs/rfcs.md"


def test_the_rows_say_where() -> None:
    citations = cited()
    for number, title, followed, where in rows():
        assert followed in ("Yes", "Partial", "No"), number
        assert title == title.strip()
        paths = PATH_IN_ROW.findall(where)
        assert paths, f"RFC {number}: no place is named"
        assert set(paths) <= citations[number], f"RFC {number} is not cited there: {set(paths) - citations[number]}"


def test_each_rfc_is_listed_once_and_in_order() -> None:
    numbers = [int(number) for number, *_ in rows()]
    assert len(numbers) == len(set(numbers))
    for table in (ROOT / "docs" / "rfcs.md").read_text().split("\n## ")[1:]:
        listed = [int(number) for number, *_ in ROW.findall(table)]
        assert listed == sorted(listed), table.split("\n")[0]


@pytest.mark.parametrize("path", code(), ids=lambda path: str(path.relative_to(ROOT)))
def test_rfcs_are_cited_so_that_they_are_found(path: Path) -> None:
    assert not SHY_CITATION.findall(path.read_text())


# --- pages and commands ----------------------------------------------------------------------------------------------


def targets() -> dict[str, str]:
    """What `make help` would list, with what it does."""
    return dict(re.findall(r"^([a-z-]+):[^#\n]*##\s*(.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_commands_of_the_readme_are_there() -> None:
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"\bmake ([a-z-]+)", readme))
    assert {"run", "test"} <= named
    assert named <= set(targets())


def test_make_help_lists_every_target_for_people() -> None:
    told = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    ).stdout
    assert [line.split()[0] for line in told.splitlines()] == list(targets())


def test_what_ci_runs_is_what_people_run() -> None:
    script = ROOT / ".ci" / "run"
    assert script.read_text().rstrip().endswith("exec make test")
    assert script.stat().st_mode & 0o111


def test_the_changelog_has_a_place_for_what_is_new() -> None:
    assert "\n## Unreleased\n" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: page.name
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


# --- nothing of the machine it was written on ------------------------------------------------------------------------


def test_no_file_has_a_path_of_this_machine() -> None:
    ours = re.compile("|".join(re.escape(name) for name in {str(ROOT), str(Path.home())} if len(name) > 1))
    anybodys = re.compile(r"/(?:home|Users)/[a-z]+/|/root/\.|/tmp/pytest-of|(?<![a-z])/work/[a-z]+/")
    for path in text_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        if path == Path(__file__):
            continue
        found = ours.findall(text) + [match for match in anybodys.findall(text) if "/home/user/" not in match]
        assert not found, f"{path.relative_to(ROOT)}: {found}"
