"""Import only downward: each package of mailhub stands on a floor and may import its own floor and those below."""

import ast
from pathlib import Path

import pytest

import mailhub

ROOT = Path(mailhub.__file__).parent

FLOORS = {
    "model": 0,
    "wire": 1,
    "interfaces": 2,
    "plugin": 2,
    "queue": 3,
    "policy": 3,
    "dsn": 3,
    "receiver": 3,
    "net": 4,
    "store": 4,
    "deliver": 4,
    "dns": 4,
    "history": 4,
    "plugins": 5,
    "roles": 6,
    "app": 7,
    "testing": 8,  # the world around a hub: nothing of the product imports it
    "__main__": 8,
}

#: The floors below the world: no Twisted, no clock, no chance, no files, no sockets.
PURE = {"model", "wire"}
FORBIDDEN_IN_PURE = {"twisted", "time", "random", "os", "socket", "secrets", "pathlib", "asyncio", "threading"}

#: A policy is written as anybody else would write it.
PLUGINS_MAY_IMPORT = {"mailhub.plugin"}


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """Every module that is imported anywhere in the file, in functions and under TYPE_CHECKING too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path: Path) -> None:
    here = FLOORS[room(path)]
    for name in imports(path):
        if name.startswith("mailhub."):
            there = FLOORS[name.split(".")[1]]
            assert there <= here, f"{path.name} on floor {here} imports {name} on floor {there}"


@pytest.mark.parametrize(
    "path", [p for p in modules() if room(p) in PURE], ids=lambda path: str(path.relative_to(ROOT))
)
def test_the_lower_floors_are_pure(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & FORBIDDEN_IN_PURE


@pytest.mark.parametrize("path", [p for p in modules() if room(p) == "plugins"], ids=lambda path: path.name)
def test_our_own_rules_import_what_anybody_may(path: Path) -> None:
    ours = {name for name in imports(path) if name.split(".")[0] == "mailhub"}
    assert ours <= PLUGINS_MAY_IMPORT


@pytest.mark.parametrize(
    "path", [p for p in modules() if room(p) != "app"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_nothing_below_app_imports_the_global_reactor(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "twisted.internet":
            assert "reactor" not in {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            assert "twisted.internet.reactor" not in {alias.name for alias in node.names}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_names_say_something(path: Path) -> None:
    empty = {"util", "utils", "helper", "helpers", "common", "base", "core", "misc", "manager", "handler", "processor"}
    assert path.stem not in empty | {"engine"}


def test_nothing_of_twisted_mail_is_in_the_product() -> None:
    for path in modules():
        assert not any(name.startswith("twisted.mail") for name in imports(path)), path


def test_twisted_itself_is_not_overwritten() -> None:
    for folder in ("twisted", "twisted/plugins"):
        assert not (ROOT.parent / folder / "__init__.py").exists() or "site-packages" in str(ROOT)
