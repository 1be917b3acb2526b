"""Delivery over real sockets: TLS of every kind, logins, UNIX sockets, and large content."""

import hashlib
import random
import shutil
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trustme
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred as Awaited
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from mailhub.deliver.smtp import Outside, SmtpDeliverer
from mailhub.interfaces import IContent
from mailhub.model import (
    Address,
    Credentials,
    Deferred,
    Delivered,
    Envelope,
    Failed,
    Host,
    Lmtp,
    MailParameters,
    Outcome,
    Recipient,
    Route,
    Smtp,
)
from mailhub.net.client_tls import ClientTls
from mailhub.net.prompt import PromptClient, PromptUnixClient
from mailhub.net.tls import CertificateStore, Pair
from mailhub.queue.limits import Limits
from mailhub.store.disk import RealDisk
from mailhub.store.executor import ThreadExecutor
from mailhub.store.spool_content import FileContent, MemoryContent
from mailhub.testing.hub import History
from mailhub.testing.remote_mta import BROKEN_TLS, STARTTLS_INJECTION, BreakTls, RemoteMta
from mailhub.wire.smtp.client_events import Patience
from mailhub.wire.smtp.extensions import Extensions

reactor: Any = _reactor

NAME = "mx.remote.example"
BOB = Address("bob", "remote.example")
CONTENT = b"Subject: hello\r\n\r\nhello\r\n"
TIMEOUT_SECONDS = 30


