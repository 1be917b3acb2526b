"""`mailhub demo`: a hub and a few scripted remote hosts in one process, and six mails that show what it does.

The rule: nothing leaves this machine, and nothing stays on it.  Whatever listens does so on 127.0.0.1, whatever is for
others goes to hosts of ours, whatever is written lies in one temporary directory, which is removed at the end.
"""

from __future__ import annotations

import re
import shlex
import shutil
import smtplib
import ssl
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react
from twisted.internet.threads import deferToThreadPool

from mailhub.app import sample
from mailhub.app.config import Config, load
from mailhub.app.launcher import Launcher, StartError
from mailhub.app.service import ROLES
from mailhub.app.time_of_day import make_steady
from mailhub.app.tree import Hub
from mailhub.history.pages import HistoryUnreadable, Pages
from mailhub.history.question import Question, ask
from mailhub.history.story import Story
from mailhub.history.telling import told
from mailhub.model import Address, reply
from mailhub.testing.remote_mta import RemoteMta

Value = TypeVar("Value")

ALICE, BOB, CAROL = "alice@example.test", "bob@example.test", "carol@client.example"
JOE = "joe@far.example"
#: How long anything is waited for.
PATIENCE_SECONDS = 15.0
LOOK_SECONDS = 0.1
#: The greylisted client comes back after this; the rule of the demo wants one second.
COME_BACK_SECONDS = 1.3
REMOTE_HOSTS = ("far", "slow", "relay")

CONFIGURATION = """\
# The hub of `mailhub demo`.  It is removed with its directory.
hostname = "mail.example.test"
data = "var"
[mta]
listen = ["tcp:0:interface=127.0.0.1"]
greet_delay = "0s"
[[mta.policy]]
use = "greylist"
seconds = "1s"
trust_after = 1
[msa]
listen = ["tcp:0:interface=127.0.0.1"]
listen_tls = ["tcp:0:interface=127.0.0.1"]
[mda]
domains = ["example.test"]
[accounts]
file = "accounts"
aliases = "aliases"
[queue]
retry = ["1s", "10s"]
# The hosts of others are scripted, and live in the process of the hub.  The last one takes whatever is sent to it.
[[route]]
domain = "far.example"
to = "smtp:127.0.0.1:{far}"
[[route]]
domain = "slow.example"
to = "smtp:127.0.0.1:{slow}"
[outbound]
smarthost = "smtp:127.0.0.1:{relay}"
[dns]
servers = ["127.0.0.1:9"]
"""
ALIASES = f"""\
postmaster: {ALICE}
abuse: {ALICE}
friends: {JOE}
"""
MESSAGE = "From: {sender}\r\nTo: {recipient}\r\nSubject: {subject}\r\n\r\nHello.\r\n"


@dataclass(frozen=True)
class Shown:
    """What became of one mail: its stories, whether it went as it should, and what else there is to see."""

    is_right: bool
    stories: Sequence[Story]
    more: str = ""


class _Waiting(Launcher):
    """Nobody launches this hub but us: we wait for it."""

    def __init__(self) -> None:
        super().__init__({})
        self.serves: Deferred[None] = Deferred()

    def started(self) -> None:
        self.serves.callback(None)

    def failed(self, cause: str) -> StartError:
        self.serves.errback(StartError(cause))
        return super().failed(cause)


