"""Local delivery: batches, one outcome for each recipient, and the trace fields on top."""

import errno
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred as Awaited
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailhub.deliver import maildir
from mailhub.deliver.maildir import MaildirDeliverer, delivery_key
from mailhub.interfaces import Delivery, IContent, IDeliverer, IExecutor, IFile, IMailboxStore, MailboxFull
from mailhub.model import Address, Deferred, Delivered, Envelope, Lmtp, Local, Mailbox, Outcome, Recipient, Reply, reply
from mailhub.store.disk import RealDisk
from mailhub.store.maildir import MaildirStore

ALICE = Address("alice", "example.test")
BOB = Address("bob", "example.test")
NOW = 1_800_000_000.0


@implementer(IContent)
class Content:
    def __init__(self, octets: bytes = b"Subject: x\r\n\r\nx\r\n", is_small: bool = True) -> None:
        self.octets = octets
        self.size = len(octets)
        self.is_small = is_small

    def whole(self) -> bytes | None:
        return self.octets if self.is_small else None

    def open(self) -> IFile:
        raise OSError(errno.EIO, "the spool is gone")


@implementer(IExecutor)
class SteppedExecutor:
    """Work waits until the test lets it run."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Awaited, Callable, tuple]] = deque()
        self.hops = 0

    def run(self, function: Callable, *arguments: object) -> Awaited:
        self.hops += 1
        done: Awaited = Awaited()
        self.waiting.append((done, function, arguments))
        return done

    def step(self) -> None:
        done, function, arguments = self.waiting.popleft()
        try:
            result = function(*arguments)
        except Exception as error:
            done.errback(error)
        else:
            done.callback(result)


@implementer(IMailboxStore)
class ScriptedStore:
    """Answers each delivery to a mailbox with what the test has set for its local part."""

    def __init__(self) -> None:
        self.answers: dict[str, str | Exception] = {}
        self.batches: list[Sequence[Delivery]] = []

    def deliver(
        self, mailbox: Mailbox, key: str, received_at: float, prefix: bytes, content: IContent, replay: bool = False
    ) -> str:
        raise NotImplementedError

    def deliver_all(self, deliveries: Sequence[Delivery]) -> Sequence[str | Exception]:
        self.batches.append(deliveries)
        return [
            self.answers.get(delivery.mailbox.address.local, f"{delivery.mailbox.address.local}/new/{delivery.key}")
            for delivery in deliveries
        ]

    def usage(self, mailbox: Mailbox) -> int:
        return 0


class Hub:
    def __init__(self, **limits: int) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.executor = SteppedExecutor()
        self.store = ScriptedStore()
        self.deliverer = MaildirDeliverer(self.store, self.executor, self.clock, **limits)

    def deliver(self, *recipients: Recipient, content: Content | None = None, **envelope: object) -> Awaited:
        values: dict = {"queue_id": "q1", "reverse_path": None, "recipients": recipients, "received_at": NOW + 1}
        values.update(envelope)
        routes = [(recipient, Local(Mailbox(recipient.address))) for recipient in recipients]
        return maybeDeferred(self.deliverer.deliver, Envelope(**values), routes, content or Content())

    def turn(self) -> None:
        self.clock.advance(0)


def to(address: Address, **more: object) -> Recipient:
    return Recipient(address, **{"original": address, **more})  # type: ignore[arg-type]


def result(call: Awaited) -> dict[Address, Outcome]:
    assert call.called
    outcomes: list = []
    call.addCallback(outcomes.append)
    return outcomes[0]


@pytest.fixture
def events() -> Iterator[list[dict]]:
    seen: list[dict] = []
    globalLogPublisher.addObserver(seen.append)
    yield seen
    globalLogPublisher.removeObserver(seen.append)


# --- batches -----------------------------------------------------------------------------------------------------


def test_it_is_a_deliverer() -> None:
    assert verifyObject(IDeliverer, Hub().deliverer)


def test_messages_of_one_turn_share_one_hop() -> None:
    hub = Hub()
    calls = [hub.deliver(to(ALICE), queue_id=f"q{n}") for n in range(20)]
    assert hub.executor.hops == 0
    hub.turn()
    assert hub.executor.hops == 1
    hub.executor.step()
    assert all(call.called for call in calls)
    assert [len(batch) for batch in hub.store.batches] == [20]


def test_what_comes_during_a_batch_waits_for_its_end_unless_it_fills_another() -> None:
    hub = Hub(batch_messages_max=4, batches_max=2)
    hub.deliver(to(ALICE))
    hub.turn()
    for number in range(3):
        hub.deliver(to(ALICE), queue_id=f"a{number}")
        hub.turn()
    assert hub.executor.hops == 1
    hub.deliver(to(ALICE), queue_id="a3")
    hub.turn()
    assert hub.executor.hops == 2  # a full batch does not wait
    for number in range(9):
        hub.deliver(to(ALICE), queue_id=f"b{number}")
        hub.turn()
    assert hub.executor.hops == 2  # but no more than two are under way
    while hub.executor.waiting:
        hub.executor.step()
        hub.turn()
    assert [len(batch) for batch in hub.store.batches] == [1, 4, 4, 4, 1]


def test_a_message_for_many_is_woken_once_when_the_last_is_decided() -> None:
    hub = Hub(batch_messages_max=4, batches_max=1)
    addresses = [Address(f"u{number}", "example.test") for number in range(10)]
    call = hub.deliver(*map(to, addresses))
    for _ in range(2):
        hub.turn()
        hub.executor.step()
        assert not call.called
    hub.turn()
    hub.executor.step()
    assert list(result(call)) == addresses


def test_a_large_message_keeps_no_small_one_waiting() -> None:
    hub = Hub()
    large = [hub.deliver(to(ALICE), queue_id=f"l{n}", content=Content(is_small=False)) for n in range(3)]
    small = hub.deliver(to(BOB))
    hub.turn()
    assert hub.executor.hops == 3  # two large ones, and the small
    hub.executor.waiting.rotate(1)
    while not small.called:
        hub.executor.step()
    assert not any(call.called for call in large)
    while hub.executor.waiting:
        hub.executor.step()
        hub.turn()
    assert all(call.called for call in large)


def test_more_than_may_wait_is_deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maildir, "WAITING_MAX", 2)
    hub = Hub()
    first, second = hub.deliver(to(ALICE), to(BOB)), hub.deliver(to(ALICE))
    assert result(second) == {ALICE: Deferred(maildir.TOO_BUSY)}
    hub.turn()
    hub.executor.step()
    assert len(result(first)) == 2


def test_a_waiter_that_has_gone_disturbs_nobody() -> None:
    hub = Hub()
    gone, waiting = hub.deliver(to(ALICE)), hub.deliver(to(BOB))
    hub.turn()
    gone.addErrback(lambda failure: None)
    gone.cancel()
    hub.executor.step()
    assert isinstance(result(waiting)[BOB], Delivered)


def test_nobody_to_deliver_to_costs_nothing() -> None:
    hub = Hub()
    assert result(hub.deliver()) == {}
    assert hub.clock.getDelayedCalls() == []


# --- outcomes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MailboxFull("10 of 10"), reply(452, "4.2.2", "The mailbox is full")),
        (OSError(errno.ENOSPC, "full"), reply(452, "4.3.1", "Insufficient system storage")),
        (OSError(errno.EDQUOT, "full"), reply(452, "4.3.1", "Insufficient system storage")),
        (OSError(errno.EIO, "broken"), reply(451, "4.3.0", "The mailbox cannot be written now")),
        (PermissionError(errno.EACCES, "no"), reply(451, "4.3.0", "The mailbox cannot be written now")),
        (ValueError("../x"), reply(451, "4.3.5", "The mailbox is configured in a way that cannot work")),
        (RuntimeError("bug"), reply(451, "4.3.0", "The mailbox cannot be written now")),
    ],
)
def test_an_error_defers_its_own_recipient_only(error: Exception, expected: Reply) -> None:
    hub = Hub()
    hub.store.answers["bob"] = error
    other = hub.deliver(to(ALICE), queue_id="q2")
    call = hub.deliver(to(ALICE), to(BOB))
    hub.turn()
    hub.executor.step()
    outcomes = result(call)
    assert outcomes[ALICE] == Delivered(reply(250, "2.1.5", "Delivered"), f"alice/new/{delivery_key('q1', str(ALICE))}")
    assert isinstance(outcomes[BOB], Deferred)
    assert outcomes[BOB].reply == expected
    assert outcomes[BOB].detail
    assert isinstance(result(other)[ALICE], Delivered)


def test_a_batch_that_breaks_defers_all_and_is_logged(events: list[dict]) -> None:
    hub = Hub()
    hub.store.deliver_all = lambda deliveries: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    calls = [hub.deliver(to(ALICE), queue_id=f"q{n}") for n in range(3)]
    hub.turn()
    hub.executor.step()
    assert all(result(call)[ALICE].reply == maildir.DISK_FAULT for call in calls)
    assert any(event.get("log_level").name == "critical" for event in events)
    del hub.store.deliver_all
    again = hub.deliver(to(ALICE))
    hub.turn()
    hub.executor.step()
    assert isinstance(result(again)[ALICE], Delivered)


def test_a_route_to_elsewhere_is_a_bug() -> None:
    hub = Hub()
    envelope = Envelope("q1", None, (to(ALICE),), NOW)
    call = maybeDeferred(hub.deliverer.deliver, envelope, [(to(ALICE), Lmtp("unix:/x"))], Content())
    errors: list = []
    call.addErrback(errors.append)
    assert errors[0].check(TypeError)


# --- what the store is given -------------------------------------------------------------------------------------


def given(hub: Hub, *recipients: Recipient, **envelope: object) -> Sequence[Delivery]:
    hub.deliver(*recipients, **envelope)
    hub.turn()
    hub.executor.step()
    return hub.store.batches[-1]


def test_trace_fields_stand_on_top() -> None:
    original = Address("Info", "example.test")
    first, second = given(
        Hub(),
        to(ALICE),
        to(BOB, original=original),
        reverse_path=Address("jürgen", "example.org"),
        prefix=b"Received: by us\r\n",
    )
    assert first.prefix == (
        "Return-Path: <jürgen@example.org>\r\nDelivered-To: alice@example.test\r\nReceived: by us\r\n".encode()
    )
    assert (
        second.prefix
        == (
            "Return-Path: <jürgen@example.org>\r\nDelivered-To: bob@example.test\r\n"
            "X-Original-To: Info@example.test\r\nReceived: by us\r\n"
        ).encode()
    )


def test_the_null_reverse_path_is_written_as_such() -> None:
    assert given(Hub(), to(ALICE))[0].prefix.startswith(b"Return-Path: <>\r\n")


@pytest.mark.parametrize("local", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b"])
def test_no_address_writes_a_header_field(local: str) -> None:
    hub = Hub()
    evil = Address(local, "example.test")
    for call in (
        hub.deliver(to(ALICE), reverse_path=evil),
        hub.deliver(to(evil)),
        hub.deliver(to(ALICE, original=evil)),
    ):
        errors: list = []
        call.addErrback(errors.append)
        assert errors[0].check(ValueError)


def test_the_key_is_of_message_and_recipient() -> None:
    addresses = ["alice@example.test", "bob@example.test", "alice+x@example.test", "alice@example.org"]
    keys = {delivery_key(queue_id, address) for queue_id in ("q1", "q2") for address in addresses}
    assert len(keys) == 8
    assert all(key.isalnum() and key.isascii() for key in keys)
    assert delivery_key("q1", "alice@example.test") == "q1Rb5f8de5428bb6ddc"  # for ever: a replay looks for it


def test_only_what_may_have_been_tried_before_is_a_replay() -> None:
    hub = Hub()
    assert [delivery.replay for delivery in given(hub, to(ALICE), to(BOB, attempts=1))] == [False, True]
    assert given(hub, to(ALICE), received_at=NOW - 1)[0].replay  # queued before this process began


# --- with the real store -----------------------------------------------------------------------------------------


class ThreadAtOnce:
    """A real thread for each call, joined at once: what the store is given crosses threads."""

    def run(self, function: Callable, *arguments: object) -> Awaited:
        results: list = []
        thread = threading.Thread(target=lambda: results.append(function(*arguments)))
        thread.start()
        thread.join()
        done: Awaited = Awaited()
        done.callback(results[0])
        return done


def test_into_real_mailboxes(tmp_path: Path) -> None:
    clock = Clock()
    clock.advance(NOW)
    store = MaildirStore(RealDisk(), clock, clock, str(tmp_path), "mail/{domain}/{local}/Maildir", "mail.example.test")
    deliverer = MaildirDeliverer(store, ThreadAtOnce(), clock)
    envelope = Envelope("q1", BOB, (to(ALICE), to(BOB)), NOW, b"Received: by us\r\n")
    routes = [(to(ALICE), Local(Mailbox(ALICE))), (to(BOB), Local(Mailbox(BOB, None, 1)))]
    call = maybeDeferred(deliverer.deliver, envelope, routes, Content())
    clock.advance(0)
    outcomes = result(call)
    assert outcomes[BOB].reply == maildir.MAILBOX_FULL
    assert (tmp_path / outcomes[ALICE].detail).read_bytes() == (
        b"Return-Path: <bob@example.test>\nDelivered-To: alice@example.test\nReceived: by us\nSubject: x\n\nx\n"
    )
    large = maybeDeferred(deliverer.deliver, envelope, routes[:1], Content(is_small=False))
    clock.advance(0)
    assert result(large)[ALICE].reply == maildir.DISK_FAULT
