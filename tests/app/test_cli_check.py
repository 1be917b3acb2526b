"""`mailhub check` and `mailhub plugins`, and the frame around all commands."""

import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw
import pytest
import trustme
from click.testing import CliRunner, Result

from mailhub.app.cli import COMMANDS, main
from mailhub.app.config import parse
from mailhub.app.examination import examine
from mailhub.app.finding import Finding, Severity
from mailhub.app.privileges import Person, acting_as
from mailhub.store.spool_schema import SCHEMA

NOW = datetime(2026, 6, 1, tzinfo=UTC)
LEAST = 'hostname = "mail.example.org"\ndata = "var"\n'
HUB = f"""{LEAST}
[mta]
listen = ["tcp:25"]
[mda]
domains = ["example.org"]
[accounts]
file = "accounts"
aliases = "aliases"
"""
ALICE = b"alice@example.org:{ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$" + b"A" * 43 + b"::::::\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with accounts in which everybody is somebody."""
    (tmp_path / "var").mkdir()
    (tmp_path / "accounts").write_bytes(ALICE)
    (tmp_path / "accounts").chmod(0o600)
    (tmp_path / "aliases").write_text("postmaster: alice\nabuse: alice\n")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, env={"MAILHUB_CONFIG": ""})


def findings(place: Path, text: str) -> list[Finding]:
    return list(examine(parse(text, place / "hub.toml"), NOW.timestamp()))


def bad(place: Path, text: str) -> list[tuple[str, str]]:
    """(severity and key, message) of what is not as it should be, the self-signed certificate apart."""
    return [
        (f"{each.severity.value} {each.about}", each.message)
        for each in findings(place, text)
        if each.severity is not Severity.OK and "self-signed" not in each.message
    ]


# --- the frame ---------------------------------------------------------------------------------------------------


