"""The reference of every configuration key, written from the model: `python -m mailhub.app.reference > PAGE`.

The page is docs/reference/configuration.md; a test fails when it and the model differ.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mailhub.app.config import Config
from mailhub.app.config_errors import section_of
from mailhub.policy.standing import STANDING

_INTRODUCTION = """\
# Configuration

This page is written from the model in `mailhub/app/config.py` (`python -m mailhub.app.reference`); a test keeps the two
in step.  [etc/mailhub.toml](../../etc/mailhub.toml) shows the same keys as a file that runs as it is.

The configuration is one [TOML](https://toml.io/) file.  It is read whole and checked whole: an unknown key, a value of
the wrong type or a contradiction is an error that names the file, the line, the key and what was expected.  All
mistakes are reported at once, nothing is started, and the exit status is 2.  `mailhub check --config FILE` does only
that, and also looks at what the configuration points to: certificates, accounts, policies, directories.

| kind of value | written |
| --- | --- |
| duration | `"500ms"`, `"30s"`, `"5m"`, `"4h"`, `"5d"`, `"2w"`, also combined as `"1h30m"` |
| size | `"100B"`, `"4kB"`, `"50MB"`, `"1GB"` (powers of 1000), `"64KiB"`, `"10MiB"` (powers of 1024), \
or a number of octets |
| path | relative to the directory of the file, or absolute; `{data}` at the start stands for the data directory |
| endpoint | a Twisted server endpoint: `"tcp:25"`, `"tcp:2525:interface=127.0.0.1"`, `"tcp6:25"`, \
`"unix:/run/mailhub/lmtp"`, `"systemd:domain=INET:index=0"` |
| next hop | `"smtp:relay.example.net:587"`, `"smtps:relay.example.net"`, `"lmtp:127.0.0.1:24"`, \
`"lmtp:unix:/run/lists.sock"`, `"mx"` |
| domain | `"example.org"`; names with other letters than ASCII are kept as A-labels |
"""


def page() -> str:
    """The whole page, in Markdown."""
    return "\n".join([_INTRODUCTION, *_tables(Config, "")])


def _tables(model: type[BaseModel], name: str) -> Iterator[str]:
    """The keys of one table, then the tables inside it."""
    settings = {key: field for key, field in model.model_fields.items() if not _is_table(field)}
    yield f"## {_heading(name)}\n"
    if name:
        yield f"{_sentences(model.__doc__)}\n"
    if name == "mta.policy":
        yield from _standing()
    yield "| key | kind | default | what it is |"
    yield "| --- | --- | --- | --- |"
    for key, field in settings.items():
        yield f"| `{key}` | {_kind(field)} | {_default(field)} | {_sentences(field.description)} |"
    yield ""
    for key, field in model.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None and (key != "policy" or name == "mta"):
            yield from _tables(inner, f"{name}.{key}" if name else key)


def _standing() -> Iterator[str]:
    """Which rules need no configuration."""
    yield (
        "Some rules always stand, around those of the file.  One that the file names stands where the file puts it, "
        "with the options given there, and nowhere else.\n"
    )
    yield "| role | asked before the file's | asked behind them |"
    yield "| --- | --- | --- |"
    for role, standing in STANDING.items():
        before, after = (", ".join(f"`{name}`" for name in names) for names in (standing.before, standing.after))
        yield f"| {role} | {before or 'none'} | {after or 'none'} |"
    yield ""


def _heading(name: str) -> str:
    if not name:
        return "At the top of the file"
    if name == "mta.policy":
        return "[[mta.policy]], [[msa.policy]], [[lmtp.policy]], [[outbound.policy]]"
    return f"[[{name}]]" if name in ("tls.site", "route") else f"[{name}]"


def _is_table(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


#: What the aliases of mailhub.app.config_values are called, by the function that reads them.
_KINDS = {
    "_seconds": "duration",
    "_octets": "size",
    "_path": "path",
    "_template": "path with placeholders",
    "_domain": "domain",
    "_hostname": "domain",
    "_mail_address": "address",
    "_owned_address": "address",
    "_route_domain": "domain",
    "_next_hop": "next hop",
    "_endpoint": "endpoint",
    "_network": "network",
    "_dns_server": "IP address, port",
}
_PLAIN = {str: "string", int: "number", float: "number", bool: "true or false"}


def _kind(field: FieldInfo) -> str:
    """The kind of value, in words."""
    for mark in field.metadata:
        name = getattr(getattr(mark, "func", None), "__name__", "")
        if name in _KINDS:
            return _KINDS[name]
    return _kind_of(field.annotation)


def _kind_of(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if origin is Literal:
        return " or ".join(f'`"{word}"`' for word in inner)
    if origin in (Union, UnionType):
        return " or ".join(_kind_of(each) for each in inner if each is not NoneType)
    if section_of(annotation) is not None:
        return "tables"
    if origin is tuple:
        return f"array of {_plural(_kind_of(inner[0]))}"
    if hasattr(annotation, "__metadata__"):
        for mark in annotation.__metadata__:
            name = getattr(getattr(mark, "func", None), "__name__", "")
            if name in _KINDS:
                return _KINDS[name]
        return _kind_of(inner[0])
    return "table of arrays of addresses, by login"


def _plural(kind: str) -> str:
    if kind == "IP address, port":
        return "IP addresses with port"
    return f"{kind}es" if kind.endswith("s") else f"{kind}s"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "absent"
    return f"`{toml(field.default)}`"


def toml(value: Any) -> str:
    """A default as it would stand in the file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml, value))}]"
    return "{}" if value == {} else str(value)


def _sentences(text: str | None) -> str:
    """One line, safe in a table."""
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
