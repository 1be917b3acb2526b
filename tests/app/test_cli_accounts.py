"""`mailhub user` and `mailhub alias` as a postmaster types them."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mailhub.app.cli import main
from mailhub.app.cli.alias import alias
from mailhub.app.cli.user import user
from mailhub.model import Address
from mailhub.store import passwd_file, passwords

DOMAINS = ("example.test", "second.test")
ALICE = Address("alice", "example.test")


class Site:
    def __init__(self, directory: Path, domains: tuple[str, ...] = DOMAINS) -> None:
        self.directory = directory
        self.domains = domains
        self.config = directory / "mailhub.toml"
        self.config.write_text(
            'hostname = "mx.example.test"\ndata = "var"\n'
            f"[mda]\ndomains = {json.dumps(domains)}\n"
            '[accounts]\nfile = "accounts"\naliases = "aliases"\n'
        )
        self.accounts_path = directory / "accounts"
        self.aliases_path = directory / "aliases"

    def run(self, *words: str, typed: str = "") -> Result:
        return CliRunner().invoke(main, [*words, "--config", str(self.config)], input=typed)

    def ok(self, *words: str, typed: str = "") -> str:
        result = self.run(*words, typed=typed)
        assert result.exit_code == 0, result.output
        return result.stdout

    def refused(self, status: int, *words: str, typed: str = "") -> str:
        """The one message of a command that ends so."""
        result = self.run(*words, typed=typed)
        assert result.exit_code == status, result.output
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        return result.stderr

    def accounts(self) -> passwd_file.AccountsFile:
        return passwd_file.parse(self.accounts_path.read_bytes(), self.domains, "accounts")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_an_account_is_made_changed_listed_and_removed(site: Site) -> None:
    told = site.ok("user", "add", "Alice@Example.test", "--password-stdin", "--quota", "1G", typed="correct horse\n")
    assert told == "Added alice@example.test.\n"
    assert site.accounts_path.stat().st_mode & 0o777 == 0o600
    account = site.accounts().accounts[ALICE]
    assert account.mailbox.quota_octets == 1024**3
    assert account.verifier is not None
    assert account.verifier.iterations == passwords.SCRAM_ITERATIONS
    assert account.password is not None
    assert passwords.verify(account.password, "correct horse")

    assert site.ok("user", "passwd", "alice@example.test", "--password-stdin", typed="battery staple\n") == (
        "Changed the password of alice@example.test.\n"
    )
    changed = site.accounts().accounts[ALICE]
    assert changed.mailbox == account.mailbox
    assert changed.password is not None
    assert passwords.verify(changed.password, "battery staple")
    assert changed.verifier != account.verifier

    assert site.ok("user", "list") == "alice@example.test\t1GiB\tpassword and SCRAM\n"
    assert json.loads(site.ok("user", "list", "--json")) == [
        {"address": "alice@example.test", "quota_octets": 1024**3, "password": True, "scram": True, "line": 1}
    ]

    maildir = site.directory / "var" / "mail" / "example.test" / "alice" / "Maildir"
    maildir.mkdir(parents=True)
    told = site.ok("user", "remove", "alice@example.test")
    assert told.startswith("Removed alice@example.test.\n")
    assert f"left in {maildir};" in told
    assert maildir.is_dir()
    assert site.accounts().accounts == {}


def test_the_password_is_the_first_line_without_its_end(site: Site) -> None:
    site.ok("user", "add", "alice@example.test", "--password-stdin", typed=" caf\u00e9: \r\nsecond line\n")
    stored = site.accounts().accounts[ALICE].password
    assert stored is not None
    assert passwords.verify(stored, " caf\u00e9: ")


@pytest.mark.parametrize("typed", ["", "\n", "\r\n", "a\tb\n", "nul\0\n", "x" * 1025 + "\n"])
def test_a_password_that_nobody_could_use_is_refused(site: Site, typed: str) -> None:
    told = site.refused(2, "user", "add", "alice@example.test", "--password-stdin", typed=typed)
    assert "Nothing was changed" in told
    assert not site.accounts_path.exists()


def test_without_a_terminal_nobody_is_asked(site: Site) -> None:
    assert "--password-stdin" in site.refused(2, "user", "add", "alice@example.test", typed="secret\n")


def test_on_a_terminal_it_is_asked_twice_without_echo(site: Site) -> None:
    """The whole program on a terminal of its own."""
    program = "from mailhub.app.cli import main; main()"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program, "user", "add", "alice@example.test", "--config", str(site.config)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    os.close(theirs)
    seen = b""
    answers = [(b"Password: ", b"one\n"), (b"again: ", b"other\n"), (b"Password: ", b"one\n"), (b"again: ", b"one\n")]
    for prompt, answer in answers:
        part = b""
        while prompt not in part:
            part += os.read(ours, 1024)
        seen += part
        os.write(ours, answer)
    assert process.wait(30) == 0
    os.close(ours)
    assert b"one" not in seen
    assert b"other" not in seen
    stored = site.accounts().accounts[ALICE].password
    assert stored is not None
    assert passwords.verify(stored, "one")


@pytest.mark.parametrize(
    ("words", "status", "part"),
    [
        (("user", "add", "alice", "--password-stdin"), 2, "alice@DOMAIN"),
        (("user", "add", "alice@elsewhere.example", "--password-stdin"), 2, "none of the domains"),
        (("user", "add", "../x@example.test", "--password-stdin"), 2, "dot"),
        (("user", "add", "a@example.test", "--password-stdin", "--quota", "lots"), 2, "--quota"),
        (("user", "add", "a@example.test", "--password-stdin", "--quota", "0G"), 2, "--quota"),
        (("user", "add", "bob@example.test", "--password-stdin"), 1, "exists already"),
        (("user", "passwd", "alice@example.test", "--password-stdin"), 1, "no account"),
        (("user", "remove", "alice@example.test"), 1, "no account"),
        (("alias", "add", "team", "|/bin/sh"), 2, "start a program"),
        (("alias", "add", "team", ":include:/etc/passwd"), 2, "another file"),
        (("alias", "add", "team@elsewhere.example", "alice"), 2, "none of the domains"),
        (("alias", "add", "te am", "alice"), 2, "no place"),
        (("alias", "add", "known", "bob"), 1, "already"),
        (("alias", "remove", "team"), 1, "no alias"),
        (("alias", "remove", "known", "alice"), 1, "no target"),
    ],
)
def test_what_cannot_be_done_is_one_message_and_changes_nothing(
    site: Site, words: tuple[str, ...], status: int, part: str
) -> None:
    site.accounts_path.write_text(f"bob@example.test:{passwords.dummy_hash()}\n")
    site.aliases_path.write_text("known: bob\n")
    before = site.accounts_path.read_bytes(), site.aliases_path.read_bytes()
    assert part in site.refused(status, *words, typed="secret\n")
    assert (site.accounts_path.read_bytes(), site.aliases_path.read_bytes()) == before


def test_where_there_is_one_domain_the_name_is_enough(tmp_path: Path) -> None:
    site = Site(tmp_path, ("example.test",))
    assert site.ok("user", "add", "alice", "--password-stdin", typed="secret\n") == "Added alice@example.test.\n"


def test_an_account_of_a_domain_that_is_gone_can_be_removed(site: Site) -> None:
    site.accounts_path.write_text("x@gone.example:\n")
    assert "gone.example" in site.run("user", "list").stderr
    assert site.ok("user", "remove", "x@gone.example").startswith("Removed x@gone.example.")


def test_broken_lines_are_told_beside_the_list(site: Site) -> None:
    site.accounts_path.write_text("broken\n")
    site.aliases_path.write_text("broken\nteam: bob\n")
    assert "accounts:1: the line has no" in site.run("user", "list").stderr
    listed = site.run("alias", "list")
    assert (listed.stdout, listed.exit_code) == ("team: bob\n", 0)
    assert "aliases:1: the entry has no" in listed.stderr


def test_aliases_are_made_listed_and_removed(site: Site) -> None:
    site.accounts_path.write_text("bob@example.test:\n")
    assert site.ok("alias", "add", "Team", "bob", "x@y.example") == "Alias team leads to bob, x@y.example.\n"
    made = site.run("alias", "add", "team@example.test", "nobody")
    assert made.exit_code == 0
    assert "Note: nobody@example.test" in made.stderr
    assert site.ok("alias", "add", "@second.test", "bob@example.test")
    assert site.ok("alias", "list") == (
        "team: bob, x@y.example\nteam@example.test: nobody\n@second.test: bob@example.test\n"
    )
    assert json.loads(site.ok("alias", "list", "--json"))[0] == {
        "name": "team",
        "targets": ["bob", "x@y.example"],
        "line": 1,
    }
    removed = site.run("user", "remove", "bob@example.test")
    assert "alias @second.test still leads to bob@example.test" in removed.stderr
    assert site.ok("alias", "remove", "team", "bob") == "Removed bob from alias team.\n"
    assert site.ok("alias", "remove", "team@example.test") == "Removed alias team@example.test.\n"
    assert site.aliases_path.read_text() == "team: x@y.example\n@second.test: bob@example.test\n"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("hostname = ", "mailhub.toml"),
        ('hostname = "mx.example.test"\nnonsense = 1\n', "nonsense"),
        ('hostname = "mx.example.test"\ndata = "var"\n[accounts]\nfile = "a"\n', "[mda] domains is empty"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_exit_status_2(site: Site, text: str, part: str) -> None:
    site.config.write_text(text)
    for command in (("user", "list"), ("user", "remove", "a@example.test")):
        assert part in site.refused(2, *command)


def test_a_site_that_only_forwards_has_aliases_and_no_accounts(site: Site) -> None:
    site.config.write_text(
        f'hostname = "mx.example.test"\ndata = "var"\n[mda]\ndomains = {json.dumps(DOMAINS)}\n'
        '[accounts]\naliases = "aliases"\n'
    )
    assert site.ok("alias", "add", "team", "x@y.example")
    assert "[accounts] file is not set" in site.refused(2, "user", "list")


def test_a_file_that_cannot_be_written_is_exit_status_1(site: Site) -> None:
    site.accounts_path.mkdir()
    assert "cannot be read (Is a directory)" in site.refused(
        1, "user", "add", "a@example.test", "--password-stdin", typed="secret\n"
    )


@pytest.mark.parametrize(
    "words",
    [("user",), ("alias",), *(("user", name) for name in user.commands), *(("alias", name) for name in alias.commands)],
)
def test_every_command_teaches_with_an_example(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*words, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert "--config etc/mailhub.toml" in result.output
