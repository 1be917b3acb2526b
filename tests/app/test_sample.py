"""The demo accounts of `make run`: made once, never in the way of a real hub."""

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from mailhub.app import sample
from mailhub.app.config import Config, load, parse
from mailhub.model import Address
from mailhub.store import aliases_file, passwd_file
from mailhub.store.passwords import verify

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "etc" / "mailhub.toml").read_text()
DOMAINS = ["example.test"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    path = tmp_path / "etc" / "mailhub.toml"
    path.write_text(TEXT)
    return path


def passwords(config: Config) -> dict[str, str]:
    lines = (config.data / sample.DEMO_ACCOUNTS).read_text().splitlines()
    return dict(line.split(" ", 1) for line in lines)  # type: ignore[arg-type]


def test_the_first_time_two_accounts_are_made_that_can_log_in(file: Path) -> None:
    config = load(file)
    assert sample.make_accounts(config)
    kept = config.data / sample.DEMO_ACCOUNTS
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert config.accounts.file is not None
    assert stat.S_IMODE(config.accounts.file.stat().st_mode) == 0o600
    found = passwd_file.parse(config.accounts.file.read_bytes(), DOMAINS, "accounts")
    assert found.problems == ()
    for address, password in passwords(config).items():
        line = found.accounts[Address(address.partition("@")[0], "example.test")]
        assert line.password is not None
        assert verify(line.password, password)
        assert line.verifier is not None
    assert len(set(passwords(config).values())) == 2


def test_postmaster_and_abuse_lead_to_alice(file: Path) -> None:
    config = load(file)
    sample.make_accounts(config)
    assert config.accounts.aliases is not None
    found = aliases_file.parse(config.accounts.aliases.read_bytes(), DOMAINS, "aliases")
    alice = (Address("alice", "example.test"),)
    assert {alias.address.local: alias.targets for alias in found.aliases.values()} == {
        "postmaster": alice,
        "abuse": alice,
    }


def test_the_second_time_nothing_changes(file: Path) -> None:
    config = load(file)
    sample.make_accounts(config)
    before = {path: path.read_bytes() for path in config.data.iterdir()}
    assert not sample.make_accounts(config)
    assert {path: path.read_bytes() for path in config.data.iterdir()} == before


def test_aliases_that_are_there_are_left_alone(file: Path) -> None:
    config = load(file)
    assert config.accounts.aliases is not None
    config.data.mkdir()
    config.accounts.aliases.write_text("# mine\n")
    sample.make_accounts(config)
    assert config.accounts.aliases.read_text() == "# mine\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('domains = ["example.test"]', 'domains = ["real.org"]'),
        ('domains = ["example.test"]', 'domains = ["example.test", "real.org"]'),
        ('domains = ["example.test"]', 'domains = ["notexample.org"]'),
        ('listen = ["tcp:2525:interface=127.0.0.1"]', 'listen = ["tcp:2525"]'),
        ('listen = ["tcp:2587:interface=127.0.0.1"]', 'listen = ["tcp:2587:interface=192.0.2.1"]'),
        ('listen_tls = ["tcp:2465:interface=127.0.0.1"]', 'listen_tls = ["tcp6:2465"]'),
        ('listen = ["tcp:2524:interface=127.0.0.1"]', 'listen = ["systemd:domain=INET:index=0"]'),
    ],
)
def test_a_hub_that_is_no_sample_gets_no_accounts(file: Path, old: str, new: str) -> None:
    assert TEXT.count(f"\n{old}\n") == 1
    config = parse(TEXT.replace(f"\n{old}\n", f"\n{new}\n"), file)
    assert not sample.is_sample(config)
    assert not sample.make_accounts(config)
    assert not config.data.exists()


def test_an_account_file_that_appears_meanwhile_is_left_as_it_is(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(file)
    assert config.accounts.file is not None
    mine = config.accounts.file

    def somebody_is_quicker() -> str:
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("alice@example.test:x::::::\n")
        return "secret"

    monkeypatch.setattr(sample, "_password", somebody_is_quicker)
    told = CliRunner().invoke(sample.main, ["--config", str(file)])
    assert told.exit_code == 1
    assert "was made meanwhile" in told.stderr
    assert mine.read_text() == "alice@example.test:x::::::\n"


def test_what_is_told(file: Path) -> None:
    first = CliRunner().invoke(sample.main, ["--config", str(file)])
    assert first.exit_code == 0, first.output
    kept = passwords(load(file))
    for address, password in kept.items():
        assert f"    {address} {password}\n" in first.output
    for door in ("127.0.0.1:2525", "127.0.0.1:2587", "127.0.0.1:2465", "127.0.0.1:2524"):
        assert door in first.output
    assert "swaks --server 127.0.0.1:2525" in first.output
    assert "swaks --server 127.0.0.1:2587 --tls --auth PLAIN --auth-user alice@example.test" in first.output
    assert "var/mail/example.test/bob/Maildir/new/*" in first.output
    second = CliRunner().invoke(sample.main, ["--config", str(file)])
    assert "The demo accounts and their passwords are in" in second.output
    assert not any(password in second.output for password in kept.values())


def test_a_broken_configuration_is_told_with_status_2(file: Path) -> None:
    file.write_text("hostnam = 1")
    told = CliRunner().invoke(sample.main, ["--config", str(file)])
    assert told.exit_code == 2
    assert 'did you mean "hostname"?' in told.stderr
