"""Names in a Maildir: modified UTF-7, file names, line ends."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailhub.store import folder_name, maildir_name
from mailhub.store.line_ends import BareLfCount, ToLf, to_lf

# --- modified UTF-7 ----------------------------------------------------------------------------------------------

VECTORS = {
    # RFC 3501 section 5.1.3
    "~peter/mail/台北/日本語": "~peter/mail/&U,BTFw-/&ZeVnLIqe-",
    "Hi Mom \u263a!": "Hi Mom &Jjo-!",
    # what Dovecot and Courier write
    "Entwürfe": "Entw&APw-rfe",
    "Отправленные": "&BB4EQgQ,BEAEMAQyBDsENQQ9BD0ESwQ1-",
    "Tom & Jerry": "Tom &- Jerry",
    "&&": "&-&-",
    "🐝": "&2D3cHQ-",
    "a\tb": "a&AAk-b",
    "": "",
    "INBOX": "INBOX",
}


@pytest.mark.parametrize(("name", "text"), VECTORS.items())
def test_known_names(name: str, text: str) -> None:
    assert folder_name.encode(name) == text
    assert folder_name.decode(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "&",  # a shift that never ends
        "a&Jjo",
        "&U,BTFw-&ZeVnLIqe-",  # RFC 3501: a superfluous shift back and forth
        "&AGE-",  # "a" has a spelling of its own
        "&Jjp-",  # bits left over that are not zero
        "&Jj-",  # half a character
        "&2D0-",  # half a surrogate pair
        "&J=o-",
        "&J/o-",
        "é",
        "a\tb",
    ],
)
def test_second_spellings_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not modified UTF-7"):
        folder_name.decode(text)


@given(st.text())
def test_every_name_comes_back(name: str) -> None:
    text = folder_name.encode(name)
    assert all(" " <= character <= "~" for character in text)
    assert folder_name.decode(text) == name


@given(st.text(alphabet="&-+,/=AJjo BcD3\u00fc"))
def test_what_can_be_read_has_one_spelling(text: str) -> None:
    try:
        name = folder_name.decode(text)
    except ValueError:
        return
    assert folder_name.encode(name) == text


# --- file names --------------------------------------------------------------------------------------------------


def test_a_file_name_tells_when_what_and_how_large() -> None:
    name = maildir_name.compose(1795310491.25, "q1R0a", "mail.example.org", 30, 34)
    assert name == "1795310491.M250000Qq1R0a.mail.example.org,S=30,W=34"
    for seen in (name, name + ":2,", name + ":2,FSab"):
        assert maildir_name.key_of(seen) == "q1R0a"
        assert maildir_name.octets_of(seen) == 30
        assert maildir_name.seconds_of(seen) == 1795310491


def test_names_of_others_are_read_as_far_as_they_go() -> None:
    assert maildir_name.octets_of("1795310491.M516851P8017.host,S=30,W=34:2,Sab") == 30
    assert maildir_name.key_of("1795310491.M516851P8017Q1.host,S=30,W=34") is None
    assert maildir_name.octets_of("1795310491.8017_1.host:2,S") is None
    assert maildir_name.octets_of("1795310491.8017_1.host,S=1x") is None
    assert maildir_name.seconds_of("mutt-host-1000-8017-1") is None


@given(st.text(max_size=120))
def test_a_host_name_cannot_break_a_file_name(hostname: str) -> None:
    name = maildir_name.compose(0.0, "k" * maildir_name.KEY_OCTETS_MAX, maildir_name.host_part(hostname), 10**9, 10**9)
    assert "/" not in name
    assert ":" not in name
    assert maildir_name.octets_of(name) == 10**9
    assert len(name) <= 230  # room for flags below the 255 octets of a file name


@pytest.mark.parametrize("key", ["", "a/b", "a.b", "a,S=1", "a\n", "é", "k" * 101])
def test_a_key_is_letters_and_digits(key: str) -> None:
    with pytest.raises(ValueError, match="not a delivery key"):
        maildir_name.checked_key(key)


# --- line ends ---------------------------------------------------------------------------------------------------

octets = st.lists(st.sampled_from([b"\r\n", b"\r\n", b"x", b"\r", b"\n", b"\0", b"."]), max_size=30).map(b"".join)
clean = st.lists(st.sampled_from([b"\r\n", b"x", b"\0", b".", b"\xff"]), max_size=30).map(b"".join)


def pieces(content: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(content) + 1) for cut in cuts), len(content)]
    return [content[start:end] for start, end in itertools.pairwise(places)]


@given(clean)
def test_clean_content_comes_back(content: bytes) -> None:
    converted = to_lf(content)
    assert converted is not None
    assert converted.replace(b"\n", b"\r\n") == content


@given(octets)
def test_only_what_comes_back_is_converted(content: bytes) -> None:
    converted = to_lf(content)
    has_bare = b"\r" in content.replace(b"\r\n", b"") or b"\n" in content.replace(b"\r\n", b"")
    assert (converted is None) == has_bare


@given(octets, st.lists(st.integers(0, 100), max_size=6))
def test_conversion_does_not_depend_on_where_the_pieces_end(content: bytes, cuts: list[int]) -> None:
    stream = ToLf()
    converted = [stream.convert(piece) for piece in pieces(content, cuts)]
    whole = None if None in converted or not stream.is_clean else b"".join(part or b"" for part in converted)
    assert whole == to_lf(content)


@given(octets, st.lists(st.integers(0, 100), max_size=6))
def test_bare_lf_are_counted_wherever_the_pieces_end(content: bytes, cuts: list[int]) -> None:
    count = BareLfCount()
    for piece in pieces(content, cuts):
        count.count(piece)
    assert count.octets == content.replace(b"\r\n", b"").count(b"\n")
