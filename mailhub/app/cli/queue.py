"""`mailhub queue`: see and steer what waits.  The running hub is asked, so that nothing is done behind its back.

All that strangers wrote (addresses, replies, header fields) is made fit for a terminal before it is printed.
"""

from __future__ import annotations

import json
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import click

from mailhub.app import units
from mailhub.app.cli import config_option, json_option, load_config
from mailhub.app.cli.control_client import NoAnswer, Refused
from mailhub.app.cli.every_worker import EveryWorker
from mailhub.app.cli.site import NOT_DONE, WRONG, stop
from mailhub.history.plain import printable
from mailhub.wire.smtp.grammar import parse_address, parse_domain

Function = TypeVar("Function", bound=Callable[..., Any])

#: Of a reply, so much goes into a list.
REPLY_CHARACTERS = 80

_DONE = {"retry": "due now", "hold": "held", "release": "released", "drop": "dropped", "bounce": "sent back"}


def _filters(function: Function) -> Function:
    """Options that say which messages are meant; the function gets `chosen`, ready for a request."""
    for option in reversed(
        (
            click.option("--sender", metavar="ADDRESS", help='Of this sender; "@DOMAIN" and "<>" are welcome.'),
            click.option("--recipient", metavar="ADDRESS", help="To this recipient."),
            click.option("--domain", metavar="DOMAIN", help="To a recipient in this domain."),
            click.option("--older", metavar="TIME", help="In the queue for at least so long: 30m, 4h, 2d."),
            click.option("--younger", metavar="TIME", help="In the queue for at most so long."),
            click.option(
                "--state",
                type=click.Choice(["queued", "deferred", "held", "active", "quarantine"]),
                help="queued: to be tried; deferred: of these, tried before; active: being delivered now; quarantine:"
                " cannot be read.",
            ),
        )
    ):
        function = option(function)
    return function


def _chosen(given: Mapping[str, Any]) -> dict[str, Any]:
    """The filters of the command line as a request has them, or the end of the program."""
    now = time.time()
    try:
        chosen = {
            "queue_ids": [_queue_id(each) for each in given.get("queue_ids", ())],
            "sender": _sender(given["sender"]),
            "recipient": None if given["recipient"] is None else str(parse_address(given["recipient"])),
            "domain": None if given["domain"] is None else parse_domain(given["domain"].removeprefix("@")),
            "received_before": None if given["older"] is None else now - units.seconds(given["older"]),
            "received_after": None if given["younger"] is None else now - units.seconds(given["younger"]),
            "state": given["state"],
        }
    except ValueError as error:
        stop(WRONG, str(error))
    return {name: value for name, value in chosen.items() if value not in (None, [])}


def _queue_id(text: str) -> str:
    if not (text.isascii() and text.isalnum() and text == text.lower() and len(text) <= 32):
        raise ValueError(f"not a queue id: {text!a}")
    return text


def _sender(text: str | None) -> str | None:
    if text in (None, "<>"):
        return text
    if text == "":
        return "<>"
    assert text is not None
    return f"@{parse_domain(text[1:])}" if text.startswith("@") else str(parse_address(text))


def _told(every: EveryWorker, answers: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The hub's answers, or the end of the program."""
    try:
        yield from answers
    except (NoAnswer, Refused) as error:
        _warn(every)
        stop(NOT_DONE, printable(str(error)))


def _warn(every: EveryWorker) -> None:
    """Say which workers could not be asked."""
    for why in every.missing.values():
        click.echo(f"mailhub: {printable(why)}", err=True)


@click.group()
def queue() -> None:
    """The queue: see what waits, and steer it.

    \b
    Examples:
      mailhub queue list --config etc/mailhub.toml
      mailhub queue list --domain example.net --older 4h --config etc/mailhub.toml
      mailhub queue show 1a2b3c4d5e6f7g8h9 --config etc/mailhub.toml
      mailhub queue hold --sender @example.com --config etc/mailhub.toml
      mailhub queue flush --domain example.net --config etc/mailhub.toml

    All of it goes through the running hub, which only its own user and root may ask.  Of a hub with several workers all
    are asked.  A message that is being delivered is left alone: who holds or drops it waits a little for the attempt to
    end.
    """


# --- seeing ------------------------------------------------------------------------------------------------------


@queue.command("list")
@_filters
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="At most so many.")
@json_option
@config_option
def list_(limit: int | None, as_json: bool, config: str, **filters: Any) -> None:
    """List what waits, oldest first: id, age, size, state, recipients that wait, next attempt, sender, last reply.

    \b
    Examples:
      mailhub queue list --state held --config etc/mailhub.toml
      mailhub queue list --sender "<>" --json --config etc/mailhub.toml | jq -r '.[].queue_id'
    """
    every = EveryWorker(load_config(config))
    answers = every.list_messages(limit, recipients=as_json, **_chosen(filters))
    show_list(every, _told(every, answers), as_json)
    _warn(every)
    if every.missing:
        raise SystemExit(NOT_DONE)


