"""Mail for a host that is dead, deaf or endlessly slow never delays mail for one that lives, however much it is."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Coroutine, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred as Awaited
from zope.interface import implementer

from mailhub.deliver.smtp import Outside, SmtpDeliverer
from mailhub.interfaces import IRouter
from mailhub.model import Address, Envelope, Host, Nowhere, Recipient, Route, Smtp, reply
from mailhub.net.client_tls import ClientTls
from mailhub.queue.limits import Limits
from mailhub.queue.runner import IN_FLIGHT_MAX, Runner
from mailhub.queue.schedule import HOUR, MINUTE, Schedule
from mailhub.queue.unreachable import PROBE_SECONDS_MAX, PROBE_SECONDS_MIN
from mailhub.testing.hub import Executor, History
from mailhub.testing.long_queue import fill, spool_at
from mailhub.testing.network import Network
from mailhub.testing.remote_mta import SILENCE, Pause, RemoteMta
from mailhub.testing.spool import MemorySpool
from mailhub.testing.threads import ThreadedClock

DEAD, LIVE, BULK = "dead.example", "live.example", "bulk.example"
ADDRESSES = {DEAD: "192.0.2.1", LIVE: "192.0.2.2", BULK: "192.0.2.3"}
SENDER = Address("alice", "example.org")
MANY = 1000
SOME = 60
#: What a delivery to a host that answers at once takes under this network's delays, with room to spare.
PROMPT_SECONDS = 1.0
#: How long a resolver may look for what it does not find.
LAME_SECONDS = 12.0


@implementer(IRouter)
class Router:
    async def route(self, envelope: Envelope, recipient: Recipient) -> Route:
        domain = recipient.address.domain
        return Smtp(domain, (Host(f"mx.{domain}", ADDRESSES[domain]),))


def at_once(awaitable: Coroutine[Any, Any, Sequence[Envelope]]) -> Sequence[Envelope]:
    """The result of a coroutine that need not wait."""
    done: list[Sequence[Envelope]] = []
    Awaited.fromCoroutine(awaitable).addCallback(done.append)
    return done[0]


class Bench:
    """A runner with everything below it that is ours, on a network in memory."""

    def __init__(self) -> None:
        self.network = Network()
        chance = random.Random(1)
        self.spool = MemorySpool(self.network, chance)
        self.history = History()
        limits = Limits(steady=self.network)
        outside = Outside("us.example", self.network, Executor(), self.history, chance, ClientTls(), limits)
        self.deliverer = SmtpDeliverer(outside)
        self.live = RemoteMta(self.network, f"mx.{LIVE}")
        self.network.listen(ADDRESSES[LIVE], 25, self.live)
        Awaited.fromCoroutine(self.spool.open())
        self.runner = Runner(
            self.spool, Router(), {Smtp: self.deliverer}, Schedule(), self.network, chance, self.history, limits=limits
        )
        self.runner.start()

    def send(self, domain: str, count: int = 1) -> None:
        for number in range(count):
            self.send_to(Address(f"user-{number}", domain))

    def send_to(self, *addresses: Address) -> None:
        """One message for all of them."""
        now = self.network.seconds()
        draft = self.spool.draft()
        draft.write(b"Subject: hello\r\n\r\n")
        recipients = tuple(Recipient(address, address, next_attempt_at=now) for address in addresses)
        Awaited.fromCoroutine(draft.commit(Envelope(draft.queue_id, SENDER, recipients, now)))

    def advance(self, seconds: float) -> None:
        """From one event to the next, so that each happens at its time however long the way is."""
        network = self.network
        ends_at = network.seconds() + seconds
        while network.calls and network.calls[0].getTime() <= ends_at:
            network.advance(max(0.0, network.calls[0].getTime() - network.seconds()))
        network.advance(max(0.0, ends_at - network.seconds()))

    def count(self) -> int:
        """Messages in the queue."""
        return len(at_once(self.spool.list(2 * MANY)))

    def dials(self) -> int:
        """Connections that were tried to the dead host."""
        return self.network.dialled.count(ADDRESSES[DEAD])


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_many_silent_hosts_leave_room_for_one_that_lives(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        domain, address = f"silent-{number}.example", f"192.0.2.{100 + number}"
        monkeypatch.setitem(ADDRESSES, domain, address)
        mta = RemoteMta(bench.network)
        mta.at("connect", SILENCE)
        bench.network.listen(address, 25, mta)
        bench.send(domain, 110)
    bench.advance(2)
    assert bench.runner.in_flight < IN_FLIGHT_MAX
    bench.send(LIVE)
    bench.advance(PROMPT_SECONDS)
    assert len(bench.live.messages) == 1


def test_many_zones_that_do_not_answer_cost_the_other_recipients_one_time_out(bench: Bench) -> None:
    @implementer(IRouter)
    class Lame:
        async def route(self, envelope: Envelope, recipient: Recipient) -> Route:
            if recipient.address.domain == LIVE:
                return await Router().route(envelope, recipient)
            answer: Awaited[None] = Awaited()
            bench.network.callLater(LAME_SECONDS, answer.callback, None)
            await answer
            return Nowhere(reply(451, "4.4.3", "The DNS does not say"))

    bench.runner._router = Lame()
    addresses = [Address("ann", f"lame-{number}.example") for number in range(20)] + [Address("ann", LIVE)]
    bench.send_to(*addresses)
    bench.advance(LAME_SECONDS + PROMPT_SECONDS)
    assert len(bench.live.messages) == 1


def nobody(bench: Bench) -> None:
    """The connection is refused."""


def black_hole(bench: Bench) -> None:
    """Nothing comes back at all."""
    bench.network.black_holes.add(ADDRESSES[DEAD])


def tarpit(bench: Bench) -> None:
    """The connection stands, and nobody says anything."""
    mta = RemoteMta(bench.network)
    mta.at("connect", SILENCE)
    bench.network.listen(ADDRESSES[DEAD], 25, mta)


def slow(bench: Bench) -> None:
    """Every reply takes a minute."""
    mta = RemoteMta(bench.network)
    for stage in ("connect", "hello", "mail", "rcpt", "data", "content"):
        mta.at(stage, Pause(MINUTE))  # type: ignore[arg-type]
    bench.network.listen(ADDRESSES[DEAD], 25, mta)


def deferring(bench: Bench) -> None:
    """Every recipient is told to come later."""
    mta = RemoteMta(bench.network)
    mta.at("rcpt", reply(451, "4.7.1", "Later"))
    bench.network.listen(ADDRESSES[DEAD], 25, mta)


@pytest.mark.parametrize("trouble", [nobody, black_hole, tarpit, slow, deferring])
def test_a_thousand_messages_for_a_dead_host_do_not_delay_one_for_a_live_one(bench: Bench, trouble: Any) -> None:
    trouble(bench)
    bench.send(DEAD, MANY)
    for wait in (0.0, 0.3, 5.0, 55.0, 120.0):  # at the beginning, in the middle, and when all come back at once
        bench.advance(wait)
        before = len(bench.live.messages)
        bench.send(LIVE)
        bench.advance(PROMPT_SECONDS)
        assert len(bench.live.messages) == before + 1, f"behind {wait} s"
    assert trouble is slow or bench.count() == MANY


def test_two_live_hosts_share_what_there_is(bench: Bench) -> None:
    """A thousand for one that takes them as fast as it can: those for another go in between."""
    bulk = RemoteMta(bench.network, f"mx.{BULK}")
    bench.network.listen(ADDRESSES[BULK], 25, bulk)
    bench.send(BULK, MANY)
    bench.advance(0.2)
    bench.send(LIVE, 5)
    bench.advance(PROMPT_SECONDS)
    assert len(bench.live.messages) == 5
    bench.advance(400)
    assert len(bulk.messages) == MANY


def tried_at(bench: Bench, seconds: float, step: float = 5.0) -> list[float]:
    """The ages at which the dead host was dialled, to the step."""
    begun_at, known, found = bench.network.seconds(), bench.dials(), []
    while bench.network.seconds() < begun_at + seconds:
        bench.advance(step)
        if bench.dials() > known:
            known = bench.dials()
            found.append(bench.network.seconds() - begun_at)
    return found


def test_the_curve_of_a_dead_destination(bench: Bench) -> None:
    """However many wait, it is tried no more often than its own curve says, from a minute to a quarter of an hour."""
    bench.send(DEAD, SOME)
    bench.advance(1.0)
    first = bench.dials()
    assert first <= 5  # those that were let in before anybody knew
    ages = tried_at(bench, 4 * HOUR)
    waits = [after - before for before, after in pairwise([0.0, *ages])]
    assert all(wait >= PROBE_SECONDS_MIN * 0.9 - 5 for wait in waits)
    later = [wait for age, wait in zip(ages, waits, strict=True) if age > HOUR]
    assert all(PROBE_SECONDS_MAX * 0.9 - 5 <= wait <= max(Schedule().retry) * 1.1 for wait in later), later
    assert bench.dials() - first <= 4 + 4 * HOUR / (PROBE_SECONDS_MAX * 0.9)
    # It comes back: all that waits goes out, within the longest wait of the schedule.
    mta = RemoteMta(bench.network)
    bench.network.listen(ADDRESSES[DEAD], 25, mta)
    bench.advance(max(Schedule().retry) * 1.2)
    assert len(mta.messages) == SOME
    assert len({message.recipients[0][0] for message in mta.messages}) == SOME


def test_the_curve_of_one_message(bench: Bench) -> None:
    """What the schedule says, for five days, and then it is over."""
    mta = RemoteMta(bench.network)
    mta.at("rcpt", reply(451, "4.7.1", "Later"))
    bench.network.listen(ADDRESSES[DEAD], 25, mta)
    bench.send(DEAD)
    bench.advance(1.0)
    ages = [0.0, *tried_at(bench, 6 * 24 * HOUR, 30.0)]
    waits = [after - before for before, after in pairwise(ages)]
    wanted = list(Schedule().retry)
    for number, wait in enumerate(waits):
        usual = wanted[min(number, len(wanted) - 1)]
        assert usual * 0.9 - 35 <= wait <= usual * 1.1 + 35, (number, wait)
    assert 5 * 24 * HOUR <= ages[-1] <= 5 * 24 * HOUR + 4 * HOUR * 1.1
    assert bench.count() == 0
    assert [event["kind"] for event in bench.history.events].count("failed") == 1


# --- a very long queue -----------------------------------------------------------------------------------------------

QUEUED = 100_000
OPEN_SECONDS_MAX = 5.0
MEGABYTES_MAX = 200
CONFIGURATION = """
hostname = "mx.example.test"
data = "var"
[mta]
listen = ["tcp:0:interface=127.0.0.1"]
greet_delay = "0s"
[mda]
domains = ["example.test"]
[accounts]
file = "accounts"
[queue]
warn_after = "0s"
[[route]]
domain = "dead.example"
to = "smtp:127.0.0.1:{port}"
"""


def peak_megabytes(hub: Any) -> float:
    status = Path(f"/proc/{hub.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1000


def write(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # nobody listens there
    (directory / "mailhub.toml").write_text(CONFIGURATION.format(port=port))
    (directory / "accounts").write_text("alice@example.test:x::::::\n")
    (directory / "accounts").chmod(0o640)
    (directory / "var").mkdir(mode=0o750)


def deliver(hub: Any) -> float:
    """The seconds in which a message to a user of ours is in the mailbox."""
    import smtplib

    known = len(hub.messages("alice@example.test"))
    begun_at = time.monotonic()
    with smtplib.SMTP("127.0.0.1", hub.ports["mta"], "client.example", 30) as client:
        client.sendmail("sender@elsewhere.example", ["alice@example.test"], b"Subject: hello\r\n\r\n")
    while len(hub.messages("alice@example.test")) == known:
        assert time.monotonic() < begun_at + 60
        time.sleep(0.01)
    return time.monotonic() - begun_at


@pytest.mark.heavy
@pytest.mark.timeout(300)
@pytest.mark.parametrize("due", ["all at once", "later"])
def test_a_hundred_thousand_messages_in_the_queue(tmp_path: Path, start: Any, due: str) -> None:
    write(tmp_path)
    now = time.time()
    offsets: Sequence[float] = [0.0] if due == "all at once" else range(1800, 3600)
    waiting = ((f"user-{number}@dead.example", now + offsets[number % len(offsets)]) for number in range(QUEUED))
    fill(tmp_path / "var" / "spool", waiting)

    clock = ThreadedClock(now)
    spool = spool_at(tmp_path / "var" / "spool", clock)
    begun_at = time.monotonic()
    clock.run_until(spool.open())
    open_seconds = time.monotonic() - begun_at
    clock.run_until(spool.close())
    assert open_seconds < OPEN_SECONDS_MAX

    hub = start()
    slowest = max(deliver(hub) for _ in range(10))
    assert slowest < 5.0
    if due == "all at once":  # while they are all tried, and put off again
        while sum(event["kind"] == "deferred" for event in hub.log()) < 20_000:
            time.sleep(0.5)
        assert deliver(hub) < 5.0
    megabytes = peak_megabytes(hub)
    assert megabytes < MEGABYTES_MAX
    print(f"opened in {open_seconds:.2f} s; local mail took {slowest:.2f} s; {megabytes:.0f} MB")
    # Not SIGTERM: with so many due at once the drain takes longer than a test should wait.
    hub.process.kill()
    hub.process.wait()
    assert sum(address.endswith("@dead.example") for address in hub.queued()) == QUEUED
