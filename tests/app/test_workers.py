"""A hub of several processes: who takes the mail, who dies, who goes on, and that nothing is lost by it."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import re
import signal
import smtplib
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw
import pytest
from twisted.internet.error import ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from mailhub.app.config import Config, load
from mailhub.app.sign_of_life import BEAT_SECONDS, LOOK_SECONDS, SILENT_LOOKS_MAX
from mailhub.app.worker import ALONE, Worker, directories, history_files
from mailhub.app.worker_brief import STATUS, Brief, WorkerError
from mailhub.app.worker_process import set_aside
from mailhub.app.worker_processes import WAIT_SECONDS_MAX, WorkerProcesses
from mailhub.store.spool_schema import SCHEMA
from tests.conftest import ALIASES, TWISTD, HubProcess, start_hub, until

SECONDS_MAX = 30.0
CONFIGURATION = """
hostname = "mx.example.test"
data = "var"
workers = 2
{top}
[mta]
listen = ["tcp:{port}:interface=127.0.0.1"]
greet_delay = "0s"
[lmtp]
listen = ["unix:{directory}/lmtp"]
[limits]
drain_seconds = "2s"
[mda]
domains = ["example.test"]
[accounts]
file = "accounts"
aliases = "aliases"
{more}
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: becoming another user needs root")


def configuration(directory: Path, port: int = 0, top: str = "", more: str = "") -> str:
    return CONFIGURATION.format(directory=directory, port=port, top=top, more=more)


def impatient_route(port: int) -> str:
    """Mail for elsewhere.example goes to this port of ours, and is tried again each second."""
    return f'[queue]\nretry = ["1s"]\n[[route]]\ndomain = "elsewhere.example"\nto = "smtp:127.0.0.1:{port}"\n'