def show_list(every: EveryWorker, answers: Iterable[Mapping[str, Any]], as_json: bool = False) -> None:
    """Print the messages that `every` has answered with as they come."""
    now = time.time()
    separator = "["
    for message in _messages(answers):
        if as_json:
            click.echo(f"{separator}\n  {json.dumps(message)}", nl=False)
            separator = ","
        elif "queue_id" in message:
            if separator == "[":
                click.echo(_row("ID", "AGE", "SIZE", "STATE", "RCPT", "NEXT", "SENDER", "LAST REPLY"))
                separator = ""
            click.echo(_list_row(message, now))
    if as_json:
        click.echo("[]" if separator == "[" else "\n]")
    elif separator == "[" and not every.missing:
        click.echo("Nothing waits.", err=True)


def _messages(answers: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Whole messages: recipients come in lines of their own, behind the message's."""
    message: dict[str, Any] | None = None
    for answer in answers:
        if "recipient" in answer and message is not None:
            message.setdefault("recipients", []).append(answer["recipient"])
            continue
        if message is not None:
            yield message
        message = dict(answer["message"]) if "message" in answer else None


def _list_row(message: Mapping[str, Any], now: float) -> str:
    if message["state"] == "quarantine":
        cause = f"for {_short_time(now - message['quarantined_at'])}: {message['cause']}"
        return _row(message["queue_id"], "-", "-", "quarantine", "-", "-", "-", _shortened(cause))
    due = message["next_attempt_at"]
    waiting, in_all = message["recipients_waiting"], message["recipients_in_all"]
    return _row(
        message["queue_id"],
        _short_time(now - message["received_at"]),
        _short_size(message["size"]),
        message["state"],
        str(waiting) if waiting == in_all else f"{waiting}/{in_all}",
        "-" if due is None or message["state"] == "active" else "now" if due <= now else _short_time(due - now),
        printable(message["sender"]),
        _shortened(message["last_reply"] or ""),
    )


def _row(queue_id: str, age: str, size: str, state: str, count: str, due: str, sender: str, reply: str) -> str:
    return f"{queue_id:<17} {age:>4} {size:>6} {state:<8} {count:>5} {due:>4} {sender:<30} {reply}".rstrip()


@queue.command()
@click.argument("queue_id", metavar="ID")
@click.option("--content", is_flag=True, help="Print the message itself, as it goes on, and nothing else.")
@json_option
@config_option
def show(queue_id: str, content: bool, as_json: bool, config: str) -> None:
    """Show one message: its envelope, every recipient with the last reply, and its header.

    The body is shown with --content alone; written to a file or a pipe, that is the message octet by octet.

    \b
    Examples:
      mailhub queue show 1a2b3c4d5e6f7g8h9 --config etc/mailhub.toml
      mailhub queue show 1a2b3c4d5e6f7g8h9 --content --config etc/mailhub.toml > message.eml
    """
    try:
        wanted = _queue_id(queue_id)
    except ValueError as error:
        stop(WRONG, str(error))
    every = EveryWorker(load_config(config))
    answers = _told(every, every.show(wanted, content))
    if content and not as_json:
        for answer in answers:
            _print_octets(b64decode(answer.get("octets", "")))
        return
    everything = list(answers)
    (message,) = _messages(answer for answer in everything if "octets" not in answer)
    octets = b"".join(b64decode(answer["octets"]) for answer in everything if "octets" in answer)
    text = octets.decode("utf-8", "backslashreplace")
    if as_json and message["state"] != "quarantine":
        message["content" if content else "header"] = text
    if as_json:
        click.echo(json.dumps(message, indent=2))
    else:
        _print_message(message, text)


def _print_octets(octets: bytes) -> None:
    if sys.stdout.isatty():
        lines = octets.decode("utf-8", "backslashreplace").split("\r\n")
        click.echo("\n".join(printable(line.replace("\t", "    ")) for line in lines), nl=False)
    else:
        sys.stdout.buffer.write(octets)


def _print_message(message: Mapping[str, Any], header: str) -> None:
    now = time.time()
    if message["state"] == "quarantine":
        since = message["quarantined_at"]
        click.echo(f"Message:   {message['queue_id']} (quarantine)")
        click.echo(f"Since:     {_time(since)}, {_short_time(now - since)} ago")
        click.echo(f"Cause:     {printable(message['cause'])}")
        return
    parameters = {name: value for name, value in message["parameters"].items() if value}
    facts = {
        "Message": f"{message['queue_id']} ({message['state']})",
        "Sender": message["sender"],
        "Received": f"{_time(message['received_at'])}, {_short_time(now - message['received_at'])} ago",
        "Size": f"{message['size']:,} octets",
        "From": " as ".join(filter(None, (message["peer_ip"], message["login"]))),
        "Session": message["session_id"],
        "Labels": ", ".join(message["labels"]),
        "Asked for": ", ".join(f"{name}={value}" for name, value in parameters.items()),
    }
    for name, value in facts.items():
        if value:
            click.echo(f"{name + ':':<10} {printable(value)}")
    click.echo("Recipients:")
    for recipient in message["recipients"]:
        _print_recipient(recipient, now)
    click.echo("Header:")
    for line in header.removesuffix("\r\n").split("\r\n"):
        click.echo(f"  {printable(line.replace(chr(9), '    '))}")


def _print_recipient(recipient: Mapping[str, Any], now: float) -> None:
    words = [recipient["state"]]
    if recipient["attempts"]:
        words.append(f"{recipient['attempts']} attempt{'s' if recipient['attempts'] > 1 else ''}")
    due = recipient["next_attempt_at"]
    if due is not None:
        words.append("due now" if due <= now else f"next in {_short_time(due - now)}")
    if recipient["notify"]:
        words.append(f"notify {','.join(recipient['notify'])}")
    click.echo(f"  {printable(recipient['address'])}: {', '.join(words)}")
    if recipient["forwarded_by"] or recipient["original"] != recipient["address"]:
        click.echo(f"    for {printable(recipient['forwarded_by'] or recipient['original'])}")
    if recipient["last_reply"]:
        click.echo(f"    {printable(recipient['last_reply'])}")


# --- steering ----------------------------------------------------------------------------------------------------


def _operation(function: Function) -> Function:
    function = click.argument("queue_ids", metavar="[ID]...", nargs=-1)(_filters(function))
    return config_option(json_option(function))


_reason = click.option("--reason", metavar="TEXT", default="", help="Why; it is kept in the history.")
_yes = click.option("--yes", is_flag=True, help="Do not ask, though the messages were chosen by a filter.")


@queue.command()
@_operation
def retry(as_json: bool, config: str, **given: Any) -> None:
    """Try these again now; what is held stays held.

    \b
    Example:
      mailhub queue retry 1a2b3c4d5e6f7g8h9 --config etc/mailhub.toml
    """
    _steer("retry", config, as_json, given)


@queue.command()
@_operation
@_reason
def hold(as_json: bool, config: str, reason: str, **given: Any) -> None:
    """Do not try these until they are released.

    \b
    Example:
      mailhub queue hold --sender @example.com --reason "looks like spam" --config etc/mailhub.toml
    """
    _steer("hold", config, as_json, given, reason)


@queue.command()
@_operation
def release(as_json: bool, config: str, **given: Any) -> None:
    """Let these go on that were held; they are tried now.  What is in quarantine is read again.

    \b
    Example:
      mailhub queue release --sender @example.com --config etc/mailhub.toml
    """
    _steer("release", config, as_json, given)


@queue.command()
@_operation
@_reason
@_yes
def drop(as_json: bool, config: str, reason: str, yes: bool, **given: Any) -> None:
    """Discard these for good.  Nobody is told.

    By a filter that names recipients, only their copies are dropped.

    \b
    Examples:
      mailhub queue drop 1a2b3c4d5e6f7g8h9 --reason "a test" --config etc/mailhub.toml
      mailhub queue drop --sender mallory@example.com --yes --config etc/mailhub.toml
    """
    _confirmed("drop", config, given, yes)
    _steer("drop", config, as_json, given, reason)


@queue.command()
@_operation
@click.option("--reason", metavar="TEXT", default="", help="Why; the sender is told, and the history keeps it.")
@_yes
def bounce(as_json: bool, config: str, reason: str, yes: bool, **given: Any) -> None:
    """Give these up now, and send their senders a notification, as if their time were over.

    \b
    Example:
      mailhub queue bounce 1a2b3c4d5e6f7g8h9 --reason "that host is gone" --config etc/mailhub.toml
    """
    _confirmed("bounce", config, given, yes)
    _steer("bounce", config, as_json, given, reason)


@queue.command()
@click.option("--domain", metavar="DOMAIN", help="Only what goes to this domain.")
@json_option
@config_option
def flush(domain: str | None, as_json: bool, config: str) -> None:
    """Try everything now, or all that goes to one domain; what is held stays held.

    \b
    Examples:
      mailhub queue flush --config etc/mailhub.toml
      mailhub queue flush --domain example.net --config etc/mailhub.toml
    """
    flush_all(config, domain, as_json)


def flush_all(config: str, domain: str | None = None, as_json: bool = False) -> None:
    """Make everything due now, or all that goes to one domain."""
    given = {"sender": None, "recipient": None, "domain": domain, "older": None, "younger": None, "state": None}
    _steer("retry", config, as_json, given, everything=True)


def _confirmed(operation: str, config: str, given: Mapping[str, Any], yes: bool) -> None:
    """What is chosen by a filter is counted first, and done when somebody says yes; or the end of the program."""
    chosen = _chosen(given)
    if yes or "queue_ids" in chosen or not chosen:
        return
    every = EveryWorker(load_config(config))
    count = sum("message" in answer for answer in _told(every, every.list_messages(**chosen)))
    _warn(every)
    what = "1 message matches" if count == 1 else f"{count} messages match"
    if not count:
        stop(NOT_DONE, "nothing in the queue matches")
    if not sys.stdin.isatty():
        stop(NOT_DONE, f"{what}; nothing was done.  Say --yes to {operation} what matches")
    click.confirm(f"{what}.  {operation.capitalize()}?", abort=True)


def _steer(
    operation: str, config: str, as_json: bool, given: Mapping[str, Any], reason: str = "", everything: bool = False
) -> None:
    """Have it done, tell what became of each message, and end with 1 if that was not all that was asked for."""
    chosen = _chosen(given)
    if not chosen and not everything:
        stop(WRONG, f"which?  Give queue ids or a filter: `mailhub queue {operation} --help`")
    every = EveryWorker(load_config(config))
    answers = every.steer(operation=operation, reason=reason[:1000], everything=everything, **chosen)
    is_wanting, results = False, []
    for answer in _told(every, answers):
        if "steered" not in answer:
            continue
        steered = answer["steered"]
        results.append(steered)
        is_good = steered["result"] == "done" or (operation, steered["result"]) in _AS_GOOD
        is_wanting = is_wanting or not is_good
        if as_json:
            continue
        if steered["result"] == "done":
            count = steered["recipients"]
            click.echo(f"{steered['queue_id']} {_DONE[operation]} ({count} recipient{'' if count == 1 else 's'})")
        else:
            click.echo(f"{steered['queue_id']}: {printable(steered['why'])}", err=not is_good)
    if as_json:
        click.echo(json.dumps(results, indent=2))
    elif not results and not every.missing:
        click.echo("Nothing waits." if everything else "Nothing in the queue matches.", err=True)
    _warn(every)
    if is_wanting or every.missing or not (results or everything):
        raise SystemExit(NOT_DONE)


#: What is not done and yet what was wanted.
_AS_GOOD = {("hold", "unchanged"), ("retry", "busy")}


# --- how it is told ----------------------------------------------------------------------------------------------


def _short_time(seconds: float) -> str:
    """In four characters: 12s, 5m, 23h, 4d."""
    for unit, each in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * each or (seconds >= each and unit != "d"):
            return f"{seconds / each:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def _short_size(octets: float) -> str:
    """In six characters: 999B, 12kB, 1.5MB."""
    for unit in ("B", "kB", "MB"):
        if octets < 1000:
            return f"{octets:.0f}{unit}" if unit == "B" or octets >= 10 else f"{octets:.1f}{unit}"
        octets /= 1000
    return f"{octets:.1f}GB"


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _shortened(text: str) -> str:
    text = printable(text)
    return text if len(text) <= REPLY_CHARACTERS else text[: REPLY_CHARACTERS - 3] + "..."
