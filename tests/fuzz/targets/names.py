"""Names in a mailbox: files and folders that other programs made, and what becomes a path of ours."""

from __future__ import annotations

from collections.abc import Hashable

from mailhub.store import folder_name, maildir_name, names
from tests.fuzz.target import target


@target(
    "folder-name",
    "folder names in modified UTF-7: store/folder_name.py",
    (b"Sent", "Entwürfe".encode(), b"Entw&APw-rfe", b"a&-b", b"&", b"&AGE-", b"&APwA-", b"&2D0-", b"&,,,-",
    b"&APw--&APw-", "😀".encode()),
    (b"&", b"-", b"&-", b"APw", b"2D3eAA", b"AGE", b"+", b",", b"=", "ü".encode(), "😀".encode(), b"/", b".", b" "),
    ci_inputs=30_000,
)  # fmt: skip
def folder(octets: bytes) -> Hashable:
    """Each name has one spelling, and each spelling one name."""
    text = octets.decode("utf-8", "surrogateescape")
    try:
        written = folder_name.encode(text)
    except ValueError:
        wrote = False
    else:
        wrote = True
        assert written.isascii()
        assert folder_name.decode(written) == text
        assert len(written) <= 8 * len(text) + 2
    try:
        name = folder_name.decode(text)
    except ValueError:
        return wrote, None, text.count("&"), len(text).bit_length()
    assert folder_name.encode(name) == text
    return wrote, name == text, len(name).bit_length()


@target(
    "maildir-name",
    "file names in a Maildir: store/maildir_name.py",
    (
        b"1795310491.M516851Qk3v9R0f5a.mail.example.org,S=30,W=34",
        b"1795310491.M516851P8017.host,S=30,W=34:2,Sab",
        b"1.host:2,S",
        b"1.M2Q3.x,S=,S=12,S=99999999999999999999",
        b"x",
    ),
    (b".", b",S=", b",W=", b":2,", b"M", b"Q", b"P", b"0", b"123", b"/", "٣".encode(), b"abc"),
    ci_inputs=30_000,
)
def maildir(octets: bytes) -> Hashable:
    """What a name says is a number or a key, or nothing; and what we make out of it can be read back."""
    name = octets.decode("utf-8", "surrogateescape")
    key, size, seconds = maildir_name.key_of(name), maildir_name.octets_of(name), maildir_name.seconds_of(name)
    assert size is None or 0 <= size < 10**18
    assert seconds is None or 0 <= seconds < 10**12
    host = maildir_name.host_part(name)
    assert host
    assert not set(host) & set("/:,\0")
    assert len(host.encode()) <= maildir_name.HOST_OCTETS_MAX
    try:
        checked = maildir_name.checked_key(name)
    except ValueError:
        checked = "abc"
    seconds = min(seconds or 0, 1 << 33)  # microseconds of later years are more than a float can count
    made = maildir_name.compose(float(seconds), checked, host, size or 0, 5)
    assert maildir_name.key_of(made) == checked
    assert maildir_name.octets_of(made) == (size or 0)
    assert maildir_name.seconds_of(made) == seconds
    return key is None, size is None, seconds == 0, checked == name


@target(
    "account-name",
    "names of accounts, domains and targets: store/names.py",
    (
        b"alice@example.test",
        b"Alice.B+c@EXAMPLE.test",
        "jürgen@müller.example".encode(),
        b"..@x",
        b"-a@x",
        b"a/b@x",
        "a\u0301@x".encode(),
        "ﬁ@x".encode(),
        b"a@xn--a",
        b"x" * 65 + b"@y",
    ),
    (b"@", b".", b"..", b"-", b"/", b"\0", b"alice", b"x" * 64, "ü".encode(), "İ".encode(), "\u0301".encode(),
    "\u200b".encode(), b"xn--", b"_"),
    ci_inputs=30_000,
)  # fmt: skip
def account(octets: bytes) -> Hashable:
    """What is a name is safe in a path, and is its own folded form."""
    text = octets.decode("utf-8", "surrogateescape")
    came_to: list[Hashable] = []
    try:
        address = names.parse_name(text)
    except names.BadName as fault:
        assert str(fault).isprintable()
        assert len(str(fault)) <= 1000, len(str(fault))
        came_to.append(str(fault)[-30:])
    else:
        assert names.parse_name(str(address)) == address, "folded once more it is another name"
        assert address.local not in (".", "..")
        assert not set(address.local) & set('/\0\r\n:,\\"@ ')
        assert not address.local.startswith((".", "-"))
        assert len(address.local.encode()) <= names.LOCAL_OCTETS_MAX
        came_to.append(address.local.isascii())
    try:
        forward = names.parse_address(text)
    except names.BadName as fault:
        came_to.append(str(fault)[-30:])
    else:
        assert names.parse_address(str(forward)) == forward
        came_to.append(forward.is_ascii)
    return tuple(came_to)
