"""`mailhub simulate`: the hub's own answer, and nothing is sent, stored or made."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mailhub.app.config import load
from mailhub.app.dialogue import Mail
from mailhub.app.inert import AtOnce, result
from mailhub.app.simulation import Case, End, Simulation, simulate
from mailhub.history.telling import told
from mailhub.interfaces import IResolver
from mailhub.store.disk import RealDisk
from mailhub.store.keyvalue import KeyValueFile
from mailhub.testing.resolver import Resolver

NOW = 1_763_640_000.0
CONFIGURATION = """
hostname = "mx.example.test"
data = "var"
[mta]
listen = ["tcp:0:interface=127.0.0.1"]
[msa]
listen = ["tcp:0:interface=127.0.0.1"]
[mda]
domains = ["example.test"]
[accounts]
file = "accounts"
aliases = "aliases"
[[route]]
domain = "lists.example"
to = "lmtp:unix:/run/lists.sock"
"""
GREYLIST = '[[mta.policy]]\nuse = "greylist"\nseconds = "5m"\n'
ALIASES = "postmaster: alice\nteam: alice, joe@far.example\n"
CONTENT = b"Subject: hello\r\n\r\nHow are you?\r\n"
NAMES = {
    "mx": {"far.example": [(10, "mx1.far.example"), (20, "mx2.far.example")], "null.example": [(0, "")]},
    "addresses": {"mx1.far.example": ["192.0.2.25"], "mx2.far.example": ["192.0.2.26"]},
}

Run = Callable[..., Simulation]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A hub that never ran, with alice and bob, and room for what it must not make."""
    (tmp_path / "var").mkdir()
    (tmp_path / "mailhub.toml").write_text(CONFIGURATION)
    (tmp_path / "aliases").write_text(ALIASES)
    (tmp_path / "accounts").write_text("alice@example.test:!\nbob@example.test:!\n")
    (tmp_path / "accounts").chmod(0o600)
    return tmp_path


def tree(directory: Path) -> dict[str, tuple[int, float]]:
    """Everything in it, as it was last changed."""
    return {str(each): (each.stat().st_size, each.stat().st_mtime) for each in directory.rglob("*")}


@pytest.fixture
def run(site: Path) -> Run:
    """Simulates under virtual time; whatever a test does, nothing may be written."""

    def simulated(
        sender: str,
        *recipients: str,
        ip: str = "192.0.2.1",
        role: str = "",
        login: str = "",
        content: bytes = CONTENT,
        resolver: IResolver | None = None,
        offline: bool = False,
    ) -> Simulation:
        before = tree(site)
        clock = Clock()
        clock.rightNow = NOW
        case = Case(Mail(sender, recipients, content, "client.example", login), ip, role or ("msa" if login else "mta"))
        names = Resolver(**NAMES) if resolver is None else resolver
        config = load(site / "mailhub.toml")
        found: list[Simulation] = []
        Deferred.fromCoroutine(simulate(config, case, clock, clock, resolver=names, offline=offline)).addCallback(
            found.append
        )
        for _ in range(1000):
            if not found:
                clock.advance(0.01)
        assert tree(site) == before
        return found[0]

    return simulated


def text(simulation: Simulation) -> str:
    return "\n".join(line for story in (simulation.story, *simulation.further) for line, _ in told(story))


def test_local_mail_would_be_delivered_into_the_mailbox(run: Run, site: Path) -> None:
    simulation = run("ann@elsewhere.example", "bob@example.test")
    maildir = site / "var" / "mail" / "example.test" / "bob" / "Maildir"
    assert simulation.is_accepted
    assert simulation.ends == [End("bob@example.test", "delivered", f"into {maildir}")]
    assert "accepted   <bob@example.test> at RCPT by local_domains" in text(simulation)


def test_an_unknown_user_is_refused_beside_one_who_is_known(run: Run) -> None:
    simulation = run("ann@elsewhere.example", "bob@example.test", "nobody@example.test")
    refused, delivered = simulation.ends
    assert not simulation.is_accepted
    assert (refused.recipient, refused.verdict) == ("nobody@example.test", "refused")
    assert refused.text == "at RCPT by local_domains (stands by itself): 550 5.1.1 No such user here"
    assert delivered.verdict == "delivered"
    assert "mailhub user add nobody@example.test" in text(simulation)


def test_relaying_is_refused(run: Run) -> None:
    simulation = run("ann@elsewhere.example", "joe@far.example")
    (end,) = simulation.ends
    assert end.verdict == "refused"
    assert "550 5.7.1" in end.text
    assert "`mda.domains`" in text(simulation)


def test_an_alias_is_followed_outside_and_the_sender_rewritten(run: Run) -> None:
    simulation = run("ann@elsewhere.example", "team@example.test")
    alice, joe = simulation.ends
    assert (alice.recipient, alice.address, alice.verdict) == ("team@example.test", "alice@example.test", "delivered")
    assert (joe.recipient, joe.address, joe.verdict) == ("team@example.test", "joe@far.example", "delivered")
    assert joe.text.startswith("to mx1.far.example [192.0.2.25]:25, else mx2.far.example [192.0.2.26]:25; TLS: may")
    assert "MX of far.example" in joe.text
    assert "from <SRS0=" in joe.text
    assert "alias      team@example.test -> alice@example.test, joe@far.example" in text(simulation)


def test_who_is_not_logged_in_submits_nothing(run: Run) -> None:
    simulation = run("alice@example.test", "bob@example.test", role="msa")
    (end,) = simulation.ends
    assert end.verdict == "refused"
    assert end.text.startswith("at MAIL by authenticated (stands by itself): 530 5.7.0")