class LoopbackTests(TestCase):
    timeout = TIMEOUT_SECONDS

    @classmethod
    def setUpClass(cls) -> None:
        cls.directory = Path(tempfile.mkdtemp())
        cls.authority = trustme.CA()
        cls.authorities = str(cls.directory / "ca.pem")
        cls.authority.cert_pem.write_to_path(cls.authorities)

    @classmethod
    def tearDownClass(cls) -> None:
        shutil.rmtree(cls.directory)

    def setUp(self) -> None:
        self.history = History()
        self.executor = ThreadExecutor(reactor, 2)
        self.executor.start()
        self.addCleanup(self.executor.stop)
        self.outside = Outside(
            "us.example",
            reactor,
            self.executor,
            self.history,
            random.Random(1),
            ClientTls(self.authorities),
            Limits(steady=reactor),
        )
        self.deliverer = SmtpDeliverer(self.outside)
        self.mtas: list[RemoteMta] = []
        self.addCleanup(self.close)

    async def _close(self) -> None:
        self.deliverer.close()
        for _ in range(500):
            if not any(mta.open for mta in self.mtas) and not self.deliverer.connections._open:
                break
            await deferLater(reactor, 0.01, lambda: None)

    def close(self) -> Awaited[None]:
        return Awaited.fromCoroutine(self._close())

    def store(self, name: str = NAME, authority: trustme.CA | None = None) -> CertificateStore:
        issued = (authority or self.authority).issue_cert(name)
        path = Path(tempfile.mkdtemp(dir=self.directory)) / "pair.pem"
        issued.private_key_and_cert_chain_pem.write_to_path(str(path))
        path.chmod(0o600)
        return CertificateStore(Pair(path, path), clock=reactor, steady=reactor)

    def mta(self, interface: str = "127.0.0.1", **options: Any) -> tuple[RemoteMta, Host]:
        mta = RemoteMta(reactor, NAME, **options)
        port = reactor.listenTCP(0, mta, interface=interface)
        self.addCleanup(port.stopListening)
        self.mtas.append(mta)
        return mta, Host(NAME, interface, port.getHost().port)

    async def deliver(
        self, route: Route, content: IContent | bytes = CONTENT, parameters: MailParameters | None = None
    ) -> Outcome:
        if isinstance(content, bytes):
            content = MemoryContent(content)
        bob = Recipient(BOB, BOB)
        sender = Address("alice", "us.example")
        envelope = Envelope("q1", sender, (bob,), 0.0, b"", content.size, parameters or MailParameters())
        outcomes: Mapping[Address, Outcome] = await self.deliverer.deliver(envelope, [(bob, route)], content)
        return outcomes[BOB]

    def tried(self) -> list[dict[str, object]]:
        return [event for event in self.history.events if event["kind"] == "tried"]

    # --- TLS ---------------------------------------------------------------------------------------------------

    async def test_tls_is_used_where_it_is_offered_whoever_offers_it(self) -> None:
        mta, host = self.mta(tls=self.store("another.example", trustme.CA()))
        told = []
        for _ in range(3):
            outcome = await self.deliver(Smtp("remote.example", (host,)))
            assert isinstance(outcome, Delivered), outcome
            told.append(outcome.transaction)
        assert [message.under_tls for message in mta.messages] == [True] * 3
        assert mta.connections == 1
        first, second, _ = told
        assert (first["tls"], first["verified"]) == ("TLSv1.3", False)
        assert first["cipher"]
        assert second["reused"]

    async def test_tls_that_is_broken_is_recorded_and_done_without(self) -> None:
        mta, host = self.mta(tls=self.store())
        mta.at("starttls", BROKEN_TLS)
        outcome = await self.deliver(Smtp("remote.example", (host,)))
        assert isinstance(outcome, Delivered), outcome
        assert [message.under_tls for message in mta.messages] == [False]
        assert mta.connections == 2
        (failed,) = self.tried()
        assert failed["tls_failed"] is True
        assert str(failed["reply"]).startswith("451 4.7.5 TLS with the remote host failed: ")
        assert "tls" not in outcome.transaction

    async def test_a_handshake_that_never_ends_is_given_up_and_done_without(self) -> None:
        self.outside.patience = Patience(tls_seconds=0.05)
        mta, host = self.mta(tls=self.store())
        mta.at("starttls", BreakTls(b""))
        outcome = await self.deliver(Smtp("remote.example", (host,)))
        assert isinstance(outcome, Delivered), outcome
        assert self.tried()[0]["tls_failed"] is True
        assert [message.under_tls for message in mta.messages] == [False]

    async def test_broken_tls_is_never_done_without_where_tls_is_required(self) -> None:
        for level in ("require", "verify"):
            mta, host = self.mta(tls=self.store())
            mta.at("starttls", BROKEN_TLS)
            outcome = await self.deliver(Smtp(level, (host,), tls=level))
            assert isinstance(outcome, Deferred), outcome
            assert str(outcome.reply).startswith("451 4.7.5")
            assert not mta.messages
            assert mta.connections == 1

    async def test_tls_that_is_not_offered_is_missed_where_it_is_required(self) -> None:
        mta, host = self.mta()
        outcome = await self.deliver(Smtp("remote.example", (host,), tls="require"))
        assert isinstance(outcome, Deferred), outcome
        assert str(outcome.reply).startswith("451 4.7.4")
        assert not mta.messages

    async def test_replies_in_the_clear_behind_the_220_end_the_session(self) -> None:
        for level in ("may", "require"):
            mta, host = self.mta(tls=self.store())
            mta.at("starttls", STARTTLS_INJECTION)
            outcome = await self.deliver(Smtp(level, (host,), tls=level))
            assert isinstance(outcome, Deferred), outcome
            assert not mta.messages
            assert mta.connections == 1

    async def test_a_certificate_for_the_name_is_verified(self) -> None:
        mta, host = self.mta(tls=self.store())
        outcome = await self.deliver(Smtp("remote.example", (host,), tls="verify"))
        assert isinstance(outcome, Delivered), outcome
        assert outcome.transaction["verified"] is True
        assert mta.messages[0].under_tls

    async def test_a_certificate_for_another_name_is_none(self) -> None:
        mta, host = self.mta(tls=self.store("another.example"))
        outcome = await self.deliver(Smtp("remote.example", (host,), tls="verify"))
        assert isinstance(outcome, Deferred), outcome
        assert outcome.reply.text == f"TLS with the remote host failed: the certificate is not for {NAME}"
        assert not mta.messages

    async def test_a_certificate_that_names_no_host_is_none(self) -> None:
        mta, host = self.mta(tls=self.store("postmaster@remote.example"))
        outcome = await self.deliver(Smtp("remote.example", (host,), tls="verify"))
        assert isinstance(outcome, Deferred), outcome
        assert outcome.reply.text == f"TLS with the remote host failed: the certificate is not for {NAME}"
        assert not mta.messages

    async def test_a_certificate_of_nobody_we_trust_is_none(self) -> None:
        mta, host = self.mta(tls=self.store(authority=trustme.CA()))
        outcome = await self.deliver(Smtp("remote.example", (host,), tls="verify"))
        assert isinstance(outcome, Deferred), outcome
        assert "certificate verify failed" in outcome.reply.text
        assert not mta.messages
        # It is good enough for who does not ask.
        assert isinstance(await self.deliver(Smtp("remote.example", (host,), tls="require")), Delivered)

    async def test_a_certificate_for_an_address(self) -> None:
        _, host = self.mta(tls=self.store("127.0.0.1"))
        by_address = Host("127.0.0.1", host.address, host.port)
        assert isinstance(await self.deliver(Smtp("a", (by_address,), tls="verify")), Delivered)
        assert isinstance(await self.deliver(Smtp("b", (host,), tls="verify")), Deferred)

    async def test_requiretls_goes_where_the_certificate_is_right_and_the_host_knows_it(self) -> None:
        knows, host = self.mta(tls=self.store(), extensions=Extensions("x", requiretls=True))
        asked = MailParameters(requiretls=True)
        assert isinstance(await self.deliver(Smtp("a", (host,), tls="verify"), parameters=asked), Delivered)
        assert knows.messages[0].parameters.requiretls
        # Not under TLS with whoever is there, and not to a host that does not know it.
        assert isinstance(await self.deliver(Smtp("b", (host,), tls="may"), parameters=asked), Failed)
        other, host = self.mta(tls=self.store())
        assert isinstance(await self.deliver(Smtp("c", (host,), tls="verify"), parameters=asked), Failed)
        assert not other.messages

    async def test_tls_from_the_first_octet_with_a_login(self) -> None:
        self.outside.credentials = {"key": Credentials("user", "secret")}
        mta, host = self.mta(tls=self.store(), implicit_tls=True, logins={"user": "secret"})
        route = Smtp("smtps", (host,), tls="verify", login="key", implicit_tls=True)
        for _ in range(2):
            outcome = await self.deliver(route)
            assert isinstance(outcome, Delivered), outcome
        assert [message.login for message in mta.messages] == ["user", "user"]
        assert mta.connections == 1
        assert outcome.transaction["verified"] is True

    async def test_tls_from_the_first_octet_that_fails_is_never_done_without(self) -> None:
        mta, host = self.mta()  # it speaks in the clear
        for level in ("may", "verify"):
            outcome = await self.deliver(Smtp(level, (host,), tls=level, implicit_tls=True))
            assert isinstance(outcome, Deferred), outcome
            assert str(outcome.reply).startswith("451 4.7.5")
        assert not mta.messages
        assert mta.connections == 2

    async def test_a_wrong_password_defers_and_is_not_tried_by_the_next_message(self) -> None:
        self.outside.credentials = {"key": Credentials("user", "wrong")}
        mta, host = self.mta(tls=self.store(), logins={"user": "secret"})
        route = Smtp("remote.example", (host,), tls="verify", login="key")
        for _ in range(5):
            outcome = await self.deliver(route)
            assert isinstance(outcome, Deferred), outcome
            assert outcome.reply.code == 535
        assert mta.connections == 1
        assert "wrong" not in repr(self.history.events)

    # --- sockets -----------------------------------------------------------------------------------------------

    async def test_lmtp_over_a_unix_socket(self) -> None:
        path = str(self.directory / "lmtp.sock")
        mta = RemoteMta(reactor, NAME, lmtp=True)
        port = reactor.listenUNIX(path, mta)
        self.addCleanup(port.stopListening)
        self.mtas.append(mta)
        for route in (Lmtp(f"unix:{path}", (Host("", path, 0),)), Lmtp(f"unix:{path}")):
            outcome = await self.deliver(route)
            assert isinstance(outcome, Delivered), outcome
        assert len(mta.messages) == 2
        for client in self.deliverer.connections._since:
            assert isinstance(client.transport, PromptUnixClient)

    async def test_a_connection_does_not_wait_for_more_to_send(self) -> None:
        _, host = self.mta()
        await self.deliver(Smtp("remote.example", (host,)))
        [client] = self.deliverer.connections._since
        assert isinstance(client.transport, PromptClient)
        assert client.transport.getTcpNoDelay()
        assert client.transport.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    async def test_a_port_where_nobody_listens(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            host = Host(NAME, "127.0.0.1", taken.getsockname()[1])
            outcome = await self.deliver(Smtp("remote.example", (host,)))
        assert isinstance(outcome, Deferred)
        assert outcome.reply.text.endswith(": connection refused")

    async def test_large_content_of_every_size(self) -> None:
        chance = random.Random(5)
        lines = b"\r\n".join(b"." * chance.choice([0, 1]) + b"x" * chance.randrange(70) for _ in range(500)) + b"\r\n"
        for tls in (None, self.store()):
            mta, host = self.mta(tls=tls)
            for octets in (1024, 262_144, 262_145, 1_000_000, 5 * 1024 * 1024):
                message = b"Subject: large\r\n\r\n" + (lines * (octets // len(lines) + 1))[:octets]
                message = message.removesuffix(b"\r") + b"\r\n"
                path = self.directory / "content"
                path.write_bytes(message)
                content = FileContent(RealDisk(), str(path), len(message))
                outcome = await self.deliver(Smtp(f"by {tls}", (host,)), content)
                assert isinstance(outcome, Delivered), outcome
                taken = mta.messages.pop()
                assert hashlib.sha256(taken.content).digest() == hashlib.sha256(message).digest()
                assert taken.under_tls is (tls is not None)
            assert mta.connections == 1
