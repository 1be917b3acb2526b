"""What the program says about itself: one line for people, everything for machines, and twistd told about it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import Logger, LogLevel
from twisted.python import log as legacy

from mailhub.app import log
from mailhub.history.log import HistoryLog
from mailhub.testing.threads import AtOnce


class Desk:
    """An observer with both of its readers."""

    def __init__(self, path: Path, level: str = "info") -> None:
        self.path = path
        self.clock = Clock()
        self.clock.advance(1_750_000_000)
        self.stream = io.StringIO()
        self.history = HistoryLog(path, self.clock, AtOnce())
        self.observer = log.Observer(self.history, self.stream, level)

    def logger(self, namespace: str = "mailhub.net.smtp") -> Logger:
        return Logger(namespace=namespace, observer=self.observer)

    @property
    def shown(self) -> list[str]:
        """The lines for people without date and time."""
        return [text.partition(" ")[2] for text in self.stream.getvalue().splitlines()]

    @property
    def events(self) -> list[dict[str, Any]]:
        self.history.flush()
        return [json.loads(text) for text in self.path.read_text().splitlines()] if self.path.exists() else []


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "h")


def test_an_event_is_text_for_people_and_fields_for_machines(desk: Desk) -> None:
    desk.logger().warn("cannot keep {queue_id}: {cause}", queue_id="3k9", session_id="mta-1", cause="no room")
    assert desk.shown == ["warn: cannot keep 3k9: no room"]
    (event,) = desk.events
    assert event == {
        "at": 1_750_000_000.0,
        "kind": "log",
        "session": "mta-1",
        "queue_id": "3k9",
        "cause": "no room",
        "level": "warn",
        "namespace": "mailhub.net.smtp",
        "text": "cannot keep 3k9: no room",
    }


def test_a_failure_is_short_for_people_and_whole_for_machines(desk: Desk) -> None:
    try:
        raise ValueError("no such\nthing")
    except ValueError:
        desk.logger().failure("while asking {policy}", policy="greylist")
    (shown,) = desk.shown
    assert shown.startswith("critical: while asking greylist: ValueError: no such\\nthing (app/test_program_log.py:")
    (event,) = [json.loads(text) for text in desk.path.read_text().splitlines()]  # written at once, without a flush
    assert "Traceback" in event["traceback"]
    assert "test_a_failure_is_short" in event["traceback"]


def test_hostile_text_stays_one_line(desk: Desk) -> None:
    desk.logger().info("hello {name}", name="x\r\nwarn: all is lost\x1b[2J\u2028.")
    assert desk.shown == ["hello x\\r\\nwarn: all is lost\\x1b[2J\\u2028."]
    assert len(desk.events) == 1


def test_a_broken_format_is_no_harm(desk: Desk) -> None:
    desk.logger().info("hello {nobody.home}")
    assert len(desk.shown) == 1


@pytest.mark.parametrize(
    ("level", "namespace", "at", "shown"),
    [
        ("info", "mailhub.x", LogLevel.info, True),
        ("info", "mailhub.x", LogLevel.debug, False),
        ("debug", "mailhub.x", LogLevel.debug, True),
        ("error", "mailhub.x", LogLevel.warn, False),
        ("info", "twisted.internet", LogLevel.info, False),
        ("info", "twisted.internet", LogLevel.warn, True),
        ("info", "mailhubber", LogLevel.info, False),
        ("error", "twisted.internet", LogLevel.warn, False),
        ("debug", "twisted.internet", LogLevel.debug, True),
        ("info", "stdout", LogLevel.info, True),
    ],
)
def test_what_is_worth_telling(tmp_path: Path, level: str, namespace: str, at: Any, shown: bool) -> None:
    desk = Desk(tmp_path / "h", level)
    desk.logger(namespace).emit(at, "text")
    assert len(desk.shown) == len(desk.events) == shown


def test_the_old_log_of_twisted_is_understood(desk: Desk) -> None:
    from twisted.logger import globalLogPublisher

    globalLogPublisher.addObserver(desk.observer)
    try:
        legacy.msg("Port 25 Closed")
        legacy.err(ValueError("lost"), "in a callback")
    finally:
        globalLogPublisher.removeObserver(desk.observer)
    assert desk.shown == ["critical: in a callback: ValueError: lost"]


def test_a_stream_that_is_gone_is_no_harm(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "h")
    desk.stream.close()
    desk.logger().info("text")
    assert len(desk.events) == 1


def test_the_journal_is_told_levels_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "journal").open("w") as stream:
        import os

        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        log.ForPeople(stream, log.stamp_for(stream))({"log_format": "text", "log_level": LogLevel.error})
    assert (tmp_path / "journal").read_text() == "<3>error: text\n"


# --- twistd ----------------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from twisted.application import app, service
from twisted.application.service import Application, Service
from twisted.internet import reactor
from twisted.logger import Logger
from twisted.scripts.twistd import ServerOptions, _SomeApplicationRunner
from mailhub.app import log
from mailhub.history.log import HistoryLog
from mailhub.testing.threads import AtOnce

class Speaker(Service):
    def startService(self):
        Logger(namespace="mailhub.test").info("up and {what}", what="running")
        print("printed")
        reactor.callLater(0, reactor.stop)
    def stopService(self):
        history.stopService()

class Runner(_SomeApplicationRunner):
    def createOrGetApplication(self):
        application = Application("test")
        log.set_up(options, application, history, "info", bool(options["nodaemon"]))
        Speaker().setServiceParent(application)
        return application

options = ServerOptions()
options.parseOptions(sys.argv[2:])
history = HistoryLog(sys.argv[1], reactor, AtOnce())
Runner(options).run()
"""


def run(tmp_path: Path, *options: str) -> tuple[str, list[dict[str, Any]]]:
    """A small program run by twistd in `tmp_path`: what it wrote to standard error, and its events."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    arguments = [sys.executable, str(program), str(tmp_path / "h"), "-y", "unused", *options, "--pidfile="]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr + done.stdout, [json.loads(text) for text in (tmp_path / "h").read_text().splitlines()]


def test_in_the_foreground_people_read_standard_error(tmp_path: Path) -> None:
    shown, events = run(tmp_path, "-n")
    assert [text.partition(" ")[2] for text in shown.splitlines()] == ["up and running", "printed"]
    assert [event["text"] for event in events] == ["up and running", "printed"]
    assert not (tmp_path / "twistd.log").exists()


def test_a_log_file_that_twistd_is_told_about_is_written_too(tmp_path: Path) -> None:
    shown, events = run(tmp_path, "-n", "--logfile=text.log")
    assert shown == ""
    assert "up and running" in (tmp_path / "text.log").read_text()
    assert "up and running" in [event["text"] for event in events]
