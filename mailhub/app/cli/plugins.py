"""`mailhub plugins`: the policies that `use` can name, where they come from, and what options they take."""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import TYPE_CHECKING, Any

import click

from mailhub.app.cli import json_option, load_config

if TYPE_CHECKING:
    from mailhub.app.discovery import Discovery
    from mailhub.plugin import IPolicyMaker


@click.command()
@click.option(
    "--config",
    metavar="FILE",
    envvar="MAILHUB_CONFIG",
    help="Look into the plugin directories of this configuration as well.",
)
@json_option
def plugins(config: str | None, as_json: bool) -> None:
    """List the policies that can be configured: name, options with their defaults, and where each comes from.

    A policy does nothing until the configuration names it (some of our own always stand; they are marked).  What was
    found and cannot be loaded is told at the end, and the exit status then is 1.
    """
    from mailhub.app.discovery import discover

    found = discover(load_config(config).plugins.directories if config is not None else ())
    if as_json:
        click.echo(json.dumps(_as_json(found), indent=2, default=str))
    else:
        _print(found)
    for fault in found.faults:
        click.echo(f"mailhub: {fault}", err=True)
    if found.faults:
        raise SystemExit(1)


def _print(found: Discovery) -> None:
    for name, each in sorted(found.found.items()):
        roles = ", ".join(_standing_in(name))
        click.echo(f"{name}  (always stands: {roles})" if roles else name)
        if about := _about(each.maker):
            click.echo(f"    {about}")
        for option, default in _options(each.maker).items():
            click.echo(f"    {option} = {default}")
        click.echo(f"    from {each.source}")


def _as_json(found: Discovery) -> dict[str, Any]:
    return {
        "policies": [
            {
                "name": name,
                "about": _about(each.maker),
                "options": _options(each.maker),
                "standing_in": _standing_in(name),
                "source": each.source,
            }
            for name, each in sorted(found.found.items())
        ],
        "faults": [{"source": fault.source, "message": fault.message} for fault in found.faults],
    }


def _standing_in(name: str) -> list[str]:
    """The roles in which this policy is asked without being configured."""
    from mailhub.policy.standing import STANDING

    return [role for role, standing in STANDING.items() if name in (*standing.before, *standing.after)]


def _about(maker: IPolicyMaker) -> str:
    """The first sentence that the policy's class or its file says about it."""
    own = maker.factory.__doc__ or ""
    if dataclasses.is_dataclass(maker.factory) and own.startswith(f"{maker.factory.__name__}("):
        own = ""  # dataclasses write the signature where there is no docstring
    module = inspect.getmodule(maker.factory)
    text = own or (module.__doc__ if module is not None else "") or ""
    return " ".join(text.strip().partition("\n\n")[0].split())


def _options(maker: IPolicyMaker) -> dict[str, str]:
    """Each option and its default as Python writes it."""
    try:
        parameters = list(inspect.signature(maker.factory).parameters.values())[1:]
    except (TypeError, ValueError):
        return {}
    return {
        parameter.name: "required" if parameter.default is parameter.empty else _default(parameter.default)
        for parameter in parameters
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def _default(value: Any) -> str:
    text = repr(value)
    if isinstance(value, tuple | frozenset | list):
        return f"[{', '.join(map(str, value))}]"
    # dataclasses put a marker where a factory makes the default.
    return "empty" if text.startswith("<factory") or "HAS_DEFAULT_FACTORY" in text else text
