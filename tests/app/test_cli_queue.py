"""`mailhub queue` as a postmaster types it, against a real hub that keeps its mail because nobody delivers it."""

import json
import re
import smtplib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from click.testing import CliRunner, Result

from mailhub.app.cli import main
from mailhub.app.cli.queue import _list_row, _short_size, _short_time

Queue = Callable[..., Result]


@pytest.fixture(scope="module")
def waiting(hub_process: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A hub without the role that runs the queue."""
    return hub_process(tmp_path_factory.mktemp("hub"), arguments=("--roles", "mta"))


@pytest.fixture
def queue(waiting: Any) -> Queue:
    """`queue("list", ...)`, on a queue that is empty at first."""

    def run(*words: str) -> Result:
        result = CliRunner().invoke(main, ["queue", *words, "--config", str(waiting.config)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    for message in json.loads(run("list", "--json").stdout):
        run("drop", message["queue_id"])
    return run


def send(hub: Any, sender: str, *recipients: str, text: str = "Subject: hi\r\n\r\nthe body\r\n") -> str:
    """Hand one message in; its queue id."""
    with smtplib.SMTP("127.0.0.1", hub.ports["mta"]) as client:
        client.ehlo("client.example.org")
        client.mail(sender)
        for recipient in recipients:
            assert client.rcpt(recipient)[0] == 250
        _, said = client.data(text)
    return str(said.split()[-1].decode())


def ids(result: Result) -> list[str]:
    return [message["queue_id"] for message in json.loads(result.stdout)]


def test_the_list_is_for_people(waiting: Any, queue: Queue) -> None:
    queue_id = send(waiting, "carol@example.org", "alice@example.test", "bob@example.test")
    result = queue("list")
    assert result.exit_code == 0
    heading, row = result.stdout.splitlines()
    assert heading.split()[:7] == ["ID", "AGE", "SIZE", "STATE", "RCPT", "NEXT", "SENDER"]
    assert re.fullmatch(rf"{queue_id} +\d+s +\d+B queued +2 +now carol@example\.org", row)


def test_an_empty_queue_is_no_mistake(queue: Queue) -> None:
    result = queue("list")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "Nothing waits.\n")
    assert queue("list", "--json").stdout == "[]\n"


def test_filters(waiting: Any, queue: Queue) -> None:
    one = send(waiting, "carol@example.org", "alice@example.test")
    two = send(waiting, "", "bob@example.test")
    three = send(waiting, "Dave@Example.Net", "bob@second.test")
    for filters, found in (
        ((), [one, two, three]),
        (("--limit", "2"), [one, two]),
        (("--sender", "<>"), [two]),
        (("--sender", "@example.net"), [three]),
        (("--sender", "dave@example.net"), [three]),
        (("--recipient", "bob@example.test"), [two, three]),
        (("--domain", "example.test", "--sender", "carol@example.org"), [one]),
        (("--older", "1h"), []),
        (("--younger", "1h"), [one, two, three]),
        (("--state", "queued"), [one, two, three]),
        (("--state", "deferred"), []),
        (("--state", "active"), []),
    ):
        assert ids(queue("list", "--json", *filters)) == found, filters


@pytest.mark.parametrize(
    "words",
    [
        ("list", "--sender", "nobody"),
        ("list", "--older", "yesterday"),
        ("list", "--state", "lost"),
        ("list", "--limit", "0"),
        ("show", "../../etc/passwd"),
        ("hold", "UPPER"),
        ("retry",),
        ("drop",),
        ("bounce", "--reason", "x"),
    ],
)
def test_a_wrong_call_ends_with_2(queue: Queue, words: tuple[str, ...]) -> None:
    result = queue(*words)
    assert result.exit_code == 2
    assert result.stderr
    assert not result.stdout


def test_show(waiting: Any, queue: Queue) -> None:
    queue_id = send(waiting, "carol@example.org", "alice@example.test", "team@example.test")
    result = queue("show", queue_id)
    assert result.exit_code == 0
    for told in (
        "carol@example.org",
        "alice@example.test: queued",
        "for team@example.test",
        "Subject: hi",
        "Received:",
    ):
        assert told in result.stdout
    assert "the body" not in result.stdout
    message = json.loads(queue("show", queue_id, "--json").stdout)
    assert [recipient["address"] for recipient in message["recipients"]] == ["alice@example.test", "bob@example.test"]
    assert "the body" not in json.dumps(message)
    assert queue("show", queue_id, "--content").stdout_bytes.endswith(b"Subject: hi\r\n\r\nthe body\r\n")
    assert json.loads(queue("show", queue_id, "--content", "--json").stdout)["content"].endswith("the body\r\n")


def test_strangers_cannot_command_the_terminal(waiting: Any, queue: Queue) -> None:
    queue_id = send(waiting, "carol@example.org", "alice@example.test", text="Subject: \x1b]0;owned\x07\r\n\r\n")
    shown = queue("show", queue_id).stdout
    assert "\x1b" not in shown
    assert "\\x1b]0;owned\\x07" in shown
    hostile = {"queue_id": "q", "received_at": 0, "size": 1, "sender": "\x1b[2J@x.test", "recipients_in_all": 1}
    hostile |= {"recipients_waiting": 1, "state": "deferred", "next_attempt_at": 1, "last_reply": "\x9b5n" + "x" * 200}
    row = _list_row(hostile, 10.0)
    assert row.isprintable()
    assert row.endswith("...")


def test_hold_and_release(waiting: Any, queue: Queue) -> None:
    queue_id = send(waiting, "carol@example.org", "alice@example.test")
    assert queue("hold", queue_id, "--reason", "looks odd").stdout == f"{queue_id} held (1 recipient)\n"
    assert ids(queue("list", "--state", "held", "--json")) == [queue_id]
    assert queue("hold", queue_id).exit_code == 0
    result = queue("retry", queue_id)
    assert (result.exit_code, result.stderr) == (1, f"{queue_id}: it is held: release it\n")
    assert queue("release", "--sender", "carol@example.org").stdout == f"{queue_id} released (1 recipient)\n"
    assert queue("retry", queue_id).stdout == f"{queue_id} due now (1 recipient)\n"
    assert queue("flush").exit_code == 0
    assert queue("flush", "--domain", "elsewhere.example").exit_code == 0


def test_what_is_in_quarantine_is_told_and_can_be_read_again(waiting: Any, queue: Queue) -> None:
    first, bad, last = (send(waiting, "carol@example.org", "alice@example.test") for _ in range(3))

    def edit(parameters: str) -> None:
        database = apsw.Connection(str(waiting.config.parent / "var" / "spool" / "queue.db"))
        with database:
            database.execute("UPDATE message SET parameters = ? WHERE queue_id = ?", (parameters, bad))
        database.close()

    edit("[")
    shown = queue("show", bad).stdout  # it is found out here
    assert f"Message:   {bad} (quarantine)\n" in shown
    assert "Cause:     Expecting value: line 1" in shown
    row = queue("list").stdout.splitlines()[2]
    assert re.fullmatch(rf"{bad} .* quarantine .* for \d+s: Expecting value: line 1.*", row)
    everything = json.loads(queue("list", "--json").stdout)
    assert [message["queue_id"] for message in everything] == [first, bad, last]
    assert everything[1] == json.loads(queue("show", bad, "--json").stdout)
    assert everything[1].keys() == {"queue_id", "state", "quarantined_at", "cause"}
    assert ids(queue("list", "--json", "--limit", "2")) == [first, bad]
    assert ids(queue("list", "--json", "--state", "quarantine")) == [bad]
    assert ids(queue("list", "--json", "--state", "queued")) == [first, last]
    for words in (("show", bad, "--content"), ("drop", bad), ("release", bad), ("hold", "--state", "quarantine")):
        result = queue(*words)
        assert (result.exit_code, result.stdout) == (1, ""), words
        assert "in quarantine" in result.stderr, words
    edit("{}")
    assert queue("release", bad).stdout == f"{bad} released (1 recipient)\n"
    assert ids(queue("list", "--json", "--state", "queued")) == [first, bad, last]


def test_drop_asks_before_it_follows_a_filter(waiting: Any, queue: Queue) -> None:
    one = send(waiting, "carol@example.org", "alice@example.test")
    two = send(waiting, "dave@example.org", "alice@example.test")
    result = queue("drop", "--sender", "carol@example.org")
    assert result.exit_code == 1
    assert "1 message matches; nothing was done.  Say --yes" in result.stderr
    assert ids(queue("list", "--json")) == [one, two]
    assert queue("drop", "--sender", "carol@example.org", "--yes").stdout == f"{one} dropped (1 recipient)\n"
    assert queue("drop", "--sender", "carol@example.org").exit_code == 1
    assert json.loads(queue("drop", two, "--json").stdout) == [
        {"queue_id": two, "result": "done", "recipients": 1, "why": ""}
    ]
    assert ids(queue("list", "--json")) == []
    result = queue("drop", two)
    assert (result.exit_code, result.stderr) == (1, f"{two}: it is not in the queue\n")


def test_bounce_tells_the_sender(waiting: Any, queue: Queue) -> None:
    queue_id = send(waiting, "alice@example.test", "bob@example.test")
    result = queue("bounce", queue_id, "--reason", "that host is gone")
    assert result.stdout == f"{queue_id} sent back (1 recipient)\n"
    (notification,) = json.loads(queue("list", "--json").stdout)
    assert (notification["sender"], notification["first_recipient"]) == ("<>", "alice@example.test")
    assert notification["labels"] == ["dsn"]
    text = queue("show", notification["queue_id"], "--content").stdout
    assert "that host is gone" in text
    assert "Status: 5.0.0" in text


def test_without_a_hub_it_says_so(tmp_path: Path, waiting: Any) -> None:
    config = tmp_path / "mailhub.toml"
    config.write_text(waiting.config.read_text())
    for words in (["list"], ["show", "0" * 17], ["hold", "0" * 17], ["flush"]):
        result = CliRunner().invoke(main, ["queue", *words, "--config", str(config)])
        assert result.exit_code == 1
        assert f"no hub runs on this data directory ({tmp_path}/var): start it, or look with sqlite3" in result.stderr


def test_short_forms() -> None:
    assert [_short_time(each) for each in (0, 59, 60, 3599, 3600, 90000, 172800, -5)] == [
        *("0s", "59s", "1m", "60m", "1h", "25h", "2d", "0s"),
    ]
    assert [_short_size(each) for each in (0, 999, 1000, 9999, 12_345, 1_500_000, 2e9)] == [
        *("0B", "999B", "1.0kB", "10.0kB", "12kB", "1.5MB", "2.0GB"),
    ]
