"""`mailhub sendmail`: its options, what it makes of a message, the maildrop, and the hub that takes it from there."""

import errno
import io
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from mailhub.app.cli import main, sendmail
from mailhub.app.cli.sendmail_message import BadMessage, lines, mend, take_header
from mailhub.app.cli.sendmail_options import BadUsage, Invocation, parse
from mailhub.app.config import Limits, load
from mailhub.app.maildrop import GRACE_SECONDS, POLL_SECONDS, MaildropService
from mailhub.model import Address, Envelope
from mailhub.store.disk import RealDisk
from mailhub.store.maildrop import BadDrop, Drop, DropWriter, Maildrop
from mailhub.testing.accounts import Accounts
from mailhub.testing.disk import WatchedDisk
from mailhub.testing.simulated_disk import SimulatedDisk
from mailhub.testing.spool import MemorySpool
from mailhub.testing.threads import AtOnce, ThreadedClock

ME, BOB = Address("me", "h.test"), Address("bob", "example.net")
MINIMAL = """
hostname = "mx.example.test"
data = "var"
[limits]
recipients = 100
[mda]
domains = ["example.test"]
[accounts]
file = "accounts"
aliases = "aliases"
"""

# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("bob", Invocation(recipients=["bob"])),
        ("-t -i", Invocation(from_header=True, dot_ends=False)),
        ("-ti", Invocation(from_header=True, dot_ends=False)),
        ("-oi -oem -odb bob", Invocation(recipients=["bob"], dot_ends=False)),
        ("-o i bob", Invocation(recipients=["bob"], dot_ends=False)),
        ("-fme@x bob", Invocation(recipients=["bob"], sender="me@x")),
        ("-f me@x bob", Invocation(recipients=["bob"], sender="me@x")),
        (
            "-r me@x -FCronDaemon -B8BITMIME root",
            Invocation(recipients=["root"], sender="me@x", full_name="CronDaemon"),
        ),
        ("-tif me@x", Invocation(from_header=True, dot_ends=False, sender="me@x")),
        ("bob -v -- -bs --config", Invocation(recipients=["bob", "-bs", "--config"], verbose=True)),
        ("-B 8BITMIME -h 3 -L tag -O DeliveryMode=b -X /tmp/log -m -n -U -G bob", Invocation(recipients=["bob"])),
        (
            "-N never -R hdrs -V id bob",
            Invocation(recipients=["bob"], notify=frozenset({"NEVER"}), ret="HDRS", envid="id"),
        ),
        ("-Nsuccess,delay bob", Invocation(recipients=["bob"], notify=frozenset({"SUCCESS", "DELAY"}))),
        ("-bp", Invocation(mode="list")),
        ("-bs", Invocation(mode="smtp")),
        ("-bi", Invocation(mode="aliases")),
        ("-bm bob", Invocation(recipients=["bob"])),
        ("-q", Invocation(mode="flush")),
        ("-q30m", Invocation(mode="flush")),
        ("-C etc/x.toml bob", Invocation(recipients=["bob"], config="etc/x.toml")),
        ("bob --config etc/x.toml", Invocation(recipients=["bob"], config="etc/x.toml")),
        ("--config=etc/x.toml bob", Invocation(recipients=["bob"], config="etc/x.toml")),
    ],
)
def test_options(words: str, wanted: Invocation) -> None:
    assert parse(words.split()) == wanted


@pytest.mark.parametrize(
    "words", ["-bd", "-bt", "-f", "-Z", "--no-such", "-N maybe", "-N never,delay", "-R some", "-b"]
)
def test_bad_options(words: str) -> None:
    with pytest.raises(BadUsage):
        parse(words.split())


# --- the message -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "dot_ends", "wanted"),
    [
        (b"a\nb\n", True, b"a\r\nb\r\n"),
        (b"a\r\nb", True, b"a\r\nb\r\n"),
        (b"a\n.\nb\n", True, b"a\r\n"),
        (b"a\n.\nb\n", False, b"a\r\n.\r\nb\r\n"),
        (b"a\r\n.\r\nb\n", True, b"a\r\n"),
        (b"..\n. \n", True, b"..\r\n. \r\n"),
        (b"10%\r20%\r\n", True, b"10%\r\n20%\r\n"),
        (b"", True, b""),
        (b"\n", True, b"\r\n"),
    ],
)
def test_lines_get_crlf(given: bytes, dot_ends: bool, wanted: bytes) -> None:
    assert b"".join(lines(io.BytesIO(given), 1000, dot_ends)) == wanted


