"""`mailhub simulate`: what would become of this mail?  The real rules decide; nothing is sent or stored."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from email.utils import formatdate
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

import click

from mailhub.app.cli import config_option, json_option, load_config
from mailhub.history.plain import printable

if TYPE_CHECKING:
    from mailhub.app.config import Config
    from mailhub.app.simulation import Case, End, Simulation

REFUSED = 1
WRONG = 2
_LINE_END = re.compile(rb"\r\n|\r|\n")
_WOULD = {
    "refused": "would be refused",
    "delivered": "would be delivered",
    "waiting": "would wait",
    "failed": "would be taken, and then fail",
}


class Ip(click.ParamType):  # type: ignore[type-arg]  # generic for the type checker alone
    """An IP address as a peer has it, or "unix"."""

    name = "address"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if text == "unix":
            return text
        try:
            address = ip_address(text)
        except ValueError:
            self.fail(f'{text!r} is no IP address; a client on a UNIX socket is "unix"', param, ctx)
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return str(mapped or address)


class Path(click.ParamType):  # type: ignore[type-arg]
    """What stands between the angle brackets, with or without them.  What it is worth, the hub's own parser says."""

    name = "mail address"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip()
        if any(ord(character) < 32 or ord(character) == 127 for character in text) or not _is_text(text):
            self.fail(f"{text!r} has control characters in it", param, ctx)
        return text[1:-1] if text.startswith("<") and text.endswith(">") else text


@click.command()
@click.option("--from", "sender", type=Path(), required=True, metavar="ADDRESS", help='The sender; "<>" is nobody.')
@click.option("--to", "recipients", type=Path(), required=True, multiple=True, metavar="ADDRESS", help="A recipient.")
@click.option("--ip", type=Ip(), required=True, metavar="IP", help='Where the client connects from; or "unix".')
@click.option("--hello", metavar="NAME", help="What the client says at EHLO.  [default: its address, as [IP]]")
@click.option("--login", metavar="LOGIN", help="Who has logged in; the password is not asked for.")
@click.option("--message", type=click.File("rb"), metavar="FILE", help='The message; "-" is standard input.')
@click.option("--role", type=click.Choice(["mta", "msa", "lmtp"]), help="By which door.  [default: msa with --login]")
@click.option("--offline", is_flag=True, help="Do not ask the DNS.")
@config_option
@json_option
def simulate(
    sender: str,
    recipients: Sequence[str],
    ip: str,
    hello: str | None,
    login: str | None,
    message: Any,
    role: str | None,
    offline: bool,
    config: str,
    as_json: bool,
) -> None:
    """Tell what would become of a mail, and why; nothing is sent or stored.

    \b
    Examples:
      mailhub simulate --from ann@elsewhere.example --to bob@example.test --ip 192.0.2.1
      mailhub simulate --from alice@example.test --to joe@far.example --ip 198.51.100.7 --login alice@example.test
      mailhub simulate --from ann@elsewhere.example --to team@example.test --ip 192.0.2.1 --message mail.eml --json

    Rules, aliases, routes and TLS are those of the configuration and of the files that it names, as they are now; the
    hub need not run.  The DNS is asked, unless with --offline.

    Exit status: 0 if everybody would get it, or it would wait for them; 1 if anybody would be refused or fail; 2 for a
    mistake in the call or in the configuration.
    """
    site = load_config(config)
    role = role or ("msa" if login else "mta")
    if login and role != "msa":
        raise click.UsageError(f"nobody logs in at the {role}; leave --role or --login out")
    for text in (hello or "", login or ""):
        if not _is_text(text) or any(ord(character) < 32 for character in text):
            raise click.UsageError("--hello and --login are plain text")
    from mailhub.app.dialogue import Mail
    from mailhub.app.simulation import Case

    content = (
        _content(site, sender, recipients) if message is None else _lines(message.read(site.limits.message_octets + 1))
    )  # one more is too large as well
    case = Case(Mail(sender, tuple(dict.fromkeys(recipients)), content, hello or _literal(ip), login or ""), ip, role)
    simulation = _run(site, case, offline)
    if as_json:
        click.echo(json.dumps(_as_json(simulation), indent=2, ensure_ascii=True))
    else:
        _show(simulation)
    if not simulation.is_accepted:
        raise click.exceptions.Exit(REFUSED)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _literal(ip: str) -> str:
    """RFC 5321 section 4.1.3."""
    if ip == "unix":
        return "localhost"
    return f"[IPv6:{ip}]" if ":" in ip else f"[{ip}]"


def _content(site: Config, sender: str, recipients: Sequence[str]) -> bytes:
    """Where none is given: the smallest that is one."""
    fields = [
        f"From: <{sender or f'MAILER-DAEMON@{site.hostname}'}>",
        f"To: {', '.join(f'<{each}>' for each in recipients)}",
        f"Date: {formatdate()}",
        f"Message-ID: <simulated@{site.hostname}>",
        "Subject: Simulated",
    ]
    return "\r\n".join((*fields, "", "Nobody gets this.", "")).encode()


def _lines(octets: bytes) -> bytes:
    """With the line ends of mail.  A file that has some of these already is taken as it lies, strays included."""
    return octets if b"\r\n" in octets else _LINE_END.sub(b"\r\n", octets)


def _run(site: Config, case: Case, offline: bool) -> Simulation:
    """Under a reactor, for the DNS and for rules that wait."""
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from mailhub.app.simulation import simulate
    from mailhub.app.time_of_day import TimeOfDay, make_steady

    loop: Any = reactor
    make_steady(loop)
    found: list[Simulation | Failure] = []

    def begin() -> None:
        done = Deferred.fromCoroutine(simulate(site, case, TimeOfDay(loop), loop, offline=offline))
        done.addBoth(found.append)
        done.addBoth(lambda _: loop.stop())

    loop.callWhenRunning(begin)
    loop.run()
    if not found:  # somebody has pressed Ctrl-C
        sys.exit(130)
    if isinstance(found[0], Failure):
        found[0].raiseException()
    assert not isinstance(found[0], Failure)
    return found[0]


# --- what is told ------------------------------------------------------------------------------------------------


def _show(simulation: Simulation) -> None:
    from mailhub.history.telling import told

    click.echo("Simulated; nothing was sent or stored.")
    for end in simulation.ends:
        click.secho(printable(_sentence(end)), bold=True)
    for note in simulation.notes:
        click.echo(f"Note: {printable(note)}")
    for name, count in simulation.remembered.items():
        click.echo(f"Note: {printable(name)} would remember {count} {'thing' if count == 1 else 'things'} of it")
    for story in (simulation.story, *simulation.further):
        click.echo()
        for line, decided in told(story):
            click.secho(line, bold=decided)


def _sentence(end: End) -> str:
    who = f"<{end.recipient}>"
    if end.address:
        who += f" (as <{end.address}>)"
    would = "would be sent" if end.verdict == "delivered" and end.text.startswith("to ") else _WOULD[end.verdict]
    joint = " " if end.verdict in ("refused", "delivered") else ": "
    return f"{who} {would}{joint}{end.text}".rstrip(" :")


def _as_json(simulation: Simulation) -> dict[str, object]:
    return {
        "accepted": simulation.is_accepted,
        "recipients": [
            {
                "recipient": end.recipient,
                "address": end.address or end.recipient,
                "verdict": end.verdict,
                "text": end.text,
            }
            for end in simulation.ends
        ],
        "story": simulation.story.as_json(),
        "further": [story.as_json() for story in simulation.further],
        "remembered": dict(simulation.remembered),
        "notes": list(simulation.notes),
    }
