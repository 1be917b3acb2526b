"""Listening: bound at once or refused with one clear line, and no spinning when descriptors run out."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from mailhub.net.descriptors import Descriptors
from mailhub.net.listener import Endpoint, Listener, ListenError, escaped


class Hello(Protocol):
    has_no_delay = False

    def connectionMade(self) -> None:
        self.factory.made.append(self)  # type: ignore[union-attr]
        self.has_no_delay = self.transport.getTcpNoDelay()  # type: ignore[union-attr]
        self.transport.write(b"hello")  # type: ignore[union-attr]


class HelloFactory(Factory):
    protocol = Hello
    noisy = False

    def __init__(self) -> None:
        self.made: list[Hello] = []


class FewDescriptors(Descriptors):
    """Scarce when the test says so."""

    def __init__(self) -> None:
        super().__init__(limit=100_000)
        self.will_be_scarce = False

    def look(self) -> bool:
        self.are_scarce = self.will_be_scarce
        return self.are_scarce


def refusal(*endpoints: str) -> str:
    with pytest.raises(ListenError) as caught:
        Listener(reactor, "mta", endpoints, HelloFactory()).privilegedStartService()
    text = str(caught.value)
    assert "\n" not in text
    return text


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


# --- what cannot be bound --------------------------------------------------------------------------------------------


def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        assert refusal(endpoint) == f"mta: cannot listen on {endpoint}: it is in use by another program"


def test_an_address_of_another_host() -> None:
    endpoint = "tcp:0:interface=192.0.2.1"
    assert refusal(endpoint) == f"mta: cannot listen on {endpoint}: this host has no such address"


def test_a_socket_below_what_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    endpoint = f"unix:{tmp_path}/file/lmtp"
    assert refusal(endpoint) == f"mta: cannot listen on {endpoint}: not a directory"
    assert refusal(f"unix:{tmp_path}/no/lmtp").endswith(": there is no such directory")


def test_permission_denied_says_what_to_do() -> None:
    from mailhub.net.listener import _reason

    assert _reason("tcp:25", PermissionError(13, "Permission denied")) == (
        "permission denied; run as root, give CAP_NET_BIND_SERVICE, or choose a port above 1023"
    )
    assert _reason("unix:/run/x", PermissionError(13, "Permission denied")) == "permission denied"


@pytest.mark.parametrize(
    "endpoint",
    [
        *(
            "",
            "tcp",
            "tcp:",
            "tcp:smtp",
            "tcp:65536",
            "tcp:-1",
            "tcp:²",
            "tcp:25:26",
            "tcp:25:inter=x",
            "tcp:0:backlog=x",
        ),
        *("udp:25", "unix:", "systemd:domain=INET:index=0", "systemd:domain=INET:name=smtp", "systemd:index=0"),
    ],
)
def test_what_is_no_endpoint(endpoint: str) -> None:
    assert refusal(endpoint).startswith(f"mta: not an endpoint to listen on: {endpoint}: ")


def test_an_endpoint_that_does_not_bind_at_once_is_refused() -> None:
    from mailhub.net.listener import _now

    with pytest.raises(ValueError, match="at once"):
        _now(Deferred())


def test_colons_inside_of_a_part_are_escaped() -> None:
    assert Endpoint.parse("tcp:25:interface=\\:\\:1") == Endpoint("tcp", "25", {"interface": "::1"})
    odd = "/run/a:b=c\\d:"
    assert Endpoint.parse(f"unix:{escaped(odd)}:mode=600") == Endpoint("unix", odd, {"mode": "600"})
    assert Endpoint.parse("tcp:25") == Endpoint("tcp", "25", {})


def test_listening_that_nobody_stops_twice() -> None:
    listener = Listener(Clock(), "mta", [], HelloFactory())
    listener.startService()
    assert listener.addresses == ()
    results: list[Any] = []
    listener.stopService().addCallback(results.append)
    listener.stopService().addCallback(results.append)
    assert results == [None, None]


# --- what is bound ---------------------------------------------------------------------------------------------------


class Listening(TestCase):
    """Over loopback, with the reactor."""

    def listener(self, *endpoints: str, **options: Any) -> Listener:
        self.factory = HelloFactory()
        listener = Listener(reactor, "mta", endpoints, self.factory, **options)
        listener.privilegedStartService()
        listener.startService()
        self.addCleanup(self.stop, listener)
        return listener

    async def stop(self, listener: Listener) -> None:
        for protocol in self.factory.made:
            protocol.transport.abortConnection()  # type: ignore[union-attr]
        await listener.stopService()

    async def hear(self, family: int, address: Any) -> bytes:
        def talk() -> bytes:
            with socket.socket(family) as client:
                client.settimeout(10)
                client.connect(address)
                return client.recv(100)

        return await deferToThread(talk)

    async def test_accepted_connections_have_no_delay(self) -> None:
        listener = self.listener("tcp:0:interface=127.0.0.1")
        assert await self.hear(socket.AF_INET, ("127.0.0.1", listener.addresses[0].port)) == b"hello"  # type: ignore
        assert self.factory.made[0].has_no_delay

    async def test_who_lets_go_leaves_the_socket_to_who_inherited_it(self) -> None:
        endpoint = "tcp:0:interface=127.0.0.1"
        first = Listener(reactor, "mta", [endpoint], HelloFactory())
        first.privilegedStartService()
        port = first.addresses[0].port  # type: ignore[attr-defined]
        inherited = {key: os.dup(descriptor) for key, descriptor in first.sockets.items()}
        assert list(inherited) == [("mta", endpoint)]
        self.listener(endpoint, inherited=inherited)
        await first.let_go()
        assert await self.hear(socket.AF_INET, ("127.0.0.1", port)) == b"hello"

    async def test_who_comes_before_the_start_waits(self) -> None:
        for endpoint, family in (("tcp:0:interface=127.0.0.1", socket.AF_INET), ("tcp6:0", socket.AF_INET6)):
            if family == socket.AF_INET6 and not has_ipv6():
                continue
            self.factory = HelloFactory()
            listener = Listener(reactor, "mta", [endpoint], self.factory)
            listener.privilegedStartService()
            self.addCleanup(self.stop, listener)
            host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
            with socket.create_connection((host, listener.addresses[0].port), timeout=10) as early:  # type: ignore
                for _ in range(3):
                    await deferLater(reactor, 0)  # type: ignore[arg-type] # turns in which it could be accepted
                    listener.look()
                assert self.factory.made == []
                listener.startService()
                assert await deferToThread(early.recv, 100) == b"hello"
            for protocol in self.factory.made:
                protocol.transport.abortConnection()  # type: ignore[union-attr]

    async def test_a_unix_socket_that_root_makes_belongs_to_who_we_become(self) -> None:
        if os.geteuid() != 0:
            self.skipTest("NOT TESTED: giving a socket away needs root")
        folder = Path(os.path.realpath("/tmp"), f"mailhub-{os.getpid()}")
        folder.mkdir()
        self.addCleanup(folder.rmdir)
        listener = self.listener(f"unix:{folder}/lmtp", owner=(12345, 23456))
        found = os.stat(folder / "lmtp")
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (12345, 23456, 0o660)
        await listener.stopService()

    async def test_ipv4_and_ipv6_go_together_on_one_port(self) -> None:
        if not has_ipv6():
            self.skipTest("this host has no IPv6")
        first = self.listener("tcp:0")
        number = first.addresses[0].port  # type: ignore[attr-defined]
        factory = self.factory
        self.listener(f"tcp6:{number}")
        assert await self.hear(socket.AF_INET6, ("::1", number)) == b"hello"
        assert await self.hear(socket.AF_INET, ("127.0.0.1", number)) == b"hello"
        assert self.factory.made[0].has_no_delay
        for protocol in factory.made:
            protocol.transport.abortConnection()  # type: ignore[union-attr]

    async def test_a_unix_socket_is_for_owner_and_group_unless_told_otherwise(self) -> None:
        folder = Path(os.path.realpath("/tmp"), f"mailhub-{os.getpid()}")  # a short path: the limit is 107 octets
        folder.mkdir()
        self.addCleanup(folder.rmdir)
        narrow, wide = folder / "narrow", folder / "wide"
        listener = self.listener(f"unix:{narrow}", f"unix:{wide}:mode=666")
        assert os.stat(narrow).st_mode & 0o777 == 0o660
        assert os.stat(wide).st_mode & 0o777 == 0o666
        assert await self.hear(socket.AF_UNIX, str(narrow)) == b"hello"
        assert "another running program" in refusal(f"unix:{narrow}")
        for protocol in self.factory.made:
            protocol.transport.abortConnection()  # type: ignore[union-attr]
        await listener.stopService()
        assert not narrow.exists()

    async def test_a_unix_socket_of_the_dead_is_replaced_whoever_has_their_number_now(self) -> None:
        folder = Path(os.path.realpath("/tmp"), f"mailhub-{os.getpid()}")
        folder.mkdir()
        self.addCleanup(folder.rmdir)
        place = folder / "lmtp"
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(place))
            left.listen()
        Path(f"{place}.lock").symlink_to(str(os.getpid()))  # as in a container, where each start has the same one
        listener = self.listener(f"unix:{place}")
        assert await self.hear(socket.AF_UNIX, str(place)) == b"hello"
        for protocol in self.factory.made:
            protocol.transport.abortConnection()  # type: ignore[union-attr]
        await listener.stopService()
        place.write_text("a file")
        assert refusal(f"unix:{place}").endswith("it is in use by another program")
        assert place.read_text() == "a file"
        place.unlink()
        Path(f"{place}.lock").unlink()  # Twisted's, for nothing

    async def test_stopping_closes_the_port_and_leaves_sessions_alone(self) -> None:
        listener = self.listener("tcp:0:interface=127.0.0.1")
        address = ("127.0.0.1", listener.addresses[0].port)  # type: ignore[attr-defined]
        with socket.create_connection(address, timeout=10) as client:
            await deferToThread(client.recv, 100)
            await listener.stopService()
            assert listener.addresses == ()
            self.factory.made[0].transport.write(b"still here")  # type: ignore[union-attr]
            assert await deferToThread(client.recv, 100) == b"still here"
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(address, timeout=10)

    async def test_when_one_endpoint_fails_none_stays_bound(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            number = free.getsockname()[1]
        refusal(f"tcp:{number}:interface=127.0.0.1", "tcp:0:interface=192.0.2.1")
        await deferLater(reactor, 0)  # type: ignore[arg-type] # Twisted closes a port in its next turn
        with socket.socket() as again:
            again.bind(("127.0.0.1", number))

    async def test_nothing_is_accepted_while_descriptors_are_scarce(self) -> None:
        descriptors = FewDescriptors()
        listener = self.listener("tcp:0:interface=127.0.0.1", descriptors=descriptors)
        address = ("127.0.0.1", listener.addresses[0].port)  # type: ignore[attr-defined]
        descriptors.will_be_scarce = True
        # The first is let in, to be told; it is the one that finds the descriptors scarce.
        assert await self.hear(socket.AF_INET, address) == b"hello"
        assert listener.is_paused
        waiting = socket.create_connection(address, timeout=10)
        self.addCleanup(waiting.close)
        for _ in range(3):
            await deferLater(reactor, 0)  # type: ignore[arg-type] # turns of the reactor in which it could be accepted
        listener.look()
        assert len(self.factory.made) == 1
        descriptors.will_be_scarce = False
        listener.look()
        assert not listener.is_paused
        assert await deferToThread(waiting.recv, 100) == b"hello"

    async def test_those_behind_it_in_the_same_sweep_are_closed_at_once(self) -> None:
        descriptors = FewDescriptors()
        listener = self.listener("tcp:0:interface=127.0.0.1", descriptors=descriptors)
        address = ("127.0.0.1", listener.addresses[0].port)  # type: ignore[attr-defined]
        descriptors.will_be_scarce = True
        clients = [socket.create_connection(address, timeout=10) for _ in range(5)]  # all before the reactor's turn
        heard = [await deferToThread(client.recv, 100) for client in clients]
        for client in clients:
            client.close()
        assert heard == [b"hello", b"", b"", b"", b""]
