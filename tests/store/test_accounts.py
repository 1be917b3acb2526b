"""FileAccounts: who there is, who can prove it, and what happens while the files change."""

import os
import random
import shutil
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IAnonymous
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailhub.interfaces import AccountsUnavailable, IAccounts, IExecutor
from mailhub.model import Account, Address, Alias, Mailbox, ScramVerifier
from mailhub.store import passwd_file, passwords
from mailhub.store.accounts import FileAccounts
from mailhub.store.cred import CredAccounts
from mailhub.store.disk import RealDisk
from mailhub.store.watched_file import WatchedFile, read_bounded

Value = TypeVar("Value")

PASSWORD = "correct horse"
HASH = passwords.hash_password(PASSWORD, b"0123456789abcdef")
OTHER_HASH = passwords.hash_password("battery staple", b"0123456789abcdef")
VERIFIER = passwords.make_verifier(PASSWORD, b"0123456789abcdef", 4096)
assert VERIFIER is not None
SCRAM = passwords.format_verifier(VERIFIER)
SECRET = b"s" * 32


@implementer(IExecutor)
class CountingExecutor:
    """Runs everything at once, and remembers what."""

    def __init__(self) -> None:
        self.runs: list[tuple[object, ...]] = []
        self.fault: Exception | None = None
        self.held: list[Deferred[Any]] | None = None

    def run(self, function: Callable[..., Value], *arguments: object) -> Awaitable[Value]:
        self.runs.append(arguments)
        if self.held is not None:
            self.held.append(Deferred())
            return self.held[-1]
        if self.fault is not None:
            return fail(self.fault)
        return succeed(function(*arguments))


