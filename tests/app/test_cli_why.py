"""`mailhub why` beside a real hub: what has just happened is told, whether the hub runs or not."""

from __future__ import annotations

import contextlib
import json
import re
import smtplib
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from click.testing import CliRunner, Result

from mailhub.app.cli import main
from mailhub.app.cli.why import moment
from mailhub.history.database import HistoryDatabase
from mailhub.history.line import Event, tell

PATIENCE_SECONDS = 20.0
LEAST = 'hostname = "mail.example.org"\ndata = "var"\n'
REDACTING = """
hostname = "mx.example.test"
data = "var"
[mta]
listen = ["tcp:0:interface=127.0.0.1"]
greet_delay = "0s"
[mda]
domains = ["example.test"]
[accounts]
file = "accounts"
aliases = "aliases"
[history]
redact = "hash"
"""
WITHOUT_REDACTION = REDACTING.replace('[history]\nredact = "hash"\n', "")
MESSAGE = b"Message-ID: <%b>\r\nSubject: hello\r\n\r\nHow are you?\r\n"


def run(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["why", *arguments, "--config", str(config)])


def eventually(hub: Any, *arguments: str) -> Result:
    """The answer, once there is one: the hub stores what has happened within a second."""
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        result = run(hub.config, *arguments)
        if result.exit_code == 0 or time.monotonic() > ends_at:
            return result
        time.sleep(0.1)


def until(question: Callable[[], Any]) -> None:
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not question():
        assert time.monotonic() < ends_at, "it did not happen"
        time.sleep(0.05)


def says(hub: Any, text: str) -> bool:
    """Whether the log does."""
    return any(text in str(event.get("text")) for event in hub.log())


def lines_in_order(text: str, *patterns: str) -> None:
    """Each pattern is on a line of its own, in this order; other lines may stand between."""
    rest = text.splitlines()
    for pattern in patterns:
        while rest and not re.search(pattern, rest[0]):
            rest.pop(0)
        assert rest, f"{pattern} is missing in\n{text}"
        rest.pop(0)


def send(hub: Any, message_id: str, *recipients: str, sender: str = "ann@elsewhere.example") -> None:
    with smtplib.SMTP("127.0.0.1", hub.ports["mta"]) as client:
        client.sendmail(sender, list(recipients), MESSAGE % message_id.encode())


def test_a_delivered_message_is_told_while_the_hub_runs(hub: Any) -> None:
    send(hub, "one@elsewhere.example", "alice@example.test", "team@example.test")
    result = eventually(hub, "ann@elsewhere.example")
    assert result.exit_code == 0, result.output
    lines_in_order(
        result.stdout,
        r"^\w{17}: delivered, from <ann@elsewhere.example> to <alice@example.test>, <bob@example.test>, in \d",
        r"^  \d\d:\d\d:\d\d\.\d{3} .* accepted +<alice@example.test> at RCPT by local_domains \(stands by itself",
        r"alias +team@example.test -> alice@example.test, bob@example.test$",
        r"queued +for <alice@example.test>, <bob@example.test>, \d+ octets",
        r"attempt +into the mailbox for",
        r"^> .* delivered +<alice@example.test>: 250 2.1.5 Delivered \(.*/alice/Maildir/new/",
        r"^> .* delivered +<bob@example.test>: 250 2.1.5 Delivered",
    )
    assert "What would have to change" not in result.stdout
    queue_id = result.stdout[:17]
    assert eventually(hub, queue_id).stdout == result.stdout


def test_a_refused_recipient_is_told_with_what_would_have_to_change(hub: Any) -> None:
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send(hub, "two@elsewhere.example", "nobody@example.test", sender="eve@elsewhere.example")
    result = eventually(hub, "nobody@example.test", "--refused")
    lines_in_order(
        result.stdout,
        r"^mta-[0-9a-f]+-[0-9a-f]+: refused, .*to <nobody@example.test>",
        r"^> .* refused +<nobody@example.test> at RCPT .*by local_domains .*: 550 5.1.1 No such user here",
        r"^What would have to change:$",
        r"^  Nobody here has the address nobody@example.test",
    )