@pytest.mark.parametrize("given", [b"a\0b\n", b"x" * 1001, b"x" * 1001 + b"\n", b"x" * 5000 + b"\n"])
def test_lines_that_cannot_be(given: bytes) -> None:
    with pytest.raises(BadMessage):
        list(lines(io.BytesIO(given), 1000, True))
    assert b"".join(lines(io.BytesIO(b"x" * 1000 + b"\n"), 1000, True)) == b"x" * 1000 + b"\r\n"


@pytest.mark.parametrize(
    ("given", "header", "rest"),
    [
        (b"A: b\n\nc\n", b"A: b\r\n", b"\r\n"),
        (b"A: b\n c\n\nd\n", b"A: b\r\n c\r\n", b"\r\n"),
        (b"A: b\n", b"A: b\r\n", b"\r\n"),
        (b"hello there\n", b"", b"\r\nhello there\r\n"),
        (b"A: b\nhello\n", b"A: b\r\n", b"\r\nhello\r\n"),
        (b" folded\n", b"", b"\r\n folded\r\n"),
        (b"From me Sat Jan 1\nA: b\n\n", b"A: b\r\n", b"\r\n"),
        (b"", b"", b"\r\n"),
        (b"\nA: b\n", b"", b"\r\n"),
    ],
)
def test_where_the_header_ends(given: bytes, header: bytes, rest: bytes) -> None:
    assert take_header(lines(io.BytesIO(given), 1000, True)) == (header, rest)


def test_a_header_is_bounded() -> None:
    with pytest.raises(BadMessage):
        take_header(lines(io.BytesIO(b"A: b\n" * 30_000), 1000, True))


def mended(header: bytes, want: bool = True, name: str = "Me M") -> tuple[bytes, list[str]]:
    found = mend(header, "h.test", ME, name, 0.0, "id@h.test", want)
    return found.header, [str(address) for address in found.recipients]


def test_what_is_missing_is_added() -> None:
    header, _ = mended(b"Subject: x\r\n")
    assert header == (
        b'Subject: x\r\nFrom: "Me M" <me@h.test>\r\nDate: Thu, 1 Jan 1970 00:00:00 +0000\r\nMessage-ID: <id@h.test>\r\n'
    )
    assert mended(b"", name='a "b" \\ c\n')[0].startswith(b'From: "a \\"b\\" \\\\ c?" <me@h.test>\r\n')
    whole = b"From: a@x.test\r\nDate: now\r\nMessage-Id: <1@x>\r\n"
    assert mended(whole)[0] == whole


def test_recipients_are_those_of_the_header_and_bcc_goes() -> None:
    header, recipients = mended(
        b"To: a@x.test, Group: b@x.test;\r\nCc: c@x.test,\r\n\td@x.test\r\nBCC: e@x.test\r\n"
        b"Resent-Bcc:\r\nFrom: z@x.test\r\n"
    )
    assert b"e@x.test" not in header
    assert b"cc: c@x.test,\r\n\td@x.test\r\n" in header.lower()
    assert recipients == []  # a field of the second sender, though empty, makes it a second sending
    assert mended(b"To: a@x.test\r\nCc: a@x.test, b@x.test\r\nBcc: c@x.test\r\n")[1] == [
        *("a@x.test", "b@x.test", "c@x.test"),
    ]
    assert mended(b"To: a@x.test\r\nResent-To: b@x.test\r\n")[1] == ["b@x.test"]


def test_addresses_without_a_domain_get_ours() -> None:
    header, recipients = mended(b"From: root (Cron Daemon)\r\nTo: root,\r\n Bob <bob>\r\n")
    assert header.startswith(b"From: root@h.test (Cron Daemon)\r\nTo: root@h.test, Bob <bob@h.test>\r\n")
    assert recipients == ["root@h.test", "bob@h.test"]
    odd = b"From: \xff\xfe <me>\r\n"
    assert mended(odd)[0].startswith(b"From: \xff\xfe <me@h.test>\r\n")


