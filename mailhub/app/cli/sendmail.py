"""`mailhub sendmail`, also as a link named `sendmail`: how programs of the host send mail.

The message is left in the maildrop, whether the hub runs or not, and a hub that runs is told.  The rule: exit status 0
means that the message is on disk, and will be delivered or its sender told.  Every other status is one of sysexits(3),
and then nothing was taken.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import click

from mailhub.app.cli import config_option
from mailhub.app.cli.control_client import NoAnswer, Refused, ask
from mailhub.app.cli.sendmail_message import BadMessage, lines, mend, take_header
from mailhub.app.cli.sendmail_options import BadUsage, Invocation, parse
from mailhub.history.plain import printable
from mailhub.model import Address, ReversePath
from mailhub.store.disk import RealDisk
from mailhub.store.maildrop import NAME, Drop, DropWriter
from mailhub.wire.smtp.grammar import parse_address

if TYPE_CHECKING:
    from mailhub.app.cli.every_worker import EveryWorker
    from mailhub.app.config import Config

DEFAULT_CONFIG = "/etc/mailhub/mailhub.toml"
#: How long the hub may take to say whether a recipient exists; then the message goes without.
VERIFY_SECONDS_MAX = 3.0
#: Addresses are asked for so many at once; a request has room for that.
VERIFY_MAX = 150
#: Written to the file at once.
BUFFER_OCTETS = 256 * 1024


class Fault(Exception):
    """The message is not taken.  `status` is of sysexits(3)."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Command(click.Command):
    """A command whose words are for `sendmail_options` alone."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args == ["--help"]:
            return super().parse_args(ctx, args)
        ctx.params = {"arguments": tuple(args), "config": None}
        return []


@click.command(cls=_Command, context_settings={"help_option_names": ["--help"]})
@click.argument("arguments", metavar="[OPTIONS] [RECIPIENT]...", nargs=-1)
@config_option
def sendmail(arguments: tuple[str, ...], config: str | None) -> None:
    """Send the message on standard input to the recipients, as other mail systems' sendmail does.

    \b
    Examples:
      mailhub sendmail -i bob@example.org < message.eml
      mailhub sendmail -t -f noreply@example.org < message.eml
      ln -s "$(command -v mailhub)" /usr/sbin/sendmail        (also as mailq and newaliases)

    \b
    -t            recipients are those of To, Cc and Bcc; Bcc is removed
    -i, -oi       a line with a dot alone does not end the message
    -f, -r ADDR   the sender for the envelope; "<>" is nobody
    -F NAME       the full name for a From field that has to be made
    -N WORDS      never, or success,failure,delay: what the sender is told (RFC 3461)
    -R full|hdrs  how much of the message comes back in a notification
    -V ID         the envelope id in notifications
    -bp, -q       as `mailhub queue list` and `mailhub queue flush`
    -bs           speak SMTP on standard input and output
    -C FILE       as --config FILE

    Works also while the hub does not run.  Options for other mail systems are ignored.  Exit status as in sysexits(3):
    64 the call is wrong, 65 the message is, 67 nobody is there, 69 not possible, 75 try again, 77 not allowed, 78 the
    configuration is wrong.
    """
    raise SystemExit(run(arguments, sys.stdin.buffer))


def run(arguments: Sequence[str], stdin: BinaryIO) -> int:
    """Do what was asked for; the exit status."""
    try:
        asked = parse(arguments)
        path = asked.config or os.environ.get("MAILHUB_CONFIG") or DEFAULT_CONFIG
        if asked.mode == "list":
            return _list(path)
        if asked.mode == "flush":
            return _flush(path)
        if asked.mode == "aliases":
            return os.EX_OK  # they are read again whenever they change
        config = _load(path)
        if asked.mode == "smtp":
            from mailhub.app.cli.sendmail_smtp import serve

            return serve(config, stdin, sys.stdout.buffer)
        _send(asked, config, stdin)
    except BadUsage as error:
        return _told(os.EX_USAGE, str(error))
    except BadMessage as error:
        return _told(os.EX_DATAERR, str(error))
    except Fault as fault:
        return _told(fault.status, str(fault))
    return os.EX_OK


def _told(status: int, text: str) -> int:
    """Each line of the text, made fit for a terminal: addresses in it are a stranger's, as in what a web form sends."""
    click.echo("\n".join(map(printable, f"sendmail: {text}".split("\n"))), err=True)
    return status


