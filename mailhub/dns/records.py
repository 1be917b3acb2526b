"""From DNS records to the plain values that `IResolver` promises.

Whoever owns a zone writes what he likes into it.  The rule: only what can be what it says leaves this file: host names
that are host names, in lower case and without the final dot, and never more than RECORDS_MAX of anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import dns.exception
import dns.name
import dns.rdatatype
from dns.rdatatype import RdataType

#: More of one kind at one name are not looked at.
RECORDS_MAX = 100

#: RFC 1035 section 2.3.4, without the final dot.
_NAME_OCTETS_MAX = 253
# RFC 1123 section 2.1: letters, digits, and hyphens inside.  Underscores are no part of it, but hosts that have them
# receive mail, and they harm nobody.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_PRINTABLE = re.compile(r"[!-~]+")


class Unusable(Exception):
    """There are records, but not one that could be what it says.  That is an error of the zone, not "no data"."""


def is_host_name(text: str) -> bool:
    """Whether this can name a host (RFC 1123 section 2.1): lower case, no final dot, and not an IP address."""
    labels = text.split(".")
    return (
        len(text) <= _NAME_OCTETS_MAX
        and all(_LABEL.fullmatch(label) for label in labels)
        # RFC 1123 section 2.1: the last label is never all digits, or "192.0.2.1" would be a host name.
        and not labels[-1].isdigit()
    )


def question_name(text: str) -> dns.name.Name | None:
    """An absolute name to ask for, or None if the DNS cannot have such a name."""
    name = text.lower().removesuffix(".")
    if not _PRINTABLE.fullmatch(name):
        return None
    try:
        # Labels are taken as they are: a backslash in a stranger's domain escapes nothing here.
        return dns.name.Name([*(label.encode("ascii") for label in name.split(".")), b""])
    except dns.exception.DNSException:  # an empty label, or one or all too long
        return None


def host_name(name: dns.name.Name) -> str | None:
    """The name of a host as we write it, or None where it cannot be one.  The root is the empty string."""
    if name == dns.name.root:
        return ""
    try:
        text = b".".join(name.labels[:-1]).decode("ascii").lower()
    except UnicodeDecodeError:
        return None
    # A dot inside a label would make two labels of it.
    return text if text.count(".") == len(name.labels) - 2 and is_host_name(text) else None


def _mx(records: Iterable[Any]) -> list[tuple[int, str]]:
    """Preference and host, the lowest preference first (RFC 5321 section 5.1)."""
    found = []
    for record in records:
        host = host_name(record.exchange)
        if host is not None:
            found.append((record.preference, host))
    hosts = [(preference, host) for preference, host in found if host]
    # RFC 7505 section 3: a null MX stands alone; beside others it means nothing.
    return sorted(hosts) if hosts else [(0, "")] if found else []


def _hosts(records: Iterable[Any]) -> list[str]:
    return [host for record in records if (host := host_name(record.target))]


def _addresses(records: Iterable[Any]) -> list[str]:
    return [record.address for record in records]


def _txt(records: Iterable[Any]) -> list[bytes]:
    """The strings of one record belong together (RFC 7208 section 3.3)."""
    return [b"".join(record.strings) for record in records]


def _tlsa(records: Iterable[Any]) -> list[tuple[int, int, int, bytes]]:
    return [(record.usage, record.selector, record.mtype, bytes(record.cert)) for record in records]


_READERS: dict[RdataType, Any] = {
    RdataType.MX: _mx,
    RdataType.A: _addresses,
    RdataType.AAAA: _addresses,
    RdataType.TXT: _txt,
    RdataType.PTR: _hosts,
    RdataType.TLSA: _tlsa,
}


def read(kind: RdataType, records: Iterable[Any]) -> tuple[Any, ...]:
    """The records of one answer as `IResolver` describes them.

    Raises Unusable if there are MX records and none of them names a host: without that, a broken MX would look like
    none, and mail would go to the domain's own address instead (RFC 5321 section 5.1 forbids it).
    """
    found = _READERS[kind](records)
    if kind is RdataType.MX and not found:
        raise Unusable("none of the MX records names a host")
    return tuple(found[:RECORDS_MAX])
