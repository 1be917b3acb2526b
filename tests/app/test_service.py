"""A hub as a process: how it starts, tells that it cannot, reloads, becomes somebody else, and stops."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import select
import signal
import socket
import sqlite3
import ssl
import stat
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import mailhub
import twisted
from tests.conftest import PROGRAM, until

TWISTD = str(Path(sys.executable).parent / "twistd")
SECONDS_MAX = 30.0
BODY = "Subject: hello\r\n\r\nHello.\r\n"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: becoming another user needs root")


# --- small tools -----------------------------------------------------------------------------------------------------


def write(directory: Path, more: str = "", mta: str = "tcp:0:interface=127.0.0.1", top: str = "") -> Path:
    """A configuration with one account, alice, who has no password; `top` stands above the tables."""
    (directory / "accounts").write_text("alice@example.test:x::::::\n")
    config = directory / "mailhub.toml"
    config.write_text(
        f'hostname = "mx.example.test"\ndata = "var"\n{top}\n[mta]\nlisten = ["{mta}"]\ngreet_delay = "0s"\n'
        f'[mda]\ndomains = ["example.test"]\n[accounts]\nfile = "accounts"\n{more}\n'
    )
    return config


def run(
    config: Path, *arguments: str, twistd: tuple[str, ...] = ("-n",), program: Sequence[str] = (TWISTD,), **options: Any
) -> Any:
    """twistd to its end, as a CompletedProcess."""
    return subprocess.run(
        [*program, *twistd, "--pidfile=", "mailhub", "--config", str(config), *arguments],
        cwd=config.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def refuses(port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


class Client:
    """One SMTP session, line by line."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=SECONDS_MAX)
        self._file = self.socket.makefile("rb")

    def line(self) -> str:
        """The next line without its end; "" at the end of the connection, however it came."""
        with contextlib.suppress(ConnectionError):
            return self._file.readline().decode().rstrip("\r\n")
        return ""

    def say(self, text: str) -> str:
        """All lines of the reply."""
        self.socket.sendall(text.encode() + b"\r\n")
        lines = [self.line()]
        while lines[-1][3:4] == "-":
            lines.append(self.line())
        return "\n".join(lines)

    def begin(self) -> Client:
        """Up to within the content."""
        assert self.line().startswith("220 ")
        assert self.say("EHLO client.example").startswith("250")
        assert self.say("MAIL FROM:<>").startswith("250")
        assert self.say("RCPT TO:<alice@example.test>").startswith("250")
        assert self.say("DATA").startswith("354")
        return self

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@pytest.fixture
def client() -> Iterator[Callable[[int], Client]]:
    """`client(port)`: sessions that are closed with the test."""
    made: list[Client] = []

    def connect(port: int) -> Client:
        made.append(Client(port))
        return made[-1]

    yield connect
    for each in made:
        each.close()


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def texts(directory: Path) -> list[str]:
    """What the log has for machines."""
    path = directory / "var" / "log" / "mailhub.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [str(event.get("text", event["kind"])) for event in map(json.loads, lines)]


@contextlib.contextmanager
def locked_queue(directory: Path) -> Iterator[None]:
    """Nobody can open the queue database inside: the start of a hub stands still there."""
    spool = directory / "var" / "spool"
    spool.mkdir(parents=True, mode=0o700)
    with contextlib.closing(sqlite3.connect(spool / "queue.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA user_version = 0")
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


# --- what is told before anything starts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "arguments", "told"),
    [
        ("", ("--roles", "mta,pop3"), "--roles: there is no role 'pop3'; roles are mta, msa, lmtp, mda, outbound\n"),
        ("", ("--roles", "lmtp"), "--roles: lmtp would listen nowhere, since {config} sets no lmtp.listen\n"),
        ("", ("--roles", "msa"), "sets no msa.listen and msa.listen_tls\n"),
        ("[queue]\nretries = 1", (), 'unknown key; did you mean "retry"?\n'),
        ("[[mta.policy]]\nuse = 'gr'", (), 'mta.policy[0].use: expected the name of a policy, got "gr"'),
    ],
)
def test_a_mistake_ends_with_status_2_and_one_line(
    tmp_path: Path, edit: str, arguments: tuple[str, ...], told: str
) -> None:
    config = write(tmp_path, edit)
    ended = run(config, *arguments)
    assert ended.returncode == 2
    assert told.format(config=config) in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""


