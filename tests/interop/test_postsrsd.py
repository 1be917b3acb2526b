"""Debian's postsrsd and we read each other's addresses."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from twisted.internet.task import Clock

from mailhub.model import Address
from mailhub.queue.srs import Srs
from mailhub.wire.smtp.grammar import parse_address

#: POSTSRSD names a binary that is not installed, such as one that was unpacked from its package.
POSTSRSD = os.environ.get("POSTSRSD") or shutil.which("postsrsd", path=os.defpath + ":/usr/sbin:/usr/local/sbin")
KEYS = ("a key that both of us know", "another, older key of both")
START_SECONDS_MAX = 10

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(
        POSTSRSD is None,
        reason="POSTSRSD IS NOT INSTALLED: SRS was not tried against it (or set POSTSRSD to its binary)",
    ),
]


class Table:
    """A client of the tcp_table(5) protocol: a line with a key, a line with its value."""

    def __init__(self, port: int) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._answers: BinaryIO = self._connection.makefile("rb")

    def get(self, key: str) -> str | None:
        self._connection.sendall(f"get {key}\n".encode())
        code, _, value = self._answers.readline().decode().strip().partition(" ")
        return value if code == "200" else None

    def close(self) -> None:
        self._answers.close()
        self._connection.close()


class Postsrsd:
    def __init__(self, forward: int, backward: int) -> None:
        self.forward, self.backward = Table(forward), Table(backward)

    def close(self) -> None:
        self.forward.close()
        self.backward.close()


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


@contextmanager
def running(directory: Path, keys: tuple[str, ...], *options: str) -> Iterator[Postsrsd]:
    assert POSTSRSD is not None
    secret = directory / "secret"
    secret.write_text("".join(f"{key}\n" for key in keys))
    forward, backward = free_ports()
    process = subprocess.Popen(
        [POSTSRSD, f"-s{secret}", "-dours.test", f"-f{forward}", f"-r{backward}", "-l127.0.0.1", "-4", *options],
        stderr=subprocess.DEVNULL,
    )
    try:
        server = connected(forward, backward)
        try:
            yield server
        finally:
            server.close()
    finally:
        process.terminate()
        process.wait(10)


def connected(forward: int, backward: int) -> Postsrsd:
    until = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            return Postsrsd(forward, backward)
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


@pytest.fixture(scope="module")
def postsrsd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postsrsd]:
    with running(tmp_path_factory.mktemp("postsrsd"), KEYS) as server:
        yield server


def ours(keys: tuple[str, ...] = KEYS, **options: int) -> Srs:
    clock = Clock()
    clock.rightNow = time.time()  # postsrsd has no other clock
    return Srs([key.encode() for key in keys], clock, lambda domain: domain == "ours.test", **options)


ALIAS = Address("team", "ours.test")

SENDERS = [
    "carol@source.example",
    "Carol.Smith+Lists@Source.Example",
    "a=b=c@x.example",
    "x@a-very-long-name.of.a.domain.example",
    "!#$%&'*/?^_`{|}~@x.example",
    "SRS0=abcd=TT=source.example=carol@first.example",
    "SRS0+abcd=TT=source.example=carol@first.example",
    "SRS0-abcd=TT=source.example=carol@first.example",
    "SRS1=abcd=first.example==abcd=TT=source.example=carol@second.example",
    "srs1=abcd=first.example=-abcd=TT=source.example=carol@second.example",
]


def encoded(address: Address) -> str:
    """A key of tcp_table(5)."""
    return str(address).replace("%", "%25").replace(" ", "%20")


def decoded(value: str) -> str:
    return value.replace("%20", " ").replace("%25", "%")


@pytest.mark.parametrize("text", SENDERS)
def test_both_make_the_same_address(postsrsd: Postsrsd, text: str) -> None:
    sender = parse_address(text)
    made = postsrsd.forward.get(encoded(sender))
    assert made is not None
    assert decoded(made) == str(ours().rewrite(sender, ALIAS))


@pytest.mark.parametrize("text", SENDERS)
def test_each_takes_back_what_the_other_made(postsrsd: Postsrsd, text: str) -> None:
    sender = parse_address(text)
    srs = ours()
    by_us = srs.rewrite(sender, ALIAS)
    assert by_us is not None
    by_them = parse_address(decoded(postsrsd.forward.get(encoded(sender)) or ""))
    theirs = postsrsd.backward.get(encoded(by_us))
    back = srs.reverse(by_them)
    assert theirs is not None
    assert back is not None
    assert parse_address(decoded(theirs)) == back


def test_neither_takes_a_forgery(postsrsd: Postsrsd) -> None:
    address = ours().rewrite(parse_address("carol@source.example"), ALIAS)
    assert address is not None
    forged = Address(address.local.replace("carol", "victim"), address.domain)
    assert postsrsd.backward.get(encoded(forged)) is None
    assert ours().reverse(forged) is None


def test_an_address_in_lower_case_is_good_for_both(postsrsd: Postsrsd) -> None:
    address = ours().rewrite(parse_address("carol@source.example"), ALIAS)
    assert address is not None
    lowered = Address(address.local.lower(), address.domain)
    assert postsrsd.backward.get(encoded(lowered)) == "carol@source.example"
    assert str(ours().reverse(lowered)) == "carol@source.example"


def test_an_older_key_is_good_for_both(postsrsd: Postsrsd) -> None:
    address = ours(KEYS[1:]).rewrite(parse_address("carol@source.example"), ALIAS)
    assert address is not None
    assert postsrsd.backward.get(encoded(address)) == "carol@source.example"
    assert str(ours().reverse(address)) == "carol@source.example"


def test_a_longer_hash(tmp_path: Path) -> None:
    srs = ours(hash_characters=10)
    sender = parse_address("carol@source.example")
    address = srs.rewrite(sender, ALIAS)
    assert address is not None
    with running(tmp_path, KEYS, "-n10", "-N10") as server:
        assert server.forward.get(str(sender)) == str(address)
        assert server.backward.get(str(address)) == str(sender)
