"""The accounts and aliases files as octets: what stands in them, what is wrong with them, how they are edited."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailhub.model import Address, Alias
from mailhub.store import aliases_file, passwd_file, passwords
from mailhub.store.edited_file import EditRefused
from mailhub.store.names import BadName, parse_address, parse_domain, parse_name

DOMAINS = ("example.test", "second.test")
HASH = passwords.dummy_hash()
VERIFIER = passwords.fake_verifier(b"secret", "alice")
SCRAM = passwords.format_verifier(VERIFIER)
ALICE = Address("alice", "example.test")


def accounts(text: str | bytes) -> passwd_file.AccountsFile:
    return passwd_file.parse(text.encode() if isinstance(text, str) else text, DOMAINS, "accounts")


def aliases(text: str | bytes) -> aliases_file.AliasesFile:
    return aliases_file.parse(text.encode() if isinstance(text, str) else text, DOMAINS, "aliases")


def targets(text: str, name: str) -> list[str]:
    local, _, domain = name.partition("@")
    return [str(target) for target in aliases(text).aliases[Address(local, domain)].targets]


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("alice@example.test", "alice@example.test"),
        ("Alice.B+x_y-z@EXAMPLE.Test", "alice.b+x_y-z@example.test"),
        ("o'brien@example.test", "o'brien@example.test"),
        ("A\u030angstr\u00f6m@B\u00dccher.example", "\u00e5ngstr\u00f6m@xn--bcher-kva.example"),
        ("\u5f20\u4e09@example.test", "\u5f20\u4e09@example.test"),
    ],
)
def test_a_name_has_one_form(text: str, canonical: str) -> None:
    assert str(parse_name(text)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "alice",
        "@example.test",
        "alice@",
        ".alice@example.test",
        "alice.@example.test",
        "..@example.test",
        "a..b@example.test",
        "../../etc/passwd@example.test",
        "a/b@example.test",
        "a\\b@example.test",
        "a\0b@example.test",
        "a\nb@example.test",
        "a b@example.test",
        '"a b"@example.test',
        "-rf@example.test",
        "a:b@example.test",
        "{local}@example.test",
        "a%b@example.test",
        "#a@example.test",
        "a\u202eb@example.test",
        "a\u2028b@example.test",
        "a\ud800b@example.test",
        "a" * 65 + "@example.test",
        "alice@exa mple.test",
        "alice@-example.test",
        "alice@example..test",
        "alice@../x",
        "alice@[192.0.2.1]",
        "alice@" + "a." * 128 + "test",
    ],
)
def test_what_could_mean_something_in_a_path_is_no_name(text: str) -> None:
    with pytest.raises(BadName):
        parse_name(text)


@given(st.text(max_size=80))
def test_any_text_is_a_safe_name_or_none(text: str) -> None:
    try:
        address = parse_name(text)
    except BadName:
        return
    for part in (address.local, address.domain):
        assert part
        assert not part.startswith(".")
        assert ".." not in part
        assert "/" not in part
        assert part.isprintable()
    assert parse_name(str(address)) == address


@given(st.text(max_size=80))
def test_any_text_is_an_address_or_none(text: str) -> None:
    try:
        address = parse_address(text)
    except BadName:
        return
    assert not any(character < "!" or character == "\x7f" for character in str(address))


def test_a_domain_is_kept_as_a_labels() -> None:
    assert parse_domain("B\u00fccher.EXAMPLE") == "xn--bcher-kva.example"


# --- the accounts file -----------------------------------------------------------------------------------------------


def test_an_account_as_dovecot_writes_it() -> None:
    found = accounts(
        "# staff\n\n"
        f"Alice@Example.TEST:{HASH}:5000:5000::/home/a::userdb_quota_rule=*:storage=1G userdb_scram_sha_256={SCRAM}\n"
        f"bob@second.test:{HASH}\r\n"
        f"office@example.test:\n"
    )
    assert found.problems == ()
    alice = found.accounts[ALICE]
    assert (alice.line, alice.password, alice.cost, alice.verifier) == (3, HASH, passwords.COST, VERIFIER)
    assert alice.mailbox.quota_octets == 1024**3
    bob = found.accounts[Address("bob", "second.test")]
    assert (bob.password, bob.verifier, bob.mailbox.quota_octets) == (HASH, None, None)
    assert found.accounts[Address("office", "example.test")].password is None


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("alice@example.test", 'no ":"'),
        (f"alice:{HASH}", "no @DOMAIN"),
        (f"alice@elsewhere.test:{HASH}", "none of the domains"),
        (f"../x@example.test:{HASH}", "begins or ends with a dot"),
        (f"a/b@example.test:{HASH}", "'/'"),
        ("alice@example.test:" + "x" * 5000, "longer than 4096 octets"),
        (b"alice@example.test:\xff\xfe", "not UTF-8 (octet 20)"),
        ("alice@example.test:\0", "control character"),
        ("alice@example.test:\x85", "control character"),
    ],
)
def test_a_broken_line_is_reported_and_the_rest_serves(line: str | bytes, what: str) -> None:
    raw = line.encode() if isinstance(line, str) else line
    found = accounts(b"# one\n" + raw + b"\nbob@example.test:" + HASH.encode() + b"\n")
    assert list(found.accounts) == [Address("bob", "example.test")]
    (problem,) = found.problems
    assert (problem.path, problem.line) == ("accounts", 2)
    assert what in problem.what
    assert problem.remedy


@pytest.mark.parametrize(
    ("password", "what"),
    [
        ("plaintext", "scheme"),
        ("{SHA512-CRYPT}$6$abc$def", "'{SHA512-CRYPT}' is not supported"),
        ("{BLF-CRYPT}$2y$05$abc", "'{BLF-CRYPT}' is not supported"),
        ("{ARGON2ID}$argon2i$v=19$m=8,t=1,p=1$YWJjZGVmZ2g$YWJjZGVmZ2hhYmNkZWZnaA", "not an argon2id hash"),
        (HASH.replace("m=19456", "m=999999999"), "costs more"),
        (HASH.replace("t=2", "t=1000"), "costs more"),
        (HASH.replace("m=19456", "m=1"), "8 KiB"),
        (HASH[:-5] + "!!!!!", "base 64"),
        (HASH.rpartition("$")[0] + "$YQ", "odd length"),
    ],
)
def test_a_password_that_cannot_be_verified_keeps_the_mailbox_open_for_mail(password: str, what: str) -> None:
    found = accounts(f"alice@example.test:{password}::::::\n")
    assert found.accounts[ALICE].password is None
    (problem,) = found.problems
    assert what in problem.what
    assert "mailhub user passwd" in problem.remedy
    assert "plaintext" not in str(problem)


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        ("userdb_scram_sha_256=nonsense", "SCRAM"),
        (f"userdb_scram_sha_256={SCRAM.replace('32768', '1000')}", "iterations"),
        (f"userdb_scram_sha_256={SCRAM.replace('32768', '9999999')}", "iterations"),
        (f"userdb_scram_sha_256={SCRAM}AAAA", "SCRAM"),
        ("userdb_quota_rule=*:messages=7", "quota rule"),
        ("userdb_quota_rule=*:storage=-7", "quota rule"),
        ("nopassword=y", "nopassword"),
    ],
)
def test_a_broken_extra_field_is_reported_and_left_out(extra: str, what: str) -> None:
    found = accounts(f"alice@example.test:{HASH}::::::{extra}\n")
    assert found.accounts[ALICE].password == HASH
    assert found.accounts[ALICE].verifier is None
    assert found.accounts[ALICE].mailbox.quota_octets is None
    assert what in found.problems[0].what


def test_the_first_of_two_lines_is_used() -> None:
    found = accounts(f"alice@example.test:{HASH}\nALICE@example.test:\n")
    assert found.accounts[ALICE].line == 1
    assert "stands in line 1 already" in found.problems[0].what


def test_a_problem_reads_as_compilers_write_it() -> None:
    assert str(accounts("alice\n").problems[0]) == (
        'accounts:1: the line has no ":" behind the name. Correct the line, or remove it.'
    )


@pytest.mark.parametrize(
    ("rule", "octets"),
    [("*:storage=1G", 1024**3), ("*:storage=10", 10240), ("*:storage=7b", 7), ("*:storage=0", None)],
)
def test_quota_rules_are_read_as_dovecot_reads_them(rule: str, octets: int | None) -> None:
    assert passwd_file.parse_quota_rule(rule) == octets
    if octets:
        assert passwd_file.parse_quota_rule(passwd_file.format_quota_rule(octets)) == octets


account_lines = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.sampled_from([b"alice@example.test:", b"bob@second.test", b"#", b"\t", b"x@y:", HASH.encode(), b"\r"]),
        st.binary(max_size=20).map(lambda octets: b"alice@example.test:" + HASH.encode() + b"::::::" + octets),
        st.binary(max_size=20).map(lambda octets: octets + b"@example.test:" + octets),
    ),
    max_size=8,
).map(b"\n".join)


@given(account_lines)
def test_every_line_is_an_account_a_comment_or_a_problem(octets: bytes) -> None:
    found = accounts(octets)
    told = {line.line for line in found.accounts.values()} | {problem.line for problem in found.problems}
    for number, line in enumerate(octets.split(b"\n"), 1):
        if line.removesuffix(b"\r").strip(b" \t") and not line.startswith(b"#"):
            assert number in told
        else:
            assert number not in told


FILE = (
    b"# staff\nalice@example.test:" + HASH.encode() + b":1:2:Alice: /h :/sh:x=1 userdb_scram_sha_256=old y\n\xff\n#end"
)


def test_an_edit_changes_one_line_and_no_other_octet() -> None:
    changed = passwd_file.set_password(FILE, ALICE, "{NEW}", VERIFIER)
    assert changed == (
        b"# staff\nalice@example.test:{NEW}:1:2:Alice: /h :/sh:x=1 y userdb_scram_sha_256="
        + SCRAM.encode()
        + b"\n\xff\n#end"
    )
    assert passwd_file.set_password(FILE, ALICE, "{NEW}", None).count(b"scram") == 0
    added = passwd_file.add(FILE, Address("bob", "example.test"), HASH, VERIFIER, 500 * 1024**2)
    assert added.startswith(FILE + b"\nbob@example.test:")
    bob = accounts(added).accounts[Address("bob", "example.test")]
    assert (bob.password, bob.verifier, bob.mailbox.quota_octets) == (HASH, VERIFIER, 500 * 1024**2)
    assert passwd_file.remove(added, ALICE) == b"# staff\n" + added.partition(b"# staff\n")[2].partition(b"\n")[2]


def test_removing_an_account_removes_all_its_lines() -> None:
    twice = f"alice@example.test:{HASH}\nALICE@example.test:{HASH}\n".encode()
    assert passwd_file.remove(twice, ALICE) == b""
    assert passwd_file.set_password(twice, ALICE, "{NEW}", None).count(b"{NEW}") == 2


def test_an_edit_that_finds_nothing_to_do_is_refused() -> None:
    bob = Address("bob", "example.test")
    with pytest.raises(EditRefused, match="exists already"):
        passwd_file.add(FILE, ALICE, HASH, None)
    with pytest.raises(EditRefused, match="no account"):
        passwd_file.set_password(FILE, bob, HASH, None)
    with pytest.raises(EditRefused, match="no account"):
        passwd_file.remove(FILE, bob)


@given(account_lines)
def test_an_edit_of_any_file_keeps_what_is_there(octets: bytes) -> None:
    carol = Address("carol", "example.test")
    before = accounts(octets)
    added = passwd_file.add(octets, carol, HASH, VERIFIER)
    assert accounts(added).accounts.keys() == before.accounts.keys() | {carol}
    changed = passwd_file.set_password(added, carol, HASH, None)
    assert accounts(changed).accounts[carol].verifier is None
    left = passwd_file.remove(changed, carol)
    assert accounts(left).accounts == before.accounts
    assert left.rstrip(b"\n") == octets.rstrip(b"\n")


# --- the aliases file ------------------------------------------------------------------------------------------------

ALIASES = """\
# who gets what
postmaster: alice
team: alice, bob,
      # not in the holidays
      carol@elsewhere.example