def test_a_login_needs_no_password_but_an_account(run: Run) -> None:
    assert run("alice@example.test", "bob@example.test", login="alice@example.test").is_accepted
    (end,) = run("alice@example.test", "bob@example.test", login="mallory@example.test").ends
    assert (end.verdict, end.text[:11]) == ("refused", "at AUTH: 53")


def test_a_sender_that_is_not_ones_own_is_refused(run: Run) -> None:
    simulation = run("bob@example.test", "joe@far.example", login="alice@example.test")
    (end,) = simulation.ends
    assert end.text.startswith("at MAIL by sender_owned (stands by itself): 553 5.7.1")
    assert "`msa.extra_addresses`" in text(simulation)


def test_a_route_of_the_configuration_holds(run: Run) -> None:
    names = Resolver()
    (end,) = run("alice@example.test", "joe@lists.example", login="alice@example.test", resolver=names).ends
    assert end.verdict == "delivered"
    assert end.text == "to /run/lists.sock; TLS: none (by default); by route[0]: lmtp:unix:/run/lists.sock"
    assert names.asked == []


def test_null_mx_fails_and_the_sender_would_be_told(run: Run) -> None:
    simulation = run("alice@example.test", "joe@null.example", login="alice@example.test")
    (end,) = simulation.ends
    assert (end.verdict, end.text[:10]) == ("failed", "556 5.1.10")
    assert not simulation.is_accepted
    (notification,) = simulation.further
    assert notification.recipients == ("alice@example.test",)
    assert notification.verdict == "delivered"
    assert [event.kind for event in notification.events][:2] == ["notified", "attempted"]


def test_offline_nobody_is_asked(run: Run) -> None:
    simulation = run("alice@example.test", "joe@null.example", login="alice@example.test", offline=True)
    (end,) = simulation.ends
    assert simulation.is_accepted
    assert end.verdict == "waiting"
    assert "--offline" in end.text


def test_content_is_judged_as_it_lies(run: Run) -> None:
    """A bare LF is refused at the end of the content, and for everybody."""
    simulation = run("ann@elsewhere.example", "bob@example.test", content=b"Subject: x\r\n\r\none\n.\r\nQUIT\r\n")
    (end,) = simulation.ends
    assert end.verdict == "refused"
    assert "550 5.5.2" in end.text


def test_lines_that_begin_with_a_dot_are_no_end(run: Run) -> None:
    assert run("ann@elsewhere.example", "bob@example.test", content=b".\r\n.\r\n\r\n..\r\nDATA").is_accepted


def test_what_rules_remember_is_looked_at_and_not_changed(run: Run, site: Path) -> None:
    config = site / "mailhub.toml"
    config.write_text(CONFIGURATION + GREYLIST)
    simulation = run("ann@elsewhere.example", "bob@example.test")
    assert simulation.ends[0].text.startswith("at RCPT by greylist (mta.policy[0]): 450 4.7.1")
    assert simulation.remembered == {"greylist": 1}
    clock = Clock()
    clock.rightNow = NOW - 60
    memory = KeyValueFile(str(site / "var" / "policy-memory.db"), clock, RealDisk(), AtOnce())
    result(memory.open())
    memory.namespace("greylist").put("network/192.0.2.0/24", b"known", 3600)
    result(memory.close())
    assert run("ann@elsewhere.example", "bob@example.test").is_accepted
    assert not run("ann@elsewhere.example", "bob@example.test", ip="198.51.100.1").is_accepted


# --- the command -------------------------------------------------------------------------------------------------


def command(site: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "mailhub", "simulate", *arguments, "--config", str(site / "mailhub.toml")],
        input=stdin,
        capture_output=True,
        timeout=60,
    )


def test_the_command_tells_the_story_and_the_status(site: Path) -> None:
    before = tree(site)
    done = command(
        site, "--from", "<>", "--to", "team@example.test", "--to", "no@example.test", "--ip", "::1", "--offline"
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr == b""
    first, refused, alice, joe, *rest = done.stdout.decode().splitlines()
    assert first == "Simulated; nothing was sent or stored."
    assert refused.startswith(
        "<no@example.test> would be refused at RCPT by local_domains (stands by itself): 550 5.1.1"
    )
    assert alice.startswith("<team@example.test> (as <alice@example.test>) would be delivered into ")
    assert joe.startswith("<team@example.test> (as <joe@far.example>) would wait: 451 4.4.3")
    assert "What would have to change:" in rest
    assert tree(site) == before


def test_the_command_takes_a_message_and_prints_json(site: Path) -> None:
    arguments = ["--from", "bob@example.test", "--to", "joe@lists.example", "--ip", "192.0.2.1", "--login", "bob"]
    done = command(site, *arguments, "--message", "-", "--json", stdin=b"Subject: hello\n\n.\nHello.\n")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["accepted"] is True
    assert [end["verdict"] for end in found["recipients"]] == ["delivered"]
    assert found["story"]["verdict"] == "delivered"
    assert found["remembered"] == {"submission_caps": 4}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--from", "a@b.example", "--to", "bob@example.test"),
        ("--from", "a@b.example", "--to", "bob@example.test", "--ip", "localhost"),
        ("--from", "a@b.example", "--to", "bob@example.test>\r\nDATA", "--ip", "192.0.2.1"),
        ("--from", "a@b.example", "--to", "bob@example.test", "--ip", "192.0.2.1", "--login", "bob", "--role", "mta"),
    ],
)
def test_a_wrong_call_is_told(site: Path, arguments: tuple[str, ...]) -> None:
    from click.testing import CliRunner

    from mailhub.app.cli import main

    done = CliRunner().invoke(main, ["simulate", *arguments, "--config", str(site / "mailhub.toml")])
    assert done.exit_code == 2, done.output