def test_help_lists_the_commands_and_imports_none_of_them() -> None:
    script = (
        "import sys; from mailhub.app.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted(name for name in ('pydantic', 'twisted', 'mailhub.app.cli.check') if name in sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "check" in told
    assert told.endswith("[]\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name: str) -> None:
    if name in main.list_commands(None):  # type: ignore[arg-type]
        told = run(name, "--help")
        assert told.exit_code == 0
        assert "Usage:" in told.output


def test_a_mistyped_command_gets_a_hint() -> None:
    told = run("chek")
    assert told.exit_code == 2
    assert 'Did you mean "check"?' in told.output


def test_python_m_mailhub_is_the_command_line() -> None:
    told = subprocess.run([sys.executable, "-m", "mailhub", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("mailhub ")


def test_a_broken_configuration_ends_any_command_with_its_mistakes_and_status_2(tmp_path: Path) -> None:
    (tmp_path / "hub.toml").write_text("hostnam = 1\n")
    told = run("plugins", "--config", str(tmp_path / "hub.toml"))
    assert told.exit_code == 2
    assert 'hub.toml:1: hostnam: unknown key; did you mean "hostname"?' in told.stderr
    assert "3 mistakes" in told.stderr
    assert told.stdout == ""


# --- check, as it is called --------------------------------------------------------------------------------------


def test_all_is_well(place: Path) -> None:
    (place / "hub.toml").write_text(HUB.replace("[mta]", "[tls]\ncertificate = 'c'\nkey = 'k'\n[mta]"))
    write_pair(place, "mail.example.org", until=datetime.now(UTC) + timedelta(days=90))
    told = run("check", "--config", str(place / "hub.toml"), "--strict")
    assert told.exit_code == 0, told.output
    assert told.output.endswith("All is well.\n")
    assert "ok       mta.policy: asked in this order: quota, local_domains" in told.output


def test_warnings_are_shown_and_are_no_failure_unless_asked_for(place: Path) -> None:
    (place / "hub.toml").write_text(HUB)
    told = run("check", "--config", str(place / "hub.toml"))
    assert told.exit_code == 0
    assert "warning  tls.certificate: none is configured: a self-signed one is made" in told.output
    assert told.output.endswith("The hub can be started: 1 warning.\n")
    assert run("check", "--config", str(place / "hub.toml"), "--strict").exit_code == 1


def test_errors_are_told_all_at_once_with_status_2(place: Path) -> None:
    (place / "hub.toml").write_text(HUB + "[limits]\nhop = 1\n[log]\nlevel = 1\n")
    told = run("check", "--config", str(place / "hub.toml"))
    assert told.exit_code == 2
    assert f"error    {place}/hub.toml:12: limits.hop: unknown key" in told.output
    assert f"error    {place}/hub.toml:14: log.level: expected" in told.output
    assert told.output.endswith("The hub would not start: 2 errors.\n")


def test_quiet_leaves_out_what_is_well(place: Path) -> None:
    (place / "hub.toml").write_text(HUB)
    told = run("check", "--config", str(place / "hub.toml"), "--quiet")
    assert len(told.output.splitlines()) == 2


def test_json(place: Path) -> None:
    (place / "hub.toml").write_text(HUB + '[[mta.policy]]\nuse = "greylst"\n')
    told = run("check", "--config", str(place / "hub.toml"), "--json")
    assert told.exit_code == 2
    found = json.loads(told.stdout)
    assert found["ok"] is False
    assert [each["about"] for each in found["findings"] if each["severity"] == "error"] == [f"{place}/hub.toml:12"]


def test_nothing_is_written(place: Path) -> None:
    (place / "hub.toml").write_text(HUB)
    before = sorted(place.rglob("*"))
    run("check", "--config", str(place / "hub.toml"))
    assert sorted(place.rglob("*")) == before


# --- what check looks at -----------------------------------------------------------------------------------------


def test_a_data_directory_that_is_a_file(place: Path) -> None:
    (place / "var").rmdir()
    (place / "var").touch()
    assert bad(place, LEAST) == [
        ("error data", f"{place}/var is no directory"),
        ("error log.file", f"{place}/var is no directory"),
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_directory_that_cannot_be_written(place: Path) -> None:
    (place / "var").chmod(0o500)
    assert "cannot be written by the user" in dict(bad(place, LEAST))["error data"]


def test_a_data_directory_that_is_still_to_be_made_is_fine(place: Path) -> None:
    (place / "var").rmdir()
    assert bad(place, LEAST) == []


def test_a_place_of_the_history_that_cannot_be_made(place: Path) -> None:
    (place / "file").touch()
    text = LEAST + '[history]\nfile = "file/below/history.db"\n'
    assert bad(place, text) == [("error history.file", f"{place}/file is no directory")]


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: becoming another user needs root")
def test_what_root_has_left_in_the_data_directory() -> None:
    with tempfile.TemporaryDirectory() as name:
        place, nobody = Path(name), Person.find("nobody")
        spool = place / "var" / "spool"
        spool.mkdir(parents=True)
        for directory in (place / "var", spool):
            os.chown(directory, nobody.uid, nobody.gid)
        place.chmod(0o755)
        (spool / "queue.db").touch(0o600)
        with acting_as(nobody):
            ((key, message),) = bad(place, LEAST)
        assert key == "error data"
        assert message.startswith(f"{spool}/queue.db: user nobody may not read it (mode 0600, of root)")


def test_a_disk_without_room(place: Path) -> None:
    text = LEAST + "[limits]\nreserve = 1e12\n"
    assert "no mail is taken" in dict(bad(place, text))["warning data"]


@pytest.mark.parametrize(("user", "group", "key"), [("nobody-here", "root", "user"), ("root", "none-such", "group")])
def test_a_user_or_a_group_that_does_not_exist(place: Path, user: str, group: str, key: str) -> None:
    found = dict(bad(place, LEAST.replace("data", f'user = "{user}"\ngroup = "{group}"\ndata')))
    assert "no" in found[f"error {key}"]
    assert (user if key == "user" else group) in found[f"error {key}"]


def test_a_broken_line_in_the_accounts_is_a_warning_with_its_line_and_the_rest_serve(place: Path) -> None:
    (place / "accounts").write_bytes(ALICE + b"nonsense\n")
    ((about, _),) = bad(place, HUB)
    assert about == f"warning {place}/accounts:2"


def test_an_accounts_file_that_does_not_exist_yet(place: Path) -> None:
    (place / "accounts").unlink()
    found = dict(bad(place, HUB))
    assert "mailhub user add" in found[f"warning {place}/accounts"]


def test_an_accounts_file_that_is_no_file(place: Path) -> None:
    (place / "accounts").unlink()
    (place / "accounts").mkdir()
    assert f"error {place}/accounts" in dict(bad(place, HUB))


def test_postmaster_and_abuse_must_be_somebody_in_each_domain(place: Path) -> None:
    (place / "aliases").write_text("postmaster@example.org: alice\n")
    told = [message for _, message in bad(place, HUB.replace('["example.org"]', '["example.org", "example.net"]'))]
    assert len(told) == 3
    for name in ("abuse@example.org", "postmaster@example.net", "abuse@example.net"):
        assert sum(name in message.partition(" Add ")[0] for message in told) == 1


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ('[[mta.policy]]\nuse = "greylst"\n', 12, 'did you mean "greylist"?'),
        ('[[mta.policy]]\nuse = "greylist"\nsecond = 1\n', 13, 'did you mean "seconds"?'),
        ('[[mta.policy]]\nuse = "greylist"\nseconds = "soon"\n', 13, "mta.policy[0].seconds: expected a duration"),
    ],
)
def test_policies_exist_and_their_options_fit(place: Path, text: str, line: int, expected: str) -> None:
    ((about, message),) = bad(place, HUB + text)
    assert about == f"error {place}/hub.toml:{line}"
    assert expected in message


def test_a_role_that_is_off_has_no_policies_to_look_at(place: Path) -> None:
    assert not [each for each in findings(place, LEAST) if "policy" in each.about]


# --- certificates ------------------------------------------------------------------------------------------------

TLS = LEAST + '[tls]\ncertificate = "c"\nkey = "k"\n'


def write_pair(
    place: Path, name: str, until: datetime = NOW + timedelta(days=90), begin: datetime | None = None
) -> None:
    pair = trustme.CA().issue_cert(name, not_after=until, not_before=begin or NOW - timedelta(days=30))
    (place / "c").write_bytes(pair.cert_chain_pems[0].bytes())
    (place / "k").write_bytes(pair.private_key_pem.bytes())
    (place / "k").chmod(0o600)


def test_a_pair_that_fits(place: Path) -> None:
    write_pair(place, "mail.example.org")
    assert bad(place, TLS) == []
    assert f"{place}/c and its key fit, until 2026-08-30" in [each.message for each in findings(place, TLS)]


def test_a_wildcard_stands_for_one_label(place: Path) -> None:
    write_pair(place, "*.example.org")
    assert bad(place, TLS) == []
    write_pair(place, "*.org")
    assert "not for mail.example.org" in dict(bad(place, TLS))["warning tls.certificate"]


def test_a_certificate_for_another_name(place: Path) -> None:
    write_pair(place, "www.example.org")
    assert bad(place, TLS) == [
        (
            "warning tls.certificate",
            f"{place}/c is for www.example.org, not for mail.example.org: clients that verify will refuse it",
        )
    ]


def test_a_certificate_that_has_ended_or_not_begun_or_ends_soon(place: Path) -> None:
    write_pair(place, "mail.example.org", until=NOW - timedelta(days=1))
    assert bad(place, TLS) == [("error tls.certificate", f"{place}/c ended on 2026-05-31")]
    write_pair(place, "mail.example.org", begin=NOW + timedelta(days=1))
    assert bad(place, TLS) == [("error tls.certificate", f"{place}/c is not valid before 2026-06-02")]
    write_pair(place, "mail.example.org", until=NOW + timedelta(days=3))
    assert bad(place, TLS) == [("warning tls.certificate", f"{place}/c ends on 2026-06-04")]


def test_a_key_of_another_certificate(place: Path) -> None:
    write_pair(place, "mail.example.org")
    other = (place / "k").read_bytes()
    write_pair(place, "mail.example.org")
    (place / "k").write_bytes(other)
    assert bad(place, TLS) == [("error tls.key", f"{place}/k is not the key of {place}/c")]


def test_files_that_are_missing_or_something_else(place: Path) -> None:
    assert [about for about, _ in bad(place, TLS)] == ["error tls.certificate", "error tls.key"]
    write_pair(place, "mail.example.org")
    (place / "c").write_text("hello")
    (place / "k").write_text("hello")
    assert [message for _, message in bad(place, TLS)] == [
        f"{place}/c has no certificate in PEM form that can be read",
        f"{place}/k has no private key in PEM form that can be read",
    ]


def test_a_key_that_everybody_may_read(place: Path) -> None:
    write_pair(place, "mail.example.org")
    (place / "k").chmod(0o644)
    assert [about for about, _ in bad(place, TLS)] == ["warning tls.key"]


def test_a_key_with_a_passphrase(place: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    write_pair(place, "mail.example.org")
    key = serialization.load_pem_private_key((place / "k").read_bytes(), None)
    (place / "k").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    ((_, message),) = bad(place, TLS)
    assert "passphrase" in message


def test_the_certificates_of_sites_are_looked_at(place: Path) -> None:
    write_pair(place, "mail.example.net")
    site = '[[tls.site]]\nnames = ["mail.example.net", "imap.example.net"]\ncertificate = "c"\nkey = "k"\n'
    ((about, message),) = bad(place, LEAST + site)
    assert about == "warning tls.site[0].certificate"
    assert "not for imap.example.net" in message


# --- plugins -----------------------------------------------------------------------------------------------------


def test_plugins_are_listed_with_their_options() -> None:
    told = run("plugins")
    assert told.exit_code == 0
    assert "\nlocal_domains  (always stands: mta, msa, lmtp)\n" in told.output
    found = {each["name"]: each for each in json.loads(run("plugins", "--json").stdout)["policies"]}
    assert found["submission_caps"]["options"]["messages_per_hour"] == "200"
    assert found["greylist"]["standing_in"] == []


def test_plugins_of_a_configured_directory_are_listed_and_a_broken_one_is_told(place: Path) -> None:
    (place / "more").mkdir(mode=0o755)
    (place / "more" / "fine.py").write_text(
        '"""Refuse nobody."""\n'
        "from zope.interface import implementer\n"
        "from mailhub.plugin import ISenderPolicy, PolicyMaker\n"
        "@implementer(ISenderPolicy)\n"
        "class Fine:\n"
        "    def __init__(self, hub, zones, depth=3): pass\n"
        "    async def judge_sender(self, transaction): return None\n"
        'fine = PolicyMaker("fine", Fine)\n'
    )
    (place / "more" / "broken.py").write_text("1 / 0\n")
    (place / "hub.toml").write_text(LEAST + '[plugins]\ndirectories = ["more"]\n')
    told = run("plugins", "--json", "--config", str(place / "hub.toml"))
    assert told.exit_code == 1
    found = json.loads(told.stdout)
    (fine,) = [each for each in found["policies"] if each["name"] == "fine"]
    assert (fine["about"], fine["options"]) == ("Refuse nobody.", {"zones": "required", "depth": "3"})
    assert [fault["source"] for fault in found["faults"]] == [str(place / "more" / "broken.py")]
    assert "broken.py" in told.stderr


# --- workers -------------------------------------------------------------------------------------------------------


def about_workers(place: Path, text: str) -> list[tuple[str, str, str]]:
    return [
        (each.severity.value, each.about, each.message)
        for each in findings(place, text)
        if each.about == "workers" or " workers" in each.message or "no worker" in each.message
    ]


def test_a_hub_without_workers_hears_nothing_of_them(place: Path) -> None:
    assert about_workers(place, HUB) == []


def test_no_more_workers_than_processors(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3})
    assert about_workers(place, f"workers = 2\n{HUB}") == [("ok", "workers", "2, on 2 processors")]
    ((severity, about, message),) = about_workers(place, f"workers = 3\n{HUB}")
    assert (severity, about) == ("warning", "workers")
    assert message.startswith("3 are more than the 2 processors")


def test_limits_that_cannot_be_shared(place: Path) -> None:
    small = "[limits]\nsessions = 3\nsessions_per_address = 3\n[outbound.limits]\nper_destination = 1\n"
    small += '[[route]]\ndomain = "x.test"\nto = "mx"\nmessages_per_minute = 2\n[history]\nsize_max = "64MB"\n'
    told = {about: message for _, about, message in about_workers(place, f"workers = 4\n{HUB}{small}")}
    del told["workers"]
    assert sorted(told) == [
        "history.size_max",
        "limits.sessions",
        "outbound.limits.per_destination",
        "route[0].messages_per_minute",
    ]
    assert told["limits.sessions"] == "3 cannot be shared by 4 workers: each has 1, in all they have 4"
    assert about_workers(place, f"{HUB}{small}") == []


def test_what_waits_from_a_time_with_more_workers(place: Path) -> None:
    for number, messages in ((2, 1), (3, 2), (4, 0)):
        spool = place / "var" / "workers" / str(number) / "spool"
        spool.mkdir(parents=True)
        database = apsw.Connection(str(spool / "queue.db"))
        database.execute(SCHEMA)
        for each in range(messages):
            database.execute(
                f"INSERT INTO message VALUES ('q{each}', 0, 0, '<>', 1, 0, '', NULL, '', 0, '', '{{}}', x'')"
            )
        database.close()
    third = place / "var" / "workers" / "3" / "spool"
    told = about_workers(place, f"workers = 2\n{HUB}")[1:]
    where = f"{third}, the queue of a worker of a time with more of them: delivered by a process of its own"
    assert told == [("ok", "workers", f"2 messages in {where}")]
    (third / "queue.db").write_bytes(b"no database " * 100)
    told = about_workers(place, f"workers = 2\n{HUB}")[1:]
    assert told == [("warning", "workers", f"the queue in {third} cannot be looked into")]
