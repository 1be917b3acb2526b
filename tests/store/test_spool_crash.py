"""Killed at any moment, the spool has every message that it said yes to, octet for octet."""

import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path

from mailhub.interfaces import IContent
from mailhub.store.disk import RealDisk
from mailhub.store.spool import SqliteSpool
from mailhub.testing.threads import AtOnce, ThreadedClock

KILLS = 8

#: Accepts messages of all sizes, twenty at a time, delivers some of them, and says on its output what it has done.
CHILD = """
import hashlib, random, sys
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from mailhub.model import Address, Envelope, Recipient, State
from mailhub.store.disk import RealDisk
from mailhub.store.spool import SqliteSpool
from mailhub.testing.threads import AtOnce

chance = random.Random(int(sys.argv[2]))
spool = SqliteSpool(sys.argv[1], reactor, reactor, RealDisk(), AtOnce(), random.SystemRandom(), reserve_octets=0)
bob = Address("bob", "example.test")

def say(*words):
    sys.stdout.write(" ".join(words) + "\\n")
    sys.stdout.flush()

async def session():
    while True:
        draft = spool.draft()
        content = chance.randbytes(chance.choice([0, 10, 4000, 4000, 4000, 100_000, 300_000]))
        draft.write(content)
        await draft.commit(Envelope(draft.queue_id, None, (Recipient(bob, bob),), reactor.seconds()))
        say("kept", draft.queue_id, hashlib.sha256(content).hexdigest())
        if chance.random() < 0.5:
            for claim in await spool.claim(reactor.seconds(), 1):
                queue_id = claim.envelope.queue_id
                say("going", queue_id)
                await spool.record(queue_id, [one.changed(state=State.DELIVERED) for one in claim.recipients])
                say("gone", queue_id)

async def main():
    await spool.open()
    say("open")
    for _ in range(20):
        Deferred.fromCoroutine(session())

reactor.callWhenRunning(lambda: Deferred.fromCoroutine(main()))
reactor.run()
"""


def digest(content: IContent) -> str:
    file = content.open()
    found = hashlib.sha256()
    while octets := file.read(65536):
        found.update(octets)
    file.close()
    return found.hexdigest()


def in_queue(directory: Path) -> dict[str, str]:
    clock = ThreadedClock(time.time() + 60)
    spool = SqliteSpool(str(directory), clock, clock, RealDisk(), AtOnce(), random.Random(1), reserve_octets=0)
    clock.run_until(spool.open())
    found: dict[str, str] = {}
    while claims := clock.run_until(spool.claim(clock.seconds(), 100)):
        found |= {claim.envelope.queue_id: digest(claim.content) for claim in claims}
    clock.run_until(spool.close())
    return found


def test_nothing_that_was_acknowledged_is_lost_by_a_kill(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    chance = random.Random(7)
    kept: dict[str, str] = {}
    going: set[str] = set()
    gone: set[str] = set()
    for seed in range(KILLS):
        child = subprocess.Popen([sys.executable, "-c", CHILD, directory, str(seed)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        said = []
        for _ in range(chance.randrange(1, 60)):
            said.append(child.stdout.readline())
        child.kill()
        said += child.stdout.read().splitlines(keepends=True)
        child.wait()
        child.stdout.close()
        for line in said:
            match line.removesuffix("\n").split():
                case ["kept", queue_id, sha] if line.endswith("\n"):
                    kept[queue_id] = sha
                case ["going", queue_id]:
                    going.add(queue_id)
                case ["gone", queue_id] if line.endswith("\n"):
                    gone.add(queue_id)
        found = in_queue(directory)
        assert not gone & found.keys(), "what is settled does not come back"
        for queue_id in kept.keys() - going:
            assert found.get(queue_id) == kept[queue_id]
        for queue_id in kept.keys() & found.keys():
            assert found[queue_id] == kept[queue_id]
    assert len(kept) > KILLS
    assert gone
