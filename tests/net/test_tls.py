"""Certificates: choice by name, reloading without harm, refusal of what cannot be used, and channel bindings.

The handshakes are real; client and server talk through memory, so that no test waits for a socket.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import ssl
import tempfile
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from OpenSSL import SSL
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import Logger, formatEvent
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from mailhub.net import self_signed, tls
from mailhub.net.tls import CertificateError, CertificateStore, Pair, Site

NOW = datetime.datetime.now(datetime.UTC).timestamp()
AUTHORITY = trustme.CA(key_type=trustme.KeyType.ECDSA)


@implementer(IHandshakeListener)
class Talker(Protocol):
    """Says back what it hears, and remembers what its TLS layer says of itself."""

    described: Any = None
    bindings: Any = None

    def handshakeCompleted(self) -> None:
        self.described = tls.describe(self.transport)
        self.bindings = tls.channel_bindings(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


class Told:
    """A logger's observer that keeps lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.log = Logger(namespace="test", observer=self)

    def __call__(self, event: Any) -> None:
        self.lines.append(f"{event['log_level'].name}: {formatEvent(event)}")


class Session:
    """One client, with any TLS settings, connected to a store through memory."""

    def __init__(
        self,
        store: CertificateStore,
        clock: Clock,
        server_name: bytes | None = None,
        version: int = SSL.TLS1_3_VERSION,
        session: Any = None,
        alpn: tuple[bytes, ...] = (),
    ) -> None:
        self.clock = clock
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_verify(SSL.VERIFY_NONE)
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
        if version < SSL.TLS1_2_VERSION:
            context.set_cipher_list(b"DEFAULT@SECLEVEL=0")
        if alpn:
            context.set_alpn_protos(list(alpn))
        self.context = context if session is None else session[0]
        self.client = SSL.Connection(self.context, None)
        if server_name is not None:
            self.client.set_tlsext_host_name(server_name)
        if session is not None:
            self.client.set_session(session[1])
        self.client.set_connect_state()
        factory = Factory.forProtocol(Talker)
        self.server: Any = store.wrap(factory).buildProtocol(None)  # type: ignore[arg-type]
        self.transport = StringTransport()
        self.server.makeConnection(self.transport)

    def shake_hands(self) -> Session:
        for _ in range(10):
            try:
                self.client.do_handshake()
            except SSL.WantReadError:
                self.pump()
            else:
                self.pump()
                return self
        raise AssertionError("the handshake does not end")

    def pump(self) -> None:
        """Carry octets both ways until there are none."""
        for _ in range(10):
            with contextlib.suppress(SSL.WantReadError):
                self.server.dataReceived(self.client.bio_read(65536))
            self.clock.advance(0)
            octets = self.transport.value()
            self.transport.clear()
            if not octets:
                return
            self.client.bio_write(octets)

    def echo(self, octets: bytes) -> bytes:
        self.client.send(octets)
        self.pump()
        return self.client.recv(65536)

    def resumable(self) -> Any:
        """What a later session needs to resume this one.  TLS 1.3 sends tickets behind the handshake; OpenSSL gives up
        a session that ends without a close."""
        self.echo(b"x")
        session = self.client.get_session()
        self.client.shutdown()
        return self.context, session

    @property
    def certificate(self) -> x509.Certificate:
        found = self.client.get_peer_certificate(as_cryptography=True)
        assert found is not None
        return found

    @property
    def names(self) -> list[str]:
        extension = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return extension.value.get_values_for_type(x509.DNSName)


def write_pair(folder: Path, name: str, *names: str, days: float | None = None) -> Pair:
    """A certificate of the test authority as two files; `days` is how long it is still valid."""
    end = None if days is None else datetime.datetime.fromtimestamp(NOW, datetime.UTC) + datetime.timedelta(days=days)
    issued = AUTHORITY.issue_cert(*(names or (name,)), not_after=end, key_type=trustme.KeyType.ECDSA)
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    Path(pair.certificate).write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    write_key(Path(pair.key), issued.private_key_pem.bytes())
    return pair


