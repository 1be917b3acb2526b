"""Strangers' words, made fit to stand in a message of ours.

Replies of remote hosts, addresses, subjects and envelope ids all end in what we write to the sender.  The rule: nothing
that passes through here can end a line, a field or a body part; what cannot be shown is a question mark.
"""

from __future__ import annotations

from base64 import b64encode

#: RFC 5322 section 2.1.1: more would be refused, fewer are nicer.
LINE_OCTETS_MAX = 998
_LINE_WANTED = 76
#: A word that is longer is broken into pieces of so many characters, each of four octets at most.  No address is.
_WORD_OCTETS_MAX = 900
_PIECE_CHARACTERS = 225
#: RFC 2047 section 2: 75 characters at most, of which 12 are not data.
_ENCODED_WORD_OCTETS = 45
_QUOTED_PRINTABLE_WANTED = 76


def clean(text: str, characters_max: int, only_ascii: bool = True) -> str:
    """On one line, every run of blanks as one, what cannot be printed as "?", and no longer than that."""
    shown = " ".join(text[: 4 * characters_max].split())[:characters_max]
    return exact(shown, characters_max, only_ascii)


def exact(text: str, characters_max: int, only_ascii: bool = True) -> str:
    """The same, but blanks stay as they are."""
    text = text[:characters_max]
    if text.isprintable() and (text.isascii() or not only_ascii):
        return text
    # Line ends, controls, and the marks that turn the direction of writing are not printable.
    return "".join(
        character if character.isprintable() and (character.isascii() or not only_ascii) else "?" for character in text
    )


def _broken(text: str) -> list[str]:
    """The words, none longer than what fits a line."""
    words = []
    for word in text.split(" "):
        if len(word.encode("utf-8", "replace")) <= _WORD_OCTETS_MAX:
            words.append(word)
        else:
            words += [word[at : at + _PIECE_CHARACTERS] for at in range(0, len(word), _PIECE_CHARACTERS)]
    return words


def wrap(text: str, indent: str = "", wanted: int = 72) -> list[str]:
    """`text`, which is clean already, as lines that people like to read."""
    lines = [indent]
    for word in _broken(text):
        if len(lines[-1]) + 1 + len(word) > wanted and lines[-1] != indent:
            lines.append(indent)
        lines[-1] += word if lines[-1] == indent else f" {word}"
    return lines


def field(name: str, body: str) -> str:
    """One header field without its final CRLF.  `body` is clean already; it is folded at its blanks."""
    lines = [f"{name}:"]
    for word in _broken(body):
        # A line of blanks alone would end the header section in the eyes of some.
        if len(lines[-1]) + 1 + len(word) > _LINE_WANTED and word:
            lines.append("")
        lines[-1] += f" {word}"
    return "\r\n".join(lines)


def encoded(text: str) -> str:
    """As words of RFC 2047, to be put into a field body, where `text` is not ASCII; else as it is."""
    if text.isascii():
        return text
    words = []
    chunk = b""
    for character in text:
        octets = character.encode("utf-8", "replace")
        if len(chunk) + len(octets) > _ENCODED_WORD_OCTETS:
            words.append(chunk)
            chunk = b""
        chunk += octets
    return " ".join(f"=?utf-8?B?{b64encode(word).decode('ascii')}?=" for word in (*words, chunk))


def is_plain(octets: bytes, eight_bit: bool) -> bool:
    """Whether this can stand in a message without being encoded: lines that end with CRLF, short ones, and no NUL."""
    if not eight_bit and not octets.isascii():
        return False
    if b"\0" in octets:
        return False
    return all(
        len(line) <= LINE_OCTETS_MAX and b"\r" not in line and b"\n" not in line for line in octets.split(b"\r\n")
    )


def quoted_printable(octets: bytes) -> bytes:
    """RFC 2045 section 6.7.  CRLF stays a line end; everything else that is not plain is encoded."""
    lines = []
    for line in octets.split(b"\r\n"):
        written = bytearray()
        width = 0
        for at, octet in enumerate(line):
            blank_at_end = octet in b" \t" and at == len(line) - 1
            as_it_is = (33 <= octet <= 126 and octet != 61) or (octet in b" \t" and not blank_at_end)
            piece = bytes([octet]) if as_it_is else b"=%02X" % octet
            if width + len(piece) >= _QUOTED_PRINTABLE_WANTED:
                written += b"=\r\n"
                width = 0
            written += piece
            width += len(piece)
        lines.append(bytes(written))
    return b"\r\n".join(lines)
