"""From the rules of the configuration to the seats of a panel.

The rule: whatever is wrong with a rule (a name that nobody bears, an option that does not exist, is missing, or is of
the wrong type, a policy that does not want to be made) is a Problem that names the file and the key, and all of them
are found in one go.  Nothing of the policy itself runs before its options fit.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json
from zope.interface.exceptions import BrokenImplementation, BrokenMethodImplementation, Invalid
from zope.interface.verify import verifyObject

from mailhub.app import units
from mailhub.app.config_errors import Problem, did_you_mean
from mailhub.app.discovery import Discovery
from mailhub.plugin import (
    Hub,
    IConnectionPolicy,
    IContentPolicy,
    IHelloPolicy,
    IOutcomeObserver,
    IPolicyMaker,
    IRecipientPolicy,
    IRoutePolicy,
    ISenderPolicy,
)
from mailhub.policy.panel import DEADLINE_SECONDS, OnFailure, Seat
from mailhub.policy.standing import STANDING

#: Gives each policy its own Hub, by the policy's name: the memory in it belongs to that policy alone.
HubFor: TypeAlias = Callable[[str], Hub]

_INTERFACES: tuple[Any, ...] = (
    IConnectionPolicy,
    IHelloPolicy,
    ISenderPolicy,
    IRecipientPolicy,
    IContentPolicy,
    IRoutePolicy,
    IOutcomeObserver,
)

#: Adapters of options that are kept for the next policy of the kind.
ADAPTERS_MAX = 256
#: Options whose names end so may be written with a unit: `seconds = "5m"`, `default_octets = "2GB"`.
_UNITS: Mapping[str, Callable[[str], float]] = {"seconds": units.seconds, "octets": units.octets}


class IsRule(Protocol):
    """One `[[role.policy]]` table as the configuration has read it."""

    @property
    def use(self) -> str: ...
    @property
    def options(self) -> Mapping[str, Any]: ...
    @property
    def on_failure(self) -> OnFailure: ...
    @property
    def deadline(self) -> float: ...
    @property
    def shadow(self) -> bool: ...


@dataclass(frozen=True)
class Rule:
    """A rule that stands in no file.  `deadline` in seconds."""

    use: str
    options: Mapping[str, Any] = field(default_factory=dict)
    on_failure: OnFailure = "defer"
    deadline: float = DEADLINE_SECONDS
    shadow: bool = False


def seats(
    role: str,
    rules: Sequence[IsRule],
    standing_options: Mapping[str, Mapping[str, Any]],
    discovery: Discovery,
    hub_for: HubFor,
    file: Path,
) -> tuple[tuple[Seat, ...], tuple[Problem, ...]]:
    """The seats of a role in the order in which they are asked, and every problem; with problems, seats are missing.

    `rules` are those of `[[role.policy]]`.  The standing rules surround them as mailhub.policy.standing says, with
    their options from `standing_options`; a rule that `rules` name themselves gets its options from there alone.
    """
    standing = STANDING[role]
    named = {rule.use for rule in rules}
    key = f"{role}.policy"

    def of(names: Iterable[str]) -> list[tuple[str, IsRule]]:
        return [
            (f"{key} ({name} stands by itself)", Rule(name, standing_options.get(name, {})))
            for name in names
            if name not in named
        ]

    placed = [(f"{key}[{number}]", rule) for number, rule in enumerate(rules)]
    taken: list[Seat] = []
    problems: list[Problem] = []
    for where, rule in (*of(standing.before), *placed, *of(standing.after)):
        made = seat(rule, where, discovery, hub_for, file)
        if isinstance(made, Seat):
            taken.append(made)
        else:
            problems += made
    return tuple(taken), tuple(problems)


def seat(rule: IsRule, key: str, discovery: Discovery, hub_for: HubFor, file: Path) -> Seat | tuple[Problem, ...]:
    """The policy of one rule in its seat, or what is wrong with it.  `key` is the rule's, such as "mta.policy[2]"."""
    found = discovery.found.get(rule.use)
    if found is None:
        return (Problem(file, f"{key}.use", _unknown(rule.use, discovery)),)
    options, problems = _options(found.maker, rule.options, key, file)
    if problems:
        return tuple(problems)
    try:
        policy = found.maker.factory(hub_for(rule.use), **options)
    except Exception as error:
        return (Problem(file, key, f'policy "{rule.use}" of {found.source} cannot be made: {_told(error)}'),)
    fault = _unfit(policy)
    if fault is not None:
        return (Problem(file, f"{key}.use", f'policy "{rule.use}" of {found.source} {fault}'),)
    return Seat(rule.use, policy, rule.deadline, rule.on_failure, rule.shadow, key)