def test_fields_that_cannot_be_read() -> None:
    with pytest.raises(BadMessage, match="To field"):
        mended(b"To: a b c\r\n")
    assert mended(b"To: a b c\r\n", want=False)[0].startswith(b"To: a b c\r\n")


# --- the command, while no hub runs ----------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "mailhub.toml"
    path.write_text(MINIMAL)
    (tmp_path / "var").mkdir(0o700)
    (tmp_path / "accounts").touch()
    (tmp_path / "aliases").touch()
    return path


def run(config: Path, words: str, message: bytes = b"Subject: x\n\nhello\n") -> int:
    return sendmail.run(["-C", str(config), *words.split()], io.BytesIO(message))


def dropped(config: Path) -> list[tuple[Drop, bytes]]:
    maildrop = Maildrop(str(config.parent / "var"), RealDisk())
    found = []
    for name in maildrop.names():
        reader = maildrop.take(name, 10**6)
        found.append((reader.drop, b"".join(iter(lambda reader=reader: reader.read(1000), b""))))
        reader.close()
    return found


def test_a_message_waits_for_the_hub(config: Path) -> None:
    assert run(config, "-f carol@example.org -N never bob@example.net team") == 0
    ((drop, content),) = dropped(config)
    assert drop == Drop(
        Address("carol", "example.org"),
        (BOB, Address("team", "example.test")),
        os.getuid(),
        frozenset({"NEVER"}),
    )
    assert content.startswith(b"Subject: x\r\nFrom: ")
    assert content.endswith(b"\r\n\r\nhello\r\n")
    assert (config.parent / "var" / "maildrop").stat().st_mode & 0o777 == 0o700


def test_bcc_is_hidden(config: Path) -> None:
    assert run(config, "-t -f <>", b"To: bob@example.net\nBcc: carol@example.net\n\nx\n") == 0
    ((drop, content),) = dropped(config)
    assert drop.reverse_path is None
    assert drop.recipients == (BOB, Address("carol", "example.net"))
    assert b"carol" not in content


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        ("", b"", os.EX_USAGE),
        ("-t", b"Subject: x\n\nTo: bob@example.net\n", os.EX_USAGE),
        ("-bd", b"", os.EX_USAGE),
        ("bob@@example.net", b"", os.EX_USAGE),
        ("-f x@y@z bob@example.net", b"", os.EX_USAGE),
        ("bob@example.net", b"a\0b\n", os.EX_DATAERR),
        ("bob@example.net", b"a\n" + b"x" * 70_000 + b"\n", os.EX_DATAERR),
        ("-t", b"To: a b\n\n", os.EX_DATAERR),
        (" ".join(f"{number}@example.net" for number in range(101)), b"", os.EX_UNAVAILABLE),
        ("-bp", b"", os.EX_UNAVAILABLE),
        ("-q", b"", os.EX_UNAVAILABLE),
        ("-bi", b"", os.EX_OK),
    ],
)
def test_exit_codes(config: Path, words: str, message: bytes, status: int) -> None:
    assert run(config, words, message) == status
    maildrop = config.parent / "var" / "maildrop"
    assert not maildrop.exists() or list(maildrop.iterdir()) == []


def test_more_exit_codes(config: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "none.toml", "bob@example.net") == os.EX_CONFIG
    big = b"Subject: x\n\n" + (b"x" * 60_000 + b"\n") * 1000
    assert run(config, "bob@example.net", big) == os.EX_UNAVAILABLE
    assert dropped(config) == []
    (tmp_path / "var" / "maildrop").rmdir()
    (tmp_path / "var").rmdir()
    assert run(config, "bob@example.net") == os.EX_TEMPFAIL