def write_key(path: Path, octets: bytes) -> None:
    path.write_bytes(octets)
    path.chmod(0o600)


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(NOW)
    return clock


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return write_pair(tmp_path, "mail.example.org")


# --- what is negotiated ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "name"), [(SSL.TLS1_2_VERSION, "TLSv1.2"), (SSL.TLS1_3_VERSION, "TLSv1.3")], ids=["1.2", "1.3"]
)
def test_a_session_knows_its_version_cipher_and_server_name(pair: Pair, clock: Clock, version: int, name: str) -> None:
    session = Session(
        CertificateStore(pair, clock=clock, steady=clock), clock, b"MAIL.example.org", version
    ).shake_hands()
    described = session.server.wrappedProtocol.described
    assert described.version == name
    assert described.cipher == session.client.get_cipher_name()
    assert described.server_name == "mail.example.org"
    assert session.echo(b"hello") == b"hello"


def test_tls_1_1_is_refused(pair: Pair, clock: Clock) -> None:
    with pytest.raises(SSL.Error, match="protocol version"):
        Session(CertificateStore(pair, clock=clock, steady=clock), clock, version=SSL.TLS1_1_VERSION).shake_hands()


def test_tls_1_2_is_refused_where_the_postmaster_wants_1_3(pair: Pair, clock: Clock) -> None:
    store = CertificateStore(pair, clock=clock, steady=clock, minimum="1.3")
    with pytest.raises(SSL.Error):
        Session(store, clock, version=SSL.TLS1_2_VERSION).shake_hands()
    Session(store, clock).shake_hands()


def test_a_client_may_ask_for_smtp_by_alpn_but_a_browser_is_turned_away(pair: Pair, clock: Clock) -> None:
    store = CertificateStore(pair, clock=clock, steady=clock)
    session = Session(store, clock, alpn=(b"h2", b"smtp")).shake_hands()
    assert session.client.get_alpn_proto_negotiated() == b"smtp"
    with pytest.raises(SSL.Error):
        Session(store, clock, alpn=(b"h2", b"http/1.1")).shake_hands()


@pytest.mark.parametrize("name", [b"a\x1b[2J.example", b"x" * 254, "ü.example".encode(), b"a b"])
def test_a_server_name_that_is_no_name_is_not_kept(pair: Pair, clock: Clock, name: bytes) -> None:
    session = Session(CertificateStore(pair, clock=clock, steady=clock), clock, name).shake_hands()
    assert session.server.wrappedProtocol.described.server_name is None


def test_a_transport_without_tls_has_nothing_to_say() -> None:
    with pytest.raises(TypeError, match="no TLS"):
        tls.describe(StringTransport())
    with pytest.raises(TypeError, match="no TLS"):
        tls.channel_bindings(StringTransport())


# --- the choice of the certificate -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        (None, "mail.example.org"),
        (b"mail.example.org", "mail.example.org"),
        (b"smtp.example.net", "smtp.example.net"),
        (b"SMTP.Example.NET", "smtp.example.net"),
        (b"any.example.net", "wild.test"),
        (b"a.b.example.net", "mail.example.org"),  # a wildcard is one label
        (b"example.net", "mail.example.org"),
        (b"unknown.example", "mail.example.org"),
        (b"*.example.net", "mail.example.org"),  # no name at all
    ],
)
def test_the_server_name_chooses_the_certificate(
    tmp_path: Path, clock: Clock, asked: bytes | None, served: str
) -> None:
    store = CertificateStore(
        write_pair(tmp_path, "mail.example.org"),
        [
            Site(("smtp.example.net",), write_pair(tmp_path, "smtp.example.net")),
            Site(("*.example.net",), write_pair(tmp_path, "wild.test")),
        ],
        clock=clock,
        steady=clock,
    )
    assert Session(store, clock, asked).shake_hands().names == [served]
    assert Session(store, clock, asked, SSL.TLS1_2_VERSION).shake_hands().names == [served]


