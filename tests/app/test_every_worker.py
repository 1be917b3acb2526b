"""`mailhub queue` on a hub with several workers: real queues, real sockets, and the command as it is typed."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
from click.testing import CliRunner, Result
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial import unittest

from mailhub.app.cli import main, sendmail
from mailhub.app.control import ControlService
from mailhub.app.control_queue import QueueDesk
from mailhub.app.waiting import waiting
from mailhub.model import Address, Envelope, Recipient
from mailhub.queue.runner import tell_nobody
from mailhub.queue.steering import Steering
from mailhub.store.disk import RealDisk
from mailhub.store.spool import SqliteSpool
from mailhub.testing.threads import AtOnce

ANN, BOB, CAROL = (Address(name, "example.org") for name in ("ann", "bob", "carol"))
NOBODYS_ID = "0" * 17


class Worker:
    """The queue and the control socket of one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.spool = SqliteSpool(
            str(directory / "spool"),
            reactor,  # type: ignore[arg-type]
            reactor,  # type: ignore[arg-type]
            RealDisk(),
            AtOnce(),
            random.SystemRandom(),
            reserve_octets=0,
        )
        steering = Steering(self.spool, reactor, reactor, self, tell_nobody)  # type: ignore[arg-type]
        desk = QueueDesk(self.spool, steering, AtOnce())
        self.control = ControlService(directory / "control", reactor, desk.answers)
        self.is_open = False

    def record(self, kind: str, session_id: str = "", queue_id: str = "", **facts: object) -> None:
        """As IHistory."""

    async def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        await self.spool.open()
        self.control.startService()
        self.is_open = True

    async def stop(self) -> None:
        if self.is_open:
            self.is_open = False
            await self.control.stopService()
            await self.spool.close()

    async def take(self, sender: Address = ANN, recipients: Sequence[Address] = (BOB,), text: str = "body") -> str:
        draft = self.spool.draft()
        draft.write(f"Subject: x\r\n\r\n{text}\r\n".encode())
        everybody = tuple(Recipient(one, one, next_attempt_at=2e9) for one in recipients)
        await draft.commit(Envelope(draft.queue_id, sender, everybody, 1_750_000_000.0))
        return draft.queue_id


