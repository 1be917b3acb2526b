"""The control socket: who may use it, what a client may cost, and what is said when nobody listens."""

import json
import os
import random
import socket
import stat
import tempfile
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial import unittest

from mailhub.app import control
from mailhub.app.cli.control_client import NoAnswer, ask
from mailhub.app.control import ControlError, ControlProtocol, ControlService, RequestRefused
from mailhub.app.control_queue import QueueDesk
from mailhub.history.plain import plain
from mailhub.model import Address, Envelope, Recipient, State, reply
from mailhub.queue.runner import tell_nobody
from mailhub.queue.steering import Steering
from mailhub.testing.spool import MemorySpool
from mailhub.testing.threads import AtOnce

BOB = Address("bob", "example.net")


class Transport(StringTransport):
    def abortConnection(self) -> None:
        self.disconnecting = True


class Desk:
    """Answers that a test can watch."""

    def __init__(self) -> None:
        self.made = 0
        self.closed = 0
        self.by = ""
        self.gate: Deferred[None] | None = None

    async def count(self, request: Mapping[str, Any], by: str) -> AsyncGenerator[Mapping[str, Any], None]:
        self.by = by
        try:
            for number in range(request["to"]):
                self.made += 1
                yield {"number": number}
            if self.gate is not None:
                await self.gate
            yield {"done": {}}
        finally:
            self.closed += 1

    async def refuse(self, request: Mapping[str, Any], by: str) -> AsyncGenerator[Mapping[str, Any], None]:
        raise RequestRefused("not today")
        yield {}

    async def fail(self, request: Mapping[str, Any], by: str) -> AsyncGenerator[Mapping[str, Any], None]:
        yield {"number": 1}
        raise ZeroDivisionError("planted")


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.desk = Desk()
        self.uid = os.geteuid()
        self.service = ControlService(
            Path("/nowhere"), self.clock, {"count": self.desk.count, "refuse": self.desk.refuse, "fail": self.desk.fail}
        )
        self.service.uid_of = lambda transport: self.uid  # type: ignore[method-assign]

    def connect(self) -> tuple[ControlProtocol, Transport]:
        protocol, transport = ControlProtocol(self.service), Transport()
        protocol.makeConnection(transport)
        return protocol, transport

    def ask(self, octets: bytes) -> tuple[list[Any], Transport]:
        protocol, transport = self.connect()
        protocol.dataReceived(octets)
        return said(transport), transport


def said(transport: StringTransport) -> list[Any]:
    return [json.loads(line) for line in transport.value().splitlines()]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_request_has_answers_and_an_end(bench: Bench) -> None:
    answers, transport = bench.ask(b'{"do":"count","to":2}\n')
    assert answers == [{"number": 0}, {"number": 1}, {"done": {}}]
    assert transport.disconnecting
    assert bench.desk.by == control.user_name(os.geteuid())


def test_a_request_may_come_in_pieces(bench: Bench) -> None:
    protocol, transport = bench.connect()
    for octet in b'{"do":"count","to":0}\n{"do":"count","to":1}\n':
        protocol.dataReceived(bytes([octet]))
    assert said(transport) == [{"done": {}}]  # one request a connection


@pytest.mark.parametrize(
    ("request_line", "told"),
    [
        (b"\n", "not JSON"),
        (b"[]\n", "not an object"),
        (b'{"do":"format"}\n', "does not know"),
        (b"[" * 5000 + b"\n", "JSON"),
        (b'{"do":"refuse"}\n', "not today"),
        (b"x" * (control.REQUEST_OCTETS_MAX + 1), "more than 65536 octets"),
    ],
)
def test_a_bad_request_is_refused(bench: Bench, request_line: bytes, told: str) -> None:
    answers, transport = bench.ask(request_line)
    assert told in answers[-1]["error"]
    assert transport.disconnecting


def test_other_users_are_refused(bench: Bench) -> None:
    bench.uid = 4711
    answers, transport = bench.ask(b'{"do":"count","to":2}\n')
    assert len(answers) == 1
    assert "user 4711 may not steer this hub" in answers[0]["error"]
    assert transport.disconnecting
    assert bench.desk.made == 0


def test_a_silent_client_is_sent_away(bench: Bench) -> None:
    _, transport = bench.connect()
    bench.clock.advance(control.REQUEST_SECONDS_MAX)
    assert said(transport) == [{"error": "no request came"}]
    assert not bench.service.clients
    assert bench.clock.getDelayedCalls() == []


def test_clients_are_counted(bench: Bench) -> None:
    clients = [bench.connect() for _ in range(control.CLIENTS_MAX)]
    answers, _ = bench.ask(b'{"do":"count","to":2}\n')
    assert "busy" in answers[0]["error"]
    clients[0][0].connectionLost(connectionDone)
    answers, _ = bench.ask(b'{"do":"count","to":0}\n')
    assert answers == [{"done": {}}]