# --- reloading -------------------------------------------------------------------------------------------------------


def test_a_changed_pair_is_served_from_the_next_connection_on_and_no_session_notices(
    tmp_path: Path, pair: Pair, clock: Clock
) -> None:
    store = CertificateStore(pair, clock=clock, steady=clock)
    old = Session(store, clock).shake_hands()
    beginning = Session(store, clock)
    write_pair(tmp_path, "mail.example.org", "new.example.org")
    assert Session(store, clock).shake_hands().names == ["mail.example.org"]  # not looked at again so soon
    clock.advance(tls.CHECK_SECONDS)
    assert Session(store, clock).shake_hands().names == ["new.example.org"]
    assert beginning.shake_hands().names == ["mail.example.org"]
    assert old.echo(b"still here") == b"still here"


def test_reload_does_not_wait_for_the_next_check(tmp_path: Path, pair: Pair, clock: Clock) -> None:
    store = CertificateStore(pair, clock=clock, steady=clock)
    write_pair(tmp_path, "mail.example.org", "new.example.org")
    assert store.reload() == ()
    assert Session(store, clock).shake_hands().names == ["new.example.org"]


def test_a_site_is_reloaded_too(tmp_path: Path, pair: Pair, clock: Clock) -> None:
    site = Site(("s.example",), write_pair(tmp_path, "s", "s.example"))
    store = CertificateStore(pair, [site], clock=clock, steady=clock)
    write_pair(tmp_path, "s", "s2.example")
    store.reload()
    assert Session(store, clock, b"s.example").shake_hands().names == ["s2.example"]


