"""`mailhub check`: is this configuration right, and is what it points to?  It starts nothing and changes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import click

from mailhub.app.cli import config_option, json_option
from mailhub.app.config_errors import ConfigError
from mailhub.app.finding import Finding, Severity

_COLOURS = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.ERROR: "red"}


@click.command()
@config_option
@json_option
@click.option("--strict", is_flag=True, help="Exit with status 1 if there are warnings.")
@click.option("--quiet", is_flag=True, help="Leave out what is as it should be.")
def check(config: str, as_json: bool, strict: bool, quiet: bool) -> None:
    """Look for mistakes in the configuration and in what it points to; start nothing.

    The configuration itself, certificates and keys, account and alias files, policies and their options, directories.

    Exit status: 0 if the hub can be started as it is, 2 if it cannot; with --strict, 1 for warnings alone.

    \b
      mailhub check --config /etc/mailhub/mailhub.toml
      mailhub check --config etc/mailhub.toml --json | jq '.findings[] | select(.severity == "error")'
    """
    findings = _findings(config)
    worst = max((finding.severity for finding in findings), key=list(Severity).index, default=Severity.OK)
    if as_json:
        click.echo(_as_json(config, findings, worst))
    else:
        for finding in findings:
            if not quiet or finding.severity is not Severity.OK:
                word = click.style(f"{finding.severity.value:<8}", fg=_COLOURS[finding.severity])
                click.echo(f"{word} {finding.about}: {finding.message}")
        click.echo(_verdict(findings))
    if worst is Severity.ERROR:
        raise SystemExit(2)
    if worst is Severity.WARNING and strict:
        raise SystemExit(1)


def _findings(config: str) -> Sequence[Finding]:
    from mailhub.app.config import load
    from mailhub.app.examination import examine

    try:
        loaded = load(config)
    except ConfigError as error:
        return [Finding(Severity.ERROR, problem.place, problem.told) for problem in error.problems]
    return list(examine(loaded, time.time()))


def _as_json(config: str, findings: Sequence[Finding], worst: Severity) -> str:
    told = [
        {"severity": finding.severity.value, "about": finding.about, "message": finding.message} for finding in findings
    ]
    return json.dumps({"file": config, "ok": worst is not Severity.ERROR, "findings": told}, indent=2)


def _verdict(findings: Sequence[Finding]) -> str:
    errors = sum(finding.severity is Severity.ERROR for finding in findings)
    warnings = sum(finding.severity is Severity.WARNING for finding in findings)
    if not errors and not warnings:
        return "All is well."
    counts = [_count(errors, "error"), _count(warnings, "warning")]
    start = "The hub would not start" if errors else "The hub can be started"
    return f"{start}: {', '.join(filter(None, counts))}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}" if number else ""
