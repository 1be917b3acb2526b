"""What many tests share: a real hub in a process of its own, started as a postmaster would start it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, settings

import mailhub
import twisted
from mailhub.history.causes import unexplained
from mailhub.history.pages import parse

# The same examples each time, however slow or busy the machine is.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")

START_SECONDS_MAX = 30
STOP_SECONDS_MAX = 30
TWISTD = str(Path(sys.executable).parent / "twistd")
STARTED = b'"kind":"started"'

#: Site packages and mailhub itself, for an interpreter other than ours.
PLACES = os.pathsep.join(dict.fromkeys(str(Path(module.__file__).parents[1]) for module in (twisted, mailhub)))
#: A twistd for whoever cannot run ours, as in a home directory.
PROGRAM = "from twisted.scripts.twistd import run; run()"

CONFIGURATION = """
hostname = "mx.example.test"
data = "var"
[mta]
listen = ["tcp:0:interface=127.0.0.1"]
greet_delay = "0s"
[msa]
listen = ["tcp:0:interface=127.0.0.1"]
listen_tls = ["tcp:0:interface=127.0.0.1"]
[lmtp]
listen = ["tcp:0:interface=127.0.0.1"]
[mda]
domains = ["example.test", "second.test"]
[accounts]
file = "accounts"
aliases = "aliases"
"""

ALIASES = """
postmaster: alice
team: alice, bob
away: someone@elsewhere.example
loop: loop2
loop2: loop
@second.test: bob@example.test
"""

PASSWORDS = {"alice@example.test": "correct horse", "bob@example.test": "battery staple"}


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What the condition gives as soon as it is true."""
    ends_at = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < ends_at, "it never came"
        time.sleep(0.01)
    return found


