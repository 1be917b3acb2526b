"""Names of mail folders as they are written in directory names: modified UTF-7 (RFC 3501 section 5.1.3).

The rule this file keeps: one name has one spelling.  `decode` refuses every text that `encode` would not have made, so
that two directories never show the same folder and no folder hides behind a second spelling.
"""

from __future__ import annotations

import base64
import binascii
import re

# RFC 3501 section 5.1.3: printable US-ASCII stands for itself; a run of anything else is one base64 run.
_OTHER = re.compile(r"[^\x20-\x7e]+")
# No run has a second "&" in it: to look beyond one, for each of many, would take quadratic time.
_SHIFTED = re.compile(r"&([^-&]*)-")


def encode(name: str) -> str:
    """`"Entwürfe"` becomes `"Entw&APw-rfe"`.  Raises ValueError for lone surrogates, which are no characters."""
    return _OTHER.sub(_encode_run, name.replace("&", "&-"))


def decode(text: str) -> str:
    """The name that `encode` wrote as `text`.  Raises ValueError for anything else."""
    name = _SHIFTED.sub(_decode_run, text)
    if encode(name) != text:
        raise ValueError(f"not modified UTF-7: {text!r}")
    return name


def _encode_run(run: re.Match[str]) -> str:
    shifted = base64.b64encode(run[0].encode("utf-16-be"), b"+,").rstrip(b"=")
    return f"&{shifted.decode('ascii')}-"


def _decode_run(run: re.Match[str]) -> str:
    shifted = run[1]
    if not shifted:
        return "&"
    try:
        padded = shifted.encode("ascii") + b"=" * (-len(shifted) % 4)
        return base64.b64decode(padded, b"+,", validate=True).decode("utf-16-be")
    except (UnicodeError, binascii.Error) as error:
        raise ValueError(f"not modified UTF-7: {shifted!r}") from error