def test_a_missing_configuration(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    ended = run(missing)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"{missing}: cannot be read: No such file or directory\n"
    assert list(tmp_path.iterdir()) == []


# --- starts that fail ------------------------------------------------------------------------------------------------


def assert_told(directory: Path, ended: Any, told: str, is_background: bool) -> None:
    """Status 1, and one line of the cause where people look, and one in the log."""
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
    shown = told[:90] if is_background else told  # twistd's waiting process reads no more
    assert [shown in line for line in ended.stderr.splitlines()].count(True) == 1, ended.stderr
    assert texts(directory).count(told) == (1 if (directory / "var" / "log").exists() else 0)
    assert ("Please look at log file" in ended.stderr) == is_background


@pytest.mark.parametrize("twistd", [("-n",), (), ("-n", "--logfile=text.log"), ("--logfile=text.log",)], ids=" ".join)
def test_a_port_in_use(tmp_path: Path, taken_port: int, twistd: tuple[str, ...]) -> None:
    endpoint = f"tcp:{taken_port}:interface=127.0.0.1"
    ended = run(write(tmp_path, mta=endpoint), twistd=twistd)
    told = f"cannot start: mta: cannot listen on {endpoint}: it is in use by another program"
    assert_told(tmp_path, ended, told, is_background="-n" not in twistd)
    if "--logfile=text.log" in twistd:
        assert told in (tmp_path / "text.log").read_text()


@pytest.mark.parametrize("twistd", [("-n",), ()], ids=" ".join)
def test_a_second_hub_on_the_same_data(
    tmp_path: Path, start: Any, client: Callable[[int], Client], twistd: tuple[str, ...]
) -> None:
    config = write(tmp_path)
    first = start()
    ended = run(config, twistd=twistd)
    told = f"cannot start: another process uses the spool in {tmp_path}/var/spool"
    assert_told(tmp_path, ended, told, is_background=not twistd)
    session = client(first.ports["mta"]).begin()
    assert session.say(f"{BODY}.").startswith("250 2.0.0")


@pytest.mark.parametrize("twistd", [("-n",), ()], ids=" ".join)
@pytest.mark.parametrize("what", ["spool", "spool/queue.db", "policy-memory.db"])
def test_data_of_the_wrong_kind(tmp_path: Path, what: str, twistd: tuple[str, ...]) -> None:
    config = write(tmp_path)
    place = tmp_path / "var" / what
    if what == "spool":
        place.parent.mkdir()
        place.write_text("")
    else:
        place.mkdir(parents=True)
    ended = run(config, twistd=twistd)
    assert ended.returncode == 1
    assert ended.stderr.count("cannot start: ") == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert any(text.startswith("cannot start: ") for text in texts(tmp_path))


def test_a_data_directory_that_cannot_be_made(tmp_path: Path) -> None:
    config = write(tmp_path)
    (tmp_path / "var").write_text("")
    ended = run(config)
    assert (ended.returncode, ended.stderr) == (1, f"cannot start: {tmp_path}/var: File exists\n")


@needs_root
@pytest.mark.parametrize("twistd", [("-n",), ()], ids=" ".join)
def test_a_data_directory_that_cannot_be_written(
    open_folder: Path, open_program: dict[str, Any], twistd: tuple[str, ...]
) -> None:
    config = write(open_folder)
    (open_folder / "var" / "log").mkdir(parents=True)
    environ = {**os.environ, **open_program["environ"]}
    nobody: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": ()}
    ended = run(config, twistd=twistd, program=open_program["program"], env=environ, **nobody)
    assert ended.returncode == 1
    assert f"{open_folder}/var" in ended.stderr
    assert "Permission denied" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_certificate_that_cannot_be_read(tmp_path: Path) -> None:
    ended = run(write(tmp_path, '[tls]\ncertificate = "none.crt"\nkey = "none.key"'))
    assert ended.returncode == 1
    assert ended.stderr == f"cannot start: {tmp_path}/none.crt: cannot be read: no such file or directory\n"


# --- starts that succeed ---------------------------------------------------------------------------------------------


def test_in_the_background_the_command_ends_when_the_hub_serves(
    tmp_path: Path, taken_port: int, client: Callable[[int], Client]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = write(tmp_path, mta=f"tcp:{port}:interface=127.0.0.1")
    ended = subprocess.run(
        [TWISTD, "--pidfile=pid", "mailhub", "--config", str(config)], cwd=tmp_path, capture_output=True, timeout=60
    )
    pid = int((tmp_path / "pid").read_text())
    try:
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
        assert "started" in until(lambda: [text for text in texts(tmp_path) if text == "started"])
        assert client(port).line().startswith("220 ")
    finally:
        os.kill(pid, signal.SIGTERM)
    until(lambda: not (tmp_path / "pid").exists())
    assert texts(tmp_path)[-3:] == ["stopping", "dismissed", "stopped"]


def test_nobody_is_greeted_before_the_spool_is_open(tmp_path: Path, client: Callable[[int], Client]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = write(tmp_path, mta=f"tcp:{port}:interface=127.0.0.1")
    with locked_queue(tmp_path):
        process = subprocess.Popen(
            [TWISTD, "-n", "--pidfile=", "mailhub", "--config", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def connected() -> Client | None:
            with contextlib.suppress(ConnectionRefusedError):
                return client(port)
            return None

        early: Client = until(connected)  # bound, so that it can wait
        time.sleep(1)  # there is no event for what must not happen
        assert select.select([early.socket], [], [], 0)[0] == []
    assert early.line().startswith("220 ")
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS_MAX) == -signal.SIGTERM


def test_signals_while_it_starts(tmp_path: Path) -> None:
    """SIGHUP does not end it, and SIGTERM ends it well."""
    config = write(tmp_path)
    with locked_queue(tmp_path):
        process = subprocess.Popen(
            [TWISTD, "-n", "--pidfile=", "mailhub", "--config", str(config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        until((tmp_path / "var" / "spool" / "content").exists)  # which is made just before the database is opened
        process.send_signal(signal.SIGHUP)
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    output = process.communicate(timeout=SECONDS_MAX)[0].decode()
    assert process.returncode == -signal.SIGTERM, output
    assert "Traceback" not in output
    assert "started" not in texts(tmp_path)


def test_a_change_that_is_told_while_it_starts_is_not_lost(tmp_path: Path, client: Callable[[int], Client]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = f"tcp:{port}:interface=127.0.0.1"
    config = write(tmp_path, mta=endpoint)
    with locked_queue(tmp_path):
        process = subprocess.Popen(
            [TWISTD, "-n", "--pidfile=", "mailhub", "--config", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until((tmp_path / "var" / "spool" / "content").exists)
        write(tmp_path, "[limits]\nmessage_octets = '1MB'", mta=endpoint)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.1)
    until(lambda: any("configuration read again" in text for text in texts(tmp_path)))
    session = client(port)
    session.line()
    assert "250-SIZE 1000000\n" in session.say("EHLO client.example")
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS_MAX) == -signal.SIGTERM


def test_a_hub_whose_terminal_is_gone_ends(tmp_path: Path) -> None:
    """SIGHUP in its first meaning: somebody closed the window in which `make run` was typed."""
    config = write(tmp_path)
    terminal, slave = os.openpty()
    process = subprocess.Popen(
        [TWISTD, "-n", "--pidfile=", "mailhub", "--config", str(config)],
        stdin=slave,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    until(lambda: "started" in texts(tmp_path))
    process.send_signal(signal.SIGHUP)  # as long as it is there: read everything again
    until(lambda: any("configuration read again" in text for text in texts(tmp_path)))
    os.close(terminal)
    assert process.wait(SECONDS_MAX) == 0
    assert texts(tmp_path)[-1] == "stopped"


def test_roles(tmp_path: Path, start: Any, client: Callable[[int], Client]) -> None:
    """What one process takes, another delivers."""
    write(tmp_path, '[lmtp]\nlisten = ["tcp:0:interface=127.0.0.1"]')
    front = start(arguments=("--roles", "mta"))
    assert set(front.ports) == {"mta"}
    assert client(front.ports["mta"]).begin().say(f"{BODY}.").startswith("250")
    assert front.stop() == -signal.SIGTERM
    assert front.messages("alice@example.test") == []
    back = start(arguments=("--roles", "mda"))
    assert [event["roles"] for event in back.log() if event["kind"] == "started"] == [["mta"], ["mda"]]
    assert until(lambda: back.messages("alice@example.test"))


# --- telling the service manager -------------------------------------------------------------------------------------


def test_the_service_manager_hears_of_everything(tmp_path: Path) -> None:
    config = write(tmp_path)
    heard: list[dict[bytes, bytes]] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(SECONDS_MAX)
        process = subprocess.Popen(
            [TWISTD, "-n", "--pidfile=", "mailhub", "--config", str(config)],
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def hear(name: bytes) -> dict[bytes, bytes]:
            while True:
                lines = manager.recv(4096).splitlines()
                heard.append(dict(line.split(b"=", 1) for line in lines))  # type: ignore[misc]
                if name in heard[-1]:
                    return heard[-1]

        assert hear(b"READY")[b"STATUS"] == b"roles: mta, mda, outbound"
        hear(b"WATCHDOG")
        process.send_signal(signal.SIGHUP)
        assert int(hear(b"RELOADING")[b"MONOTONIC_USEC"]) > 0
        hear(b"READY")
        process.send_signal(signal.SIGTERM)
        hear(b"STOPPING")
        process.wait(SECONDS_MAX)


def test_the_service_manager_hears_why_it_does_not_start(tmp_path: Path, taken_port: int) -> None:
    config = write(tmp_path, mta=f"tcp:{taken_port}:interface=127.0.0.1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(SECONDS_MAX)
        run(config, env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert manager.recv(4096).startswith(b"STATUS=cannot start: mta: cannot listen on ")


# --- reloading -------------------------------------------------------------------------------------------------------


def reloaded(hub: Any, told: str) -> str:
    """SIGHUP; the first line of the log behind it that has these words."""
    seen = len(texts(hub.directory))
    hub.process.send_signal(signal.SIGHUP)
    return str(until(lambda: next((text for text in texts(hub.directory)[seen:] if told in text), None)))


def test_reloading(tmp_path: Path, start: Any, client: Callable[[int], Client]) -> None:
    write(tmp_path)
    hub = start()
    port = hub.ports["mta"]

    # A mistake changes nothing.
    write(tmp_path, "[limits]\nmessage_octets = '1MB'\nrecipient = 5")
    assert 'did you mean "recipients"' in reloaded(hub, "configuration not taken")
    write(tmp_path, "[limits]\nmessage_octets = '1MB'\n[[mta.policy]]\nuse = 'nothing'")
    assert 'got "nothing"' in reloaded(hub, "configuration not taken")
    before = client(port)
    assert before.line().startswith("220 ")
    assert "250-SIZE 50000000\n" in before.say("EHLO client.example")

    # What can change, changes for new sessions; what cannot is named, and stays wholly as it is.
    policy = "[[mta.policy]]\nuse = 'greylist'\nseconds = 60"
    config = write(tmp_path, f"[limits]\nmessage_octets = '1MB'\nsessions = 2\nsessions_per_address = 1\n{policy}")
    config.write_text(config.read_text().replace("mx.example.test", "new.example.test"))
    seen = len(texts(tmp_path))
    reloaded(hub, "configuration read again")
    assert "hostname has changed, which takes effect at the next start" in texts(tmp_path)[seen:]
    assert before.say("MAIL FROM:<a@client.example> SIZE=20000000").startswith("250 ")
    after = client(port)
    assert after.line().startswith("220 mx.example.test ")
    assert "250-SIZE 1000000\n" in after.say("EHLO client.example")
    after.say("MAIL FROM:<a@client.example>")
    assert after.say("RCPT TO:<alice@example.test>").startswith("450 4.7.1 ")
    assert client(port).line().startswith("421 4.3.2 ")

    # And back again: a limit for which there are too many sessions already is no trouble.
    write(tmp_path)
    reloaded(hub, "configuration read again")
    last = client(port)
    assert last.line().startswith("220 mx.example.test ")
    for session in (before, after, last):
        session.close()
    assert hub.stop() == -signal.SIGTERM
    assert "Traceback" not in (tmp_path / "output").read_text()


def test_the_log_is_opened_anew(tmp_path: Path, start: Any, client: Callable[[int], Client]) -> None:
    write(tmp_path)
    hub = start()
    log = tmp_path / "var" / "log" / "mailhub.jsonl"
    log.rename(tmp_path / "old.jsonl")
    reloaded(hub, "configuration read again")
    assert client(hub.ports["mta"]).begin().say(f"{BODY}.").startswith("250")
    until(lambda: "queued" in texts(tmp_path))
    assert '"queued"' not in (tmp_path / "old.jsonl").read_text()


def test_a_new_certificate_is_shown_after_sighup(tmp_path: Path, start: Any, client: Callable[[int], Client]) -> None:
    import trustme

    def issue() -> bytes:
        issued = trustme.CA().issue_cert("mx.example.test")
        (tmp_path / "key").write_bytes(issued.private_key_pem.bytes())
        (tmp_path / "key").chmod(0o600)
        (tmp_path / "crt").write_bytes(issued.cert_chain_pems[0].bytes())
        return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())

    def shown() -> bytes | None:
        session = client(hub.ports["mta"])
        session.line()
        session.say("EHLO client.example")
        assert session.say("STARTTLS").startswith("220")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(session.socket) as wrapped:
            return wrapped.getpeercert(binary_form=True)

    write(tmp_path, '[tls]\ncertificate = "crt"\nkey = "key"')
    first = issue()
    hub = start()
    assert shown() == first
    second = issue()
    reloaded(hub, "configuration read again")
    assert shown() == second
    (tmp_path / "key").write_text("nonsense")
    assert "has no private key" in reloaded(hub, "new certificate not taken")
    assert shown() == second


# --- stopping --------------------------------------------------------------------------------------------------------


def test_draining(tmp_path: Path, start: Any, client: Callable[[int], Client]) -> None:
    """An idle session is sent away, one within its content may finish, and nobody new is let in."""
    write(tmp_path)
    hub = start()
    port = hub.ports["mta"]
    idle, busy = client(port), client(port).begin()
    idle.line()
    assert idle.say("EHLO client.example")
    hub.process.send_signal(signal.SIGTERM)
    assert idle.line().startswith("421 4.3.2 ")
    assert idle.line() == ""
    until(lambda: refuses(port))
    queued = busy.say(f"{BODY}.")
    assert queued.startswith("250 2.0.0 ")
    assert busy.line().startswith("421 4.3.2 ")
    assert busy.line() == ""
    assert hub.process.wait(SECONDS_MAX) == -signal.SIGTERM
    assert texts(tmp_path)[-1] == "stopped"
    # Not lost: in the mailbox already, or with the next start.
    again = start()
    assert len(until(lambda: again.messages("alice@example.test"))) == 1


def test_a_session_that_does_not_end_is_cut_and_all_roles_drain_at_once(
    tmp_path: Path, start: Any, client: Callable[[int], Client]
) -> None:
    write(tmp_path, '[lmtp]\nlisten = ["tcp:0:interface=127.0.0.1"]\n[limits]\ndrain_seconds = "3s"')
    hub = start()
    slow, other = client(hub.ports["mta"]).begin(), client(hub.ports["lmtp"])
    other.line()
    other.say("LHLO client.example")
    other.say("MAIL FROM:<>")
    began_at = time.monotonic()
    hub.process.send_signal(signal.SIGTERM)
    assert slow.line().startswith("421 4.3.2 ")
    assert slow.line() == ""
    assert other.line().startswith("421 4.3.2 ")
    assert hub.process.wait(SECONDS_MAX) == -signal.SIGTERM
    assert 2.5 < time.monotonic() - began_at < 5.5


@pytest.mark.parametrize("workers", [1, 2])
def test_who_is_told_to_stop_once_more_does_not_wait(
    tmp_path: Path, start: Any, client: Callable[[int], Client], workers: int
) -> None:
    """Nor is it a traceback.  A commit is another matter, and so are deliveries."""
    write(tmp_path, '[limits]\ndrain_seconds = "10m"', top=f"workers = {workers}")
    hub = start()
    slow, idle = client(hub.ports["mta"]).begin(), client(hub.ports["mta"])
    idle.line()
    hub.process.send_signal(signal.SIGTERM)
    assert idle.line().startswith("421 4.3.2 ")  # so the drain has begun
    hub.process.send_signal(signal.SIGTERM)  # SIGINT may be ignored, as in what a shell runs in the background
    assert slow.line().startswith("421 4.3.2 ")
    assert slow.line() == ""
    assert hub.process.wait(SECONDS_MAX) == -signal.SIGTERM
    output = (tmp_path / "output").read_text()
    assert output.count("told to stop once more") >= 1
    assert "Traceback" not in output


# --- two times -------------------------------------------------------------------------------------------------------

TELLS_THE_TIMES = """
import time
from twisted.internet import reactor
from zope.interface import implementer
from mailhub.plugin import IConnectionPolicy, PolicyMaker, reply


@implementer(IConnectionPolicy)
class TellsTheTimes:
    def __init__(self, hub):
        self.hub = hub

    async def judge_connection(self, session):
        steady, day = reactor.seconds() - time.monotonic(), self.hub.clock.seconds() - time.time()
        return reply(554, "5.7.1", f"{abs(steady) < 1} {abs(day) < 1}")


tells_the_times = PolicyMaker("tells_the_times", TellsTheTimes)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_the_reactor_of_a_hub_is_steady_and_its_rules_know_the_time_of_day(
    tmp_path: Path, start: Any, client: Callable[[int], Client], workers: int
) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "times.py").write_text(TELLS_THE_TIMES)
    rule = '[[mta.policy]]\nuse = "tells_the_times"\n[plugins]\ndirectories = ["plugins"]'
    write(tmp_path, rule, top=f"workers = {workers}")
    assert client(start().ports["mta"]).line() == "554 5.7.1 True True"


# --- becoming somebody else ------------------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_everything_belongs_to_the_user_that_the_hub_becomes(
    open_folder: Path, open_program: dict[str, Any], start: Any, client: Callable[[int], Client], umask: int
) -> None:
    socket_path = open_folder / "lmtp"
    write(open_folder, f'[lmtp]\nlisten = ["unix:{socket_path}"]', top='user = "nobody"')
    config = open_folder / "mailhub.toml"
    config.write_text(config.read_text().replace('data = "var"', 'data = "some/where/var"'))
    for name in ("accounts", "mailhub.toml"):
        (open_folder / name).chmod(0o644)
    (open_folder / "var").symlink_to("some/where/var")  # where the fixture looks
    hub = start(directory=open_folder, umask=umask, **open_program)
    nobody = pwd.getpwnam("nobody")
    status = Path(f"/proc/{hub.process.pid}/status").read_text()
    assert f"Uid:\t{nobody.pw_uid}\t{nobody.pw_uid}\t{nobody.pw_uid}" in status
    assert client(hub.ports["mta"]).begin().say(f"{BODY}.").startswith("250")
    until(lambda: hub.messages("alice@example.test"))
    assert (socket_path.stat().st_uid, stat.S_IMODE(socket_path.stat().st_mode)) == (nobody.pw_uid, 0o660)
    made = [open_folder / "some", *(open_folder / "some").rglob("*")]
    assert {path for path in made if path.lstat().st_uid != nobody.pw_uid} == set()
    assert any(path.name == "self-signed.pem" for path in made)
    assert any(path.name == "installation-secret" for path in made)
    assert hub.stop() == -signal.SIGTERM
    # The same data serve that user also when nobody is root.
    config.write_text(config.read_text().replace(f'"unix:{socket_path}"', '"tcp:0:interface=127.0.0.1"'))
    again = start(directory=open_folder, user="nobody", group="nogroup", extra_groups=(), **open_program)
    assert client(again.ports["mta"]).line().startswith("220 ")


@needs_root
def test_a_start_that_fails_as_root_leaves_no_log_that_the_user_cannot_write(
    open_folder: Path, open_program: dict[str, Any], start: Any, taken_port: int
) -> None:
    config = write(open_folder, mta=f"tcp:{taken_port}:interface=127.0.0.1", top='user = "nobody"')
    config.chmod(0o644)
    ended = run(config, program=open_program["program"], env={**os.environ, **open_program["environ"]})
    assert ended.returncode == 1
    assert any("cannot listen" in text for text in texts(open_folder))
    write(open_folder, top='user = "nobody"')
    start(directory=open_folder, **open_program)


@needs_root
def test_what_the_user_cannot_use_is_told(open_folder: Path, open_program: dict[str, Any], start: Any) -> None:
    config = write(open_folder, top='user = "nobody"')
    (open_folder / "accounts").chmod(0o600)
    ended = run(config, program=open_program["program"], env={**os.environ, **open_program["environ"]})
    assert ended.returncode == 1
    assert f"cannot start: {open_folder}/accounts: user nobody may not read it (mode 0600, of root)" in ended.stderr
    (open_folder / "accounts").chmod(0o644)

    # What root has read for us serves, with a warning.
    import trustme

    issued = trustme.CA().issue_cert("mx.example.test")
    (open_folder / "key").write_bytes(issued.private_key_pem.bytes())
    (open_folder / "key").chmod(0o600)
    (open_folder / "crt").write_bytes(issued.cert_chain_pems[0].bytes())
    write(open_folder, '[tls]\ncertificate = "crt"\nkey = "key"', top='user = "nobody"')
    start(directory=open_folder, **open_program)
    assert any(f"{open_folder}/key: user nobody may not read it" in text for text in texts(open_folder))


@needs_root
def test_a_python_that_the_user_cannot_read_is_told_before_it_is_too_late(open_folder: Path) -> None:
    """Once we are that user, Python cannot even load what it needs to say so."""
    packages = open_folder / "packages"
    packages.mkdir(mode=0o700)
    (packages / "mailhub").symlink_to(Path(mailhub.__file__).parent)
    (packages / "twisted").symlink_to(Path(twisted.__file__).parent)
    config = write(open_folder, top='user = "nobody"')
    program = ("-c", f"import sys; sys.path.insert(0, {str(packages)!r}); {PROGRAM}")
    ended = run(config, program=(sys.executable, *program))
    assert ended.returncode == 1
    assert f"{packages}/mailhub: user nobody may not enter the directory {packages} (mode 0700)" in ended.stderr


@needs_root
def test_root_follows_no_links_of_the_user(open_folder: Path) -> None:
    """Whoever took over the hub's user cannot have root write elsewhere at the next start."""
    write(open_folder, top='user = "nobody"')
    nobody = pwd.getpwnam("nobody")
    treasure = open_folder / "treasure"
    treasure.mkdir(mode=0o755)
    (open_folder / "var").mkdir()
    os.chown(open_folder / "var", nobody.pw_uid, nobody.pw_gid)
    (open_folder / "var" / "log").symlink_to(treasure)
    (open_folder / "var" / "tls").symlink_to(treasure)
    ended = run(open_folder / "mailhub.toml")
    assert ended.returncode == 1
    assert list(treasure.iterdir()) == []
