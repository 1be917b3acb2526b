"""Nothing a stranger writes ends a line."""

import quopri
from email.header import decode_header, make_header

from hypothesis import given
from hypothesis import strategies as st

from mailhub.dsn.text import clean, encoded, exact, field, is_plain, quoted_printable, wrap

ANY_TEXT = st.text(max_size=300) | st.text(alphabet="a \t\r\n\0\x1b\u2028\u202e\xe9\ud800", max_size=300)


@given(ANY_TEXT, st.booleans())
def test_clean_text_is_printable(text: str, only_ascii: bool) -> None:
    for function in (clean, exact):
        shown = function(text, 100, only_ascii)
        assert shown.isprintable()
        assert len(shown) <= 100
        assert shown.isascii() or not only_ascii


@given(ANY_TEXT | st.text(alphabet="ab ", max_size=3000), st.booleans())
def test_a_field_is_one_field(text: str, only_ascii: bool) -> None:
    shown = clean(text, 3000, only_ascii)
    lines = field("Name", shown).split("\r\n")
    assert lines[0].startswith("Name:")
    assert all(line.startswith(" ") and line.strip() for line in lines[1:])
    assert all(len(line.encode()) <= 998 and line.isprintable() for line in lines)
    if all(len(word) <= 225 for word in shown.split(" ")):
        assert "".join(lines) == f"Name: {shown}"


@given(ANY_TEXT)
def test_wrapped_text_keeps_its_words(text: str) -> None:
    shown = clean(text, 300)
    assert " ".join(line[2:] for line in wrap(shown, "  ")) == shown


@given(st.text(alphabet=st.characters(exclude_categories=["C", "Z"]), max_size=200))
def test_encoded_words(text: str) -> None:
    words = encoded(text)
    assert words.isascii()
    if not text.isascii():
        assert all(len(word) <= 75 for word in words.split(" "))
        assert str(make_header(decode_header(words))) == text


@given(
    st.binary(max_size=400)
    | st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b" ", b"=", b"x" * 50, b"\xff"])).map(b"".join)
)
def test_quoted_printable_loses_nothing(octets: bytes) -> None:
    written = quoted_printable(octets)
    assert is_plain(written, eight_bit=False)
    assert all(len(line) <= 76 for line in written.split(b"\r\n"))
    assert quopri.decodestring(written) == octets


def test_plain() -> None:
    assert is_plain(b"a\r\n" + b"x" * 998 + b"\r\n", eight_bit=False)
    assert is_plain(b"\xff\r\n", eight_bit=True)
    for octets in (b"\xff", b"x" * 999, b"a\nb", b"a\rb", b"a\0", b"\r\r\n"):
        assert not is_plain(octets, eight_bit=False)
