"""What programs and people of this host hand in: requests to a running hub, the maildrop, a message for sendmail, the
configuration.  They are no strangers, and what they write is octets all the same."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock

from mailhub.app import units
from mailhub.app.cli import sendmail_message
from mailhub.app.config import CONFIG_OCTETS_MAX, parse
from mailhub.app.config_errors import ConfigError
from mailhub.app.control import ControlService, RequestRefused
from mailhub.app.control_queue import QueueDesk
from mailhub.model import Address, Envelope, Recipient
from mailhub.queue.steering import Steering
from mailhub.store.maildrop import BadDrop, Drop
from mailhub.store.memory_spool import MemorySpool
from mailhub.testing.policy import answer
from mailhub.testing.threads import AtOnce
from mailhub.wire.header import count, split
from tests.fuzz.target import target
from tests.fuzz.targets.address import check_address

_BOB = Address("bob", "example.test")
_ALICE = Address("alice", "example.test")


class _Nobody:
    """Stands for the history, and for who tells senders."""

    def record(self, kind: str, session_id: str = "", queue_id: str = "", **facts: object) -> None:
        pass

    async def tell(self, envelope: Envelope, recipients: Sequence[Recipient]) -> Any:
        return ()


def _desk() -> ControlService:
    """A hub with one message in its queue; each order finds it anew."""
    clock = Clock()
    clock.advance(1_750_000_000)
    spool = MemorySpool(clock, random.Random(1))
    answer(spool.open())
    draft = spool.draft()
    draft.write(b"Subject: x\r\n\r\nbody\r\n")
    answer(draft.commit(Envelope(draft.queue_id, _ALICE, (Recipient(_BOB, _BOB),), clock.seconds())))
    steering = Steering(spool, clock, clock, _Nobody(), _Nobody().tell)  # type: ignore[arg-type]
    return ControlService(Path("control"), clock, QueueDesk(spool, steering, AtOnce()).answers)


@target(
    "control-request",
    "requests to a running hub: app/control.py and control_queue.py",
    (
        b'{"do":"list","limit":10,"recipients":true}',
        b'{"do":"show","queue_id":"abc","content":true}',
        b'{"do":"steer","operation":"hold","sender":"alice@example.test","reason":"x"}',
        b'{"do":"steer","operation":"drop","everything":true}',
        b'{"do":"steer","operation":"retry","queue_ids":["abc","def"]}',
        b'{"do":"list","state":"active","received_after":1e999,"domain":"example.test"}',
        b'{"do":1}',
        b'[]',
        b'{"do":"list","sender":"\\ud800"}',
    ),
    (b'"do":', b'"list"', b'"show"', b'"steer"', b'"operation":', b'"hold"', b'"release"', b'"drop"', b'"bounce"',
    b'"queue_ids":', b'"sender":',
     b'"recipient":', b'"domain":', b'"state":', b'"limit":', b'"everything":true', b'"reason":', b"{", b"}", b"[",
     b"]", b",", b"null", b"NaN",
     b"1e999", b"9" * 5000, b'"\\ud800"', b'"\\u0000"', b"-1", b"\xff", b"[[[[[[[["),
    seconds_per_octet=200e-6,
    ci_inputs=6_000,
)  # fmt: skip
def control(octets: bytes) -> Hashable:
    """One request, with all of its answers; those that change something too."""
    desk = _desk()

    async def ask() -> list[Mapping[str, Any]]:
        return [each async for each in desk.ask(octets, "root")]

    try:
        answers = answer(ask())
    except RequestRefused as refusal:
        json.dumps(str(refusal))
        return str(refusal)[:60]
    assert answers
    assert "done" in answers[-1]
    for each in answers:
        assert len(json.dumps(each)) <= 64 * 1024 + 8 * len(octets)
    return tuple(next(iter(each)) for each in answers)


@target(
    "maildrop",
    "envelopes in the maildrop: Drop.parse of store/maildrop.py",
    (
        Drop(_ALICE, (_BOB,), 1000, frozenset({"DELAY"}), "HDRS", "id").line(),
        Drop(None, (_BOB, _ALICE), 0).line(),
        b'{"sender":"","recipients":["a@b"],"uid":1e999,"notify":[],"ret":null,"envid":null}',
        b'{"sender":null,"recipients":"a@b","uid":"1","notify":"NEVER","ret":null,"envid":""}',
        b"{}",
        b"[]",
        b"[" * 100,
    ),
    (b'"sender":', b'"recipients":', b'"uid":', b'"notify":', b'"ret":', b'"envid":', b"null", b"[", b"]", b"{", b"}",
    b",", b'"a@b"', b"1e999",
     b"NaN", b"-Infinity", b"9" * 5000, b'"NEVER"', b'"FULL"', b'"\\ud800"', b'"\\n"', b"true", b"\xff"),
    ci_inputs=20_000,
)  # fmt: skip
def maildrop(octets: bytes) -> Hashable:
    """An envelope that can be written and read again, or BadDrop."""
    try:
        drop = Drop.parse(octets)
    except BadDrop as fault:
        assert len(str(fault)) <= 300
        return str(fault)[:60]
    for address in drop.recipients if drop.reverse_path is None else (drop.reverse_path, *drop.recipients):
        check_address(address)
    assert drop.recipients
    assert Drop.parse(drop.line()) == drop
    return len(drop.recipients), drop.reverse_path is None, len(drop.notify), drop.ret, drop.envid is None


@target(
    "sendmail-message",
    "messages of programs of this host: app/cli/sendmail_message.py",
    (
        b"From: alice\nTo: bob, carol@x\nBcc: dave\nSubject: x\n\nbody\n.\nmore\n",
        b"From alice Mon\nSubject: x\r\nTo: <bob>\r\n folded@x\r\n\r\nbody",
        b"no header at all\n",
        b"To: (\nCc: a@b,\n  c\nResent-To: d\n\n",
        b"a\rb\rc\n\0",
        b"To: undisclosed-recipients:;\n\n",
        b"To: " + b"a, " * 60 + b"b\n\n",
    ),
    (b"To: ", b"Cc: ", b"Bcc: ", b"Resent-Bcc: ", b"From: ", b"Subject: ", b"Date: ", b"\n", b"\r\n", b"\r", b"\n ",
    b"\n\n", b"bob", b", ", b"<",
     b">", b"@x", b"(", b")", b'"', b".", b"\n.\n", b"\0", b"group: ", b";", b"x" * 1000),
    seconds_per_octet=100e-6,
)  # fmt: skip
def sendmail(octets: bytes) -> Hashable:
    """Lines with CRLF, a header that has what it needs, no Bcc; or BadMessage."""
    try:
        lines = sendmail_message.lines(io.BytesIO(octets), 998, dot_ends=True)
        header, rest = sendmail_message.take_header(lines)
        body = rest + b"".join(lines)
        mended = sendmail_message.mend(header, "host.test", _ALICE, 'A. "Lice"', 1_750_000_000.0, "id@host.test", True)
    except sendmail_message.BadMessage as fault:
        assert str(fault).isprintable()
        return str(fault)[:60]
    whole = mended.header + body
    assert b"\0" not in whole
    assert whole.endswith(b"\r\n")
    assert whole.replace(b"\r\n", b"").count(b"\n") == whole.replace(b"\r\n", b"").count(b"\r") == 0
    names = [name for name, _ in split(mended.header)]
    assert all(names), "a line of the header is no field"
    assert not {b"bcc", b"resent-bcc"} & set(names)
    assert {b"from", b"date", b"message-id"} <= set(names)
    for each in mended.recipients:
        check_address(each)
    assert len(whole) <= 4 * len(octets) + 40 * octets.count(b",") + 1000
    return len(mended.recipients), len(names), count(mended.header, b"to")


_CONFIGURATION = b'hostname = "mx.example.test"\ndata = "var"\n'


@target(
    "configuration",
    "the configuration: app/config.py, over tomllib and pydantic",
    (
        _CONFIGURATION + b'[mta]\nlisten = ["tcp:25"]\n[mda]\ndomains = ["example.test"]\n',
        _CONFIGURATION + b'[queue]\nretry = ["5m", "1h30m"]\ngive_up = "5d"\n[outbound]\nsmarthost = "smtp:x:587"\n',
        _CONFIGURATION + b'[[route]]\ndomain = "x.test"\nto = "lmtp:unix:/run/x"\n[[mta.policy]]\nuse = "x"\n',
        _CONFIGURATION + b'[limits]\nmessage_octets = "50MB"\nrecipients = -1\nx = 1\n[dns]\nservers = ["::1", "x"]\n',
        b'hostname = 1\ndata = []\nworkers = 1e999\n[tls]\ncertificate = "a"\n',
        b"x = 1979-05-27T07:32:00Z\n[a.b]\nc.d = {e = [1, nan, inf]}\n",
        b'data = "\\u0000"\n',
    ),
    (b"[", b"]", b"[[", b"]]", b"=", b'"', b"'''", b"\n", b"hostname", b"data", b"[mta]\n", b"[[mta.policy]]\n",
    b"listen = ", b'["tcp:25"]', b"[limits]\n",
     b"message_octets = ", b'"50MB"', b"[queue]\n", b"retry = ", b'"5m"', b"[[route]]\n", b'domain = "x.test"\n',
     b"to = ", b'"smtp:x:25"', b"true",
     b"1", b"-1", b"1.5", b"nan", b"9" * 30, b"{", b"}", b"\\u0000", b"#", b"[dns]\n", b'servers = ["::1"]\n',
     b"[log]\n", b"[plugins]\n", b'"{data}/x"'),
    octets_max=4096,
    seconds_per_octet=400e-6,
    ci_inputs=3_000,
)  # fmt: skip
def configuration(octets: bytes) -> Hashable:
    """A configuration, or every mistake in it in words."""
    text = octets.decode("utf-8", "replace")
    try:
        parse(text, Path("/etc/mailhub.toml"))
    except ConfigError as fault:
        told = str(fault)
        assert told
        assert len(told) <= CONFIG_OCTETS_MAX
        return told[:80]
    return True


@target(
    "units",
    "durations and sizes: app/units.py",
    (b"5m", b"1h30m", b"0.5s", b"500ms", b"14d", b"64KiB", b"50MB", b"1.5 GB", b"999999999999999TiB", b"1w2w"),
    (b"ms", b"s", b"m", b"h", b"d", b"w", b"KiB", b"kB", b"B", b"TiB", b".", b" ", b"0", b"9" * 16, "٣".encode()),
    ci_inputs=30_000,
)
def unit(octets: bytes) -> Hashable:
    """What is read and written again is the same."""
    text = octets.decode("utf-8", "replace")
    came_to: list[Hashable] = []
    for read, write in ((units.seconds, units.duration), (units.octets, units.size)):
        try:
            value = read(text)
        except ValueError as fault:
            came_to.append(str(fault)[:20])
        else:
            if value >= 10**15:
                continue  # thirty million years may be read, and need more digits to be written than may be read again
            again = read(write(value))  # type: ignore[arg-type]
            assert again == value or abs(again - value) <= 0.0005 + value * 1e-9, (text, value, write(value))  # type: ignore[arg-type]
            came_to.append(len(write(value)))  # type: ignore[arg-type]
    return tuple(came_to)
