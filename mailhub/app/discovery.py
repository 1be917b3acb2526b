"""Finding the policies that there are.  Discovery only finds names; the configuration enables and orders.

Three places are searched: the Twisted plugin package `mailhub.plugins` (our own rules, and files of third parties under
`mailhub/plugins/` anywhere on the path), the directories that `[plugins] directories` names, and the entry points of
installed distributions in the group `mailhub.plugins`.

The package is walked here and not by twisted.plugin.getPlugins: that pickles what it finds into a `dropin.cache` beside
the files, which a hub has no right to write, and logs a traceback for each plugin that it cannot load.  Every file is
imported instead, once.  The rule: a plugin that is broken is a Fault with its place and cause, never an exception, and
never in the way of another.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from types import ModuleType

import mailhub.plugins
from mailhub.plugin import IPolicyMaker

ENTRY_POINT_GROUP = "mailhub.plugins"


@dataclass(frozen=True, slots=True)
class Found:
    """One policy maker and where it came from: a file, or a distribution and its entry point."""

    maker: IPolicyMaker
    source: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Something at `source` that should have been a plugin and is not."""

    source: str
    message: str

    def __str__(self) -> str:
        return f"{self.source}: {self.message}"


@dataclass(frozen=True, slots=True)
class Discovery:
    """What there is.  `found` has each name that one maker bears, `ambiguous` the sources of those that several do."""

    found: Mapping[str, Found]
    ambiguous: Mapping[str, tuple[str, ...]]
    faults: tuple[Fault, ...]


def discover(directories: Iterable[Path] = ()) -> Discovery:
    """Search everywhere.  A file that was imported before is not imported again: new code needs a restart."""
    importlib.invalidate_caches()
    seen: list[Found] = []
    faults: list[Fault] = []
    for source, module in _package_modules(faults):
        seen += _makers(source, module, faults)
    for directory in directories:
        for source, module in _directory_modules(directory, faults):
            seen += _makers(source, module, faults)
    seen += _entry_points(faults)

    by_name: dict[str, list[Found]] = {}
    for each in seen:
        known = by_name.setdefault(each.maker.name, [])
        if not any(other.maker is each.maker for other in known):  # one maker may be found in two ways
            known.append(each)
    ambiguous = {name: tuple(each.source for each in found) for name, found in by_name.items() if len(found) > 1}
    for name, sources in ambiguous.items():
        faults.append(Fault(sources[-1], f'the policy name "{name}" is also taken by {", ".join(sources[:-1])}'))
    return Discovery({name: found[0] for name, found in by_name.items() if len(found) == 1}, ambiguous, tuple(faults))


def _package_modules(faults: list[Fault]) -> Iterable[tuple[str, ModuleType]]:
    """The modules of the plugin package, as Python itself would import them."""
    taken: dict[str, str] = {}
    for directory in dict.fromkeys(mailhub.plugins.__path__):
        for found in sorted(pkgutil.iter_modules([directory]), key=lambda found: found.name):
            name = f"{mailhub.plugins.__name__}.{found.name}"
            source = _source(Path(directory), found)
            if name in taken:
                faults.append(Fault(source, f"is hidden by {taken[name]}: two plugin files cannot have one name"))
                continue
            taken[name] = source
            try:
                yield source, importlib.import_module(name)
            except (Exception, SystemExit) as error:
                faults.append(Fault(source, _told(error, source)))


def _directory_modules(directory: Path, faults: list[Fault]) -> Iterable[tuple[str, ModuleType]]:
    """The modules in a directory that is on no path.  Each stands alone; they cannot import each other."""
    try:
        open_to_all = _writable_by_all(directory)
        next(directory.iterdir(), None)
    except OSError as error:
        faults.append(Fault(str(directory), f"cannot be searched for plugins: {error.strerror}"))
        return
    if open_to_all:
        faults.append(Fault(str(directory), "everybody may write here, so nothing is loaded from it"))
        return
    prefix = _package_of(directory)
    for found in sorted(pkgutil.iter_modules([str(directory)]), key=lambda found: found.name):
        source = _source(directory, found)
        name = f"{prefix}.{found.name}"
        try:
            if _writable_by_all(Path(source)):
                faults.append(Fault(source, "everybody may write to it, so it is not loaded"))
                continue
            yield source, sys.modules.get(name) or _load(name, source, found.ispkg)
        except (Exception, SystemExit) as error:
            faults.append(Fault(source, _told(error, source)))


def _package_of(directory: Path) -> str:
    """A name of its own for each directory, so that files of one name in two directories are two modules."""
    return f"mailhub_plugins_{hashlib.sha256(str(directory).encode()).hexdigest()[:12]}"


def load_anew(discovery: Discovery, directories: Iterable[Path]) -> Discovery:
    """The same with the files of these directories loaded once more, as in another process: nothing that they have
    noted at the top of a module is shared.  For whoever plays several processes in one."""
    modules: dict[str, ModuleType] = {}
    for directory in directories:
        prefix = f"{_package_of(directory)}."
        for name in [name for name in sys.modules if name.startswith(prefix)]:
            del sys.modules[name]
        modules |= dict(_directory_modules(directory, []))
    found = dict(discovery.found)
    for name, each in discovery.found.items():
        if each.source in modules:
            found[name] = next(new for new in _makers(each.source, modules[each.source], []) if new.maker.name == name)
    return replace(discovery, found=found)


def _load(name: str, source: str, is_package: bool) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        name, source, submodule_search_locations=[str(Path(source).parent)] if is_package else None
    )
    if spec is None or spec.loader is None:
        raise ImportError("it is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there while it is still being executed
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _entry_points(faults: list[Fault]) -> Iterable[Found]:
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        distribution = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "a distribution"
        source = f"{distribution}, entry point {point.name} = {point.value}"
        try:
            maker = point.load()
        except (Exception, SystemExit) as error:
            faults.append(Fault(source, _told(error, source)))
            continue
        fault = _fault_of(maker)
        if fault is None:
            yield Found(maker, source)
        else:
            faults.append(Fault(source, fault))


def _makers(source: str, module: ModuleType, faults: list[Fault]) -> Iterable[Found]:
    """The policy makers among a module's names.  A module without any is nobody's mistake."""
    for value in list(vars(module).values()):
        if not IPolicyMaker.providedBy(value):
            continue
        fault = _fault_of(value)
        if fault is None:
            yield Found(value, source)
        else:
            faults.append(Fault(source, fault))


def _fault_of(maker: object) -> str | None:
    """Why this cannot be used as a policy maker, or None."""
    if not IPolicyMaker.providedBy(maker):
        return f"expected a PolicyMaker, not {type(maker).__name__}"
    name = getattr(maker, "name", None)
    if not isinstance(name, str) or not name:
        return "a policy maker has no name"
    return None if callable(getattr(maker, "factory", None)) else f'the factory of policy "{name}" cannot be called'


def _source(directory: Path, found: pkgutil.ModuleInfo) -> str:
    """The file of a module, as far as a file it is."""
    if found.ispkg:
        return str(directory / found.name / "__init__.py")
    spec = found.module_finder.find_spec(found.name, None)
    return str(spec.origin) if spec is not None and spec.origin else str(directory / found.name)


def _writable_by_all(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o002)


def _told(error: BaseException, source: str) -> str:
    """What went wrong, in one line, with the line of the plugin's file where it did."""
    message = " ".join(f"{type(error).__name__}: {error}".split())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
    return f"line {lines[-1]}: {message}" if lines and lines[-1] else message