def test_a_broken_new_pair_keeps_the_old_one_serving_and_is_told_once(
    tmp_path: Path, pair: Pair, clock: Clock, told: Told
) -> None:
    site = Site(("s.example",), write_pair(tmp_path, "s", "s.example"))
    store = CertificateStore(pair, [site], clock=clock, steady=clock, log=told.log)
    Path(pair.certificate).write_bytes(b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    write_pair(tmp_path, "s", "s2.example")
    for _ in range(3):
        clock.advance(tls.CHECK_SECONDS)
        assert Session(store, clock).shake_hands().names == ["mail.example.org"]
    assert Session(store, clock, b"s.example").shake_hands().names == ["s2.example"]  # one does not hold up the others
    errors = [line for line in told.lines if line.startswith("error")]
    assert len(errors) == 1
    assert str(pair.certificate) in errors[0]
    assert "the old one is still served" in errors[0]
    write_pair(tmp_path, "mail.example.org", "mended.example.org")
    clock.advance(tls.CHECK_SECONDS)
    assert Session(store, clock).shake_hands().names == ["mended.example.org"]


@pytest.mark.parametrize("broken", ["certificate", "key"])
def test_a_vanished_file_keeps_the_old_pair_serving(pair: Pair, clock: Clock, told: Told, broken: str) -> None:
    store = CertificateStore(pair, clock=clock, steady=clock, log=told.log)
    os.unlink(getattr(pair, broken))
    (problem,) = store.reload()
    assert problem == f"{getattr(pair, broken)}: cannot be read: no such file or directory"
    assert Session(store, clock).shake_hands().names == ["mail.example.org"]


def test_a_certificate_that_came_before_its_key_is_taken_once_the_key_has_come(
    tmp_path: Path, pair: Pair, clock: Clock
) -> None:
    store = CertificateStore(pair, clock=clock, steady=clock)
    new = write_pair(tmp_path, "new", "new.example.org")
    os.replace(new.certificate, pair.certificate)
    clock.advance(tls.CHECK_SECONDS)
    assert Session(store, clock).shake_hands().names == ["mail.example.org"]
    os.replace(new.key, pair.key)
    clock.advance(tls.CHECK_SECONDS)
    assert Session(store, clock).shake_hands().names == ["new.example.org"]


def test_looks_are_apart_in_steady_time_whatever_the_clock_is_set_to(tmp_path: Path, pair: Pair, clock: Clock) -> None:
    steady = Clock()
    store = CertificateStore(pair, clock=clock, steady=steady)
    write_pair(tmp_path, "mail.example.org", "new.example.org")
    for seconds in (86400.0, -2 * 86400.0):
        clock.rightNow += seconds
        assert Session(store, steady).shake_hands().names == ["mail.example.org"]
    steady.advance(tls.CHECK_SECONDS)
    assert Session(store, steady).shake_hands().names == ["new.example.org"]


# --- resumption ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["1.2", "1.3"])
@pytest.mark.parametrize("name", [None, b"s.example"])
def test_a_session_resumes_by_ticket_until_the_ticket_keys_are_renewed(
    tmp_path: Path, pair: Pair, clock: Clock, version: int, name: bytes | None
) -> None:
    store = CertificateStore(
        pair, [Site(("s.example",), write_pair(tmp_path, "s", "s.example"))], clock=clock, steady=clock
    )
    ticket = Session(store, clock, name, version).shake_hands().resumable()
    again = Session(store, clock, name, version, session=ticket).shake_hands()
    assert resumed(again)
    assert again.echo(b"hello") == b"hello"
    assert again.server.wrappedProtocol.described.server_name == (name.decode() if name else None)
    clock.advance(tls.TICKET_KEY_SECONDS + 1)
    assert not resumed(Session(store, clock, name, version, session=ticket).shake_hands())


def resumed(session: Session) -> bool:
    from OpenSSL._util import lib

    return bool(lib.SSL_session_reused(session.client._ssl))


# --- channel bindings ------------------------------------------------------------------------------------------------


def test_both_ends_export_the_same_binding_under_tls_1_3_and_each_session_another(pair: Pair, clock: Clock) -> None:
    store = CertificateStore(pair, clock=clock, steady=clock)
    sessions = [Session(store, clock).shake_hands() for _ in range(2)]
    values = []
    for session in sessions:
        value = session.server.wrappedProtocol.bindings["tls-exporter"]
        assert value == session.client.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
        assert len(value) == 32
        values.append(value)
    assert values[0] != values[1]


def test_a_resumed_session_has_an_exporter_of_its_own(pair: Pair, clock: Clock) -> None:
    store = CertificateStore(pair, clock=clock, steady=clock)
    first = Session(store, clock).shake_hands()
    second = Session(store, clock, session=first.resumable()).shake_hands()
    assert resumed(second)
    ours = [session.server.wrappedProtocol.bindings["tls-exporter"] for session in (first, second)]
    assert ours[0] != ours[1]
    assert ours[1] == tls.tls_exporter(second.client)


def test_tls_1_2_offers_the_end_point_binding_alone(pair: Pair, clock: Clock) -> None:
    session = Session(
        CertificateStore(pair, clock=clock, steady=clock), clock, version=SSL.TLS1_2_VERSION
    ).shake_hands()
    expected = session.certificate.fingerprint(hashes.SHA256())
    assert session.server.wrappedProtocol.bindings == {"tls-server-end-point": expected}


def test_the_end_point_binding_is_that_of_the_certificate_that_was_chosen(
    tmp_path: Path, pair: Pair, clock: Clock
) -> None:
    store = CertificateStore(
        pair, [Site(("s.example",), write_pair(tmp_path, "s", "s.example"))], clock=clock, steady=clock
    )
    session = Session(store, clock, b"s.example").shake_hands()
    expected = session.certificate.fingerprint(hashes.SHA256())
    assert session.server.wrappedProtocol.bindings["tls-server-end-point"] == expected


def certificate_signed_with(key: Any, algorithm: Any) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    today = datetime.datetime.fromtimestamp(NOW, datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(today).not_valid_after(today + datetime.timedelta(days=1))
    return builder.sign(key, algorithm)


@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda a: a.name)
def test_the_end_point_binding_uses_the_hash_of_the_signature(algorithm: Any) -> None:
    certificate = certificate_signed_with(ec.generate_private_key(ec.SECP256R1()), algorithm)
    assert tls.server_end_point(certificate) == certificate.fingerprint(algorithm)


class SignedWithSha1:
    """A certificate as it was once made; today's libraries make none.  Only what the rule asks for."""

    signature_hash_algorithm = hashes.SHA1()

    def fingerprint(self, algorithm: Any) -> bytes:
        return str(algorithm.name).encode()


def test_sha_1_is_replaced_by_sha_256_in_the_end_point_binding() -> None:
    assert tls.server_end_point(SignedWithSha1()) == b"sha256"  # type: ignore[arg-type]


def test_a_signature_without_a_hash_has_no_end_point_binding() -> None:
    assert tls.server_end_point(certificate_signed_with(ed25519.Ed25519PrivateKey.generate(), None)) is None


# --- what cannot be used ---------------------------------------------------------------------------------------------


def refusal(pair: Pair, clock: Clock) -> str:
    with pytest.raises(CertificateError) as caught:
        CertificateStore(pair, clock=clock, steady=clock)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_missing_files_are_named(tmp_path: Path, clock: Clock) -> None:
    missing = Pair(tmp_path / "no.crt", tmp_path / "no.key")
    assert refusal(missing, clock) == f"{missing.certificate}: cannot be read: no such file or directory"


def test_an_unreadable_key_is_named(pair: Pair, clock: Clock) -> None:
    os.unlink(pair.key)
    os.mkdir(pair.key)  # modes do not stop root, who runs tests too
    assert refusal(pair, clock) == f"{pair.key}: cannot be read: is a directory"


def test_a_key_of_another_certificate_is_refused(tmp_path: Path, pair: Pair, clock: Clock) -> None:
    other = write_pair(tmp_path, "other")
    assert "does not belong to the key" in refusal(Pair(pair.certificate, other.key), clock)


def test_a_chain_that_begins_with_the_issuer_is_refused(tmp_path: Path, pair: Pair, clock: Clock) -> None:
    wrong = AUTHORITY.cert_pem.bytes() + Path(pair.certificate).read_bytes()
    Path(pair.certificate).write_bytes(wrong)
    assert "must stand first in the file" in refusal(pair, clock)


def test_a_locked_key_is_refused(pair: Pair, clock: Clock) -> None:
    key = serialization.load_pem_private_key(Path(pair.key).read_bytes(), None)
    lock = serialization.BestAvailableEncryption(b"secret")
    locked = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    Path(pair.key).write_bytes(locked)
    assert "locked with a passphrase" in refusal(pair, clock)


@pytest.mark.parametrize("octets", [b"", b"nonsense", b"\0" * 100, b"-----BEGIN CERTIFICATE-----\n"])
def test_what_is_no_pem_is_refused(pair: Pair, clock: Clock, octets: bytes) -> None:
    good = Path(pair.certificate).read_bytes()
    Path(pair.certificate).write_bytes(octets)
    assert "no certificate in PEM form" in refusal(pair, clock)
    Path(pair.certificate).write_bytes(good)
    Path(pair.key).write_bytes(octets)
    assert "no private key in PEM form" in refusal(pair, clock)


def test_a_file_without_end_is_not_read_to_its_end(pair: Pair, clock: Clock) -> None:
    assert "not a PEM file" in refusal(Pair("/dev/zero", pair.key), clock)


def test_a_key_that_openssl_finds_too_weak_is_refused(tmp_path: Path, clock: Clock) -> None:
    key = rsa.generate_private_key(65537, 1024)
    pair = Pair(tmp_path / "weak.crt", tmp_path / "weak.key")
    certificate = certificate_signed_with(key, hashes.SHA256())
    Path(pair.certificate).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    octets = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    write_key(Path(pair.key), octets)
    assert refusal(pair, clock).startswith(f"{pair.certificate}: OpenSSL does not take it: ")


def test_every_broken_pair_is_reported_at_once(tmp_path: Path, pair: Pair, clock: Clock) -> None:
    site = Site(("a.example",), Pair(tmp_path / "a", tmp_path / "a"))
    with pytest.raises(CertificateError) as caught:
        CertificateStore(Pair(tmp_path / "b", pair.key), [site], clock=clock, steady=clock)
    assert len(str(caught.value).splitlines()) == 2


def test_certificate_and_key_may_be_one_file_in_any_order(tmp_path: Path, pair: Pair, clock: Clock) -> None:
    parts = [Path(pair.certificate).read_bytes(), Path(pair.key).read_bytes()]
    for name, octets in (("ck", parts[0] + parts[1]), ("kc", parts[1] + parts[0])):
        write_key(tmp_path / name, octets)
        Session(
            CertificateStore(Pair(tmp_path / name, tmp_path / name), clock=clock, steady=clock), clock
        ).shake_hands()


# --- warnings --------------------------------------------------------------------------------------------------------


def test_the_end_of_a_certificate_is_told_by_a_machine_that_has_just_begun(
    tmp_path: Path, clock: Clock, told: Told
) -> None:
    """Steady time begins anywhere, and may be earlier than a day."""
    CertificateStore(write_pair(tmp_path, "m", days=2), clock=clock, steady=Clock(), log=told.log)
    assert [line.startswith(f"warn: certificate {tmp_path}/m.crt expires in ") for line in told.lines] == [True]


def test_the_end_of_a_certificate_is_told_two_weeks_before_and_daily(tmp_path: Path, clock: Clock, told: Told) -> None:
    store = CertificateStore(write_pair(tmp_path, "m", days=20), clock=clock, steady=clock, log=told.log)
    assert told.lines == []
    clock.advance(7 * 86400)
    store.check_changed()
    store.check_changed()
    assert len(told.lines) == 1
    assert told.lines[0].startswith(f"warn: certificate {tmp_path}/m.crt expires in 12 days, on ")
    clock.advance(86400)
    store.check_changed()
    assert len(told.lines) == 2


def test_an_expired_certificate_is_served_with_an_error(tmp_path: Path, clock: Clock, told: Told) -> None:
    pair = write_pair(tmp_path, "m", days=1)
    clock.advance(2 * 86400)
    store = CertificateStore(pair, clock=clock, steady=clock, log=told.log)
    assert len(told.lines) == 1
    assert told.lines[0].startswith(f"error: certificate {tmp_path}/m.crt expired on ")
    Session(store, clock).shake_hands()


def test_a_key_that_everybody_can_read_is_told(pair: Pair, clock: Clock, told: Told) -> None:
    os.chmod(pair.key, 0o644)
    CertificateStore(pair, clock=clock, steady=clock, log=told.log)
    assert told.lines == [f"warn: the private key {pair.key} can be read by every user of this host"]


# --- a certificate of our own making ---------------------------------------------------------------------------------


def test_a_self_signed_pair_is_made_once_and_serves(tmp_path: Path, clock: Clock, told: Told) -> None:
    folder = tmp_path / "data" / "tls"
    pair = self_signed.ensure(folder, "mail.example.test", NOW, log=told.log)
    first = Path(pair.key).read_bytes()
    assert os.stat(pair.key).st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in (folder / "self-signed.crt").read_bytes()
    assert sorted(os.listdir(folder)) == ["self-signed.crt", "self-signed.pem"]
    session = Session(CertificateStore(pair, clock=clock, steady=clock), clock).shake_hands()
    assert session.names == ["mail.example.test"]
    assert isinstance(session.certificate.public_key(), ec.EllipticCurvePublicKey)
    self_signed.ensure(folder, "mail.example.test", NOW + 86400, log=told.log)
    assert Path(pair.key).read_bytes() == first
    warnings = [line for line in told.lines if line.startswith("warn")]
    assert len(warnings) == 2
    assert "[tls]" in warnings[0]


def test_a_self_signed_pair_can_be_verified_by_those_who_were_given_it(
    tmp_path: Path, clock: Clock, told: Told
) -> None:
    pair = self_signed.ensure(tmp_path, "mail.example.test", NOW, log=told.log)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "self-signed.crt"))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(incoming, outgoing, server_hostname="mail.example.test")
    session = Session(CertificateStore(pair, clock=clock, steady=clock), clock)
    for _ in range(3):
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            session.server.dataReceived(outgoing.read())
            incoming.write(session.transport.value())
            session.transport.clear()
    assert client.version() == "TLSv1.3"