lists@second.test: alice+lists@example.test
@second.test: bob@example.test
"""


def test_aliases_of_all_kinds() -> None:
    found = aliases(ALIASES)
    assert found.problems == ()
    assert [(entry.name, entry.line) for entry in found.entries] == [
        ("postmaster", 2),
        ("team", 3),
        ("lists@second.test", 7),
        ("@second.test", 8),
    ]
    assert targets(ALIASES, "postmaster@second.test") == ["alice@second.test"]
    assert targets(ALIASES, "team@example.test") == [
        "alice@example.test",
        "bob@example.test",
        "carol@elsewhere.example",
    ]
    assert targets(ALIASES, "lists@second.test") == ["alice+lists@example.test"]
    assert found.aliases[Address("", "second.test")] == Alias(
        Address("", "second.test"), (Address("bob", "example.test"),)
    )
    assert Address("lists", "example.test") not in found.aliases


def test_a_name_with_its_domain_comes_before_a_bare_one() -> None:
    text = "sales: alice\nsales@second.test: bob\n"
    assert targets(text, "sales@example.test") == ["alice@example.test"]
    assert targets(text, "sales@second.test") == ["bob@second.test"]
    assert aliases(text).problems == ()


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("|/bin/sh", "start a program"),
        ('"|/bin/sh -c x, y"', "start a program"),
        ("/var/mail/x", "is a file"),
        ('"/var/mail/x"', "is a file"),
        (":include:/etc/list", "read another file"),
        (":INCLUDE:/etc/list", "read another file"),
        ("\\alice", "backslash"),
        ("@elsewhere.example", "whole domain"),
        ("a b@elsewhere.example", "not an address"),
        ("x@[192.0.2.1]", "not a domain"),
        ("x@elsewhere", None),
    ],
)
def test_a_refused_target_says_why_and_costs_the_others_nothing(target: str, why: str | None) -> None:
    text = f"team: alice, {target}, bob\n"
    found = aliases(text)
    names = targets(text, "team@example.test")
    if why is None:
        assert len(names) == 3
        return
    assert names == ["alice@example.test", "bob@example.test"]
    (problem,) = found.problems
    assert why in problem.what
    assert problem.line == 1


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ("team", 'no ":"'),
        ("team:", "no target"),
        ("team: ,,", "no target"),
        ("te am: alice", "has no place"),
        ("../x: alice", "dot"),
        ("team@elsewhere.example: alice", "none of the domains"),
        ("@elsewhere.example: alice", "none of the domains"),
        ("@: alice", "not a domain"),
        (": alice", "empty"),
        (b"team: \xff", "not UTF-8"),
        ("team: al\0ice", "control"),
        ("ok: bob", "stands in line 1 already"),
        ("OK : bob", "stands in line 1 already"),
        ("team: " + ", ".join(f"u{number}" for number in range(1001)), "more than 1000"),
        ("team: " + "\n ".join("x" * 60 + "," for number in range(1200)), "longer than"),
    ],
)
def test_a_broken_entry_is_reported_and_the_rest_serves(entry: str | bytes, what: str) -> None:
    raw = entry.encode() if isinstance(entry, str) else entry
    found = aliases(b"ok: alice\n" + raw + b"\nlast: bob\n")
    assert [each.name for each in found.entries] == ["ok", "last"]
    assert found.problems[0].line == 2
    assert what in found.problems[0].what


alias_lines = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [b"team: alice", b" bob,", b"#x", b"", b" # y", b"@second.test: a", b"x: |y", b'q: "a, b', b"\t"]
        ),
        st.binary(max_size=10).map(lambda octets: b"team" + octets + b": alice, " + octets),
    ),
    max_size=10,
).map(b"\n".join)


def entry_lines(octets: bytes) -> list[int]:
    """The first line of every entry, found in another way than the parser does."""
    first, begun = [], False
    for number, line in enumerate(octets.split(b"\n"), 1):
        bare = line.strip(b" \t\r")
        if bare and not bare.startswith(b"#"):
            if not begun or line[:1] not in (b" ", b"\t"):
                first.append(number)
            begun = True
    return first


@given(alias_lines)
def test_every_entry_is_an_alias_a_comment_or_a_problem(octets: bytes) -> None:
    found = aliases(octets)
    told = {entry.line for entry in found.entries} | {problem.line for problem in found.problems}
    assert told == set(entry_lines(octets))


def test_targets_are_added_behind_those_that_are_there() -> None:
    octets = ALIASES.encode()
    assert aliases_file.add(octets, "postmaster", ["bob"]) == octets.replace(
        b"postmaster: alice", b"postmaster: alice, bob"
    )
    assert aliases_file.add(octets, "team", ["alice", "dave"]) == octets.replace(
        b"carol@elsewhere.example", b"carol@elsewhere.example, dave"
    )
    assert aliases_file.add(octets, "new", ["a", "b"]) == octets + b"new: a, b\n"
    assert aliases_file.add(b"x: y", "new", ["a"]) == b"x: y\nnew: a\n"
    with pytest.raises(EditRefused, match="already"):
        aliases_file.add(octets, "team", ["ALICE"])


@pytest.mark.parametrize(
    ("octets", "extended"),
    [
        (b"team\nteam: a\n", b"team\nteam: a, dave\n"),  # what has no colon is no alias
        (b"team:\nteam: a\n", b"team:\nteam: a, dave\n"),  # nor is what has no target, beside one that has
        (b"team: |sh\nteam: a\n", b"team: |sh\nteam: a, dave\n"),
        (b"team: a\nteam: b\n", b"team: a, dave\nteam: b\n"),
        (b"team\n\tall: a\n", b"team\n\tall: a\nteam: dave\n"),  # its name is "team all"
        (b"team: a, \xff\n", b"team: a, \xff\nteam: dave\n"),
        (b"team::\n", b"team::, dave\n"),
        (b"team:\n", b"team: dave\n"),
        ("team\u2028: a\n".encode(), "team\u2028: a, dave\n".encode()),  # a blank of Unicode is one, too
        (b'team: a,\n# 12" each\n b\n', b'team: a,\n# 12" each\n b, dave\n'),  # a quote in a comment is none
    ],
)
def test_targets_are_added_to_the_entry_that_is_used(octets: bytes, extended: bytes) -> None:
    before, name = aliases(octets), Address("team", "example.test")
    added = aliases_file.add(octets, "team", ["dave"])
    assert added == extended
    used = before.aliases[name].targets if name in before.aliases else ()
    assert aliases(added).aliases[name].targets == (*used, Address("dave", "example.test"))
    gone = aliases(aliases_file.remove(added, "team", ["dave"]))
    assert (gone.aliases[name].targets if name in gone.aliases else ()) == used


@pytest.mark.parametrize("octets", [b'team: "a\n', b'team: "a\n# not closed here"\n b\n'])
def test_nothing_is_added_behind_a_quote_that_is_never_closed(octets: bytes) -> None:
    with pytest.raises(EditRefused, match="never closed"):
        aliases_file.add(octets, "team", ["dave"])


def test_targets_and_aliases_are_removed() -> None:
    octets = ALIASES.encode()
    assert aliases_file.remove(octets, "postmaster") == octets.replace(b"postmaster: alice\n", b"")
    assert aliases_file.remove(octets, "postmaster", ["alice"]) == octets.replace(b"postmaster: alice\n", b"")
    without = aliases_file.remove(octets, "team", ["bob"])
    assert b"team: alice, carol@elsewhere.example\n      # not in the holidays\n\nlists" in without
    with pytest.raises(EditRefused, match="no alias"):
        aliases_file.remove(octets, "nobody")
    with pytest.raises(EditRefused, match="no target dave"):
        aliases_file.remove(octets, "team", ["dave"])


@given(alias_lines)
def test_adding_and_removing_leaves_any_file_as_it_was(octets: bytes) -> None:
    before = aliases(octets)
    added = aliases_file.add(octets, "unheard-of", ["alice", "bob"])
    assert aliases(added).aliases[Address("unheard-of", "second.test")].targets[1] == Address("bob", "second.test")
    assert aliases_file.remove(added, "unheard-of").rstrip(b"\n") == octets.rstrip(b"\n")
    assert aliases(aliases_file.remove(added, "unheard-of")).entries == before.entries


@given(alias_lines)
def test_any_alias_can_be_extended_and_removed(octets: bytes) -> None:
    for entry in aliases(octets).entries:
        try:
            extended = aliases(aliases_file.add(octets, entry.name, ["dave"]))
        except EditRefused:
            assert b'"' in octets  # one that is never closed would swallow what is added
            continue
        assert next(each for each in extended.entries if each.name == entry.name).targets[-1] == "dave"
        assert all(each.name != entry.name for each in aliases(aliases_file.remove(octets, entry.name)).entries)