@dataclass
class Demo:
    """The hub in `directory`, and the world around it."""

    reactor: Any
    directory: Path
    remotes: dict[str, RemoteMta] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    hub: Hub = field(init=False)
    config: Config = field(init=False)

    # --- the stage ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises what the start of a hub raises."""
        make_steady(self.reactor)
        places = {}
        for name in REMOTE_HOSTS:
            remote = self.remotes[name] = RemoteMta(self.reactor, f"mx.{name}.example")
            places[name] = self.reactor.listenTCP(0, remote, interface="127.0.0.1").getHost().port
        self.remotes["slow"].at("rcpt", reply(451, "4.7.1", "Too busy, come back later"), times=1)
        self.remotes["far"].at("rcpt", reply(550, "5.1.1", "No such user"), when=_is_nobody)
        (self.directory / "mailhub.toml").write_text(CONFIGURATION.format(**places))
        (self.directory / "aliases").write_text(ALIASES)
        self.config = load(self.directory / "mailhub.toml")
        self.config.data.mkdir()
        await self._in_thread(sample.make_accounts, self.config)
        for line in (self.config.data / sample.DEMO_ACCOUNTS).read_text().splitlines():
            login, _, password = line.partition(" ")
            self.passwords[login] = password
        chosen = frozenset(ROLES) - {"lmtp"}
        launcher = _Waiting()
        self.hub = Hub(self.config, chosen, self.reactor, {}, launcher)
        self.reactor.addSystemEventTrigger("before", "shutdown", self.hub.stopService)
        self.hub.privilegedStartService()
        self.hub.startService()
        await launcher.serves
        for role in self.hub.roles:
            for listener in role.listeners:
                self.ports[listener.role] = int(getattr(listener.addresses[0], "port", 0))

    async def _in_thread(self, function: Callable[..., Value], *arguments: object) -> Value:
        pool = self.reactor.getThreadPool()
        work: Awaitable[Value] = deferToThreadPool(self.reactor, pool, function, *arguments)
        return await work

    async def _until(self, look: Callable[[], Value | None], otherwise: str) -> Value:
        """What `look` finds, once it finds something.  Raises TimeoutError with the words of `otherwise`."""
        ends_at = self.reactor.seconds() + PATIENCE_SECONDS
        while (found := look()) is None:
            if self.reactor.seconds() > ends_at:
                raise TimeoutError(otherwise)
            await deferLater(self.reactor, LOOK_SECONDS)
        return found

    # --- those who write ---------------------------------------------------------------------------------------

    async def send(self, sender: str, recipient: str, subject: str, login: str = "") -> str:
        """The queue id that the hub gave the mail, or its refusal."""
        return await self._in_thread(self._send, sender, recipient, subject, login)

    def _send(self, sender: str, recipient: str, subject: str, login: str) -> str:
        port = self.ports["msa" if login else "mta"]
        with smtplib.SMTP("127.0.0.1", port, "client.example", PATIENCE_SECONDS) as client:
            client.ehlo()
            if login:
                client.starttls(context=self._tls())
                client.login(login, self.passwords[login])
            client.mail(sender)
            code, text = client.rcpt(recipient)
            if code == 250:
                code, text = client.data(MESSAGE.format(sender=sender, recipient=recipient, subject=subject).encode())
        said = text.decode("ascii", "replace")
        queued = re.search(r"Queued as (\w+)", said)
        return queued[1] if code == 250 and queued else f"{code} {said}"

    def _tls(self) -> ssl.SSLContext:
        """The certificate of the hub is believed for what it is: that of the hub that we have just made."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.config.tls_directory / "self-signed.crt")
        return context

    # --- what became of it -------------------------------------------------------------------------------------

    async def story(self, word: str, verdict: str, refused: bool = False, fact: str = "") -> Story:
        """The story of this, as `mailhub why` tells it, once it has come to this verdict and an event has this fact; or
        as it stands then."""
        question = Question(frozenset({word}), refused=refused)
        last: list[Story] = []

        def look() -> Story | None:
            try:
                pages = Pages(self.config.history.file)
            except HistoryUnreadable:
                return None
            try:
                last[:] = ask(pages, question).stories
            finally:
                pages.close()
            if last and last[0].verdict == verdict and (not fact or last[0].first(fact)):
                return last[0]
            return None

        try:
            return await self._until(look, f"{word} is not {verdict}")
        except TimeoutError:
            return last[0] if last else Story(word, ())

    # --- the six mails -----------------------------------------------------------------------------------------

    async def delivered(self) -> Shown:
        queue_id = await self.send(ALICE, BOB, "Lunch", login=ALICE)
        story = await self.story(queue_id, "delivered")
        return Shown(story.verdict == "delivered" and len(self.inbox(BOB)) >= 1, [story])

    async def relay(self) -> Shown:
        said = await self.send("spammer@client.example", "victim@elsewhere.example", "Buy now")
        story = await self.story("victim@elsewhere.example", "refused")
        return Shown(said.startswith("550 5.7.1") and story.verdict == "refused", [story])

    async def greylisted(self) -> Shown:
        said = await self.send(CAROL, BOB, "Hello, Bob")
        refused = await self.story(BOB, "refused", refused=True)
        await deferLater(self.reactor, COME_BACK_SECONDS)
        queue_id = await self.send(CAROL, BOB, "Hello, Bob")
        story = await self.story(queue_id, "delivered")
        return Shown(said.startswith("450 4.7.1") and story.verdict == "delivered", [refused, story])

    async def deferred(self) -> Shown:
        queue_id = await self.send(ALICE, "ann@slow.example", "Are you there?", login=ALICE)
        story = await self.story(queue_id, "delivered")
        was_deferred = any(event.kind == "deferred" for event in story.events)
        return Shown(was_deferred and story.verdict == "delivered" and self._has("slow"), [story])

    async def bounced(self) -> Shown:
        queue_id = await self.send(ALICE, "nobody@far.example", "Who are you?", login=ALICE)
        # The sender is told when it has failed, which is an event of its own.
        story = await self.story(queue_id, "failed", fact="notification")
        told_in = story.first("notification")
        if not told_in:
            return Shown(False, [story])
        notification = await self.story(str(told_in), "delivered")
        is_home = notification.recipients == (ALICE,) and len(self.inbox(ALICE)) == 1
        return Shown(
            story.verdict == "failed" and notification.verdict == "delivered" and is_home, [story, notification]
        )

    async def forwarded(self) -> Shown:
        queue_id = await self.send(CAROL, "friends@example.test", "To all of you")
        story = await self.story(queue_id, "delivered")
        senders = [str(message.reverse_path) for message in self.remotes["far"].messages]
        is_rewritten = any(each.startswith("SRS0=") and each.endswith("@example.test") for each in senders)
        more = f"The other host got it from {' '.join(f'<{each}>' for each in senders)}."
        return Shown(story.verdict == "delivered" and is_rewritten, [story], more)

    def _has(self, remote: str) -> bool:
        return any(message.is_acknowledged for message in self.remotes[remote].messages)

    def inbox(self, address: str) -> list[Path]:
        return list((self.maildir(address) / "new").glob("*"))

    def maildir(self, address: str) -> Path:
        local, _, domain = address.partition("@")
        return Path(self.config.mda.maildir.replace("{domain}", domain).replace("{local}", local))

    async def show(self) -> bool:
        """The six, told in their order; whether all went as they should.  They run beside each other."""
        begun_at = self.reactor.seconds()
        greylisted = _begin(self.greylisted())

        async def forwarded() -> Shown:
            await _done(greylisted)  # from then on the client is known, and need not come back
            return await self.forwarded()

        acts: list[tuple[str, Deferred[Shown]]] = [
            ("Delivered: alice logs in and writes to bob.", _begin(self.delivered())),
            ("Refused as relay: a stranger wants to send to another stranger through us.", _begin(self.relay())),
            ("Greylisted, then accepted: carol's server is new here, and comes back.", greylisted),
            ("Deferred, then delivered: the other host is too busy at first.", _begin(self.deferred())),
            ("Bounced: the other host does not know the recipient, and alice is told.", _begin(self.bounced())),
            ("Forwarded: an alias of ours leads outside, so the sender is rewritten (SRS).", _begin(forwarded())),
        ]
        wrong = 0
        try:
            for number, (title, act) in enumerate(acts, 1):
                wrong += not _show(number, title, await act)
        finally:
            for _, act in acts:  # where nobody reads on, what is still under way interests nobody
                act.addErrback(lambda _: None)
        took = self.reactor.seconds() - begun_at
        click.echo(f"All six went as they should, in {took:.1f} s." if not wrong else f"{wrong} of six went wrong.")
        return not wrong

    # --- going on ----------------------------------------------------------------------------------------------

    def to_try(self) -> Iterator[str]:
        """How to go on playing; the lines can be pasted into a shell as they are."""
        config = self.directory / "mailhub.toml"
        mailhub = "mailhub" if shutil.which("mailhub") else f"{shlex.quote(sys.executable)} -m mailhub"
        mta, msa = (f"127.0.0.1:{self.ports[role]}" for role in ("mta", "msa"))
        yield "The hub runs on, until you press Ctrl-C; then all of it is removed."
        yield ""
        yield f"    mail from the world (MTA)         {mta}"
        yield f"    mail from users, STARTTLS (MSA)   {msa}"
        yield f"    mail from users, TLS (MSA)        127.0.0.1:{self.ports['msa-tls']}"
        for login, password in self.passwords.items():
            yield f"    login                             {login} {password}"
        yield f"    configuration                     {config}"
        yield ""
        yield "Try, in another terminal:"
        yield f"    swaks --server {mta} --from {CAROL} --to {BOB}"
        yield (
            f"    swaks --server {msa} --tls --auth PLAIN --auth-user {ALICE} --auth-password {self.passwords[ALICE]} "
            f"--from {ALICE} --to somebody@anywhere.example"
        )
        yield f"    {mailhub} why --config {config}"
        yield f"    {mailhub} why --refused --config {config}"
        yield f"    {mailhub} queue list --config {config}"
        yield f"    {mailhub} simulate --from {CAROL} --to friends@example.test --ip 127.0.0.1 --config {config}"
        yield f"    cat {self.maildir(BOB)}/new/*"
        yield ""
        yield "nobody@far.example does not exist, slow.example is busy no more, and all other domains take everything."


def _show(number: int, title: str, shown: Shown) -> bool:
    """Tell one act; whether it went as it should."""
    click.secho(f"{number}. {title}", bold=True)
    for story in shown.stories:
        click.echo()
        for line, decided in told(story):
            click.secho(f"    {line}".rstrip(), bold=decided)
    if shown.more:
        click.echo(f"\n    {shown.more}")
    if not shown.is_right:
        click.secho("    This is not how it should have gone.", fg="red")
    click.echo()
    sys.stdout.flush()
    return shown.is_right


def _is_nobody(recipient: Address) -> bool:
    return recipient.local == "nobody"


def _begin(act: Any) -> Deferred[Shown]:
    return Deferred.fromCoroutine(act)


async def _done(act: Deferred[Any]) -> None:
    """When this has ended, however it did; whoever else waits for it gets its result."""
    ended: Deferred[None] = Deferred()

    def tell(result: Any) -> Any:
        ended.callback(None)
        return result

    act.addBoth(tell)
    await ended


async def _play(reactor: Any, directory: Path, once: bool) -> None:
    demo = Demo(reactor, directory)
    await demo.start()
    is_right = await demo.show()
    if once:
        if not is_right:
            raise SystemExit(1)
        return
    click.echo()
    for line in demo.to_try():
        click.echo(line)
    sys.stdout.flush()
    await Deferred()  # until Ctrl-C


@click.command()
@click.option("--once", is_flag=True, help="End after the six mails.")
def main(once: bool) -> None:
    """The program behind `mailhub demo`."""
    with tempfile.TemporaryDirectory(prefix="mailhub-demo-") as directory:
        unread: list[BrokenPipeError] = []
        try:
            react(lambda reactor: Deferred.fromCoroutine(_until_unread(_play(reactor, Path(directory), once), unread)))
        finally:
            for error in unread:
                raise error  # click knows how a command ends that nobody listens to


async def _until_unread(play: Coroutine[Any, Any, None], unread: list[BrokenPipeError]) -> None:
    """`react` would log that nobody reads what we tell, as `head` does once it has its lines."""
    try:
        await play
    except BrokenPipeError as error:
        unread.append(error)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main(prog_name="mailhub demo")
