"""`mailhub why`: the story of a message, and the reason for each decision.

It reads the history database and changes nothing; whether the hub runs makes no difference.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from mailhub.app import units
from mailhub.app.cli import config_option, json_option, load_config
from mailhub.app.worker import Worker, directories, history_files
from mailhub.history.pages import HistoryUnreadable, Span
from mailhub.history.plain import printable
from mailhub.history.question import Answer, Question
from mailhub.history.redaction import Redaction
from mailhub.history.several import Found, ask_all
from mailhub.history.telling import entry, told, when
from mailhub.history.words import word
from mailhub.wire.smtp.grammar import parse_address

if TYPE_CHECKING:
    from mailhub.app.config import Config

NOTHING = 1
STORIES_MAX = 1000
_CLOCK = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?")


class Moment(click.ParamType):  # type: ignore[type-arg]  # generic for the type checker alone
    """`2h` (so long ago), `12:30`, `today`, `yesterday`, `2026-11-22`, `2026-11-22 12:30`: seconds since the epoch."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip()
        try:
            return moment(text, time.time())
        except (ValueError, OverflowError, OSError):
            self.fail(
                f"{text!r} is no time: write how long ago (90m, 2h, 7d), a clock time (12:30), today, yesterday, or a "
                "date (2026-11-22, or 2026-11-22 12:30)",
                param,
                ctx,
            )


def moment(text: str, now: float) -> float:
    """Seconds since the epoch; a clock time is the latest that has passed.  Raises ValueError."""
    if text in ("today", "yesterday"):
        midnight = datetime.fromtimestamp(now).replace(hour=0, minute=0, second=0, microsecond=0)
        return (midnight - timedelta(days=text == "yesterday")).timestamp()
    if _CLOCK.fullmatch(text):
        at = datetime.combine(datetime.fromtimestamp(now), datetime.strptime(text[:5].rjust(5, "0"), "%H:%M").time())
        if text.count(":") == 2:
            at = at.replace(second=int(text.rpartition(":")[2]))
        return (at if at.timestamp() <= now else at - timedelta(days=1)).timestamp()
    try:
        return now - units.seconds(text)
    except ValueError:
        return datetime.fromisoformat(text).timestamp()


@click.command()
@click.argument("anything", default="", metavar="[ANYTHING]")
@click.option("--since", type=Moment(), help="Only what happened since then: 2h, 7d, 12:30, yesterday, 2026-11-22.")
@click.option("--until", type=Moment(), help="Only what happened until then; as --since.")
@click.option("--refused", is_flag=True, help="Only what was refused to a client: mail and logins.")
@click.option("--limit", type=click.IntRange(1, STORIES_MAX), default=20, show_default=True, help="Stories, at most.")
@config_option
@json_option
def why(
    anything: str, since: float | None, until: float | None, refused: bool, limit: int, config: str, as_json: bool
) -> None:
    """Tell the story of a message, and why it went as it did.

    \b
    Examples:
      mailhub why 06mpc1p2x3z7k9a4f --config etc/mailhub.toml
      mailhub why alice@example.org --since 2d
      mailhub why '<20261122.1@example.org>'
      mailhub why 192.0.2.1 --refused
      mailhub why --refused --since 1h

    ANYTHING is a queue id, a Message-ID, an address, a login, the IP address or name of another host, or the id of a
    session.  One story is told whole; of several there is a list, newest first.  Exit status 1: nothing was found.
    """
    if since is not None and until is not None and until < since:
        raise click.UsageError(
            f"Nothing lies between: --until is {when(until)}, and --since is {when(since)}.  "
            "A clock time is the latest that has passed."
        )
    site = load_config(config)
    redaction = _redaction(site)
    question = Question(_words(anything, redaction), since, until, refused, limit)
    try:
        found = ask_all(_databases(site), question)
    except HistoryUnreadable as error:
        _nothing(str(error))
    answer, span = found.answer, found.span
    for unreadable in found.unreadable:
        click.echo(f"mailhub: a part of the history is missing: {printable(unreadable)}", err=True)
    if found.gaps:
        lost = sum(int(gap.facts.get("events", 0)) for gap in found.gaps)
        click.echo(
            f"mailhub: {lost:,} events are missing, the last before {when(found.gaps[-1].at)}: they could not be"
            " written.",
            err=True,
        )
    if as_json:
        click.echo(json.dumps(_as_json(anything, found), indent=2, ensure_ascii=True))
        if not answer.stories:
            raise click.exceptions.Exit(NOTHING)
        return
    if not answer.stories:
        _nothing(_looked_for(anything, question, span))
    if len(answer.stories) == 1 and not answer.is_cut:
        for line, decided in told(answer.stories[0]):
            click.echo(click.style(line, bold=True) if decided else line)
    else:
        _list(answer)
    if redaction.how == "local" and "@" in anything:
        click.echo('Addresses are not kept ([history] redact = "local"): this is all mail of that domain.', err=True)