def at_once(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """The result of a coroutine that must not wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


class Site:
    def __init__(self, directory: Path, domains: tuple[str, ...] = ("example.test",)) -> None:
        self.accounts_path = directory / "accounts"
        self.aliases_path = directory / "aliases"
        self.clock = Clock()
        self.executor = CountingExecutor()
        self.domains = domains
        self.write(f"alice@example.test:{HASH}::::::userdb_quota_rule=*:storage=1G userdb_scram_sha_256={SCRAM}\n")

    def write(self, accounts: str | None = None, aliases: str | None = None) -> None:
        """Put new files in place as an editor does that renames."""
        for path, text in ((self.accounts_path, accounts), (self.aliases_path, aliases)):
            if text is not None:
                new = path.with_name("new")
                new.write_text(text)
                new.chmod(0o600)
                new.rename(path)
        self.clock.advance(1)

    def open(self, **options: Any) -> FileAccounts:
        return FileAccounts(
            self.domains,
            self.accounts_path,
            self.aliases_path,
            self.clock,
            self.executor,
            random.Random(7),
            secret=SECRET,
            **options,
        )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def find(accounts: FileAccounts, text: str) -> Account | None:
    local, _, domain = text.partition("@")
    return at_once(accounts.find(Address(local, domain or "example.test")))


def login(accounts: IAccounts, name: str, password: str = PASSWORD) -> str | None:
    return at_once(accounts.authenticate(name, password))


# --- who there is ------------------------------------------------------------------------------------------------


def test_it_is_an_iaccounts(site: Site) -> None:
    assert verifyObject(IAccounts, site.open())


def test_local_parts_are_compared_without_regard_to_case(site: Site) -> None:
    accounts = site.open()
    assert accounts.hosts("example.test")
    assert not accounts.hosts("elsewhere.example")
    for text in ("alice", "ALICE", "aLiCe"):
        assert find(accounts, text) == Mailbox(Address("alice", "example.test"), None, 1024**3)
    assert find(accounts, "bob") is None
    assert find(accounts, "alice@elsewhere.example") is None
    assert find(accounts, "") is None


def test_the_detail_is_what_follows_the_first_plus_as_it_was_written(site: Site) -> None:
    site.write(f"alice@example.test:{HASH}\nbob+own@example.test:{HASH}\nbob@example.test:{HASH}\n")
    accounts = site.open()
    found = find(accounts, "Alice+Lists+Dev")
    assert isinstance(found, Mailbox)
    assert (found.address.local, found.detail) == ("alice", "Lists+Dev")
    for text, local, detail in (("bob+own", "bob+own", None), ("bob+x", "bob", "x"), ("bob+", "bob", None)):
        found = find(accounts, text)
        assert isinstance(found, Mailbox)
        assert (found.address.local, found.detail) == (local, detail)


def test_a_catch_all_answers_last(site: Site) -> None:
    site.write(aliases="team: alice\n@example.test: alice\n")
    accounts = site.open()
    assert isinstance(find(accounts, "alice+x"), Mailbox)
    assert find(accounts, "TEAM+x") == Alias(Address("team", "example.test"), (Address("alice", "example.test"),))
    assert find(accounts, "who.ever+x") == Alias(Address("", "example.test"), (Address("alice", "example.test"),))


def test_an_alias_of_the_name_of_an_account_gives_copies_or_redirects(site: Site) -> None:
    site.write(aliases="alice: Alice, carol@elsewhere.example\n")
    accounts = site.open()
    copies = (Address("carol", "elsewhere.example"),)
    assert find(accounts, "alice") == Mailbox(Address("alice", "example.test"), None, 1024**3, copies)
    site.write(aliases="alice: carol@elsewhere.example\n")
    assert find(accounts, "alice") == Alias(Address("alice", "example.test"), copies)
    assert login(accounts, "alice@example.test") == "alice@example.test"
    site.write(aliases="alice: alice+kept, carol@elsewhere.example\n")
    assert isinstance(find(accounts, "alice"), Mailbox)


def test_a_bare_target_is_the_one_account_of_that_name(tmp_path: Path) -> None:
    site = Site(tmp_path, ("example.test", "second.test", "third.test"))
    site.write(aliases="postmaster: alice\n")
    accounts = site.open()
    alice = (Address("alice", "example.test"),)
    assert find(accounts, "postmaster@second.test") == Alias(Address("postmaster", "second.test"), alice)
    assert accounts.problems() == ()
    site.write(f"alice@example.test:{HASH}\nalice@second.test:{HASH}\n")
    found = find(accounts, "postmaster@second.test")
    assert isinstance(found, Alias)
    assert found.targets == (Address("alice", "second.test"),)
    # Two of that name, and neither in this domain: nobody can say which is meant.
    assert any("alice@third.test" in problem.what for problem in accounts.problems())


def test_other_scripts(site: Site) -> None:
    site.write(f"\u00e5se@example.test:{HASH}\n")
    accounts = site.open()
    for text in ("\u00c5SE", "A\u030ase"):
        found = find(accounts, text)
        assert isinstance(found, Mailbox)
        assert found.address.local == "\u00e5se"
    assert login(accounts, "\u00c5se@EXAMPLE.test") == "\u00e5se@example.test"


def test_a_circle_of_aliases_is_a_problem_where_it_has_no_way_out(site: Site) -> None:
    alice, names = f"alice@example.test:{HASH}\n", "postmaster: alice\n"
    site.write(alice, names + "alice: alice, copy@far.example\none: two\ntwo: one, alice\nself: self, one\n")
    assert not any("circle" in str(problem) for problem in site.open().problems())
    site.write(alice, names + "one: two\ntwo: three, one\nthree: one\nin: one\n")
    circles = [problem.what for problem in site.open().problems() if "circle" in problem.what]
    assert circles == [
        f"alias {each}@example.test leads in a circle, and to nobody" for each in ("one", "two", "three", "in")
    ]


def test_problems_of_both_files_and_between_them(site: Site) -> None:
    site.write(f"alice@example.test:{HASH}\nbroken\n", "team: alice, nobody\nbad: |x\n")
    os.chmod(site.accounts_path, 0o644)
    told = [str(problem) for problem in site.open().problems()]
    for part in (
        "accounts:2: the line has no",
        "aliases:2: in alias bad: '|x' would start a program",
        "aliases:1: nobody@example.test, a target of alias team@example.test, is nobody here",
        "aliases: postmaster@example.test is nobody",
        "accounts: every user of this machine can read the password hashes",
    ):
        assert any(part in line for line in told), part
    assert len(told) == 5


# --- who can prove it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alice@example.test", "ALICE@Example.Test", "alice", "Alice"])
def test_the_canonical_login_comes_back(site: Site, name: str) -> None:
    assert login(site.open(), name) == "alice@example.test"


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("alice", "wrong"),
        ("alice", ""),
        ("alice", "x" * 2000),
        ("alice+x@example.test", PASSWORD),
        ("nobody", PASSWORD),
        ("", PASSWORD),
        ("@", PASSWORD),
        ("alice@elsewhere.example", PASSWORD),
        ("alice\0@example.test", PASSWORD),
        ("a" * 10_000, PASSWORD),
        ("al\ud800ice", PASSWORD),
        ("office", PASSWORD),
        ("team", PASSWORD),
    ],
)
def test_whatever_fails_costs_one_hash_of_the_same_price(site: Site, name: str, password: str) -> None:
    site.write(f"alice@example.test:{HASH}\noffice@example.test:\n", "team: alice\n")
    accounts = site.open()
    assert login(accounts, name, password) is None
    ((stored, given),) = site.executor.runs
    assert given == password
    assert passwords.parse_hash(str(stored)) == passwords.COST


def test_an_unknown_login_costs_what_most_known_ones_cost(site: Site) -> None:
    dear = passwords.dummy_hash(passwords.Cost(65_536, 3, 1))
    site.write(f"alice@example.test:{HASH}\nbob@example.test:{dear}\ncarol@example.test:{dear}\n")
    accounts = site.open()
    site.executor.fault = RuntimeError("not run: only its price matters")
    with pytest.raises(AccountsUnavailable):
        login(accounts, "nobody")
    assert passwords.parse_hash(str(site.executor.runs[0][0])) == passwords.Cost(65_536, 3, 1)


def test_a_bare_login_needs_a_single_domain(tmp_path: Path) -> None:
    accounts = Site(tmp_path, ("example.test", "second.test")).open()
    assert login(accounts, "alice") is None
    assert login(accounts, "alice@example.test") == "alice@example.test"


def test_a_proven_login_is_not_hashed_again_for_a_while(site: Site) -> None:
    accounts = site.open(remember_seconds=300)
    for _ in range(3):
        assert login(accounts, "alice") == "alice@example.test"
    assert login(accounts, "ALICE@example.test") == "alice@example.test"
    assert len(site.executor.runs) == 1
    site.clock.advance(301)
    login(accounts, "alice")
    assert len(site.executor.runs) == 2


def test_failures_are_not_remembered(site: Site) -> None:
    accounts = site.open()
    for _ in range(2):
        assert login(accounts, "alice", "wrong") is None
        assert login(accounts, "nobody") is None
    assert len(site.executor.runs) == 4


def test_a_changed_line_ends_what_was_proven(site: Site) -> None:
    accounts = site.open()
    assert login(accounts, "alice")
    site.write(f"alice@example.test:{OTHER_HASH}\n")
    assert login(accounts, "alice") is None
    assert login(accounts, "alice", "battery staple") == "alice@example.test"
    site.write("# nobody left\n")
    assert login(accounts, "alice", "battery staple") is None


def test_a_line_that_changes_while_the_hash_runs_proves_only_the_old_one(site: Site) -> None:
    accounts = site.open()
    site.executor.held = []
    waiting = Deferred.fromCoroutine(accounts.authenticate("alice", PASSWORD))
    site.write(f"alice@example.test:{OTHER_HASH}\n")
    site.executor.held.pop().callback(True)
    assert waiting.result == "alice@example.test"
    site.executor.held = None
    assert login(accounts, "alice") is None


@pytest.mark.parametrize("name", ["nobody", "office", "a" * 10_000])
def test_even_a_proven_dummy_is_nobody(site: Site, name: str) -> None:
    site.write(f"alice@example.test:{HASH}\noffice@example.test:\n")
    site.executor.held = []
    waiting = Deferred.fromCoroutine(site.open().authenticate(name, PASSWORD))
    site.executor.held.pop().callback(True)
    assert waiting.result is None


def test_waiting_hashes_are_bounded(site: Site) -> None:
    accounts = site.open(hashes_pending_max=2)
    site.executor.held = []
    waiting = [Deferred.fromCoroutine(accounts.authenticate("alice", PASSWORD)) for _ in range(2)]
    with pytest.raises(AccountsUnavailable, match="too many"):
        login(accounts, "alice")
    site.executor.held[0].callback(True)
    site.executor.held[1].errback(MemoryError())
    assert waiting[0].result == "alice@example.test"
    waiting[1].addErrback(lambda failure: failure.trap(AccountsUnavailable))
    site.executor.held = None
    assert login(accounts, "alice") == "alice@example.test"


def test_a_hash_that_nobody_waits_for_counts_until_it_is_done(site: Site) -> None:
    accounts = site.open(hashes_pending_max=1)
    site.executor.held = []
    waiting = Deferred.fromCoroutine(accounts.authenticate("alice", PASSWORD))
    waiting.addErrback(lambda failure: failure.trap(CancelledError))
    waiting.cancel()
    with pytest.raises(AccountsUnavailable, match="too many"):
        login(accounts, "alice")
    site.executor.held[0].callback(True)
    site.executor.held = None
    assert login(accounts, "alice") == "alice@example.test"


def test_a_hash_that_cannot_be_computed_is_no_wrong_password(site: Site) -> None:
    accounts = site.open()
    site.executor.fault = MemoryError()
    with pytest.raises(AccountsUnavailable):
        login(accounts, "alice")


def test_the_memory_of_proofs_is_bounded_and_keyed() -> None:
    clock = Clock()
    proven = passwords.ProvenLogins(b"key", clock, seconds=10, entries_max=3)
    for name in "abcd":
        proven.remember(name, "p", HASH)
    assert len(proven) == 3
    assert not proven.holds("a", "p", HASH)
    assert proven.holds("d", "p", HASH)
    assert not proven.holds("d", "q", HASH)
    assert not proven.holds("", "dp", HASH)
    assert not proven.holds("d", "p", OTHER_HASH)
    assert not proven.holds("d", "p", HASH)  # the other hash has ended it
    proven.remember("e", "p", HASH)
    clock.advance(10)
    assert not proven.holds("e", "p", HASH)
    assert b"password" not in repr(vars(proven)).encode()


def test_scram_verifiers_real_and_fake(site: Site) -> None:
    accounts = site.open()
    assert at_once(accounts.scram_verifier("Alice")) == ("alice@example.test", VERIFIER)
    known, fake = at_once(accounts.scram_verifier("Nobody"))
    assert known is None
    assert (len(fake.salt), fake.iterations) == (16, 4096)
    again = at_once(site.open().scram_verifier("nobody@EXAMPLE.test"))
    assert again == (None, fake)
    assert at_once(accounts.scram_verifier("somebody"))[1].salt != fake.salt


def test_an_account_without_a_verifier_looks_as_the_unknown(site: Site) -> None:
    accounts = site.open()
    _, before = at_once(accounts.scram_verifier("bob"))
    site.write(f"alice@example.test:{HASH}::::::userdb_scram_sha_256={SCRAM}\nbob@example.test:{HASH}\n")
    assert at_once(accounts.scram_verifier("bob")) == (None, before)


def test_an_unusual_password_in_either_spelling() -> None:
    stored = passwords.hash_password("\u2168 caf\u00e9", b"0123456789abcdef")
    assert passwords.verify(stored, "IX cafe\u0301")
    assert not passwords.verify(stored, "IX cafe")
    assert passwords.hash_password("\u0007bell", b"0123456789abcdef")  # forbidden by SASLprep: taken as it is
    with pytest.raises(ValueError, match="empty"):
        passwords.hash_password("", b"0123456789abcdef")


def test_the_installation_keeps_its_secret(tmp_path: Path) -> None:
    path = tmp_path / "scram.secret"
    assert passwords.installation_secret(path, b"a" * 32, RealDisk()) == b"a" * 32
    assert passwords.installation_secret(path, b"b" * 32, RealDisk()) == b"a" * 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["scram.secret"]
    path.write_bytes(b"short")
    with pytest.raises(OSError, match="32 octets"):
        passwords.installation_secret(path, b"c" * 32, RealDisk())


# --- files that change -------------------------------------------------------------------------------------------


def test_a_new_version_is_seen_after_a_second_and_not_looked_for_before(site: Site) -> None:
    accounts = site.open()
    assert find(accounts, "bob") is None
    new = site.accounts_path.with_name("new")
    new.write_text(f"bob@example.test:{HASH}\n")
    new.rename(site.accounts_path)
    assert find(accounts, "bob") is None
    site.clock.advance(1)
    assert find(accounts, "bob") is not None
    assert find(accounts, "alice") is None
    site.clock.advance(1)
    site.write(f"alice@example.test:{HASH}\n")
    assert find(accounts, "alice") is not None


def test_a_file_written_in_place_is_taken_once_it_has_settled(site: Site) -> None:
    accounts = site.open()
    assert find(accounts, "alice") is not None
    site.accounts_path.write_text("")  # an editor has truncated it, and writes on
    site.clock.advance(1)
    assert find(accounts, "alice") is not None
    site.accounts_path.write_text(f"alice@example.test:{HASH}\nbob@example.test:{HASH}\n")
    site.clock.advance(1)
    assert find(accounts, "alice") is not None
    site.clock.advance(1)
    assert find(accounts, "bob") is not None


def make_unreadable(path: Path) -> None:
    path.unlink()


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def make_huge(path: Path) -> None:
    os.truncate(path, 17 * 1024 * 1024)


def make_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize("harm", [make_unreadable, make_directory, make_fifo, make_huge, make_loop])
def test_a_file_that_cannot_be_read_any_more_goes_on_to_serve(site: Site, harm: Callable[[Path], None]) -> None:
    site.write(aliases="team: alice\npostmaster: alice\n")
    accounts = site.open()
    assert accounts.problems() == ()
    harm(site.accounts_path)
    harm(site.aliases_path)
    for _ in range(3):
        site.clock.advance(1)
        assert find(accounts, "alice") is not None
        assert find(accounts, "team") is not None
    assert [problem.path for problem in accounts.problems()] == [str(site.accounts_path), str(site.aliases_path)]
    assert "goes on to serve" in accounts.problems()[0].what
    for path in (site.accounts_path, site.aliases_path):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    site.write(f"bob@example.test:{HASH}\n", "postmaster: bob\n")
    find(accounts, "bob")
    site.clock.advance(1)  # the new file may have got the inode of the old one, and then must settle
    assert find(accounts, "bob") is not None
    assert find(accounts, "team") is None
    assert accounts.problems() == ()


def test_accounts_that_were_never_read_are_unavailable_and_nobody_is_refused(site: Site) -> None:
    site.accounts_path.unlink()
    accounts = site.open()
    with pytest.raises(AccountsUnavailable, match="does not exist"):
        find(accounts, "alice")
    with pytest.raises(AccountsUnavailable):
        login(accounts, "alice")
    with pytest.raises(AccountsUnavailable):
        at_once(accounts.scram_verifier("alice"))
    assert "mailhub user add" in str(accounts.problems()[0])
    site.write(f"alice@example.test:{HASH}\n")
    assert find(accounts, "alice") is not None


def test_a_site_may_only_forward(site: Site) -> None:
    site.write(aliases="team: x@y.example\npostmaster: x@y.example\n")
    accounts = FileAccounts(
        ["example.test"], None, site.aliases_path, site.clock, site.executor, random.Random(1), secret=SECRET
    )
    assert isinstance(find(accounts, "team"), Alias)
    assert find(accounts, "alice") is None
    assert accounts.problems() == ()


def test_there_may_be_no_aliases(site: Site) -> None:
    accounts = site.open()
    assert find(accounts, "alice") is not None
    site.write(aliases="team: alice\n")
    assert find(accounts, "team") is not None
    without = FileAccounts(
        ["example.test"], site.accounts_path, None, site.clock, site.executor, random.Random(1), secret=SECRET
    )
    assert find(without, "team") is None


def test_the_disk_is_asked_once_a_second(site: Site, tmp_path: Path) -> None:
    parsed: list[bytes] = []

    def parse(octets: bytes) -> int:
        parsed.append(octets)
        return len(parsed)

    path = tmp_path / "file"
    path.write_bytes(b"one")
    watched = WatchedFile(path, parse, site.clock)
    assert [watched.current() for _ in range(3)] == [1, 1, 1]
    site.clock.advance(1)
    assert watched.current() == 1  # unchanged: a stat, and nothing read
    path.unlink()
    assert watched.current() == 1
    assert watched.problem is None
    site.clock.advance(1)
    assert watched.current() == 1
    assert watched.problem is not None


def test_what_is_read_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 11)
    assert len(read_bounded(path, 11)[0]) == 11
    with pytest.raises(OSError, match="larger than 10"):
        read_bounded(path, 10)


# --- somebody else's checker -------------------------------------------------------------------------------------


class Checker(InMemoryUsernamePasswordDatabaseDontUse):
    def __init__(self, **users: str) -> None:
        super().__init__()
        for name, password in users.items():
            self.addUser(name.encode(), password.encode())


def test_any_cred_checker_can_judge(site: Site) -> None:
    checker = Checker()
    checker.addUser(b"alice@example.test", b"from elsewhere")
    checker.addUser(b"root@example.test", b"toor")
    accounts = CredAccounts(site.open(), checker, SECRET)
    assert verifyObject(IAccounts, accounts)
    assert accounts.hosts("example.test")
    assert isinstance(at_once(accounts.find(Address("alice", "example.test"))), Mailbox)
    assert login(accounts, "alice@example.test", "from elsewhere") == "alice@example.test"
    assert login(accounts, "alice@example.test", PASSWORD) is None
    assert login(accounts, "alice@example.test", "") is None
    assert login(accounts, "al\ud800ice", "x") is None
    assert login(accounts, "root@example.test", "toor") is None  # right, but no account of ours
    login_of, fake = at_once(accounts.scram_verifier("alice@example.test"))
    assert login_of is None
    assert isinstance(fake, ScramVerifier)


def test_a_checker_that_fails_is_no_wrong_password(site: Site) -> None:
    class Broken(Checker):
        def requestAvatarId(self, credentials: object) -> Deferred[Any]:
            raise OSError("no route to the directory")

    with pytest.raises(AccountsUnavailable, match="no route"):
        login(CredAccounts(site.open(), Broken(), SECRET), "alice@example.test", "x")


def test_a_checker_of_something_else_is_refused(site: Site) -> None:
    class Anonymous(Checker):
        credentialInterfaces = (IAnonymous,)

    with pytest.raises(TypeError, match="checks no passwords"):
        CredAccounts(site.open(), Anonymous(), SECRET)


def test_a_verifier_of_ours_survives_the_file(site: Site) -> None:
    made = passwords.make_verifier("\u2168", b"0123456789abcdef", 4096)
    assert made is not None
    assert made == passwords.make_verifier("IX", b"0123456789abcdef", 4096)
    assert passwords.parse_verifier(passwords.format_verifier(made)) == made
    added = passwd_file.add(b"", Address("bob", "example.test"), HASH, made)
    site.write(added.decode())
    assert at_once(site.open().scram_verifier("bob")) == ("bob@example.test", made)