class TwoWorkers(unittest.TestCase):
    """`workers = 2`; `one` and `two` run when a test begins."""

    async def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.place = Path(temporary.name)
        self.data = self.place / "var"
        self.configure(2)
        self.one, self.two = await self.worker(self.data), await self.worker(self.data / "workers" / "2")

    def configure(self, workers: int) -> None:
        self.config = self.place / "mailhub.toml"
        self.config.write_text(f'hostname = "mx.example.test"\ndata = "var"\nworkers = {workers}\n')

    async def worker(self, directory: Path) -> Worker:
        worker = Worker(directory)
        self.addCleanup(worker.stop)
        await worker.start()
        return worker

    async def queue(self, *words: str) -> Result:
        """`mailhub queue WORDS`, in a thread, since the workers answer in this one."""
        arguments = ["queue", *words, "--config", str(self.config)]
        result: Result = await deferToThread(lambda: CliRunner().invoke(main, arguments))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    async def ids(self, *words: str) -> list[str]:
        result = await self.queue("list", "--json", *words)
        assert result.exit_code == 0, result.stderr
        assert result.stderr == ""
        return [message["queue_id"] for message in json.loads(result.stdout)]

    async def takes(self, *workers: Worker) -> list[str]:
        """A message for each of them, one after the other."""
        return [await worker.take() for worker in workers]

    async def kill(self, worker: Worker) -> None:
        """It dies: what it had is on the disk, and so is its socket."""
        await worker.stop()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(worker.control.path))

    # --- seeing --------------------------------------------------------------------------------------------------

    async def test_one_list_by_age_whoever_has_it(self) -> None:
        one, two = self.one, self.two
        made = await self.takes(two, one, one, two, one, two, two)
        assert await self.ids() == made
        for limit in range(1, 8):
            assert await self.ids("--limit", str(limit)) == made[:limit]
        assert await self.ids("--limit", "50") == made
        result = await self.queue("list")
        assert [line.split()[0] for line in result.stdout.splitlines()] == ["ID", *made]

    async def test_more_than_a_page_of_each(self) -> None:
        made = await self.takes(*[self.one, self.two] * 60, *[self.two] * 20)
        assert await self.ids() == made
        assert await self.ids("--limit", "111") == made[:111]

    async def test_recipients_stay_with_their_message(self) -> None:
        made = {
            await self.one.take(recipients=[BOB, CAROL]): ["bob@example.org", "carol@example.org"],
            await self.two.take(recipients=[CAROL]): ["carol@example.org"],
            await self.one.take(recipients=[BOB]): ["bob@example.org"],
            await self.two.take(recipients=[CAROL, BOB]): ["carol@example.org", "bob@example.org"],
        }
        told = json.loads((await self.queue("list", "--json")).stdout)
        assert {
            message["queue_id"]: [recipient["address"] for recipient in message["recipients"]] for message in told
        } == made

    async def test_show_finds_it_wherever_it_is(self) -> None:
        for worker, text in ((self.one, "by the first"), (self.two, "by the second")):
            queue_id = await worker.take(text=text)
            assert json.loads((await self.queue("show", queue_id, "--json")).stdout)["queue_id"] == queue_id
            content = await self.queue("show", queue_id, "--content")
            assert content.stdout_bytes == f"Subject: x\r\n\r\n{text}\r\n".encode()
            assert content.stderr == ""
        result = await self.queue("show", NOBODYS_ID)
        assert (result.exit_code, result.stderr) == (1, f"mailhub: {NOBODYS_ID} is not in the queue\n")

    async def test_mailq_and_sendmail_q(self) -> None:
        made = await self.takes(self.two, self.one)
        for words, lines in ((["-bp"], 3), (["-q"], 0)):
            result = await self.sendmail(*words)
            assert (result.exit_code, len(result.stdout.splitlines())) == (0, lines)
        assert [message["next_attempt_at"] < 2e9 for message in await self.messages()] == [True, True]
        await self.two.stop()
        for words in (["-bp"], ["-q"]):
            result = await self.sendmail(*words)
            assert result.exit_code == os.EX_UNAVAILABLE
            assert (made[1] in result.stdout) == (words == ["-bp"])
            assert "sendmail: worker 2 does not run" in result.stderr

    async def sendmail(self, *words: str) -> Result:
        arguments = ["-C", str(self.config), *words]
        result: Result = await deferToThread(lambda: CliRunner().invoke(sendmail.sendmail, arguments))
        return result

    async def messages(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((await self.queue("list", "--json")).stdout)
        return found

    # --- steering ------------------------------------------------------------------------------------------------

    async def test_a_filter_is_for_all(self) -> None:
        made = await self.takes(self.one, self.two, self.two)
        other = await self.two.take(sender=CAROL)
        result = await self.queue("hold", "--sender", "ann@example.org", "--json")
        assert result.exit_code == 0
        assert {each["queue_id"]: each["result"] for each in json.loads(result.stdout)} == dict.fromkeys(made, "done")
        assert await self.ids("--state", "held") == made
        result = await self.queue("drop", "--sender", "ann@example.org")
        assert (result.exit_code, result.stderr[:31]) == (1, "mailhub: 3 messages match; noth")
        assert (await self.queue("drop", "--sender", "ann@example.org", "--yes")).exit_code == 0
        assert await self.ids() == [other]
        result = await self.queue("flush")
        assert (result.exit_code, result.stdout) == (0, f"{other} due now (1 recipient)\n")
        await self.queue("drop", other)
        result = await self.queue("flush")
        assert (result.exit_code, result.stderr) == (0, "Nothing waits.\n")

    async def test_ids_are_looked_for_everywhere_and_told_once(self) -> None:
        first, second = await self.takes(self.one, self.two)
        result = await self.queue("hold", second, NOBODYS_ID, first, "--json")
        assert result.exit_code == 1
        told = {each["queue_id"]: each for each in json.loads(result.stdout)}
        assert len(told) == len(json.loads(result.stdout)) == 3
        assert [told[each]["result"] for each in (first, second, NOBODYS_ID)] == ["done", "done", "gone"]
        result = await self.queue("release", first, second)
        assert (result.exit_code, result.stderr) == (0, "")
        result = await self.queue("retry", NOBODYS_ID)
        assert (result.exit_code, result.stderr) == (1, f"{NOBODYS_ID}: it is not in the queue\n")

    # --- who is missing ------------------------------------------------------------------------------------------

    async def test_what_one_that_died_has_is_missing_and_told(self) -> None:
        first, second = await self.takes(self.one, self.two)
        await self.kill(self.two)
        database = self.data / "workers" / "2" / "spool" / "queue.db"
        warning = (
            "mailhub: worker 2 does not run, and its part of the queue is missing here: try again, or look with"
            f" sqlite3 {database}\n"
        )
        result = await self.queue("list", "--json")
        assert (result.exit_code, result.stderr) == (1, warning)
        assert [message["queue_id"] for message in json.loads(result.stdout)] == [first]
        result = await self.queue("show", second)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == f"{warning}mailhub: {second} is not in the queue of any worker that answers\n"
        result = await self.queue("show", first)
        assert (result.exit_code, result.stderr) == (0, "")
        result = await self.queue("hold", first, second)
        assert (result.exit_code, result.stdout) == (1, f"{first} held (1 recipient)\n")
        assert result.stderr == f"{second}: it is not in the queue of any worker that answers\n{warning}"
        result = await self.queue("hold", "--sender", "ann@example.org", "--json")
        assert (result.exit_code, result.stdout, result.stderr) == (1, "[]\n", warning)
        result = await self.queue("bounce", "--sender", "ann@example.org", "--yes")
        assert (result.exit_code, result.stdout, result.stderr) == (1, f"{first} sent back (1 recipient)\n", warning)
        other = await self.one.take()
        result = await self.queue("drop", other)
        assert (result.exit_code, result.stderr) == (0, ""), "nothing else was meant"
        for words in (["list"], ["flush"]):
            result = await self.queue(*words)
            assert (result.exit_code, result.stdout, result.stderr) == (1, "", warning)

    async def test_the_first_may_be_the_one_that_died(self) -> None:
        _, second = await self.takes(self.one, self.two)
        await self.kill(self.one)
        result = await self.queue("list")
        assert result.exit_code == 1
        assert second in result.stdout
        assert "worker 1 does not run" in result.stderr

    async def test_a_number_of_former_times_is_missed_only_for_what_it_has(self) -> None:
        (left,) = await self.takes(self.two)
        self.configure(1)
        assert await self.ids() == [left]  # by a process of its own
        await self.kill(self.two)
        assert "worker 2 does not run" in (await self.queue("list")).stderr
        self.two.control.path.unlink()
        assert "worker 2 does not run" in (await self.queue("list")).stderr
        again = await self.worker(self.data / "workers" / "2")
        await self.queue("drop", left)
        await self.kill(again)
        assert await self.ids() == []
        assert (await self.queue("list")).stderr == "Nothing waits.\n"

    async def test_a_queue_that_cannot_be_looked_into_is_missing(self) -> None:
        await self.two.stop()
        assert await self.ids() == []
        (self.data / "workers" / "2" / "spool" / "queue.db").write_bytes(b"no database " * 100)
        result = await self.queue("list")
        assert result.exit_code == 1
        assert "worker 2 does not run" in result.stderr

    async def test_where_nobody_runs_it_is_told_where_to_look(self) -> None:
        await self.takes(self.one, self.two)
        await self.one.stop()
        await self.kill(self.two)
        for words in (["list"], ["show", NOBODYS_ID], ["hold", NOBODYS_ID], ["flush"]):
            result = await self.queue(*words)
            assert result.exit_code == 1
            assert result.stderr == (
                f"mailhub: no hub runs on this data directory ({self.data}): start it, or look with sqlite3"
                f" {self.data}/spool/queue.db and {self.data}/workers/2/spool/queue.db\n"
            )

    async def test_one_that_ends_in_the_middle_is_told(self) -> None:
        first, second, third = await self.takes(self.one, self.two, self.one)
        told = await self.messages()
        await self.two.stop()
        half = [json.dumps({"message": told[1]}), json.dumps({"message": {**told[1], "queue_id": "z"}})]
        with answering(self.two.control.path, "\n".join(half) + "\n"):
            result = await self.queue("list", "--json")
        assert result.exit_code == 1
        assert [message["queue_id"] for message in json.loads(result.stdout)] == [first, second, third]
        why = "the hub ended before it had answered"
        assert result.stderr == f"mailhub: worker 2, whose part of the queue is missing here: {why}\n"

    async def test_one_that_refuses_is_told_and_all_that_refuse_are_one(self) -> None:
        (first,) = await self.takes(self.one)
        await self.two.stop()
        with answering(self.two.control.path, '{"error":"the queue cannot be read"}\n'):
            result = await self.queue("list")
        assert (result.exit_code, result.stdout.splitlines()[1].split()[0]) == (1, first)
        assert result.stderr == "mailhub: worker 2, whose part of the queue is missing here: the queue cannot be read\n"
        with answering(self.two.control.path, '{"error":"the queue cannot be read"}\n'):
            result = await self.queue("show", NOBODYS_ID)
        assert result.stderr == f"mailhub: {NOBODYS_ID} is not in the queue; the queue cannot be read\n"
        again = await self.worker(self.data / "workers" / "2")
        result = await self.queue("hold", "--state", "active")
        assert (result.exit_code, result.stderr.count("cannot be chosen by that")) == (1, 1)
        await again.stop()


class answering:
    """Somebody who listens at the path, says this to the first who asks, and ends."""

    def __init__(self, path: Path, text: str) -> None:
        self._text = text
        self._socket = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)
        self._path = path
        self._thread = threading.Thread(target=self._answer)

    def __enter__(self) -> None:
        self._socket.bind(str(self._path))
        self._socket.listen()
        self._thread.start()

    def _answer(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(self._text.encode())

    def __exit__(self, *why: object) -> None:
        self._thread.join()
        self._socket.close()
        self._path.unlink()


# --- what waits where nobody runs -------------------------------------------------------------------------------------

KILLED = """
import os, random, signal, sys
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from mailhub.model import Address, Envelope, Recipient
from mailhub.store.disk import RealDisk
from mailhub.store.spool import SqliteSpool
from mailhub.testing.threads import AtOnce

async def main():
    spool = SqliteSpool(sys.argv[1], reactor, reactor, RealDisk(), AtOnce(), random.SystemRandom(), reserve_octets=0)
    await spool.open()
    for _ in range(3):
        draft = spool.draft()
        draft.write(b"x")
        bob = Address("bob", "example.org")
        await draft.commit(Envelope(draft.queue_id, None, (Recipient(bob, bob),), 1.0))
    os.kill(os.getpid(), signal.SIGKILL)

reactor.callWhenRunning(lambda: Deferred.fromCoroutine(main()))
reactor.run()
"""


def test_what_a_killed_process_had_is_counted(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    assert waiting(spool) == 0
    ended = subprocess.run([sys.executable, "-c", KILLED, str(spool)], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert (spool / "queue.db-wal").stat().st_size > 0, "else this shows nothing"
    before = (spool / "queue.db").read_bytes(), (spool / "queue.db-wal").read_bytes()
    assert waiting(spool) == 3
    assert ((spool / "queue.db").read_bytes(), (spool / "queue.db-wal").read_bytes()) == before


def test_nothing_is_made_beside_a_queue_that_was_closed(tmp_path: Path) -> None:
    database = apsw.Connection(str(tmp_path / "queue.db"))
    assert database.pragma("journal_mode", "WAL") == "wal"
    database.execute("CREATE TABLE message (queue_id); INSERT INTO message VALUES ('a')")
    database.close()
    assert waiting(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["queue.db"]


def test_what_cannot_be_counted_is_not_none(tmp_path: Path) -> None:
    (tmp_path / "queue.db").write_bytes(b"no database " * 100)
    assert waiting(tmp_path) is None
    (tmp_path / "queue.db").unlink()
    apsw.Connection(str(tmp_path / "queue.db")).execute("CREATE TABLE other (x)")
    assert waiting(tmp_path) is None