def _databases(site: Config) -> list[Path]:
    """Of all workers there have been; those of now have one, if they have ever run."""
    file = site.history.file
    have_run = [number for number in directories(site.data) if number <= site.workers]
    return list(dict.fromkeys([*history_files(file), *(Worker(number).history_file(file) for number in have_run)]))


def _redaction(site: Config) -> Redaction:
    from mailhub.app.history import redaction

    secret = b""
    if site.history.redact == "hash":
        try:
            secret = (site.data / "installation-secret").read_bytes()
        except OSError as error:
            _nothing(f"addresses are hashed, and the key for that cannot be read: {error.filename}: {error.strerror}")
    return redaction(site, secret)


def _words(anything: str, redaction: Redaction) -> frozenset[str]:
    """What the text may be called in history; none for an empty text."""
    text = anything.strip()
    if not text:
        return frozenset()
    words = {word(text)}
    with contextlib.suppress(ValueError):
        address = ip_address(text.removeprefix("[").removesuffix("]").removeprefix("IPv6:"))
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        words.add(str(mapped or address))
    with contextlib.suppress(ValueError):
        words.add(word(parse_address(text.removeprefix("<").removesuffix(">"))))  # the domain as A-labels
    return frozenset(words | {redaction.address(each) for each in words})


def _list(answer: Answer) -> None:
    rows = [entry(story) for story in answer.stories]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        columns = [f"{text:{width}}" for text, width in zip(row, widths, strict=False)]
        click.echo("  ".join((*columns, row[3])).rstrip())
    click.echo()
    more = " There are more: see --limit, --since and --until." if answer.is_cut else ""
    count = "1 story" if len(rows) == 1 else f"{len(rows)} stories"
    click.echo(f"{count}, newest first; `mailhub why ID` tells one.{more}")


def _looked_for(anything: str, question: Question, span: Span | None) -> str:
    what = "refused mail" if question.refused else "events"
    about = f" about {printable(anything.strip())}" if anything.strip() else ""
    times = f" since {when(question.since)}" if question.since is not None else ""
    times += f" until {when(question.until)}" if question.until is not None else ""
    known = (
        "History is empty" if span is None else f"History goes back to {when(span.begins_at)} ({span.events:,} events)"
    )
    return f"no {what}{about}{times} found.  {known}."


def _as_json(anything: str, found: Found) -> dict[str, object]:
    span = found.span
    history = None if span is None else {"begins_at": span.begins_at, "ends_at": span.ends_at, "events": span.events}
    return {
        "question": anything,
        "stories": [story.as_json() for story in found.answer.stories],
        "more": found.answer.is_cut,
        "history": history,
        "unreadable": list(found.unreadable),
    }


def _nothing(message: str) -> NoReturn:
    click.echo(f"mailhub: {message}", err=True)
    raise click.exceptions.Exit(NOTHING)
