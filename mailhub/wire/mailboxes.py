"""The mailboxes in an address field of a header (From, Sender, Reply-To, ...), read strictly.

The rule: a field is read in one way or not at all.  Mail programs differ in what they make of a malformed field, so
whoever decides by its addresses must refuse what could be read in two ways.  Obsolete forms (RFC 5322 section 4.4)
are therefore faults, but for the dot in a name, which everybody writes.  Names, comments and encoded words (RFC 2047)
are skipped, never decoded.  Time and memory are linear in the length of the field, which is bounded.
"""

from __future__ import annotations

import re

from mailhub.model import Address
from mailhub.wire.smtp.grammar import parse_address

FIELD_CHARACTERS_MAX = 16 * 1024
MAILBOXES_MAX = 100
COMMENT_DEPTH_MAX = 8

# RFC 5322 section 3.2.3 atext, with the characters of RFC 6532 section 3.2 added.
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010FFFF-]+"
_TOKEN = re.compile(
    rf"""
    (?P<blank>[ \t]+)
  | (?P<comment>\()
  | (?P<quoted>"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t\x20-\x7e\x80-\U0010FFFF])*")
  | (?P<literal>\[[\x21-\x5a\x5e-\x7e]*\])
  | (?P<special>[<>@,;:.])
  | (?P<atom>{_ATEXT})
    """,
    re.VERBOSE,
)
# What nearly every field is, at one look: an address, with or without a name before it and angle brackets around it.
# Possessive, so that what does not fit is given up at once; it is then read token by token.
_WORDS = rf'(?:"[^"\\\x00-\x08\x0a-\x1f\x7f]*+"|{_ATEXT}+(?:[ \t]++{_ATEXT}+)*+)[ \t]*+'
_ADDR_SPEC = rf"{_ATEXT}+(?:\.{_ATEXT}+)*+@{_ATEXT}+(?:\.{_ATEXT}+)*+"
_PLAIN = re.compile(rf"[ \t]*+(?:(?:{_WORDS})?+<({_ADDR_SPEC})>|({_ADDR_SPEC}))[ \t]*+")
# Within a comment: all that is neither a parenthesis nor needs one (RFC 5322 section 3.2.2).
_COMMENT_TEXT = re.compile(r"(?:[^()\\\x00-\x08\x0a-\x1f\x7f]|\\[\t\x20-\x7e\x80-\U0010FFFF])*")


class MalformedField(ValueError):
    """The field cannot be read in exactly one way; the text says where the trouble is, without quoting the field."""


def parse_mailboxes(field: str) -> tuple[Address, ...]:
    """The addresses in the unfolded body of an address field, in order; those of groups too (RFC 5322 section 3.4).

    Raises MalformedField.  An empty group gives no address, so the result may be empty.
    """
    plain = _PLAIN.fullmatch(field) if len(field) <= FIELD_CHARACTERS_MAX else None
    if plain is not None:
        return (_address(plain[1] or plain[2]),)
    return _Reader(_tokens(field)).address_list()


def qualify_mailboxes(field: str, origin: str) -> tuple[str, tuple[Address, ...]]:
    """The field and its addresses, where one without a domain (as programs of a host write it) gets `origin`.

    A field that has none of these comes back as it was.  Raises MalformedField.
    """
    reader = _Reader(_tokens(field), origin)
    addresses = reader.address_list()
    for end in reversed(reader.unqualified):
        field = f"{field[:end]}@{origin}{field[end:]}"
    return field, addresses