def test_a_wrong_login_is_told(hub: Any) -> None:
    context = ssl._create_unverified_context()
    with smtplib.SMTP("127.0.0.1", hub.ports["msa"]) as client:
        client.starttls(context=context)
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("bob@example.test", "wrong")
    result = eventually(hub, "bob@example.test", "--refused")
    lines_in_order(result.stdout, r"no login +as bob@example.test with ", "^What would", "Login or password")
    assert "wrong" not in result.stdout.replace("password is wrong", ""), "no password"


def test_several_stories_are_a_list_and_json_has_all_of_it(hub: Any) -> None:
    for number in range(3):
        send(hub, f"list{number}@elsewhere.example", "bob@example.test", sender="list@elsewhere.example")
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = json.loads(eventually(hub, "list@elsewhere.example", "--json").stdout)
        if [story["verdict"] for story in found["stories"]] == ["delivered"] * 3:
            break
        assert time.monotonic() < ends_at, found
        time.sleep(0.1)
    assert found["more"] is False
    assert found["stories"][0]["recipients"] == ["bob@example.test"]
    assert [event["kind"] for event in found["stories"][0]["events"] if event.get("decisive")] == ["delivered"]
    table = run(hub.config, "list@elsewhere.example").stdout
    assert len(re.findall(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  \w{17}  delivered  from <list@", table, re.MULTILINE)) == 3
    assert "3 stories, newest first; `mailhub why ID` tells one." in table
    short = run(hub.config, "list@elsewhere.example", "--limit", "2")
    assert "There are more" in short.stdout


def test_nothing_found_says_what_was_looked_for_and_how_far_back(hub: Any) -> None:
    send(hub, "some@elsewhere.example", "bob@example.test")
    assert eventually(hub, "ann@elsewhere.example").exit_code == 0
    result = run(hub.config, "no\x1b[2J", "--since", "1h")
    assert result.exit_code == 1
    assert re.match(
        r"mailhub: no events about no\\x1b\[2J since .* found.  History goes back to [-\d: ]+ \([\d,]+ events\)\.\n$",
        result.stderr,
    )
    assert json.loads(run(hub.config, "nobody-at-all", "--json").stdout)["stories"] == []
    assert run(hub.config, "nobody-at-all", "--json").exit_code == 1


def test_it_is_told_when_the_hub_is_down_too(start: Callable[..., Any]) -> None:
    hub = start()
    send(hub, "down@elsewhere.example", "bob@example.test")
    hub.stop()
    result = run(hub.config, "ann@elsewhere.example")
    assert result.exit_code == 0, result.output
    lines_in_order(result.stdout, "delivered, from", "^> .* delivered")


def test_a_handshake_that_fails_is_told(hub: Any) -> None:
    """The address that it came from is asked for: 127.0.0.9 is used by nobody else here."""
    with socket.create_connection(("127.0.0.1", hub.ports["msa-tls"]), 10, ("127.0.0.9", 0)) as client:
        client.sendall(b"EHLO who.talks.in.the.clear\r\n" * 4)
        with contextlib.suppress(ConnectionError):
            client.recv(4096)
    result = eventually(hub, "127.0.0.9")
    assert re.search(r"no TLS +with 127\.0\.0\.9: .*(wrong version number|http request|packet)", result.stdout), result


def test_mail_of_a_program_is_found_by_its_message_id(hub: Any) -> None:
    ended = hub.command("sendmail", "bob@example.test", stdin="Message-ID: <cron.1@example.test>\nSubject: x\n\nx\n")
    assert ended.returncode == 0, ended.stderr
    until(lambda: "delivered, from" in run(hub.config, "<cron.1@example.test>").stdout)
    result = run(hub.config, "<cron.1@example.test>")
    lines_in_order(result.stdout, "Message-ID <cron.1@example.test>", "queued .*from a program of user", "delivered")


def test_a_corrupt_database_never_stops_mail(start: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "var" / "history.db"
    path.parent.mkdir()
    path.write_bytes(b"this is no database, and never was one.  " * 1000)
    hub = start()
    send(hub, "corrupt@elsewhere.example", "bob@example.test")
    assert eventually(hub, "ann@elsewhere.example").exit_code == 0
    hub.stop()
    assert len(hub.messages("bob@example.test")) == 1
    (aside,) = path.parent.glob("history.db.set-aside-*")
    (said,) = [event for event in hub.log() if event.get("level") == "critical"]
    assert str(aside) in str(said["text"])
    assert str(aside) in (tmp_path / "output").read_text()


def test_a_locked_database_never_stops_mail(start: Callable[..., Any], tmp_path: Path) -> None:
    hub = start()
    send(hub, "before@elsewhere.example", "bob@example.test")
    assert eventually(hub, "ann@elsewhere.example").exit_code == 0
    locker = apsw.Connection(str(tmp_path / "var" / "history.db"))
    locker.execute("BEGIN IMMEDIATE")
    send(hub, "locked@elsewhere.example", "bob@example.test", sender="locked@elsewhere.example")
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not any("cannot be written" in str(event.get("text")) for event in hub.log()):
        assert time.monotonic() < ends_at
        time.sleep(0.1)
    locker.execute("COMMIT")
    locker.close()
    assert eventually(hub, "locked@elsewhere.example").exit_code == 0
    assert len(hub.messages("bob@example.test")) == 2


def test_a_database_locked_for_itself_is_waited_for_and_nothing_is_lost(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    """BEGIN EXCLUSIVE, and a lock that readers cannot pass either."""
    hub = start()
    send(hub, "before@elsewhere.example", "bob@example.test")
    assert eventually(hub, "ann@elsewhere.example").exit_code == 0
    locker = apsw.Connection(str(tmp_path / "var" / "history.db"))
    locker.set_busy_timeout(10_000)
    locker.execute("BEGIN EXCLUSIVE")
    for number in range(5):
        send(hub, f"{number}@elsewhere.example", "bob@example.test", sender=f"locked{number}@elsewhere.example")
    until(lambda: len(hub.messages("bob@example.test")) == 6)
    until(lambda: says(hub, "the history database cannot be written, mail flows without"))
    locker.execute("ROLLBACK")
    locker.close()
    assert eventually(hub, "locked4@elsewhere.example").exit_code == 0
    until(lambda: says(hub, "the history database is written again"))
    assert not list((tmp_path / "var").glob("*set-aside*")), "a lock is no damage"


def test_a_database_that_becomes_corrupt_while_the_hub_runs_is_set_aside(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    hub = start()
    path = tmp_path / "var" / "history.db"
    for number in range(40):
        send(hub, f"{number}@elsewhere.example", "bob@example.test")
    assert eventually(hub, "<39@elsewhere.example>").exit_code == 0
    # What the write-ahead log has goes home, and then the middle of the file is overwritten in place.
    checkpointer = apsw.Connection(str(path))
    checkpointer.set_busy_timeout(10_000)
    checkpointer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    checkpointer.close()
    with path.open("r+b") as file:
        file.seek(16 * 1024)
        file.write(b"\xff" * (path.stat().st_size - 16 * 1024))
    numbers = iter(range(100))

    def is_set_aside() -> bool:
        number = next(numbers)
        send(hub, f"later.{number}@elsewhere.example", "bob@example.test", sender="later@elsewhere.example")
        time.sleep(0.2)
        return bool(list(path.parent.glob("history.db.set-aside-*")))

    until(is_set_aside)
    assert eventually(hub, "later@elsewhere.example").exit_code == 0
    sent = 40 + next(numbers)
    until(lambda: len(hub.messages("bob@example.test")) == sent)
    (aside,) = path.parent.glob("history.db.set-aside-*[0-9]")
    assert says(hub, str(aside))
    assert says(hub, "a new one begins")


@pytest.fixture
def small_history(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own for the history, of one megabyte."""
    folder = tmp_path / "history"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"NOT TESTED: a full disk, for nothing can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_never_stops_mail_and_is_told(start: Callable[..., Any], small_history: Path) -> None:
    hub = start(configuration=WITHOUT_REDACTION + f'[history]\nfile = "{small_history}/history.db"\n')
    send(hub, "before@elsewhere.example", "bob@example.test")
    assert eventually(hub, "<before@elsewhere.example>").exit_code == 0
    ballast = small_history / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 1024)
    for number in range(60):
        send(hub, f"{number}@elsewhere.example", "bob@example.test", sender="full@elsewhere.example")
    until(lambda: len(hub.messages("bob@example.test")) == 61)
    until(lambda: says(hub, "the history database cannot be written, mail flows without"))
    ballast.unlink()
    assert eventually(hub, "<59@elsewhere.example>").exit_code == 0
    until(lambda: says(hub, "the history database is written again"))


def test_hashed_addresses_are_found_by_who_has_the_key(start: Callable[..., Any], tmp_path: Path) -> None:
    hub = start(configuration=REDACTING)
    send(hub, "hash@elsewhere.example", "bob@example.test")
    result = eventually(hub, "Ann@elsewhere.example")
    assert re.search(r"from <~[0-9a-f]{12}@elsewhere.example> to <~[0-9a-f]{12}@example.test>", result.stdout)
    hub.stop()
    for name in ("history.db", "log/mailhub.jsonl"):
        octets = (tmp_path / "var" / name).read_bytes()
        assert b"ann@elsewhere.example" not in octets
        assert b"/bob/" not in octets, "the mailbox is named after its owner"


# --- without a hub -------------------------------------------------------------------------------------------------


def test_before_there_is_a_history(tmp_path: Path) -> None:
    (tmp_path / "hub.toml").write_text(LEAST)
    result = run(tmp_path / "hub.toml", "x")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no history yet" in result.stderr


def write(path: Path, queue_id: str, at: float) -> None:
    """The history of a worker that has delivered one message."""
    facts = {"reverse_path": "ann@elsewhere.example", "recipients": ["bob@example.test"], "size": 1}
    reply = {"recipient": "bob@example.test", "reply": "250 2.1.5 Delivered"}
    events: list[Event] = [
        (at, "queued", f"mta-{queue_id}", queue_id, facts),
        (at + 1, "delivered", "", queue_id, reply),
        (at + 2, "removed", "", queue_id, {}),
    ]
    database = HistoryDatabase(path, 1e9, 1 << 30)
    database.write(events, *tell(events), at + 2)
    database.close(at + 2)


def test_all_workers_are_asked(tmp_path: Path) -> None:
    config = tmp_path / "hub.toml"
    config.write_text(f"workers = 2\n{LEAST}")
    now = time.time()
    for name, queue_id, age in (("history", "q1", 300), ("history-2", "q2", 200), ("history-3", "q3", 400)):
        write(tmp_path / "var" / f"{name}.db", queue_id, now - age)
    result = run(config, "ann@elsewhere.example")
    assert (result.exit_code, result.stderr) == (0, "")
    lines_in_order(result.stdout, "  q2  delivered", "  q1  delivered", "  q3  delivered", "^3 stories, newest first")
    limited = run(config, "ann@elsewhere.example", "--limit", "2")
    lines_in_order(limited.stdout, "  q2  delivered", "  q1  delivered", "^2 stories.* There are more")
    whole = run(config, "q3")
    lines_in_order(whole.stdout, "^q3: delivered, from <ann@", " queued ", "^> .* delivered ")
    told = json.loads(run(config, "--json").stdout)
    assert told["unreadable"] == []
    assert told["history"]["events"] == 9
    assert told["history"]["begins_at"] == pytest.approx(now - 400, abs=0.001)
    nobody = run(config, "nobody@example.test")
    assert (nobody.exit_code, "(9 events)" in nobody.stderr) == (1, True)


def test_a_list_may_be_cut_to_one(tmp_path: Path) -> None:
    config = tmp_path / "hub.toml"
    config.write_text(LEAST)
    for number in range(2):
        write(tmp_path / "var" / "history.db", f"q{number}", time.time() - 300 + number)
    assert "\n1 story, newest first; " in run(config, "ann@elsewhere.example", "--limit", "1").stdout


def test_on_a_terminal_the_line_that_decided_is_bold_and_nothing_else(tmp_path: Path) -> None:
    config = tmp_path / "hub.toml"
    config.write_text(LEAST)
    write(tmp_path / "var" / "history.db", "q1", time.time() - 300)
    shown = CliRunner().invoke(main, ["why", "q1", "--config", str(config)], color=True).stdout
    (bold,) = [line for line in shown.splitlines() if "\x1b" in line]
    assert re.fullmatch(r"\x1b\[1m> .* delivered .*\x1b\[0m", bold)
    assert "\x1b" not in run(config, "q1").stdout


def test_one_database_that_cannot_be_read_is_told_and_the_others_answer(tmp_path: Path) -> None:
    config = tmp_path / "hub.toml"
    config.write_text(f"workers = 2\n{LEAST}")
    write(tmp_path / "var" / "history.db", "q1", time.time() - 100)
    second = tmp_path / "var" / "history-2.db"
    assert run(config, "q1").stderr == "", "the second worker has never run"
    (tmp_path / "var" / "workers" / "2").mkdir(parents=True)
    result = run(config, "q1")
    assert result.stderr == (
        f"mailhub: a part of the history is missing: there is no history yet: {second} does not exist\n"
    )
    assert result.stdout.startswith("q1: delivered")
    second.write_bytes(b"no database.  " * 1000)
    result = run(config, "q1", "--json")
    assert result.exit_code == 0
    assert f"{second} is corrupt" in result.stderr
    (unreadable,) = json.loads(result.stdout)["unreadable"]
    assert unreadable in result.stderr
    result = run(config, "q2")
    assert (result.exit_code, result.stdout) == (1, "")
    lines_in_order(result.stderr, "is corrupt", "no events about q2 found")


@pytest.mark.parametrize("arguments", [("--since", "yore"), ("--limit", "0"), ("a", "b")])
def test_a_mistake_in_the_call_is_status_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "hub.toml").write_text(LEAST)
    assert run(tmp_path / "hub.toml", *arguments).exit_code == 2


def test_an_end_before_the_beginning_is_told(tmp_path: Path) -> None:
    (tmp_path / "hub.toml").write_text(LEAST)
    result = run(tmp_path / "hub.toml", "--since", "2026-11-22 12:30", "--until", "2026-11-22 12:29")
    assert result.exit_code == 2
    assert "--until is 2026-11-22 12:29:00, and --since is 2026-11-22 12:30:00" in result.stderr


def test_times_as_people_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        now = 1_763_640_000.0  # Thursday 20 November 2025, 12:00:00 UTC
        assert moment("2h", now) == now - 7200
        assert moment("today", now) == now - 43_200
        assert moment("yesterday", now) == now - 43_200 - 86_400
        assert moment("9:30", now) == now - 9000
        assert moment("11:59:30", now) == now - 30
        assert moment("12:00", now) == now
        assert moment("12:30", now) == now + 1800 - 86_400, "the latest that has passed"
        assert moment("12:00:01", now) == now + 1 - 86_400
        assert moment("2025-11-19", now) == now - 43_200 - 86_400
        assert moment("2025-11-20 11:00", now) == now - 3600
    finally:
        monkeypatch.undo()
        time.tzset()