def test_answers_wait_for_a_slow_reader(bench: Bench) -> None:
    protocol, transport = bench.connect()
    write = transport.write

    def full(octets: bytes) -> None:
        write(octets)
        if b"done" not in octets:
            protocol.pauseProducing()

    transport.write = full  # type: ignore[method-assign]
    protocol.dataReceived(b'{"do":"count","to":1000}\n')
    assert bench.desk.made == 1
    protocol.resumeProducing()
    assert bench.desk.made == 2
    protocol.connectionLost(connectionDone)
    assert (bench.desk.made, bench.desk.closed) == (2, 1)


def test_a_lost_client_ends_the_work(bench: Bench) -> None:
    cancelled: list[bool] = []
    bench.desk.gate = Deferred(lambda _: cancelled.append(True))
    protocol, _ = bench.connect()
    protocol.dataReceived(b'{"do":"count","to":0}\n')
    protocol.connectionLost(connectionDone)
    assert cancelled == [True]
    assert bench.desk.closed == 1
    assert not bench.service.clients


class Logged(unittest.SynchronousTestCase):
    def test_a_bug_is_told_and_logged(self) -> None:
        answers, transport = Bench().ask(b'{"do":"fail"}\n')
        assert answers[0] == {"number": 1}
        assert "ZeroDivisionError" in answers[1]["error"]
        assert transport.disconnecting
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1


class OnDisk(unittest.TestCase):
    """A real socket, and the blocking client in a thread."""

    def setUp(self) -> None:
        self._temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self._temporary.cleanup)
        self.data = Path(self._temporary.name)
        self.desk = Desk()

    def service(self, data: Path | None = None) -> ControlService:
        service = ControlService((data or self.data) / "control", reactor, {"count": self.desk.count})
        self.addCleanup(lambda: service.stopService() if service.running else None)
        return service

    async def test_it_is_for_its_user_alone_and_goes_with_the_hub(self) -> None:
        service = self.service()
        service.startService()
        status = service.path.lstat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
        answers = await deferToThread(lambda: list(ask(self.data, "count", to=2)))
        assert answers == [{"number": 0}, {"number": 1}, {"done": {}}]
        await service.stopService()
        assert not service.path.exists()
        with pytest.raises(NoAnswer) as raised:
            list(ask(self.data, "count", to=2))
        assert (
            str(raised.value) == f"no hub runs on this data directory ({self.data}): start it,"
            f" or look with sqlite3 {self.data}/spool/queue.db"
        )

    async def test_a_stale_socket_is_replaced(self) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(self.data / "control"))
        with pytest.raises(NoAnswer):
            list(ask(self.data, "count", to=0))
        self.service().startService()
        assert await deferToThread(lambda: list(ask(self.data, "count", to=0))) == [{"done": {}}]

    async def test_a_living_socket_is_left_alone(self) -> None:
        self.service().startService()
        with pytest.raises(ControlError, match="another hub"):
            self.service().startService()
        assert await deferToThread(lambda: list(ask(self.data, "count", to=0))) == [{"done": {}}]

    def test_what_is_no_socket_is_left_alone(self) -> None:
        (self.data / "control").write_text("mine")
        with pytest.raises(ControlError, match="no socket"):
            self.service().startService()
        assert (self.data / "control").read_text() == "mine"

    async def test_two_hubs_on_two_directories_one_with_a_long_path(self) -> None:
        long = self.data / ("x" * 100) / ("y" * 100)
        long.mkdir(parents=True)
        one, two = self.service(), self.service(long)
        one.startService()
        two.startService()
        for data in (self.data, long):
            assert await deferToThread(lambda data=data: list(ask(data, "count", to=0))) == [{"done": {}}]
        await two.stopService()
        assert not two.path.exists()
        assert one.path.exists()

    async def test_stopping_ends_what_is_under_way(self) -> None:
        self.desk.gate = Deferred()
        service = self.service()
        service.startService()
        asked = deferToThread(lambda: list(ask(self.data, "count", to=1)))
        while not self.desk.made:
            pause: Deferred[None] = Deferred()
            reactor.callLater(0.01, pause.callback, None)  # type: ignore[attr-defined]
            await pause
        await service.stopService()
        with pytest.raises(NoAnswer):
            await asked
        assert self.desk.closed == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_missing_permission_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control"))
        (tmp_path / "control").chmod(0o600)
        listener.listen()
        os.seteuid(65534)
        try:
            with pytest.raises(NoAnswer, match=r"may not ask the hub at .*: do it as root, or sudo -u "):
                list(ask(tmp_path, "count"))
        finally:
            os.seteuid(0)


# --- what is answered about the queue --------------------------------------------------------------------------------