def pids(hub: HubProcess) -> dict[int, int]:
    """The process of each worker, the one that was started last."""
    return {
        int(str(event["worker"])): int(str(event["pid"]))
        for event in hub.log()
        if event["kind"] == "started" and "worker" in event
    }


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def catches(pid: int, number: int) -> bool:
    """Whether this process has a handler for the signal: before its reactor runs, it ends by it at once."""
    (caught,) = re.findall(r"^SigCgt:\s+(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> (number - 1) & 1)


def sockets(pid: int) -> set[str]:
    """The sockets that this process has open, shared ones under the same name."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(descriptor))
    return {name for name in found if name.startswith("socket:")}


def told(hub: HubProcess, pattern: str) -> list[str]:
    """What the hub said in its log that looks like this."""
    return [text for event in hub.log() if re.search(pattern, text := str(event.get("text", "")))]


def send(port: int, recipient: str = "alice@example.test") -> None:
    """One message."""
    with smtplib.SMTP("127.0.0.1", port, timeout=SECONDS_MAX) as client:
        client.sendmail("carol@elsewhere.example", [recipient], "Subject: x\r\n\r\nHello.\r\n")


def takers(hub: HubProcess) -> list[int]:
    """Which workers have queued a message, one number a message."""
    found = [re.fullmatch(r"mta-\w+-(?:(\d+)\.)?\w+", str(each.get("session"))) for each in queued(hub)]
    return [int(match[1] or 1) for match in found if match]


def queued(hub: HubProcess) -> list[dict[str, object]]:
    return [event for event in hub.log() if event["kind"] == "queued"]


@contextlib.contextmanager
def only(hub: HubProcess, number: int) -> Iterator[None]:
    """The others stand still, so that this worker takes what comes."""
    others = [pid for worker, pid in pids(hub).items() if worker != number]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., HubProcess]]:
    """`begin(...)`: a hub with two workers, ended with the test; nobody of it is left behind."""
    running: list[HubProcess] = []

    def start(directory: Path = tmp_path, port: int = 0, top: str = "", more: str = "", **options: Any) -> HubProcess:
        hub = start_hub(directory, configuration(directory, port, top, more), ALIASES, **options)
        running.append(hub)
        (whole,) = until(lambda: [event for event in hub.log()[-100:] if event.get("pid") == hub.process.pid])
        wanted = set(whole["workers"])  # type: ignore[call-overload]
        until(lambda: {number for number, pid in pids(hub).items() if is_alive(pid)} >= wanted)
        ports = {str(each["role"]): int(str(each["port"])) for each in hub.log() if each["kind"] == "listening"}
        hub.ports.update(ports)
        return hub

    yield start
    for hub in running:
        everyone = [*pids(hub).values(), hub.process.pid]
        hub.stop()
        assert [pid for pid in everyone if is_alive(pid)] == []


# --- mail ------------------------------------------------------------------------------------------------------------


def test_both_take_mail_for_one_mailbox(begin: Callable[..., HubProcess]) -> None:
    hub = begin()
    for number in (1, 2):
        with only(hub, number):
            send(hub.ports["mta"])
            until(lambda number=number: number in takers(hub))
    until(lambda: len(hub.messages("alice@example.test")) == 2)
    assert sorted(takers(hub)) == [1, 2]
    assert (hub.directory / "var" / "workers" / "2" / "spool" / "queue.db").exists()
    for number, file in enumerate(history_files(hub.directory / "var" / "history.db"), 1):
        assert until(file.exists), number
    assert hub.stop() == -signal.SIGTERM
    hub.must_explain_itself()


def test_a_worker_that_is_killed_is_started_again_and_loses_nothing(begin: Callable[..., HubProcess]) -> None:
    # What waits for another host still waits in the second worker's queue when it is killed.
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        hub = begin(more=impatient_route(nobody.getsockname()[1]))
        with only(hub, 2):
            send(hub.ports["mta"], "away@example.test")
            until(lambda: any(event["kind"] == "deferred" for event in hub.log()))
        before = pids(hub)
        os.kill(before[2], signal.SIGKILL)
        send(hub.ports["mta"])
        until(lambda: len(hub.messages("alice@example.test")) == 1)
        after = until(lambda: (now := pids(hub))[2] != before[2] and now)
        assert after[1] == before[1]
        (line,) = told(hub, "was ended by SIGKILL")
        assert re.fullmatch(rf"worker 2 \(process {before[2]}\) was ended by SIGKILL; .* and is started again", line)
        ids = {str(event["queue_id"]) for event in hub.log() if event["kind"] == "deferred"}
        (queue_id,) = ids
        # It is tried again by its next process.
        until(
            lambda: any(
                event["kind"] == "attempted" and event["queue_id"] == queue_id
                for event in hub.log()[hub.log().index(next(e for e in hub.log() if e.get("pid") == after[2])) :]
            )
        )


@pytest.mark.heavy  # it is given a minute
def test_a_worker_that_hangs_is_killed_and_started_again(begin: Callable[..., HubProcess]) -> None:
    hub = begin()
    before = pids(hub)
    os.kill(before[2], signal.SIGSTOP)
    begun_at = time.monotonic()
    send(hub.ports["mta"])  # the others go on meanwhile
    until(lambda: len(hub.messages("alice@example.test")) == 1)
    until(lambda: told(hub, rf"worker 2 \(process {before[2]}\) hangs, and is killed"), 120)
    assert time.monotonic() - begun_at > LOOK_SECONDS * SILENT_LOOKS_MAX - BEAT_SECONDS
    until(lambda: pids(hub)[2] != before[2])
    assert pids(hub)[1] == before[1]
    assert len(told(hub, "hangs, and is killed")) == 1  # the other had nothing to tell in that time, and yet was heard


def test_a_client_waits_while_nobody_is_there_and_is_served_then(begin: Callable[..., HubProcess]) -> None:
    hub = begin()
    before = pids(hub)
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    with socket.create_connection(("127.0.0.1", hub.ports["mta"]), timeout=SECONDS_MAX) as connection:
        assert connection.makefile("rb").readline().startswith(b"220 ")


def test_one_that_dies_at_once_again_and_again_is_given_time(begin: Callable[..., HubProcess]) -> None:
    hub = begin()
    for times in (1, 2):
        before = pids(hub)[2]
        os.kill(before, signal.SIGKILL)
        until(lambda times=times: len(told(hub, "worker 2 .* is started again")) == times)
        until(lambda before=before: pids(hub)[2] != before)
    first, second = told(hub, "worker 2 .* is started again")
    assert first.endswith("started again")
    assert second.endswith("started again in 1 s")


def test_a_worker_that_ends_alone_leaves_the_sockets_to_the_others(begin: Callable[..., HubProcess]) -> None:
    hub = begin()
    before = pids(hub)
    os.kill(before[2], signal.SIGTERM)
    until(lambda: pids(hub)[2] != before[2])
    assert len(told(hub, "worker 2 .* is started again")) == 1
    for _ in range(2):  # whoever takes it
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(SECONDS_MAX)
            client.connect(str(hub.directory / "lmtp"))
            assert client.recv(100).startswith(b"220 ")
        with socket.create_connection(("127.0.0.1", hub.ports["mta"]), timeout=SECONDS_MAX) as connection:
            assert connection.recv(100).startswith(b"220 ")


class Scarce(Clock):
    """A reactor on a machine that cannot make `refusals` more processes; those that it can make are in `made`."""

    def __init__(self, refusals: int) -> None:
        super().__init__()
        self.refusals = refusals
        self.made: list[Any] = []

    def spawnProcess(self, protocol: Any, *arguments: Any, **options: Any) -> None:
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.made.append(protocol)


def mute() -> Any:
    """The transport of a process that hears no signal."""
    return SimpleNamespace(signalProcess=lambda name: None)


def one_worker(reactor: Scarce, tmp_path: Path) -> WorkerProcesses:
    worker = Worker(2, 2)
    brief = Brief(loaded(tmp_path), frozenset({"mda"}), worker, (), is_retired=False, is_foreground=False)
    return WorkerProcesses(reactor, [brief], dict, lambda number: [], {}, drain_seconds=1.0)


def test_a_process_that_cannot_be_made_is_tried_again(tmp_path: Path) -> None:
    reactor = Scarce(refusals=2)
    workers = one_worker(reactor, tmp_path)
    started: list[object] = []
    workers.startService().addBoth(started.append)
    assert reactor.made == []
    reactor.advance(0)
    reactor.advance(1)
    (process,) = reactor.made
    assert started == []
    process.childDataReceived(STATUS, b"0")
    assert started == [None]
    # So it is when it has died later on, for as long as it takes.
    reactor.refusals = 5
    process.processEnded(Failure(ProcessTerminated(signal=signal.SIGKILL)))
    for _ in range(10):
        reactor.advance(WAIT_SECONDS_MAX)
    assert len(reactor.made) == 2


def test_a_start_ends_that_can_make_no_process(tmp_path: Path) -> None:
    reactor = Scarce(refusals=100)
    failed: list[Failure] = []
    one_worker(reactor, tmp_path).startService().addErrback(failed.append)
    for _ in range(10):
        reactor.advance(WAIT_SECONDS_MAX)
    (failure,) = failed
    assert failure.check(WorkerError)
    assert str(failure.value) == "worker 2 did not start: it cannot be made (Resource temporarily unavailable)"
    assert not reactor.getDelayedCalls()


@pytest.mark.parametrize("refusals", [0, 1])
def test_a_start_that_is_abandoned_ends_and_nobody_is_started_again(refusals: int, tmp_path: Path) -> None:
    """Told to end while a worker starts, or waits for another try."""
    reactor = Scarce(refusals)
    workers = one_worker(reactor, tmp_path)
    started: list[None] = []
    workers.startService().addCallback(started.append)
    for process in reactor.made:
        process.transport, process.pid = mute(), 123
    workers.abandon()
    for process in reactor.made:
        process.processEnded(Failure(ProcessTerminated(signal=signal.SIGTERM)))  # it had no handler yet
    assert started == [None]
    ended: list[None] = []
    workers.stopService().addCallback(ended.append)
    assert ended == [None]
    assert not reactor.getDelayedCalls()


# --- the whole -------------------------------------------------------------------------------------------------------


def test_sighup_reaches_all_and_who_comes_later(begin: Callable[..., HubProcess]) -> None:
    hub = begin()
    hub.config.write_text(hub.config.read_text().replace("[limits]", '[limits]\nmessage_octets = "1MB"'))
    hub.process.send_signal(signal.SIGHUP)
    until(lambda: len(told(hub, "^configuration read again")) == 3)

    def size() -> int:
        with smtplib.SMTP("127.0.0.1", hub.ports["mta"], timeout=SECONDS_MAX) as client:
            client.ehlo()
            return int(client.esmtp_features["size"])

    for number in (1, 2):
        with only(hub, number):
            assert size() == 1_000_000
    before = pids(hub)[2]
    os.kill(before, signal.SIGKILL)
    until(lambda: pids(hub)[2] != before)
    with only(hub, 2):
        assert size() == 1_000_000


def test_a_configuration_that_is_wrong_changes_nothing(begin: Callable[..., HubProcess]) -> None:
    hub = begin()
    hub.config.write_text(hub.config.read_text() + "\n[nonsense]\n")
    hub.process.send_signal(signal.SIGHUP)
    until(lambda: told(hub, "^configuration not taken"))
    send(hub.ports["mta"])
    until(lambda: len(hub.messages("alice@example.test")) == 1)
    assert told(hub, "^configuration read again") == []


def test_the_log_is_rotated_while_the_configuration_is_wrong(begin: Callable[..., HubProcess]) -> None:
    """logrotate comes when it comes: what a worker writes to the file that was put aside is removed with it."""
    hub = begin()
    hub.config.write_text(hub.config.read_text() + "\n[nonsense]\n")
    file = hub.directory / "var" / "log" / "mailhub.jsonl"
    aside = file.rename(file.with_name("mailhub.jsonl.1"))
    hub.process.send_signal(signal.SIGHUP)
    until(lambda: {event.get("worker") for event in hub.log() if event["kind"] == "log"} >= {None, 1, 2})
    size = aside.stat().st_size
    send(hub.ports["mta"])
    until(lambda: len(hub.messages("alice@example.test")) == 1)
    until(lambda: queued(hub))
    assert aside.stat().st_size == size
    hub.is_whole = False  # half of its story lies aside


def test_signals_to_all_while_they_start(tmp_path: Path) -> None:
    """As a terminal and a service manager send them.  Nobody is started again, and no socket is left."""
    (tmp_path / "mailhub.toml").write_text(configuration(tmp_path))
    (tmp_path / "accounts").touch(0o600)
    (tmp_path / "aliases").touch(0o600)
    process = subprocess.Popen(
        [TWISTD, "-n", "--pidfile=", "mailhub", "--config", str(tmp_path / "mailhub.toml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until(lambda: len(children.read_text().split()) == 2 and catches(process.pid, signal.SIGTERM))
    os.killpg(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=SECONDS_MAX)[0].decode()
    assert process.returncode == -signal.SIGTERM, output
    assert "started again" not in output
    assert "critical" not in output
    assert not (tmp_path / "lmtp").exists()


def test_all_end_together_and_close_the_ports(begin: Callable[..., HubProcess]) -> None:
    hub = begin()
    everyone = pids(hub)
    session = smtplib.SMTP("127.0.0.1", hub.ports["mta"], timeout=SECONDS_MAX)
    session.docmd("EHLO", "client.example")
    assert stat.S_ISSOCK((hub.directory / "lmtp").lstat().st_mode)
    assert hub.stop() == -signal.SIGTERM
    assert [pid for pid in everyone.values() if is_alive(pid)] == []
    with contextlib.closing(session), socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", hub.ports["mta"])) != 0
    assert not (hub.directory / "lmtp").exists()
    assert [event["kind"] for event in hub.log()].count("stopped") == 3


def test_a_signal_to_every_process_is_heard_once(begin: Callable[..., HubProcess]) -> None:
    # As a service manager ends a unit.
    hub = begin()
    everyone = pids(hub)
    for pid in (hub.process.pid, *everyone.values()):
        os.kill(pid, signal.SIGTERM)
    assert hub.process.wait(SECONDS_MAX) == -signal.SIGTERM
    assert [pid for pid in everyone.values() if is_alive(pid)] == []
    assert [event for event in hub.log() if event.get("level") in ("error", "critical")] == []


def test_workers_end_when_the_first_process_is_gone(begin: Callable[..., HubProcess]) -> None:
    hub = begin()
    everyone = pids(hub)
    hub.process.kill()
    hub.process.wait()
    until(lambda: not any(map(is_alive, everyone.values())))
    assert [event["kind"] for event in hub.log()].count("stopped") == 2
    assert len(told(hub, "the first process of the hub is gone")) == 2


def test_a_worker_that_is_killed_while_it_starts_is_started_again(tmp_path: Path) -> None:
    starting = threading.Thread(target=_kill_first_worker_of, args=(tmp_path / "mailhub.toml",))
    starting.start()
    hub = start_hub(tmp_path, configuration(tmp_path), ALIASES)
    starting.join()
    try:
        assert len(told(hub, "worker 2 .* was ended by SIGKILL; it had served for 0.0 s, and is started again")) == 1
        send(hub.ports["mta"])
        until(lambda: len(hub.messages("alice@example.test")) == 1)
    finally:
        hub.stop()


def _kill_first_worker_of(config: Path) -> None:
    """SIGKILL for worker 2 of the hub with this configuration, as soon as there is one."""

    def worker() -> int | None:
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (place / "cmdline").read_bytes().split(b"\0")
                if words[1:5] == [b"-P", b"-m", b"mailhub.app.worker_process", b"2"]:
                    parent = re.search(r"PPid:\t(\d+)", (place / "status").read_text())
                    assert parent is not None
                    if os.fsencode(config) in Path(f"/proc/{parent[1]}/cmdline").read_bytes():
                        return int(place.name)
        return None

    os.kill(until(worker), signal.SIGKILL)


def test_a_worker_that_cannot_start_ends_the_start(begin: Callable[..., HubProcess], tmp_path: Path) -> None:
    spool = tmp_path / "var" / "workers" / "2" / "spool"
    spool.parent.mkdir(parents=True)
    spool.write_text("no directory")
    with pytest.raises(RuntimeError) as error:
        begin()
    assert "worker 2: critical: cannot start: " in str(error.value)
    assert str(spool) in str(error.value)
    assert " critical: cannot start: worker 2 did not start: " in str(error.value)
    log = HubProcess(tmp_path, None).log()  # type: ignore[arg-type]
    assert [int(str(each["pid"])) for each in log if "pid" in each and is_alive(int(str(each["pid"])))] == []


@needs_root
def test_workers_have_no_privileges_and_keep_the_port(
    begin: Callable[..., HubProcess], open_folder: Path, open_program: dict[str, Any]
) -> None:
    # The port is one that nobody but root may bind; a worker that comes later listens on it all the same.
    for name in ("accounts", "aliases", "mailhub.toml"):
        (open_folder / name).touch(0o644)
    (open_folder / "accounts").write_text("alice@example.test:x::::::\n")
    (open_folder / "mailhub.toml").write_text(configuration(open_folder, free_low_port(), 'user = "nobody"'))
    hub = begin(open_folder, **open_program)
    nobody = pwd.getpwnam("nobody").pw_uid
    before = pids(hub)
    for pid in (hub.process.pid, *before.values()):
        assert f"Uid:\t{nobody}\t{nobody}\t{nobody}\t{nobody}\n" in Path(f"/proc/{pid}/status").read_text()
    os.kill(before[2], signal.SIGKILL)
    until(lambda: pids(hub)[2] != before[2])
    with only(hub, 2):
        send(hub.ports["mta"])
    until(lambda: len(hub.messages("alice@example.test")) == 1)
    socket_status = (open_folder / "lmtp").lstat()
    assert (socket_status.st_uid, stat.S_IMODE(socket_status.st_mode)) == (nobody, 0o660)
    made = (hub.directory / "var").rglob("*")
    assert {path for path in made if path.lstat().st_uid != nobody} == set()


def free_low_port() -> int:
    for port in range(700, 1024):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    pytest.skip("NOT TESTED: every low port is in use")


# --- fewer of them ---------------------------------------------------------------------------------------------------


def test_the_queue_of_a_worker_that_is_no_more_is_still_delivered(begin: Callable[..., HubProcess]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        hub = begin(
            more=f'[queue]\nretry = ["1s"]\n[[route]]\ndomain = "elsewhere.example"\nto = "smtp:127.0.0.1:{port}"'
        )
        with only(hub, 2):
            send(hub.ports["mta"], "away@example.test")
            until(lambda: any(event["kind"] == "deferred" for event in hub.log()))
        hub.stop()
    hub.config.write_text(hub.config.read_text().replace("workers = 2", "workers = 1"))
    # Now somebody listens there.
    other = elsewhere(hub.directory / "other", port)
    try:
        hub = begin()
        assert sockets(pids(hub)[2]).isdisjoint(sockets(hub.process.pid))  # it takes nothing new
        assert not sockets(pids(hub)[1]).isdisjoint(sockets(hub.process.pid))
        until(lambda: len(other.messages("someone@elsewhere.example")) == 1)
        until(lambda: told(hub, "worker 2 has delivered all that was left to it"))
        left = hub.directory / "var" / "workers" / "2"
        assert sorted(path.name for path in left.iterdir()) == ["spool-emptied"]
        send(hub.ports["mta"])
        hub.stop()
        # From now on one process is enough.
        last = start_hub(hub.directory)
        assert last.log()[-1]["kind"] == "started"
        assert "worker" not in last.log()[-1]
        last.stop()
    finally:
        other.stop()


def elsewhere(directory: Path, port: int) -> HubProcess:
    """Another host, with a mailbox for whom we forward mail to."""
    directory.mkdir()
    text = f'hostname = "mx.elsewhere.example"\ndata = "var"\n[mta]\nlisten = ["tcp:{port}:interface=127.0.0.1"]\n'
    text += 'greet_delay = "0s"\n[mda]\ndomains = ["elsewhere.example"]\n[accounts]\nfile = "accounts"\n'
    (directory / "mailhub.toml").write_text(text)
    (directory / "accounts").write_text("someone@elsewhere.example:x::::::\n")
    return start_hub(directory)


def test_a_queue_with_something_broken_in_it_keeps_its_name(tmp_path: Path) -> None:
    """What is in quarantine is not in the list of the queue, and must not look as if nothing were left."""
    for name, rows, more in (("empty", 0, ""), ("quarantine", 1, ""), ("corrupt", 0, "queue.db.corrupt-20261128")):
        spool = tmp_path / name / "spool"
        spool.mkdir(parents=True)
        database = apsw.Connection(str(spool / "queue.db"))
        database.execute(SCHEMA)
        for _ in range(rows):
            database.execute("INSERT INTO message VALUES ('q', 0, 0, '<>', 1, 0, '', NULL, '', 0, '', '{}', x'')")
            database.execute("INSERT INTO quarantine VALUES ('q', 0, 'broken')")
        database.close()
        if more:
            (spool / more).touch()
        set_aside(spool)
        assert spool.exists() == (name != "empty")
    assert (tmp_path / "empty" / "spool-emptied").is_dir()


def test_a_worker_is_not_started_by_hand(tmp_path: Path) -> None:
    for given in ("", "hello\n"):
        ended = subprocess.run(
            [TWISTD, "-n", "--pidfile=", "mailhub", "--worker"],
            input=given,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 2
        assert ended.stderr == (
            "--worker is for mailhub itself: set `workers` in the configuration, and leave it out\n"
        )


# --- shares ----------------------------------------------------------------------------------------------------------


def loaded(directory: Path, more: str = "") -> Config:
    config = directory / "mailhub.toml"
    config.write_text(f'hostname = "mx.example.test"\ndata = "var"\n{more}')
    return load(config)


def test_a_limit_is_for_the_hub_and_each_worker_has_its_share(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        "[limits]\nsessions = 7\nsessions_per_address = 7\n[outbound.limits]\nper_destination = 5\n"
        '[queue]\nconcurrency = 1\n[history]\nsize_max = "90MB"\n'
        '[[route]]\ndomain = "x.example"\nto = "smtp:127.0.0.1:25"\nper_destination = 4\nmessages_per_minute = 0\n',
    )
    third = Worker(3, 3).config(config)
    assert third.limits.sessions == 3
    assert third.outbound.limits.per_destination == 2
    assert third.outbound.limits.messages_per_minute == 0
    assert (third.route[0].per_destination, third.route[0].messages_per_minute) == (2, 0)
    assert third.queue.concurrency == 1
    assert third.history.size_max == 30_000_000
    assert third.history.file == tmp_path / "var" / "history-3.db"
    assert third.spool_directory == tmp_path / "var" / "workers" / "3" / "spool"
    assert third.data == config.data


def test_the_first_worker_is_where_a_hub_without_workers_was(tmp_path: Path) -> None:
    config = loaded(tmp_path)
    assert ALONE.config(config) is config
    first = Worker(1, 4).config(config)
    assert (first.spool_directory, first.history.file) == (config.spool_directory, config.history.file)
    assert first.own_directory == config.data


def test_what_there_is_of_workers_is_found(tmp_path: Path) -> None:
    for name in ("2", "10", "03", "x", "1", "0"):
        (tmp_path / "workers" / name).mkdir(parents=True)
    assert list(directories(tmp_path)) == [1, 2, 10]
    for name in ("history-2.db", "history-10.db", "history-x.db", "history.db-wal", "history-2.db-wal"):
        (tmp_path / name).touch()
    found = history_files(tmp_path / "history.db")
    assert [path.name for path in found] == ["history.db", "history-2.db", "history-10.db"]
    assert directories(tmp_path / "none") == {1: tmp_path / "none"}