def _unknown(name: str, discovery: Discovery) -> str:
    sources = discovery.ambiguous.get(name)
    if sources is not None:
        return f'more than one policy is called "{name}": {"; ".join(sources)}'
    message = f'expected the name of a policy, got "{name}", {did_you_mean(name, discovery.found)}'
    if discovery.faults:
        message += f"; these could not be loaded: {'; '.join(map(str, discovery.faults))}"
    return message


def _options(
    maker: IPolicyMaker, given: Mapping[str, Any], key: str, file: Path
) -> tuple[dict[str, Any], list[Problem]]:
    """The given options in the types that the factory wants, and a problem for each that does not fit."""
    parameters = list(inspect.signature(maker.factory).parameters.values())[1:]
    known = {each.name: each for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)}
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    options: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in given.items():
        where = f"{key}.{name}"
        if name not in known and not takes_any:
            hint = did_you_mean(name, known) if known else "it has no options"
            problems.append(Problem(file, where, f'policy "{maker.name}" has no such option, {hint}'))
            continue
        try:
            options[name] = _fitted(maker.factory, name, known.get(name), value)
        except ValueError as error:
            problems.append(Problem(file, where, str(error)))
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in given:
            problems.append(Problem(file, f"{key}.{name}", f'policy "{maker.name}" needs this option'))
    return options, problems


def _fitted(factory: Callable[..., Any], name: str, parameter: inspect.Parameter | None, value: Any) -> Any:
    """The value as the annotation wants it.  Raises ValueError with a sentence for the postmaster."""
    unit = _UNITS.get(name.rpartition("_")[2])
    if unit is not None:
        if isinstance(value, str):
            value = unit(value)
            value = int(value) if value == int(value) else value
        if isinstance(value, int | float) and not 0 <= value < float("inf"):
            raise ValueError(f"expected 0 or more, got {value!r}")
    if parameter is None or parameter.annotation is parameter.empty:
        return value
    adapter = _adapter(factory, name, parameter.annotation)
    try:
        return adapter.validate_python(value, strict=True)
    except ValidationError as error:
        refused = error
    # TOML has arrays where annotations have tuples and sets, and strings where they have networks: JSON's rules are
    # the strict ones for that.  A date is no string, though.
    if not isinstance(value, date | datetime | time):
        try:
            return adapter.validate_json(to_json(value), strict=True)
        except ValidationError as error:
            refused = error
        except PydanticSerializationError:
            pass
    first = refused.errors(include_url=False)[0]
    inside = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    got = repr(first["input"] if first["loc"] else value)
    message = first["msg"].replace("Input should be", "expected")
    raise ValueError(f"{inside}: {message}, got {got[:80]}".removeprefix(": "))


def _adapter(factory: Callable[..., Any], name: str, annotation: Any) -> TypeAdapter[Any]:
    """What checks values of this annotation.  One that cannot be understood is the author's mistake: ValueError."""
    try:
        if isinstance(annotation, str):
            return _adapter_of_text(factory, name, annotation)
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except (NameError, AttributeError, SyntaxError, TypeError, PydanticUserError) as error:
        raise ValueError(f"the plugin's annotation of this option cannot be understood: {_told(error)}") from None


@lru_cache(ADAPTERS_MAX)
def _adapter_of_text(factory: Callable[..., Any], name: str, annotation: str) -> TypeAdapter[Any]:
    """Costs a millisecond to make, and most policies stand in several roles."""
    return TypeAdapter(_resolved(factory, name, annotation), config=ConfigDict(arbitrary_types_allowed=True))


def _resolved(factory: Callable[..., Any], name: str, annotation: str) -> Any:
    """A postponed annotation (PEP 563), in the module where it was written; the other options' are left alone."""
    owner: Any = factory
    if isinstance(factory, type):
        owner = next((each for each in factory.__mro__ if name in vars(each).get("__annotations__", {})), factory)
    written = type("Written", (), {"__annotations__": {name: annotation}})
    names = vars(sys.modules[owner.__module__])
    return typing.get_type_hints(written, globalns=names, include_extras=True)[name]


def _unfit(policy: object) -> str | None:
    """Why this cannot sit on a panel, or None."""
    provided = [interface for interface in _INTERFACES if interface.providedBy(policy)]
    if not provided:
        return f"provides none of {', '.join(interface.__name__ for interface in _INTERFACES)}"
    for interface in provided:
        try:
            verifyObject(interface, policy)
        except Invalid as error:
            faults = getattr(error, "exceptions", (error,))  # there are some if it misses more than one thing
            return f"does not do what {interface.__name__} says: {', '.join(map(_missed, faults))}"
    return None


def _missed(fault: Invalid) -> str:
    """What a policy lacks.  zope's own words begin with its repr, and so with its options, which may be secret."""
    match fault:
        case BrokenImplementation():
            return f"there is no {_named(fault.name)}"
        case BrokenMethodImplementation():
            return f"{_named(fault.method)} cannot be called as it should"
    return type(fault).__name__


def _named(wanted: Any) -> str:
    return str(getattr(wanted, "__name__", wanted))


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
