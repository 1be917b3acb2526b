"""What a message is made of before it is sent: found out from the content, not believed from what was declared."""

import pytest
from twisted.internet.defer import Deferred as Awaited

from mailhub.deliver.load import READ_OCTETS, Load, load
from mailhub.interfaces import IContent
from mailhub.model import Envelope, MailParameters
from mailhub.store.disk import RealDisk
from mailhub.store.spool_content import FileContent, MemoryContent
from mailhub.testing.threads import AtOnce

ASCII = b"Subject: x\r\n\r\n" + b"hello\r\n" * 60_000
EIGHT = b"Subject: x\r\n\r\n" + b"hello\r\n" * 60_000 + "Grüße\r\n".encode()
UTF8_HEADER = "Subject: Grüße\r\n\r\nhello\r\n".encode() * 1
LONG = UTF8_HEADER + b"hello\r\n" * 60_000


def loaded(content: IContent, prefix: bytes = b"", **parameters: object) -> Load:
    envelope = Envelope("q", None, (), 0.0, prefix, content.size, MailParameters(**parameters))  # type: ignore[arg-type]
    work = Awaited.fromCoroutine(load(envelope, content, AtOnce()))
    result: Load = work.result  # type: ignore[assignment]
    return result


@pytest.fixture(params=["memory", "file"])
def content(request: pytest.FixtureRequest, tmp_path: object) -> object:
    def make(octets: bytes) -> IContent:
        if request.param == "memory":
            return MemoryContent(octets)
        path = tmp_path / "content"  # type: ignore[operator]
        path.write_bytes(octets)
        return FileContent(RealDisk(), str(path), len(octets))

    return make


@pytest.mark.parametrize("declared", [None, "7BIT"])
@pytest.mark.parametrize(
    ("octets", "body", "smtputf8", "utf8_header"),
    [
        (ASCII, "7BIT", False, False),
        (ASCII, "7BIT", True, False),
        (EIGHT, "8BITMIME", False, False),
        (EIGHT, "8BITMIME", True, False),
        (LONG, "8BITMIME", True, True),
        (LONG, "8BITMIME", False, False),  # as people did before there was SMTPUTF8
    ],
)
def test_what_it_is(
    content: object, octets: bytes, body: str, smtputf8: bool, utf8_header: bool, declared: str | None
) -> None:
    mail = loaded(content(octets), b"Received: y\r\n", body=declared, smtputf8=smtputf8).mail(None, ())  # type: ignore[operator]
    assert (mail.body, mail.utf8_header) == (body, utf8_header)
    assert mail.size == len(octets) + 13


def test_binary_stays_what_was_declared(content: object) -> None:
    assert loaded(content(ASCII), body="BINARYMIME").mail(None, ()).body == "BINARYMIME"  # type: ignore[operator]


def test_our_own_fields_may_be_what_needs_8_bits(content: object) -> None:
    mail = loaded(content(ASCII), "Received: for <ü@x>\r\n".encode(), smtputf8=True).mail(None, ())  # type: ignore[operator]
    assert (mail.body, mail.utf8_header) == ("8BITMIME", True)


def test_pieces_are_the_whole_and_the_file_is_closed(tmp_path: object) -> None:
    path = tmp_path / "content"  # type: ignore[operator]
    path.write_bytes(ASCII)
    carried = loaded(FileContent(RealDisk(), str(path), len(ASCII)), b"P" * (READ_OCTETS + 10))
    pieces = carried.pieces(AtOnce())
    assert pieces is not None
    found = b""
    ends = False
    while not ends:
        octets, ends = Awaited.fromCoroutine(pieces.read(READ_OCTETS)).result  # type: ignore[misc]
        assert octets
        found += octets
    assert found == b"P" * (READ_OCTETS + 10) + ASCII
    Awaited.fromCoroutine(pieces.discard())
    assert pieces._file is None