def _list(path: str) -> int:
    from mailhub.app.cli.every_worker import EveryWorker
    from mailhub.app.cli.queue import show_list

    every = EveryWorker(_load(path))
    try:
        show_list(every, every.list_messages())
    except (NoAnswer, Refused) as error:
        raise Fault(os.EX_UNAVAILABLE, str(error)) from None
    return _missing(every)


def _flush(path: str) -> int:
    from mailhub.app.cli.every_worker import EveryWorker

    every = EveryWorker(_load(path))
    try:
        for _ in every.steer(operation="retry", everything=True):
            pass
    except (NoAnswer, Refused) as error:
        raise Fault(os.EX_UNAVAILABLE, str(error)) from None
    return _missing(every)


def _missing(every: EveryWorker) -> int:
    """The exit status, when those have answered that run."""
    if every.missing:
        raise Fault(os.EX_UNAVAILABLE, "; ".join(every.missing.values()))
    return os.EX_OK


def _load(path: str) -> Config:
    from mailhub.app.config import load
    from mailhub.app.config_errors import ConfigError

    try:
        return load(path)
    except ConfigError as error:
        raise Fault(os.EX_CONFIG, str(error)) from None


# --- one message -----------------------------------------------------------------------------------------------------


def _send(asked: Invocation, config: Config, stdin: BinaryIO) -> None:
    """Raises Fault, BadUsage and BadMessage."""
    me = _Me()
    origin = origin_of(config)
    reverse_path = _reverse_path(asked, me, origin)
    recipients = [_address(text, origin) for text in asked.recipients]
    if not recipients and not asked.from_header:
        raise BadUsage("no recipients; give them, or -t to take them from the header")
    now = time.time()
    source = lines(stdin, config.limits.line_octets, asked.dot_ends)
    header, rest = take_header(source)
    mended = mend(
        header,
        origin,
        reverse_path or Address(me.name, origin),
        me.full_name if asked.full_name is None else asked.full_name,
        now,
        f"{int(now * 1_000_000):x}.{os.urandom(8).hex()}@{config.hostname}",
        asked.from_header,
    )
    if asked.from_header:
        recipients += mended.recipients
    every = tuple(dict.fromkeys(recipients))
    if not every:
        raise BadUsage("no recipients: the header names none in To, Cc or Bcc")
    if len(every) > config.limits.recipients:
        raise Fault(os.EX_UNAVAILABLE, f"{len(every)} recipients, and {config.limits.recipients} are allowed")
    verify(config.data, every)
    leaving = Leaving(config, reverse_path, every, asked.notify, asked.ret, asked.envid)
    try:
        leaving.write(mended.header + rest)
        for line in source:
            leaving.write(line)
        leaving.commit()
    finally:
        leaving.discard()
    collect(config.data)


class _Me:
    """The user who calls: by the real user id, which nobody can lie about."""

    def __init__(self) -> None:
        self.uid = os.getuid()
        try:
            entry = pwd.getpwuid(self.uid)
        except KeyError:
            self.name, gecos = f"uid-{self.uid}", ""
        else:
            self.name, gecos = entry.pw_name, entry.pw_gecos
        self.full_name = os.environ.get("NAME") or gecos.partition(",")[0].replace("&", self.name.capitalize())


def origin_of(config: Config) -> str:
    """The domain of addresses that have none: our first, so that root's mail stays here; else our name."""
    return config.mda.domains[0] if config.mda.domains else config.hostname


def _reverse_path(asked: Invocation, me: _Me, origin: str) -> ReversePath:
    if asked.sender is None:
        return _address(me.name, origin)
    return None if asked.sender.strip() in ("", "<>") else _address(asked.sender, origin)