@dataclass
class HubProcess:
    """A hub that runs.  `ports` by role: "mta", "msa", "msa-tls", "lmtp"."""

    directory: Path
    process: subprocess.Popen[bytes]
    ports: dict[str, int] = field(default_factory=dict)
    #: Whether all of its history and its queue are there, so that it can be asked whether it explains itself.
    is_whole: bool = True
    passwords: dict[str, str] = field(default_factory=lambda: dict(PASSWORDS))

    @property
    def config(self) -> Path:
        return self.directory / "mailhub.toml"

    def maildir(self, address: str) -> Path:
        local, _, domain = address.partition("@")
        return self.directory / "var" / "mail" / domain / local / "Maildir"

    def messages(self, address: str) -> list[bytes]:
        """What lies in the inbox, oldest name first, with CRLF line ends."""
        inbox = self.maildir(address) / "new"
        if not inbox.is_dir():
            return []
        return [path.read_bytes().replace(b"\n", b"\r\n") for path in sorted(inbox.iterdir())]

    def queued(self) -> list[str]:
        """The recipients of what is in the queue, as its database says."""
        return self._asked(self.directory / "var" / "spool", "SELECT address FROM recipient ORDER BY address")

    def queue_ids(self) -> list[str]:
        """The messages in the queues of all workers."""
        own = self.directory / "var"
        spools = [each / "spool" for each in (own, *own.glob("workers/*"))]
        return [queue_id for spool in spools for queue_id in self._asked(spool, "SELECT queue_id FROM message")]

    def _asked(self, spool: Path, question: str) -> list[str]:
        """What the database of this queue says; nothing if there is none."""
        if not (spool / "queue.db").exists():
            return []
        database = apsw.Connection(str(spool / "queue.db"), flags=apsw.SQLITE_OPEN_READWRITE)
        database.set_busy_timeout(10_000)
        try:
            return [str(found) for (found,) in database.execute(question)]
        finally:
            database.close()

    def log(self) -> list[dict[str, object]]:
        """All that is written by now; the last line may be half of one."""
        path = self.directory / "var" / "log" / "mailhub.jsonl"
        whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
        return [json.loads(line) for line in whole.splitlines()]

    def must_explain_itself(self) -> None:
        """Every event has told what it must, and has a cause: asked when the hub has ended, of all that it did."""
        if self.is_whole and self.process.returncode == -signal.SIGTERM:
            path = self.directory / "var" / "log" / "mailhub.jsonl"
            told = [event for line in path.read_text().splitlines() if (event := parse(line)) is not None]
            assert unexplained(told, self.queue_ids()) == []

    def command(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """`mailhub WORDS --config ...` run to its end."""
        return subprocess.run(
            [sys.executable, "-m", "mailhub", *words, "--config", str(self.config)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it, wait, and give back its exit status; twistd ends by the signal that it was sent."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS_MAX)


#: The accounts file, once it was made: adding users takes its time, and it is the same for every hub.
_made_accounts: list[bytes] = []


def _add_users(config: Path) -> None:
    for login, password in PASSWORDS.items():
        subprocess.run(
            [sys.executable, "-m", "mailhub", "user", "add", login, "--password-stdin", "--config", str(config)],
            input=password + "\n",
            text=True,
            check=True,
            capture_output=True,
            timeout=60,
        )


def start_hub(
    directory: Path,
    configuration: str | None = None,
    aliases: str = ALIASES,
    arguments: Sequence[str] = (),
    program: Sequence[str] = (TWISTD,),
    environ: Mapping[str, str] | None = None,
    **options: Any,
) -> HubProcess:
    """A hub in this directory; returns when it says that it is ready.  Raises RuntimeError with its output if not.

    Where there is a configuration already, it is taken as it lies, and no accounts are made.  `arguments` go behind
    those of `twistd mailhub`, `environ` to its environment, `options` to subprocess.Popen.
    """
    config = directory / "mailhub.toml"
    if not config.exists():
        config.write_text(CONFIGURATION if configuration is None else configuration)
        (directory / "aliases").write_text(aliases)
        accounts = directory / "accounts"
        if _made_accounts:
            accounts.touch(0o600)
            accounts.write_bytes(_made_accounts[0])
        else:
            _add_users(config)
            _made_accounts.append(accounts.read_bytes())
    told = directory / "notify"
    told.unlink(missing_ok=True)
    history = directory / "var" / "log" / "mailhub.jsonl"
    starts = history.read_bytes().count(STARTED) if history.exists() else 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, (directory / "output").open("wb") as output:
        listener.bind(str(told))
        told.chmod(0o666)  # for a hub that becomes somebody else
        listener.settimeout(0.5)
        begun_at = time.monotonic()
        process = subprocess.Popen(
            [
                *(*program, "-n", "--pidfile=", "mailhub", "--config", str(config)),
                *arguments,
            ],
            cwd=directory,
            env={**os.environ, **(environ or {}), "NOTIFY_SOCKET": str(told)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            **options,
        )
        hub = HubProcess(directory, process)
        heard = b""
        while b"READY=1" not in heard:
            with contextlib.suppress(TimeoutError):
                heard = listener.recv(4096)
            if process.poll() is not None or time.monotonic() > begun_at + START_SECONDS_MAX:
                process.kill()
                process.wait()
                raise RuntimeError((directory / "output").read_text())
    # The history is written by a thread, which READY may overtake.
    ends_at = time.monotonic() + START_SECONDS_MAX
    while not history.exists() or history.read_bytes().count(STARTED) <= starts:
        assert time.monotonic() < ends_at, (directory / "output").read_text()
        time.sleep(0.01)
    for event in hub.log():
        if event.get("kind") == "listening":
            hub.ports[str(event["role"])] = int(str(event["port"]))
    return hub


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., HubProcess]]:
    """`start(configuration=..., aliases=..., directory=...)`: hubs that are ended with the test."""
    running: list[HubProcess] = []

    def begin(directory: Path = tmp_path, **options: Any) -> HubProcess:
        hub = start_hub(directory, **options)
        running.append(hub)
        return hub

    yield begin
    for hub in running:
        hub.stop()
    killed = {hub.directory for hub in running if hub.process.returncode == -signal.SIGKILL}  # history is cut there
    for hub in running:
        if hub.directory not in killed:
            hub.must_explain_itself()


@pytest.fixture(scope="module")
def hub_process() -> Iterator[Callable[..., HubProcess]]:
    """`hub_process(directory, configuration=..., ...)`: further hubs of a module, as start_hub makes them."""
    running: list[HubProcess] = []

    def begin(directory: Path, **options: Any) -> HubProcess:
        running.append(start_hub(directory, **options))
        return running[-1]

    yield begin
    for each in running:
        assert each.stop() == -signal.SIGTERM, (each.directory / "output").read_text()
        each.must_explain_itself()


@pytest.fixture(scope="module")
def hub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """One hub for all tests of a module, which may have a CONFIGURATION and ALIASES of its own."""
    configuration, aliases = (getattr(request.module, name, None) for name in ("CONFIGURATION", "ALIASES"))
    running = start_hub(tmp_path_factory.mktemp("hub"), configuration or CONFIGURATION, aliases or ALIASES)
    yield running
    assert running.stop() == -signal.SIGTERM, (running.directory / "output").read_text()
    running.must_explain_itself()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that everybody may enter; pytest's own are for their owner alone."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def open_program() -> dict[str, Any]:
    """twistd as `nobody` can run it: `program` and `environ` for `start`.  Skips where no interpreter will do."""
    for python in dict.fromkeys((sys.executable, f"/usr/bin/python3.{sys.version_info.minor}", "/usr/bin/python3")):
        with contextlib.suppress(OSError):
            found = subprocess.run(
                [python, "-c", "import apsw, argon2, mailhub.app.tree"],
                env={**os.environ, "PYTHONPATH": PLACES},
                cwd="/",
                user="nobody",
                group="nogroup",
                extra_groups=(),
                capture_output=True,
                timeout=60,
                check=False,
            )
            if found.returncode == 0:
                return {"program": (python, "-c", PROGRAM), "environ": {"PYTHONPATH": PLACES}}
    pytest.skip("NOT TESTED: no Python here can be run by the user nobody")
