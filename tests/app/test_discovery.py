"""Finding policies: the plugin package, named directories, entry points; and everything that can be wrong with one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mailhub
from mailhub.app.discovery import Discovery, discover

OURS = {
    "authenticated",
    "greylist",
    "local_domains",
    "null_mx_sender",
    "quota",
    "rate",
    "relay_for_authenticated",
    "sender_owned",
    "submission_caps",
    "trusted_peers",
}

PLUGIN = '''
from __future__ import annotations
from dataclasses import dataclass
from zope.interface import implementer
from mailhub.plugin import Hub, ISenderPolicy, PolicyMaker, Reply, Transaction, reply

@implementer(ISenderPolicy)
@dataclass
class Moody:
    """Says what it is told to say."""
    hub: Hub
    text: str = "Not today"

    async def judge_sender(self, transaction: Transaction) -> Reply | None:
        return reply(450, "4.7.1", self.text)

maker = PolicyMaker("NAME", Moody)
'''


def plugin(directory: Path, file: str = "moody.py", name: str = "moody", text: str = PLUGIN) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / file
    path.write_text(text.replace("NAME", name))
    return path


def faults(found: Discovery) -> list[str]:
    return [str(fault) for fault in found.faults]


def test_our_own_rules_are_found_where_they_are() -> None:
    found = discover()
    assert set(found.found) >= OURS
    assert found.faults == ()
    for name in OURS:
        assert found.found[name].source == str(Path(mailhub.__file__).parent / "plugins" / f"{name}.py")


def test_a_named_directory(tmp_path: Path) -> None:
    path = plugin(tmp_path)
    found = discover([tmp_path])
    assert found.found["moody"].source == str(path)
    assert found.faults == ()
    assert discover([tmp_path]).found["moody"].maker is found.found["moody"].maker
    assert "moody" not in discover().found


def test_files_of_one_name_in_two_directories_are_two_plugins(tmp_path: Path) -> None:
    plugin(tmp_path / "a", name="one")
    plugin(tmp_path / "b", name="two")
    found = discover([tmp_path / "a", tmp_path / "b"])
    assert {"one", "two"} <= set(found.found)
    assert found.faults == ()


def test_a_package_is_a_plugin_too(tmp_path: Path) -> None:
    package = tmp_path / "large"
    plugin(package, "__init__.py", text="from mailhub.plugin import PolicyMaker\nfrom .rule import rule\n")
    plugin(package, "rule.py", text='from mailhub.plugin import PolicyMaker\nrule = PolicyMaker("large", dict)\n')
    assert discover([tmp_path]).found["large"].source == str(package / "__init__.py")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import no_such_module_anywhere\n", "line 1: ModuleNotFoundError: No module named"),
        ("\n\n1 / 0\n", "line 3: ZeroDivisionError"),
        ("def broken(:\n", "SyntaxError"),
        ("raise SystemExit(3)\n", "line 1: SystemExit: 3"),
        ("\0", "SyntaxError"),
        ('from mailhub.plugin import PolicyMaker\nx = PolicyMaker("", dict)\n', "has no name"),
        ('from mailhub.plugin import PolicyMaker\nx = PolicyMaker("y", 3)\n', "cannot be called"),
    ],
)
def test_a_broken_file_is_reported_and_stops_nobody(tmp_path: Path, text: str, told: str) -> None:
    broken = plugin(tmp_path, "broken.py", text=text)
    plugin(tmp_path)
    found = discover([tmp_path])
    assert "moody" in found.found
    assert set(found.found) >= OURS
    (fault,) = faults(found)
    assert fault.startswith(f"{broken}: ")
    assert told in fault
    assert "\n" not in fault


def test_a_file_without_a_policy_is_nobodys_mistake(tmp_path: Path) -> None:
    plugin(tmp_path, "words.py", text="HELLO = 1\n")
    assert discover([tmp_path]).faults == ()


def test_two_of_one_name_are_neither_and_both_are_named(tmp_path: Path) -> None:
    one, two = plugin(tmp_path, "one.py"), plugin(tmp_path, "two.py")
    found = discover([tmp_path])
    assert "moody" not in found.found
    assert found.ambiguous["moody"] == (str(one), str(two))
    (fault,) = faults(found)
    assert str(one) in fault
    assert str(two) in fault


def test_nobody_takes_the_name_of_a_rule_of_ours_unnoticed(tmp_path: Path) -> None:
    plugin(tmp_path, name="local_domains")
    found = discover([tmp_path])
    assert "local_domains" not in found.found
    assert len(found.ambiguous["local_domains"]) == 2


def test_a_directory_that_is_not_there_is_reported(tmp_path: Path) -> None:
    (fault,) = faults(discover([tmp_path / "missing"]))
    assert "No such file" in fault


def test_what_everybody_may_write_to_is_not_run(tmp_path: Path) -> None:
    directory = tmp_path / "open"
    plugin(directory).chmod(0o666)
    found = discover([directory])
    assert "moody" not in found.found
    assert "everybody may write" in faults(found)[0]
    (directory / "moody.py").chmod(0o644)
    directory.chmod(0o777)
    found = discover([directory])
    assert "moody" not in found.found
    assert "everybody may write" in faults(found)[0]
    directory.chmod(0o755)
    assert "moody" in discover([directory]).found


def distribution(site: Path, value: str) -> None:
    """What an installer leaves behind of a distribution with one entry point."""
    info = site / "greeter-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greeter\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[mailhub.plugins]\nmoody = {value}\n")


def test_an_entry_point_of_an_installed_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(tmp_path, "greeter_of_tests.py")
    distribution(tmp_path, "greeter_of_tests:maker")
    monkeypatch.syspath_prepend(tmp_path)
    found = discover()
    assert found.found["moody"].source == "greeter 1.2, entry point moody = greeter_of_tests:maker"
    assert found.faults == ()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("no_such_module_of_tests:maker", "ModuleNotFoundError"),
        ("greeter_2_of_tests:nothing", "AttributeError"),
        ("greeter_2_of_tests:Moody", "expected a PolicyMaker"),
    ],
)
def test_a_broken_entry_point_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, told: str
) -> None:
    plugin(tmp_path, "greeter_2_of_tests.py")
    distribution(tmp_path, value)
    monkeypatch.syspath_prepend(tmp_path)
    found = discover()
    assert set(found.found) >= OURS
    (fault,) = faults(found)
    assert "greeter 1.2" in fault
    assert told in fault


# --- the plugin package, as other people install into it ---------------------------------------------------------

ASK = """
from mailhub.app.discovery import discover
import mailhub
found = discover()
print(mailhub.__file__)
print(sorted(found.found))
print([str(fault) for fault in found.faults])
print(found.found["moody"].source if "moody" in found.found else None)
"""


def asked(*path: Path) -> list[str]:
    """The three lines that a fresh interpreter with this path prints."""
    finished = subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=path[0],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert finished.stderr == ""
    return finished.stdout.splitlines()


def test_a_file_under_mailhub_plugins_anywhere_on_the_path(tmp_path: Path) -> None:
    path = plugin(tmp_path / "mailhub" / "plugins")
    file, names, told, source = asked(tmp_path)
    assert file == mailhub.__file__
    assert "'moody'" in names
    assert told == "[]"
    assert source == str(path)


def test_it_survives_being_installed(tmp_path: Path) -> None:
    """As a wheel leaves it: our package in a directory of the path that cannot be written, others beside and within."""
    site = tmp_path / "site"
    shutil.copytree(Path(mailhub.__file__).parent, site / "mailhub", ignore=shutil.ignore_patterns("__pycache__"))
    plugin(site / "mailhub" / "plugins", name="beside")
    plugin(tmp_path / "other" / "mailhub" / "plugins", "elsewhere.py")
    (site / "mailhub" / "plugins" / "dropin.cache").write_bytes(b"not a pickle")
    before = {path.name for path in (site / "mailhub" / "plugins").iterdir()}
    (site / "mailhub" / "plugins").chmod(0o555)
    try:
        file, names, told, _ = asked(site, tmp_path / "other")
    finally:
        (site / "mailhub" / "plugins").chmod(0o755)
    assert file == str(site / "mailhub" / "__init__.py")
    assert all(repr(name) in names for name in {*OURS, "beside", "moody"})
    assert told == "[]"
    after = {path.name for path in (site / "mailhub" / "plugins").iterdir()}
    assert after - before <= {"__pycache__"}


def test_another_copy_of_mailhub_on_the_path_is_not_mixed_in(tmp_path: Path) -> None:
    plugin(tmp_path / "mailhub" / "plugins").parent.joinpath("__init__.py").write_text("")
    assert asked(tmp_path)[3] == "None"


def test_a_file_that_is_hidden_by_another_is_reported(tmp_path: Path) -> None:
    path = plugin(tmp_path / "mailhub" / "plugins", "quota.py")
    _, names, told, _ = asked(tmp_path)
    assert "'quota'" in names
    assert "'moody'" not in names
    assert str(path) in told
    assert "is hidden by" in told