def _address(text: str, origin: str) -> Address:
    """An address of the command line, where one without a domain is ours.  Raises BadUsage."""
    text = text.strip()
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1]
    try:
        return parse_address(text if "@" in text else f"{text}@{origin}")
    except ValueError as error:
        raise BadUsage(str(error)) from None


def verify(data: Path, recipients: Sequence[Address]) -> None:
    """Ask the hub, if it can be asked, whether anybody is there at all.  Raises Fault if it says that nobody is.

    If some are there the message goes to them, and its sender is told about the others.
    """
    if len(recipients) > VERIFY_MAX:
        return
    try:
        answers = list(ask(data, "verify", VERIFY_SECONDS_MAX, recipients=[str(one) for one in recipients]))
    except (NoAnswer, Refused):
        return
    refused = {answer["refused"]: answer["reply"] for answer in answers if "refused" in answer}
    if len(refused) == len(recipients):
        raise Fault(os.EX_NOUSER, "; ".join(f"{one}: {reply}" for one, reply in refused.items()))


def collect(data: Path) -> None:
    """Tell the hub, if it can be told, that there is something in the maildrop."""
    try:
        for _ in ask(data, "collect", VERIFY_SECONDS_MAX):
            pass
    except (NoAnswer, Refused):
        pass  # it looks by itself


class Leaving:
    """A message on its way into the maildrop: durable when `commit` has returned.  Every method may raise Fault."""

    def __init__(
        self,
        config: Config,
        reverse_path: ReversePath,
        recipients: tuple[Address, ...],
        notify: frozenset[str] = frozenset(),
        ret: str | None = None,
        envid: str | None = None,
    ) -> None:
        self._config = config
        self._octets_left = config.limits.message_octets
        self._buffer = bytearray()
        directory = config.data / NAME
        disk = RealDisk()
        try:
            _make(directory, disk)
            drop = Drop(reverse_path, recipients, os.getuid(), notify, ret, envid)
            self._writer = DropWriter(str(directory), disk, drop, time.time(), os.urandom)
        except OSError as error:
            self._failed(error)

    def write(self, octets: bytes) -> None:
        self._octets_left -= len(octets)
        if self._octets_left < 0:
            raise Fault(os.EX_UNAVAILABLE, f"the message has more than {self._config.limits.message_octets} octets")
        self._buffer += octets
        if len(self._buffer) >= BUFFER_OCTETS:
            self._flush()

    def _flush(self) -> None:
        try:
            self._writer.write(bytes(self._buffer))
        except OSError as error:
            self._failed(error)
        self._buffer.clear()

    def commit(self) -> None:
        """Only when this has returned may anybody be told that the message is ours."""
        self._flush()
        try:
            self._writer.commit()
        except OSError as error:
            self._failed(error)

    def discard(self) -> None:
        """Leave nothing behind.  Harmless after commit and when repeated."""
        try:
            self._writer.discard()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> NoReturn:
        if isinstance(error, PermissionError):
            why = f"user {_Me().name} may not leave messages in {self._config.data / NAME}"
            raise Fault(os.EX_NOPERM, why) from None
        if isinstance(error, FileNotFoundError):
            raise Fault(os.EX_TEMPFAIL, f"there is no directory {self._config.data}; has the hub ever run?") from None
        raise Fault(os.EX_TEMPFAIL, f"the message cannot be kept now: {error.strerror or error}") from None


def _make(directory: Path, disk: RealDisk) -> None:
    """The maildrop, if the hub has never run: for the owner of the data directory alone, as the hub makes it."""
    owner = directory.parent.stat()
    if directory.exists():
        # Who made it may have died, or met a fault, before its name was durable.  If we may not look, it was the hub.
        with contextlib.suppress(PermissionError):
            disk.fsync_directory(str(directory.parent))
        return
    disk.make_directory(str(directory))
    if os.geteuid() == 0:
        os.chown(directory, owner.st_uid, owner.st_gid, follow_symlinks=False)