class Queue:
    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_750_000_000)
        self.spool = MemorySpool(self.clock, random.Random(1))
        Deferred.fromCoroutine(self.spool.open())
        steering = Steering(self.spool, self.clock, self.clock, self, tell_nobody)
        self.desk = QueueDesk(self.spool, steering, AtOnce())

    def record(self, kind: str, session_id: str = "", queue_id: str = "", **facts: object) -> None:
        """As IHistory."""

    def commit(self, *recipients: Recipient, content: bytes = b"Subject: x\r\n\r\nbody\r\n") -> str:
        draft = self.spool.draft()
        draft.write(content)
        envelope = Envelope(
            draft.queue_id, None, recipients or (Recipient(BOB, BOB),), self.clock.seconds(), prefix=b"X: y\r\n"
        )
        Deferred.fromCoroutine(draft.commit(envelope))
        return draft.queue_id

    def ask(self, do: str, **request: Any) -> list[Mapping[str, Any]]:
        done: list[Any] = []

        async def collect() -> list[Mapping[str, Any]]:
            return [answer async for answer in self.desk.answers[do](request, "root")]

        Deferred.fromCoroutine(collect()).addBoth(done.append)
        if isinstance(done[0], Failure):
            done[0].raiseException()
        return done[0]  # type: ignore[no-any-return]


@pytest.fixture
def queue() -> Queue:
    return Queue()


def test_list_pages_through_everything(queue: Queue) -> None:
    made = [queue.commit() for _ in range(120)]
    answers = queue.ask("list")
    assert [answer["message"]["queue_id"] for answer in answers[:-1]] == made
    assert answers[-1] == {"done": {"messages": 120}}
    assert len(queue.ask("list", limit=60)) == 61


def test_list_tells_the_state(queue: Queue) -> None:
    later = reply(451, "4.4.1", "No\x1banswer")
    states = {
        queue.commit(): "active",
        queue.commit(Recipient(BOB, BOB, state=State.HELD)): "held",
        queue.commit(Recipient(BOB, BOB, attempts=1, last_reply=later, next_attempt_at=2e9)): "deferred",
        queue.commit(Recipient(BOB, BOB, next_attempt_at=2e9)): "queued",
    }
    Deferred.fromCoroutine(queue.spool.reserve(list(states)[:1]))
    answers = [answer["message"] for answer in queue.ask("list")[:-1]]
    assert {message["queue_id"]: message["state"] for message in answers} == states
    assert answers[2]["last_reply"] == "451 4.4.1 No\x1banswer"
    for state in ("active", "held", "deferred"):
        (found,) = queue.ask("list", state=state)[:-1]
        assert found["message"]["state"] == state
    json.dumps(answers, default=plain)


def test_no_line_is_longer_than_the_client_takes(queue: Queue) -> None:
    huge = reply(550, "5.0.0", "x" * 100_000)
    people = [Address(f"{number}", "example.net") for number in range(2000)]
    queue.commit(*(Recipient(one, one, attempts=1, last_reply=huge) for one in people))
    lines = [json.dumps(answer) for answer in queue.ask("list", recipients=True)]
    assert len(lines) == 2002
    assert max(map(len, lines)) < 10_000


def test_show_keeps_the_body_back_unless_asked_for(queue: Queue) -> None:
    body = b"secret\r\n" * 20_000
    queue_id = queue.commit(content=b"Subject: x\r\nTo: y\r\n\r\n" + body)
    assert octets(queue.ask("show", queue_id=queue_id)) == b"X: y\r\nSubject: x\r\nTo: y\r\n"
    assert octets(queue.ask("show", queue_id=queue_id, content=True)) == (b"X: y\r\nSubject: x\r\nTo: y\r\n\r\n" + body)
    assert octets(queue.ask("show", queue_id=queue.commit(content=b"\r\nsecret"))) == b"X: y\r\n"


def octets(answers: list[Mapping[str, Any]]) -> bytes:
    from base64 import b64decode

    return b"".join(b64decode(answer["octets"]) for answer in answers if "octets" in answer)


@pytest.mark.parametrize(
    ("do", "request_", "told"),
    [
        ("list", {"limit": 0}, "limit"),
        ("list", {"limit": "1"}, "limit"),
        ("list", {"sort": "size"}, "sort"),
        ("list", {"state": "lost"}, "state"),
        ("list", {"queue_ids": ["../x"]}, "queue_ids"),
        ("list", {"queue_ids": ["0"] * 1001}, "queue_ids"),
        ("show", {"queue_id": "0" * 17}, "not in the queue"),
        ("show", {}, "queue_id"),
        ("steer", {"operation": "drop"}, "nothing says which messages are meant"),
        ("steer", {"operation": "erase", "sender": "<>"}, "operation"),
        ("steer", {"operation": "drop", "state": "active"}, "give its queue id"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    queue: Queue, do: str, request_: Mapping[str, Any], told: str
) -> None:
    queue.commit()
    with pytest.raises(RequestRefused, match=told):
        queue.ask(do, **request_)
    assert len(queue.ask("list")) == 2


def test_steer_tells_each_message_and_counts(queue: Queue) -> None:
    one = queue.commit(Recipient(BOB, BOB, next_attempt_at=2e9))
    answers = queue.ask("steer", operation="hold", queue_ids=[one, "0" * 17])
    assert sorted(answer["steered"]["result"] for answer in answers[:-1]) == ["done", "gone"]
    assert answers[-1] == {"done": {"done": 1, "gone": 1}}
