"""The accounts file and the aliases file: whatever stands in them is an entry, a comment or a problem; and an edit
changes what it should and nothing else."""

from __future__ import annotations

from collections.abc import Hashable

from mailhub.model import Address
from mailhub.store import aliases_file, passwd_file
from mailhub.store.edited_file import EditRefused
from mailhub.store.passwords import format_verifier, make_verifier
from mailhub.store.problem import Problem
from tests.fuzz.target import target

_DOMAINS = frozenset({"example.test", "second.test"})
_HASH = "{ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$RdescudvJCsgt3ub+b4dWWJsHTgo3o4p3o4p3o4p3o4"
_VERIFIER = make_verifier("correct horse", b"0123456789abcdef", 4096)
assert _VERIFIER is not None
_SCRAM = format_verifier(_VERIFIER)
_LINE = f"alice@example.test:{_HASH}::::::userdb_quota_rule=*:storage=1G userdb_scram_sha_256={_SCRAM}\n".encode()
_CAROL = Address("carol", "example.test")


def _check_problems(problems: tuple[Problem, ...], octets: bytes, most: int) -> None:
    assert len(problems) <= most
    lines = octets.count(b"\n") + 1
    for problem in problems:
        assert 0 <= problem.line <= lines
        assert problem.what.isprintable(), "a problem could command a terminal"
        assert len(problem.what) <= 2000


@target(
    "accounts-file",
    "the accounts file: store/passwd_file.py and passwords.py, and edits of it",
    (
        _LINE,
        b"# a comment\r\n\r\nalice@example.test::::::\r\n",
        b"alice@example.test:{PLAIN}x\nALICE@example.test:\n",
        b"bob@elsewhere.test:x\nnobody\n:x\n@example.test:\n",
        "jürgen@example.test:\nu\u0308@second.test:".encode(),
        b"alice@example.test:{ARGON2ID}$argon2id$v=19$m=999999999,t=1,p=1$AAAA$AAAA\n",
        b"alice@example.test:::::::nopassword userdb_quota_rule=*:storage=x\n\xff\n",
        b"../x@example.test:\n.a@example.test:\na/b@example.test:\n",
        b"carol@example.test:x:\ncarol@example.test:\xff:y\r\n#carol@example.test:",
    ),
    (
        b"alice@example.test", b"carol@example.test", b":", b"\n", b"\r\n", b"#", _HASH.encode(), b"{ARGON2ID}", b"$",
        b"m=1", b"userdb_quota_rule=",
        b"*:storage=", b"1G", b"999999999999999T", b"userdb_scram_sha_256=", _SCRAM.encode(), b"4096,", b" ",
        b"@second.test", b"\t",
        "ß@example.test".encode(), b"nopassword", _LINE,
    ),
    seconds_per_octet=200e-6,
    ci_inputs=10_000,
)  # fmt: skip
def accounts(octets: bytes) -> Hashable:
    """Read it; then put somebody in, change his password and put him out again."""
    read = passwd_file.parse(octets, _DOMAINS, "accounts")
    _check_problems(read.problems, octets, passwd_file.PROBLEMS_MAX)
    for address, account in read.accounts.items():
        assert account.mailbox.address == address
        assert address.domain in _DOMAINS
        assert not set(address.local) & set("/\0\n:"), "a name that means something in a path"
        assert not address.local.startswith((".", "-"))
    edited = _edit_accounts(octets)
    return len(read.accounts), tuple(problem.what[:24] for problem in read.problems[:4]), edited


