"""The wheel: what is in it, and that it works in an environment where nothing else of ours is.

Nothing is downloaded.  The dependencies are those of the environment that runs the tests, reached by a .pth file.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")

pytestmark = [pytest.mark.xdist_group("wheel")]

PLUGIN = '''
"""A rule of a third party."""
from dataclasses import dataclass
from zope.interface import implementer
from mailhub.plugin import Hub, ISenderPolicy, PolicyMaker

@implementer(ISenderPolicy)
@dataclass
class Theirs:
    hub: Hub
    async def judge_sender(self, transaction):
        return None

theirs = PolicyMaker("theirs", Theirs)
'''


def command(*words: object, cwd: Path) -> str:
    """Standard output of a command that succeeds."""
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, for a build leaves things behind where it is made."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    for name in ("mailhub", "twisted", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
    (source / "twisted" / "plugins" / "dropin.cache").write_bytes(b"")  # as a work tree has it
    place = tmp_path_factory.mktemp("wheel")
    command(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", place, source),
        cwd=source,
    )
    [built] = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment with the wheel in it."""
    place = tmp_path_factory.mktemp("environment")
    command(sys.executable, "-m", "venv", "--without-pip", place, cwd=place)
    python = place / "bin" / "python"
    packages = Path(command(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).strip())
    command(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", wheel),
        cwd=place,
    )
    # What twisted needs, but not our own source tree, which an editable installation put on the path.
    theirs = Path(pytest.__file__).parents[1]
    (packages / "dependencies.pth").write_text(f"{theirs}\n")
    twistd = place / "bin" / "twistd"
    twistd.write_text(f"#!{python}\nfrom twisted.scripts.twistd import run\nrun()\n")
    twistd.chmod(0o755)
    where = command(python, "-c", "import mailhub; print(mailhub.__file__)", cwd=place).strip()
    assert Path(where).is_relative_to(place), "the mailhub that is tested is not that of the wheel"
    return place / "bin"


def test_what_is_in_it(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    info = {name for name in names if ".dist-info/" in name}
    ours = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "mailhub").rglob("*")
        if path.is_file() and path.suffix != ".pyc" and path.name != "dropin.cache"
    }
    assert names - info == {*ours, "twisted/plugins/mailhub_plugin.py"}
    assert "mailhub/py.typed" in names
    assert not {"twisted/__init__.py", "twisted/plugins/__init__.py"} & names
    assert any(name.endswith("LICENSE") for name in info)


def test_nobody_finds_a_policy_twice(wheel: Path) -> None:
    """Our own rules are found in their package; an entry point for them as well would make each ambiguous."""
    with zipfile.ZipFile(wheel) as opened:
        [name] = [name for name in opened.namelist() if name.endswith("entry_points.txt")]
        text = opened.read(name)
    assert text.decode().split() == ["[console_scripts]", "mailhub", "=", "mailhub.app.cli:main"]
    assert not [each for each in entry_points(group="mailhub.plugins") if each.value.startswith("mailhub.")]


def test_twistd_knows_it(environment: Path) -> None:
    told = command(environment / "twistd", "--help", cwd=environment)
    assert "mailhub" in told
    assert "The mail system of a small organization" in told
    told = command(environment / "twistd", "mailhub", "--help", cwd=environment)
    assert "--config=" in told
    assert "--roles=" in told
    assert "mailhub.plugins" not in told


def test_the_command_line(environment: Path) -> None:
    assert "Usage: mailhub" in command(environment / "mailhub", "--help", cwd=environment)
    assert "mailhub" in command(environment / "mailhub", "--version", cwd=environment)
    assert "Usage: mailhub" in command(environment / "python", "-m", "mailhub", "--help", cwd=environment)


def test_the_plugin_of_a_third_party_is_found(environment: Path, tmp_path: Path) -> None:
    """A file below mailhub/plugins/ anywhere on the path, without an __init__.py."""
    folder = tmp_path / "mailhub" / "plugins"
    folder.mkdir(parents=True)
    (folder / "theirs.py").write_text(PLUGIN)
    packages = next((environment.parent / "lib").glob("python*")) / "site-packages"
    (packages / "theirs.pth").write_text(f"{tmp_path}\n")
    listed = command(environment / "mailhub", "plugins", cwd=environment)
    assert "theirs" in listed
    assert str(folder / "theirs.py") in listed
    assert "local_domains" in listed