@pytest.mark.parametrize("reason", ["old", "name", "damaged", "clock"])
def test_a_self_signed_pair_is_made_anew_when_it_would_not_do(tmp_path: Path, told: Told, reason: str) -> None:
    pair = self_signed.ensure(tmp_path, "a.test", NOW, log=told.log)
    before = Path(pair.key).read_bytes()
    now, name = NOW, "a.test"
    match reason:
        case "old":
            now += (self_signed.VALID_DAYS - self_signed.RENEW_DAYS) * 86400
        case "name":
            name = "b.test"
        case "damaged":
            Path(pair.key).write_bytes(before[:300])
        case "clock":
            now -= 30 * 86400
    self_signed.ensure(tmp_path, name, now, log=told.log)
    assert Path(pair.key).read_bytes() not in (before, before[:300])


@pytest.mark.parametrize(
    ("hostname", "literal"), [("192.0.2.1", True), ("2001:db8::1", True), ("x" * 63 + ".test", False)]
)
def test_unusual_host_names_get_a_certificate_too(tmp_path: Path, told: Told, hostname: str, literal: bool) -> None:
    pair = self_signed.ensure(tmp_path, hostname, NOW, log=told.log)
    certificate = x509.load_pem_x509_certificate(Path(pair.certificate).read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = names.get_values_for_type(x509.IPAddress) if literal else names.get_values_for_type(x509.DNSName)
    assert [str(name) for name in found] == [hostname]


# --- STARTTLS on a real socket ---------------------------------------------------------------------------------------


class Upgrading(Talker):
    """Starts TLS at once; the client knows."""

    store: CertificateStore

    def connectionMade(self) -> None:
        self.transport.startTLS(self.store)


class StartTls(TestCase):
    """`transport.startTLS(store)` over loopback, and what the transport says afterwards."""

    def test_starttls_takes_the_store_as_it_is(self) -> Any:
        from twisted.internet import reactor
        from twisted.internet.threads import deferToThread

        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        folder = Path(temporary.name)
        site = Site(("s.example",), write_pair(folder, "s", "s.example"))
        store = CertificateStore(write_pair(folder, "m"), [site], clock=reactor, steady=reactor)  # type: ignore[arg-type]
        built: list[Upgrading] = []

        def build(_: Any) -> Upgrading:
            protocol = Upgrading()
            protocol.store = store
            built.append(protocol)
            return protocol

        factory = Factory()
        factory.buildProtocol = build  # type: ignore[method-assign,assignment]
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        authority = ssl.create_default_context()
        AUTHORITY.configure_trust(authority)

        def talk() -> bytes:
            with (
                socket.create_connection(("127.0.0.1", port.getHost().port), timeout=10) as plain,
                authority.wrap_socket(plain, server_hostname="s.example") as secure,
            ):
                secure.sendall(b"hello")
                return secure.recv(100)

        def check(said: bytes) -> None:
            assert said == b"hello"
            assert built[0].described.server_name == "s.example"
            assert set(built[0].bindings) == {"tls-exporter", "tls-server-end-point"}

        return deferToThread(talk).addCallback(check)
