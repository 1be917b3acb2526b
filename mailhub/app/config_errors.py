"""What is wrong with a configuration, told so that it can be mended without asking anybody.

One mistake is one Problem: the file, the line where it can be known, the dotted key, and what was expected.  All
problems of a file are reported together.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from mailhub.app import units

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

#: Where a value stands: names of tables and keys, and numbers of elements in arrays.
Key: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake.  `key` is dotted ("mta.policy[0].use") and empty where the whole file is meant; lines begin at 1."""

    file: Path
    key: str
    message: str
    line: int | None = None
    column: int | None = None

    @property
    def place(self) -> str:
        """FILE:LINE, as far as it is known, and the column where that helps."""
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)

    @property
    def told(self) -> str:
        """KEY: MESSAGE, or the message alone where no key is meant."""
        return f"{self.key}: {self.message}" if self.key else self.message

    def __str__(self) -> str:
        """One line as compilers write it, which editors can jump to: FILE:LINE: KEY: MESSAGE."""
        return f"{self.place}: {self.told}"


class ConfigError(Exception):
    """The configuration cannot be used.  `problems` has every mistake that was found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line or 0))
        super().__init__(str(self))

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def dotted(key: Key) -> str:
    """The key as the documentation writes it: mta.policy[0].use."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _BARE.fullmatch(part) else _as_toml(part)
            text += f".{name}" if text else name
    return text


def undotted(text: str) -> Key:
    """The reverse, for keys whose names are bare; of others, and of what follows a space, as much as can be read."""
    key: list[str | int] = []
    for name, number in re.findall(r"([A-Za-z0-9_-]+)|\[(\d+)\]", text.partition(" ")[0]):
        key.append(int(number) if number else name)
    return tuple(key)


_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a name that does not exist: the one that was probably meant, or all that there are."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f'did you mean "{close[0]}"?'
    return f"known here: {', '.join(names)}" if names else "nothing is known here"


# --- what the model says, in our words ---------------------------------------------------------------------------


def mistakes_in(error: ValidationError, model: type[BaseModel], raw: Any) -> Iterator[tuple[Key, str]]:
    """Each error of the validation of `raw` as a key and a sentence that begins with what was expected."""
    for detail in error.errors(include_url=False):
        key = tuple(part for part in detail["loc"] if part != "[key]")
        yield key, _sentence(detail, key, model, _given(detail, key, raw))


def _given(detail: ErrorDetails, key: Key, raw: Any) -> Any:
    """What stands in the file; the error itself may have the converted value, or the key of a table."""
    if detail["loc"] != key:
        return key[-1]
    value = raw
    for part in key:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return detail["input"]
    return value


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as Annotated[tuple[Policy, ...], ...], or None if it has no table in it."""
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        return annotation
    for inner in get_args(annotation):
        if (found := section_of(inner)) is not None:
            return found
    return None


def _model_at(key: Key, model: type[BaseModel]) -> type[BaseModel] | None:
    """The model of the table that stands at this key."""
    found: type[BaseModel] | None = model
    for part in key:
        if isinstance(part, int):
            continue
        field = found.model_fields.get(part) if found is not None else None
        found = section_of(field.annotation) if field is not None else None
    return found


def _all_keys(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, str]]:
    """(name, dotted key) of every key of the model."""
    for name, field in model.model_fields.items():
        yield name, above + name
        if (inner := section_of(field.annotation)) is not None:
            yield from _all_keys(inner, f"{above}{name}.")


_EXPECTED = {
    "string_type": "expected a string in quotes",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "tuple_type": "expected an array in brackets",
    "mapping_type": "expected a table",
    "dict_type": "expected a table",
    "model_type": "expected a table",
    "string_too_short": "expected a name",
    "too_short": "expected at least one element",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def _sentence(detail: ErrorDetails, key: Key, model: type[BaseModel], given: Any) -> str:
    kind, facts = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(key, model)
    if kind == "missing":
        table = _model_at(key[:-1], model)
        field = table.model_fields.get(str(key[-1])) if table is not None else None
        return f"is required and missing.  {field.description if field is not None else ''}".rstrip()
    if kind == "value_error":
        return f"{facts['error']}; got {_as_toml(given)}"
    if kind == "literal_error":
        return f"expected {str(facts['expected']).replace(chr(39), chr(34))}; got {_as_toml(given)}"
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"expected {words} {_like(given, facts[bound])}; got {_as_toml(given)}"
    if kind in _EXPECTED:
        return f"{_EXPECTED[kind]}; got {_as_toml(given)}"
    return f"{detail['msg']}; got {_as_toml(given)}"


def _unknown_key(key: Key, model: type[BaseModel]) -> str:
    name, table = str(key[-1]), _model_at(key[:-1], model)
    known = list(table.model_fields) if table is not None else []
    hint = did_you_mean(name, known)
    if not hint.startswith("did"):
        elsewhere = [dotted_key for each, dotted_key in _all_keys(model) if each == name]
        if elsewhere:
            hint = f"there is {' and '.join(elsewhere)}, but none here"
    return f"unknown key; {hint}"


def _like(given: Any, bound: float) -> str:
    """The bound in the spelling that was used: "5m" for a duration, "50MB" for a size, else a number."""
    if isinstance(given, str):
        try:
            units.seconds(given)
        except ValueError:
            return units.size(int(bound))
        return units.duration(bound)
    return f"{bound:g}" if isinstance(bound, float) else str(bound)


def _as_toml(value: Any) -> str:
    """What was given, as it stands in the file, more or less, and not longer than a line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    # A terminal must not obey what stands in a file.
    text = "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in text)
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- where it stands ---------------------------------------------------------------------------------------------

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=(.*)""")
_NAME = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")


def lines(text: str) -> Mapping[Key, int]:
    """On which line each table and key of a TOML text stands, as far as a quick look can tell.

    tomllib does not say.  This is not a parser: it reads table headers and `key =` at the start of a line, skips
    multi-line strings, and knows nothing of inline tables.  A key that it misses has no line, which is harmless.
    """
    found: dict[Key, int] = {}
    counts: dict[Key, int] = {}
    table: Key = ()
    closing: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if closing is not None:
            if closing in line:
                closing = None
            continue
        if header := _HEADER.fullmatch(line):
            table = ()
            names = _names(header[2])
            for depth, name in enumerate(names):
                table = (*table, name)
                if depth + 1 == len(names) and header[1] == "[[":
                    counts[table] = counts.get(table, -1) + 1
                if table in counts:
                    table = (*table, counts[table])
            found.setdefault(table, number)
        elif key := _KEY.fullmatch(line):
            found.setdefault((*table, *_names(key[1])), number)
            closing = next((quotes for quotes in ('"""', "'''") if key[2].count(quotes) == 1), None)
    return found


def _names(text: str) -> Key:
    return tuple(name.strip("\"'") for name in _NAME.findall(text))


def line_of(key: Key, known: Mapping[Key, int]) -> int | None:
    """The line of the key, or of the nearest table or array around it."""
    while key:
        if key in known:
            return known[key]
        key = key[:-1]
    return None