def _tokens(field: str) -> list[tuple[str, str, bool, int]]:
    """(kind, text, whether white space or a comment stands before it, where it ends), without white space and
    comments."""
    if len(field) > FIELD_CHARACTERS_MAX:
        raise MalformedField("the field is too long")
    tokens: list[tuple[str, str, bool, int]] = []
    position, apart = 0, False
    while position < len(field):
        match = _TOKEN.match(field, position)
        if match is None:
            raise MalformedField("there is a character that may not stand there")
        kind = match.lastgroup or ""
        if kind == "comment":
            position, apart = _comment_end(field, position), True
            continue
        position = match.end()
        if kind == "blank":
            apart = True
            continue
        tokens.append((match.group() if kind == "special" else kind, match.group(), apart, position))
        apart = False
    return tokens


def _comment_end(field: str, begin: int) -> int:
    """Where the comment that begins here has ended."""
    position, depth = begin, 0
    while position < len(field):
        if field[position] == "(":
            depth += 1
        elif field[position] == ")":
            depth -= 1
        else:
            break
        if depth > COMMENT_DEPTH_MAX:
            raise MalformedField("comments are nested too deeply")
        position += 1
        if depth == 0:
            return position
        text = _COMMENT_TEXT.match(field, position)
        position = text.end() if text else position
    raise MalformedField("a comment does not end")


class _Reader:
    """The grammar of RFC 5322 section 3.4 over tokens, without its obsolete forms.

    With an `origin` an addr-spec may be a local part alone; `unqualified` is where such a one ends in the field.
    """

    def __init__(self, tokens: list[tuple[str, str, bool, int]], origin: str | None = None) -> None:
        self.unqualified: list[int] = []
        self._origin = origin
        self._tokens = tokens
        self._place = 0
        self._found: list[Address] = []

    def address_list(self) -> tuple[Address, ...]:
        # address-list = address *("," address); address = mailbox / group
        while True:
            self._address()
            if self._kind() is None:
                return tuple(self._found)
            self._take(",")

    def _address(self) -> None:
        # group = display-name ":" [mailbox-list] ";"
        begin = self._place
        while self._kind() in ("atom", "quoted", "."):
            self._place += 1
        if self._kind() != ":" or self._place == begin:
            self._place = begin
            self._mailbox()
            return
        self._take(":")
        if self._kind() != ";":
            self._mailbox()
            while self._kind() == ",":
                self._take(",")
                self._mailbox()
        self._take(";")

    def _mailbox(self) -> None:
        # mailbox = name-addr / addr-spec; name-addr = [display-name] "<" addr-spec ">"
        begin = self._place
        while self._kind() in ("atom", "quoted", "."):
            self._place += 1
        if self._kind() == "<":
            self._take("<")
            address = self._addr_spec()
            self._take(">")
        else:
            self._place = begin
            address = self._addr_spec()
        if len(self._found) == MAILBOXES_MAX:
            raise MalformedField("there are too many addresses")
        self._found.append(address)

    def _addr_spec(self) -> Address:
        # addr-spec = local-part "@" domain, with nothing in between
        text = self._take("quoted") if self._kind() == "quoted" else self._dot_atom(apart=True)
        if self._origin is not None and self._kind() != "@":
            self.unqualified.append(self._tokens[self._place - 1][3])
            return _address(f"{text}@{self._origin}")
        text += self._take("@", together=True)
        text += self._take("literal", together=True) if self._kind() == "literal" else self._dot_atom(apart=False)
        return _address(text)

    def _dot_atom(self, apart: bool) -> str:
        text = self._take("atom", together=not apart)
        while self._kind() == "." and not self._tokens[self._place][2]:
            text += self._take(".") + self._take("atom", together=True)
        return text

    def _kind(self) -> str | None:
        return self._tokens[self._place][0] if self._place < len(self._tokens) else None

    def _take(self, kind: str, together: bool = False) -> str:
        """The next token, which must be of this kind, and with `together` directly behind the one before."""
        if self._kind() != kind or (together and self._tokens[self._place][2]):
            raise MalformedField("it is not a list of addresses such as Name <name@example.org>")
        self._place += 1
        return self._tokens[self._place - 1][1]


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError:
        raise MalformedField("there is something that is not a mail address") from None
