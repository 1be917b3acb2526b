"""Looking at a header section without ever parsing more than is asked for.

Everything here works on the octets as received, with CRLF line ends, in time linear in their number.  Nothing decodes,
unfolds or rewrites what it was not asked to.  The rule: a header section is hostile, so no function here raises for
what is in it.
"""

from __future__ import annotations

import re

#: How much of a header section is looked at by policies and fix-ups, in octets.
HEADER_OCTETS_MAX = 100 * 1024

# RFC 5322 section 2.2: field-name is printable US-ASCII but the colon; section 4.5 allows blanks before the colon.
_FIELD_START = re.compile(rb"[!-9;-~]+[ \t]*:")
_COLON = re.compile(rb"[ \t]*:")
_FIELD_NAME = re.compile(rb"[!-9;-~]+")
_FOLD = re.compile(rb"\r\n(?=[ \t])")


def header_end(octets: bytes | bytearray, begin: int = 0) -> int:
    """Where the header section ends: the offset just behind the CRLF of its last field, or -1 if that is not yet seen.

    The empty line belongs to the body here.  Content that begins with an empty line has a header section of 0 octets.
    """
    if octets[:2] == b"\r\n":
        return 0
    found = octets.find(b"\r\n\r\n", max(0, begin - 3))
    return found if found < 0 else found + 2


def begins_with_field(octets: bytes) -> bool:
    """Whether the content begins with a header field (RFC 5322 section 2.2), or with the empty line before the body.

    If not, whoever puts fields before it must put an empty line between: a first line such as " x" would otherwise
    become a continuation of our own last field.
    """
    return octets[:2] == b"\r\n" or _FIELD_START.match(octets) is not None


def count(header: bytes, name: bytes) -> int:
    """How many fields of this name (lower case, without colon) there are."""
    lowered = header.lower()
    mark = name + b":"
    return lowered.count(b"\n" + mark) + lowered.startswith(mark)


def first(header: bytes, name: bytes) -> bytes | None:
    """The unfolded body of the first field of this name (lower case, without colon), without surrounding blanks.

    None if there is none.  Quick, since it looks at nothing else: a blank before the colon is not looked for.
    """
    lowered = b"\n" + header.lower()
    begin = lowered.find(b"\n" + name + b":")
    return None if begin < 0 else _body(header, begin + len(name) + 1)


def _body(header: bytes, begin: int) -> bytes:
    """The unfolded body that begins here, without surrounding blanks."""
    end = header.find(b"\r\n", begin)
    while end >= 0 and header[end + 2 : end + 3] in (b" ", b"\t"):
        end = header.find(b"\r\n", end + 2)
    return _FOLD.sub(b"", header[begin : end if end >= 0 else len(header)]).strip(b" \t\r\n")


def split(header: bytes) -> list[tuple[bytes, bytes]]:
    """The fields in order: (lower-case name, whole field with its folded lines and the final CRLF).

    A line that is neither a field nor the continuation of one gets an empty name.  Joined, the second members are the
    header as it was.
    """
    fields: list[tuple[bytes, bytes]] = []
    for line in _lines(header):
        if fields and line.startswith((b" ", b"\t")):
            name, before = fields[-1]
            fields[-1] = (name, before + line)
        elif _FIELD_START.match(line):
            found = _FIELD_NAME.match(line)
            fields.append((found.group().lower() if found else b"", line))
        else:
            fields.append((b"", line))
    return fields


def _lines(header: bytes) -> list[bytes]:
    """The lines as CRLF alone separates them."""
    parts = header.split(b"\r\n")
    lines = [part + b"\r\n" for part in parts[:-1]]
    return [*lines, parts[-1]] if parts[-1] else lines


def bodies(header: bytes, name: bytes) -> list[bytes]:
    """The unfolded bodies of all fields of this name, in order, without surrounding blanks."""
    # One CRLF in front, so that an offset behind it is one of the header's.
    lowered, mark = b"\r\n" + header.lower(), b"\r\n" + name
    found = []
    at = lowered.find(mark)
    while at >= 0:
        colon = _COLON.match(header, at + len(name))
        if colon is not None:
            found.append(_body(header, colon.end()))
        at = lowered.find(mark, at + len(mark))
    return found


def without(header: bytes, names: frozenset[bytes]) -> bytes:
    """The header without the fields of these names (lower case); all others stay as they are, to the octet."""
    return b"".join(field for name, field in split(header) if name not in names)
