"""mailhub, run as a postmaster runs it: in the background, with its log, its history and its own policies on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from shlex import quote

import apsw

from bench.plan import Work
from bench.server import (
    DOMAIN,
    FAR_DOMAIN,
    HOSTNAME,
    PASSWORD,
    START_SECONDS_MAX,
    STOP_SECONDS_MAX,
    USERS,
    Server,
    tail,
)
from mailhub.app.worker import SPOOL, directories
from mailhub.testing.confinement import greets

#: Defaults, but for what a benchmark must change: there is no pause before the greeting (Postfix as Debian installs it
#: makes none), all sessions come from one address, and one login sends more in an hour than one person would.  What it
#: sends is counted all the same: a cap of 0 would spare the hub that work.
CONFIGURATION = """
hostname = "{hostname}"
data = "data"
{workers}
[tls]
certificate = "{certificate}"
key = "{certificate}"
[limits]
sessions_per_address = 1000
{limits}
[mta]
listen = ["tcp:{port}:interface=127.0.0.1"]
greet_delay = "0s"
[[mta.policy]]
use = "relay_for_loopback"
[msa]
listen = ["tcp:{msa_port}:interface=127.0.0.1"]
[msa.caps]
messages_per_hour = 1_000_000_000
messages_per_day = 1_000_000_000
recipients_per_hour = 1_000_000_000
recipients_per_day = 1_000_000_000
[mda]
domains = ["{domain}"]
[accounts]
file = "accounts"
[[route]]
domain = "{far_domain}"
to = "smtp:127.0.0.1:{sink_port}"
[plugins]
directories = ["{plugins}"]
{more}
"""

#: A hub that only takes mail leaves it in its queue: it has no role that would deliver.
ROLES = {Work.ACCEPT: "mta", Work.SUBMIT: "msa"}


class Hub(Server):
    """twistd, with so many workers.  `limits` are further lines of that section, `more` further sections.

    With `profile`, where its reactor's thread spends its time is written to that file when it stops.
    """

    name = "mailhub"
    limits = ""
    more = ""
    profile: Path | None = None

    def start(self) -> None:
        self._write()
        command = [str(Path(sys.executable).parent / "twistd"), f"--pidfile={self._pid_file}"]
        command += [f"--logfile={self.place / 'log'}"]
        if self.profile is not None:
            command += ["--profiler=cprofile", "--savestats", f"--profile={self.profile}"]
        command += ["mailhub", "--config", str(self.place / "mailhub.toml")]
        if self.work in ROLES:
            command += ["--roles", ROLES[self.work]]
        script = f"{self.meter.join}; exec {self.bound}{' '.join(map(quote, command))}"
        done = subprocess.run(
            ["sh", "-euc", script], cwd=self.place, capture_output=True, text=True, timeout=START_SECONDS_MAX
        )
        if done.returncode or not greets(self.port):
            raise RuntimeError(f"mailhub has not started:\n{done.stdout}{done.stderr}\n{self.told()}")
        self.meter.root = self._pid

    def _write(self) -> None:
        mta_port, msa_port = (self.port, 0) if self.work is not Work.SUBMIT else (0, self.port)
        (self.place / "mailhub.toml").write_text(
            CONFIGURATION.format(
                hostname=HOSTNAME,
                domain=DOMAIN,
                far_domain=FAR_DOMAIN,
                workers=f"workers = {self.workers}" if self.workers > 1 else "",
                certificate=self.certificate,
                port=mta_port,
                msa_port=msa_port,
                sink_port=self.sink_port,
                plugins=Path(__file__).parent / "policies",
                limits=self.limits,
                more=self.more,
            )
        )
        accounts = self.place / "accounts"
        accounts.touch(0o600)
        others = USERS[1:] if self.work is Work.SUBMIT else USERS
        accounts.write_text("".join(f"{user}@{DOMAIN}:x::::::\n" for user in others))
        if self.work is Work.SUBMIT:
            self._add_login()

    def _add_login(self) -> None:
        """The first user gets the password with which the load logs in."""
        words = [
            "user",
            "add",
            f"{USERS[0]}@{DOMAIN}",
            "--password-stdin",
            "--config",
            str(self.place / "mailhub.toml"),
        ]
        subprocess.run(
            [sys.executable, "-m", "mailhub", *words],
            input=PASSWORD + "\n",
            text=True,
            check=True,
            capture_output=True,
            cwd=self.place,
        )

    def stop(self) -> None:
        if not self._pid_file.exists():
            return
        os.kill(self._pid, signal.SIGTERM)
        if not self.meter.wait_for_end(STOP_SECONDS_MAX):
            raise RuntimeError(f"mailhub has not stopped:\n{self.told()}")
        self.meter.close()

    @property
    def _pid_file(self) -> Path:
        return self.place / "twistd.pid"

    @property
    def _pid(self) -> int:
        return int(self._pid_file.read_text())

    def inbox(self, user: str) -> Path:
        return self.place / "data" / "mail" / DOMAIN / user / "Maildir" / "new"

    def held(self) -> tuple[int, int]:
        queues = [place / SPOOL / "queue.db" for place in directories(self.place / "data").values()]
        counts = [_held(queue) for queue in queues if queue.exists()]
        return sum(messages for messages, _ in counts), sum(octets for _, octets in counts)

    def told(self) -> str:
        return tail([*self.place.glob("log*"), self.place / "data" / "log" / "mailhub.jsonl"])


def _held(queue: Path) -> tuple[int, int]:
    database = apsw.Connection(str(queue), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        ((count, octets),) = database.execute("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM message")
        return int(str(count)), int(str(octets))
    finally:
        database.close()
