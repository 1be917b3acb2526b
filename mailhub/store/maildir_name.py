"""File names of messages in a Maildir, as Dovecot reads them.

`1795310491.M516851Qk3v9R0f5a.mail.example.org,S=30,W=34`: when it was received, the key of the delivery behind Q, our
host name, then the octets of the file (S) and its octets with every line end counted as CRLF (W).  Once a reader has
seen the message it adds `:2,` and flags, and moves the file from new/ to cur/.

The rule this file keeps: the part before ",S=" follows from the message and its recipient alone, so that a delivery
that is repeated after a crash is known by its name.
"""

from __future__ import annotations

import re

#: Host names are cut to this, so that name, sizes and a reader's flags stay below the 255 octets of a file name.
HOST_OCTETS_MAX = 64
KEY_OCTETS_MAX = 100

_KEY = re.compile(rf"[A-Za-z0-9]{{1,{KEY_OCTETS_MAX}}}", re.ASCII)
_NOT_A_HOST = re.compile(r"[^A-Za-z0-9.-]")
_KEY_IN_NAME = re.compile(r"[0-9]+\.M[0-9]+Q([A-Za-z0-9]+)\.")
_SIZE_IN_NAME = re.compile(r",S=([0-9]{1,18})(?=[,:]|$)")
_SECONDS_IN_NAME = re.compile(r"([0-9]{1,12})\.")


def checked_key(key: str) -> str:
    """The key itself.  Raises ValueError unless it is 1 to KEY_OCTETS_MAX ASCII letters and digits."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"not a delivery key: {key!r}")
    return key


def host_part(hostname: str) -> str:
    """A host name without the octets that mean something in a Maildir name ("/", ":", ",")."""
    return _NOT_A_HOST.sub("-", hostname)[:HOST_OCTETS_MAX] or "localhost"


def compose(received_at: float, key: str, host: str, octets: int, octets_with_crlf: int) -> str:
    """The name in new/.  `received_at` is in seconds since the epoch; `key` and `host` have been checked."""
    microseconds = max(0, int(received_at * 1_000_000))
    return f"{microseconds // 1_000_000}.M{microseconds % 1_000_000:06}Q{key}.{host},S={octets},W={octets_with_crlf}"


def key_of(name: str) -> str | None:
    """The key of a message that we delivered; None for those of others."""
    match = _KEY_IN_NAME.match(name)
    return match[1] if match else None


def octets_of(name: str) -> int | None:
    """The size that the name gives, flags or not; None where whoever wrote it gave none."""
    match = _SIZE_IN_NAME.search(name)
    return int(match[1]) if match else None


def seconds_of(name: str) -> int | None:
    """The time that a name begins with, in seconds since the epoch; None where it begins with something else."""
    match = _SECONDS_IN_NAME.match(name)
    return int(match[1]) if match else None