def _edit_accounts(octets: bytes) -> Hashable:
    others = dict(passwd_file.parse(octets, _DOMAINS, "").accounts)
    others.pop(_CAROL, None)
    try:
        added = passwd_file.add(octets, _CAROL, _HASH, _VERIFIER, 1 << 20)
    except EditRefused:
        changed = passwd_file.set_password(octets, _CAROL, _HASH, _VERIFIER)
        gone = passwd_file.remove(octets, _CAROL)
        was_there = True
    else:
        assert added.startswith(octets)
        there = passwd_file.parse(added, _DOMAINS, "").accounts
        assert there[_CAROL].password == _HASH
        assert there[_CAROL].verifier == _VERIFIER
        assert there[_CAROL].mailbox.quota_octets == 1 << 20
        changed = passwd_file.set_password(added, _CAROL, _HASH, None)
        gone = passwd_file.remove(added, _CAROL)
        assert gone in (octets, octets + b"\n"), "what is put in and out again leaves something"
        was_there = False
    assert changed.count(b"\n") >= octets.count(b"\n")
    left = passwd_file.parse(gone, _DOMAINS, "").accounts
    assert {each: account.password for each, account in left.items()} == {
        each: account.password for each, account in others.items()
    }, "an edit of one account changed another"
    return was_there


@target(
    "aliases-file",
    "the aliases file: store/aliases_file.py and names.py, and edits of it",
    (
        b"postmaster: alice\nteam@example.test: alice, bob@second.test,\n  # in between\n  carol@elsewhere.example\n",
        b"@second.test: bob@example.test\n",
        b'x: |/bin/sh, "|sh", /etc/passwd, :include:/x, \\alice, @example.test\n',
        b"a: b\r\n c\r\n\r\n# x\r\nA: d\r\n",
        b'q: "a, b"@example.test, "unclosed, c\n',
        b"nobody\n: x\na@elsewhere.test: b\nc:\n",
        "ü: ß@example.test, a@müller.example\n".encode(),
        b" folded first: x\nteam: alice,\n",
        b"team: a\nteam: b\nTEAM@example.test: c\n\xff: x\na: \xff\n",
    ),
    (
        b"team", b"alice", b"postmaster", b":", b": ", b",", b", ", b"\n", b"\n ", b"\r\n", b"\r\n\t", b"#", b"\n#",
        b'"', b"@", b"@example.test",
        b"@second.test", b"b@elsewhere.example", b"|", b"/", b"\\", b":include:", b"team@example.test",
        b"team: alice\n", b"\xff", "ü".encode(),
    ),
    seconds_per_octet=200e-6,
    ci_inputs=10_000,
)  # fmt: skip
def aliases(octets: bytes) -> Hashable:
    """Read it; then give `team` one more target, and take it away again."""
    read = aliases_file.parse(octets, _DOMAINS, "aliases")
    _check_problems(read.problems, octets, aliases_file.PROBLEMS_MAX)
    for address, alias in read.aliases.items():
        assert address.domain in _DOMAINS
        assert 0 < len(alias.targets) <= aliases_file.TARGETS_MAX
        for one in alias.targets:
            assert not one.local.startswith(("|", "/", "\\")) or "@" in str(one)
            assert not set(str(one)) & set("\0\r\n")
            assert one.local
            assert one.domain
    edited = _edit_aliases(octets, read)
    return len(read.aliases), tuple(problem.what[:24] for problem in read.problems[:4]), edited


def _edit_aliases(octets: bytes, before: aliases_file.AliasesFile) -> Hashable:
    targets = ["zoe@elsewhere.example"]
    try:
        added = aliases_file.add(octets, "team", targets)
    except EditRefused as refusal:
        return str(refusal)[:30]
    after = aliases_file.parse(added, _DOMAINS, "")
    old = {entry.name: entry.targets for entry in before.entries}
    new = {entry.name: entry.targets for entry in after.entries}
    assert {**old, "team": ()} == {**new, "team": ()}, "an edit of one alias changed another"
    if "team" not in old:
        # A broken entry of that name stays broken; a new one is there.
        there = new.get("team", ())
        assert there in ((), tuple(targets)) or there[-1:] == tuple(targets), there
    else:
        assert new["team"] == (*old["team"], *targets)
    removed = aliases_file.parse(aliases_file.remove(added, "team", targets), _DOMAINS, "")
    again = {entry.name: entry.targets for entry in removed.entries}
    assert {**again, "team": ()} == {**old, "team": ()}
    assert again.get("team", ()) == old.get("team", ()), "what is put in and out again leaves something"
    return "team" in old, len(new.get("team", ()))