@pytest.mark.parametrize("evil", ["\x1b]0;owned\x07", "\x9b2J", "\u202eerofeb", "\x0d", "\udc9b"])
@pytest.mark.parametrize(
    "words", [["--{}"], ["-b{}"], ["{}@@x"], ["{}bob@example.net"], ["-C", "/no/{}", "bob@example.net"]]
)
def test_what_is_wrong_is_told_without_a_word_to_the_terminal(
    config: Path, words: list[str], evil: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sendmail.run(["-C", str(config), *(word.format(evil) for word in words)], io.BytesIO(b"Subject: x\n\nhello\n"))
    said = capsys.readouterr().err
    assert all(line.isprintable() for line in said.split("\n")), said


def test_each_mistake_in_the_configuration_has_its_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(MINIMAL.replace("hostname", "hoostname") + "\n[nothing]\nx = 1\n")
    assert run(config, "bob@example.net") == os.EX_CONFIG
    assert len(capsys.readouterr().err.splitlines()) >= 2


@pytest.mark.parametrize(("name", "words"), [("sendmail", ()), ("mailq", ("-bp",)), ("newaliases", ("-bi",))])
def test_a_link_is_what_its_name_says(
    name: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, config: Path
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(sendmail, "run", lambda arguments, stdin: seen.append(arguments) or 75)
    monkeypatch.setattr(sys, "argv", [f"/usr/sbin/{name}", "-x", "--", "-t"])
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 75
    assert seen == [(*words, "-x", "--", "-t")]


def test_a_dialogue_on_pipes(config: Path) -> None:
    script = (
        "EHLO here\r\nMAIL FROM:<carol@example.org>\r\nRCPT TO:<bob@example.net>\r\nRCPT TO:<postmaster>\r\n"
        "DATA\r\nSubject: x\r\n\r\n..dot\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<bob@example.net>\r\nDATA\r\nlost"
    )
    result = subprocess.run(
        [sys.executable, "-m", "mailhub", "sendmail", "-C", str(config), "-bs"],
        input=script.encode(),
        capture_output=True,
        timeout=60,
    )
    codes = [line[:3] for line in result.stdout.decode().splitlines() if line[3:4] == " "]
    assert codes == ["220", "250", "250", "250", "250", "354", "250", "250", "250", "354"]
    assert result.returncode == 0
    ((drop, content),) = dropped(config)  # the one that was cut off left nothing
    assert drop.recipients == (BOB, Address("postmaster", "example.test"))
    assert content == b"Subject: x\r\n\r\n.dot\r\n"
    assert len(list((config.parent / "var" / "maildrop").iterdir())) == 1


# --- the maildrop on disk --------------------------------------------------------------------------------------------


def leave(data: Path, disk: Any = None, content: bytes = b"Subject: x\r\n\r\nhello\r\n", **more: Any) -> str:
    (data / "maildrop").mkdir(exist_ok=True)
    drop = Drop(ME, more.pop("recipients", (BOB,)), os.getuid(), **more)
    writer = DropWriter(str(data / "maildrop"), disk or RealDisk(), drop, time.time(), os.urandom)
    writer.write(content)
    writer.commit()
    return writer.name


def test_what_is_left_is_durable_before_it_is_told(tmp_path: Path) -> None:
    disk = WatchedDisk(RealDisk())
    name = leave(tmp_path, disk)
    assert [(what, Path(path).name.lstrip(".")) for what, path in disk.trace] == [
        ("create", name),
        ("write", name),
        ("write", name),
        ("fsync", name),
        ("rename", name),
        ("fsync_directory", "maildrop"),
    ]


@pytest.mark.parametrize("operation", ["write", "fsync", "rename", "fsync_directory"])
def test_what_fails_leaves_nothing(config: Path, monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    (config.parent / "var" / "maildrop").mkdir(0o700)
    disk = WatchedDisk(RealDisk())
    disk.fail(operation, errno.ENOSPC)
    monkeypatch.setattr(sendmail, "RealDisk", lambda: disk)
    assert run(config, "bob@example.net") == os.EX_TEMPFAIL
    assert list((config.parent / "var" / "maildrop").iterdir()) == []


@pytest.mark.parametrize(
    "envelope",
    [
        b"",
        b"no json\n",
        b"[" * 10_000 + b"\n",
        b"{}\n",
        b'{"sender":"me@x.test","recipients":[],"uid":0,"notify":[],"ret":null,"envid":null}\n',
        b'{"sender":"me@x.test","recipients":["../x"],"uid":0,"notify":[],"ret":null,"envid":null}\n',
        b'{"sender":"a\\r\\nb@x.test","recipients":["a@x.test"],"uid":0,"notify":[],"ret":null,"envid":null}\n',
        b'{"sender":7,"recipients":["a@x.test"],"uid":0,"notify":[],"ret":null,"envid":null}\n',
        b'{"sender":"","recipients":["a@x.test"],"uid":0,"notify":["X"],"ret":null,"envid":null}\n',
        b'{"sender":"","recipients":["a@x.test"],"uid":0,"notify":[],"ret":"ALL","envid":null}\n',
        b'{"sender":"","recipients":["a@x.test"],"uid":0,"notify":[],"ret":null,"envid":"a\\nb"}\n',
        b'{"sender":"","recipients":["a@x.test"],"uid":1e999,"notify":[],"ret":null,"envid":null}\n',
    ],
)
def test_an_envelope_that_cannot_be_read_is_no_drop(tmp_path: Path, envelope: bytes) -> None:
    (tmp_path / "maildrop").mkdir()
    (tmp_path / "maildrop" / ("0" * 38)).write_bytes(envelope + b"Subject: x\r\n")
    with pytest.raises(BadDrop):
        Maildrop(str(tmp_path), RealDisk()).take("0" * 38, 1000)


def test_the_maildrop_is_durable_where_the_disk_failed_while_it_was_made() -> None:
    platter = SimulatedDisk(random.Random(1), ordered=False)
    disk = platter.mount()
    disk.make_directory("/srv/data")
    platter.fail("fsync_directory", errno.EIO)
    with pytest.raises(OSError, match="error"):
        Maildrop("/srv/data", disk).open(0.0)
    Maildrop("/srv/data", disk).open(0.0)
    platter.power_cut()
    assert list(platter.mount().list("/srv/data")) == ["maildrop"]


def test_links_and_pipes_are_no_drops(tmp_path: Path) -> None:
    name = leave(tmp_path)
    maildrop, directory = Maildrop(str(tmp_path), RealDisk()), tmp_path / "maildrop"
    (tmp_path / "elsewhere").write_bytes((directory / name).read_bytes())
    (directory / ("1" * 38)).symlink_to(tmp_path / "elsewhere")
    os.link(tmp_path / "elsewhere", directory / ("2" * 38))
    os.mkfifo(directory / ("3" * 38))
    (directory / ("4" * 38)).mkdir()
    for number in "1234":
        with pytest.raises(BadDrop):
            maildrop.take(number * 38, 10**6)
    with pytest.raises(BadDrop, match="octets"):
        maildrop.take(name, -(10**9))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_left_it_is_what_the_kernel_says() -> None:
    """Another user of the host may leave mail where the directory is open for that, and cannot pass for root."""
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary)
        data.chmod(0o711)
        (data / "maildrop").mkdir()
        (data / "maildrop").chmod(0o1733)
        pid = os.fork()
        if pid == 0:
            try:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
                drop = Drop(ME, (BOB,), 0)
                writer = DropWriter(str(data / "maildrop"), RealDisk(), drop, time.time(), os.urandom)
                writer.write(b"x\r\n")
                writer.commit()
            except BaseException:
                os._exit(1)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        maildrop = Maildrop(temporary, RealDisk())
        (name,) = maildrop.names()
        reader = maildrop.take(name, 10**6)
        assert reader.drop == Drop(ME, (BOB,), 65534)
        reader.close()
        maildrop.remove(name)
        assert maildrop.names() == []


# --- the hub takes it ------------------------------------------------------------------------------------------------


class Bench:
    """The service on a real directory, with a queue in memory and time that stands still."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.clock = ThreadedClock()
        self.disk = WatchedDisk(RealDisk())
        self.spool = MemorySpool(self.clock, random.Random(1))
        self.accounts = Accounts(aliases={"team@example.test": ["alice@example.test", "carol@example.org"]})
        self.events: list[tuple[str, dict[str, object]]] = []
        self.limits = Limits(recipients=100)
        self.service = self.make()
        Deferred.fromCoroutine(self.spool.open())

    def make(self) -> MaildropService:
        return MaildropService(
            Maildrop(str(self.data), self.disk),
            self.spool,
            self.accounts,
            AtOnce(),
            self.clock,
            self,
            "mx.example.test",
            lambda: self.limits,
        )

    def record(self, kind: str, session_id: str = "", queue_id: str = "", **facts: object) -> None:
        """As IHistory."""
        self.events.append((kind, facts))

    def start(self) -> None:
        self.clock.run_until(self.service.startService())

    def crash(self) -> None:
        """The process is gone; what is on disk is there."""
        self.service.running = 0
        self.spool.restart()
        self.service = self.make()

    def queued(self) -> list[Envelope]:
        return list(self.clock.run_until(self.spool.list(100)))

    def files(self) -> list[str]:
        return sorted(path.name for path in (self.data / "maildrop").iterdir())

    def due(self) -> int:
        return len(self.clock.run_until(self.spool.claim(self.clock.seconds(), 100)))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path)
    yield one
    one.clock.run_until(one.service.stopService())
    assert one.clock.getDelayedCalls() == []


def test_it_is_queued_as_it_was_left(bench: Bench) -> None:
    name = leave(bench.data, content="Subject: ü\r\nBcc: x@y.test\r\n\r\nhello\r\n".encode(), ret="HDRS", envid="e")
    bench.start()
    (envelope,) = bench.queued()
    assert (envelope.reverse_path, [one.address for one in envelope.recipients]) == (ME, [BOB])
    assert envelope.session_id == f"drop-{name}"
    assert (envelope.parameters.body, envelope.parameters.ret, envelope.parameters.envid) == ("8BITMIME", "HDRS", "e")
    assert bench.spool.content(envelope.queue_id) == "Subject: ü\r\n\r\nhello\r\n".encode()
    assert envelope.prefix.startswith(
        f"Received: by mx.example.test (mailhub, from userid {os.getuid()})\r\n\tid {envelope.queue_id}".encode()
    )
    assert b"\r\nFrom: <me@h.test>\r\nDate: " in envelope.prefix
    assert bench.files() == []
    assert bench.due() == 1
    assert bench.events[0][0] == "queued"
    assert bench.events[0][1]["uid"] == os.getuid()


def test_aliases_are_resolved_and_nobody_is_left_to_the_runner(bench: Bench) -> None:
    leave(bench.data, recipients=(Address("team", "example.test"), Address("nobody", "example.test")))
    bench.start()
    (envelope,) = bench.queued()
    assert [(str(one.address), str(one.forwarded_by)) for one in envelope.recipients] == [
        ("alice@example.test", "None"),
        ("carol@example.org", "team@example.test"),
        ("nobody@example.test", "None"),
    ]


def test_it_looks_by_itself_and_when_told(bench: Bench) -> None:
    bench.start()
    leave(bench.data)
    assert bench.queued() == []
    bench.clock.advance(POLL_SECONDS)
    assert len(bench.queued()) == 1
    leave(bench.data)
    bench.service.nudge()
    assert len(bench.queued()) == 2


def test_a_message_that_cannot_be_taken_now_stays(bench: Bench) -> None:
    bench.start()
    leave(bench.data, recipients=(Address("team", "example.test"),))
    for trouble, mend_ in (("full", False), ("available", True)):
        target = bench.spool if trouble == "full" else bench.accounts
        setattr(target, trouble, not mend_)
        bench.clock.advance(POLL_SECONDS)
        assert (bench.queued(), len(bench.files()), bench.spool.drafts_open) == ([], 1, 0)
        setattr(target, trouble, mend_)
    bench.clock.advance(POLL_SECONDS)
    assert len(bench.queued()) == 1


@pytest.mark.parametrize(
    "content", [b"a\nb\r\n", b"a\0\r\n", b"x" * 70_000 + b"\r\n", b"A: b\rc\r\n\r\n", b"Received: x\r\n" * 60 + b"\r\n"]
)
def test_what_is_of_no_use_is_set_aside(bench: Bench, content: bytes) -> None:
    name = leave(bench.data, content=content)
    bench.start()
    assert bench.queued() == []
    assert bench.files() == []
    assert (bench.data / "maildrop-set-aside" / name).exists()
    assert [kind for kind, _ in bench.events] == ["refused"]
    assert bench.spool.drafts_open == 0


def test_what_cannot_even_be_set_aside_is_told_once(bench: Bench) -> None:
    (bench.data / "maildrop" / ("4" * 38)).mkdir(parents=True)
    bench.disk.fail("rename", errno.EACCES)
    bench.start()
    bench.disk.trace.clear()
    bench.clock.advance(POLL_SECONDS)
    assert bench.disk.trace == []


def test_a_crash_before_the_file_is_gone_makes_no_second_message(bench: Bench) -> None:
    leave(bench.data)
    bench.disk.fail("unlink", errno.EIO)
    bench.start()
    (envelope,) = bench.queued()
    assert len(bench.files()) == 1
    assert bench.due() == 0  # nobody can have delivered it, so the queue still knows it
    bench.crash()
    bench.start()
    assert bench.queued() == [envelope]
    assert bench.files() == []
    bench.clock.advance(GRACE_SECONDS)
    assert bench.due() == 1


def test_a_file_that_stays_is_not_taken_again(bench: Bench) -> None:
    leave(bench.data)
    bench.disk.fail("unlink", errno.EIO)
    bench.start()
    bench.disk.fail("unlink", errno.EIO)
    bench.clock.advance(POLL_SECONDS)
    assert (len(bench.queued()), len(bench.files())) == (1, 1)
    bench.clock.advance(POLL_SECONDS)
    assert (len(bench.queued()), len(bench.files())) == (1, 0)


def test_a_crash_before_the_commit_takes_it_later(bench: Bench) -> None:
    leave(bench.data)
    bench.spool.is_slow = True
    bench.start()
    assert bench.queued() == []
    bench.spool.is_slow = False
    bench.crash()
    bench.start()
    assert len(bench.queued()) == 1
    assert bench.files() == []


def test_unfinished_files_go_after_a_day(bench: Bench) -> None:
    (bench.data / "maildrop").mkdir()
    old, new = (bench.data / "maildrop" / f".{digit * 38}" for digit in "12")
    for path, age in ((old, 90_000), (new, 100)):
        path.touch()
        os.utime(path, (bench.clock.seconds() - age,) * 2)
    bench.start()
    assert bench.files() == [new.name]


# --- all of it -------------------------------------------------------------------------------------------------------


def test_with_a_real_hub(start: Callable[..., Any], tmp_path: Path) -> None:
    """Left while the hub was down, taken at its start; asked and told while it runs; once each."""
    hub = start()
    assert load(hub.config).limits
    hub.stop()
    assert run(hub.config, "-F Robot alice", b"Subject: down\n\n.x\n") == 0
    hub = start()
    assert run(hub.config, "nobody@example.test") == os.EX_NOUSER
    assert run(hub.config, "-t", b"To: team\nSubject: up\n\nhello\n") == 0
    link = tmp_path / "sendmail"
    link.symlink_to(Path(sys.executable).parent / "mailhub")
    environ: Mapping[str, str] = {**os.environ, "MAILHUB_CONFIG": str(hub.config)}
    done = subprocess.run([link, "-i", "alice"], input=b"Subject: link\n\nhello\n", env=environ, timeout=60)
    assert done.returncode == 0
    ends_at = time.monotonic() + 20
    while len(hub.messages("alice@example.test")) < 3 and time.monotonic() < ends_at:
        time.sleep(0.02)
    subjects = sorted(
        line for message in hub.messages("alice@example.test") for line in message.split(b"\r\n") if b"Subject" in line
    )
    assert subjects == [b"Subject: down", b"Subject: link", b"Subject: up"]
    (first,) = [message for message in hub.messages("alice@example.test") if b"Subject: down" in message]
    assert f"Received: by mx.example.test (mailhub, from userid {os.getuid()})".encode() in first
    assert b'From: "Robot" <' in first
    assert first.endswith(b"\r\n\r\n.x\r\n")
    assert list((hub.directory / "var" / "maildrop").iterdir()) == []
