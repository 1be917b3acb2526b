"""The kinds of values in a configuration, each checked and brought into its final form while it is read.

A value that passes here needs no second look later: paths are absolute, durations are float seconds, sizes are octets,
domains are lower-case A-labels, networks are networks.  What does not pass raises ValueError with a sentence that
begins with what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BeforeValidator, Strict, ValidationInfo

from mailhub.app import units
from mailhub.app.config_errors import Key
from mailhub.queue.next_hop import MX, NextHop, Protocol

Item = TypeVar("Item")

#: A TOML array, kept as a tuple.
Many: TypeAlias = Annotated[tuple[Item, ...], Strict(False)]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the configuration was read from: what relative paths and "{data}" refer to, and the lines of its keys."""

    file: Path
    data: Path
    lines: Mapping[Key, int]

    @property
    def directory(self) -> Path:
        return self.file.parent


# --- durations and sizes -----------------------------------------------------------------------------------------


def _seconds(value: Any) -> float:
    if isinstance(value, str):
        return units.seconds(value)
    if value == 0 and not isinstance(value, bool):
        return 0.0
    raise ValueError(f"expected {units.DURATION_EXPECTED}")


def _octets(value: Any) -> int:
    if isinstance(value, str):
        return units.octets(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"expected {units.SIZE_EXPECTED}")


#: Written "5m"; read as float seconds.
Seconds: TypeAlias = Annotated[float, BeforeValidator(_seconds)]
#: Written "50MB" or as a plain number; read as int octets.
Octets: TypeAlias = Annotated[int, BeforeValidator(_octets)]

# --- paths -------------------------------------------------------------------------------------------------------


def resolve(text: str, place: Place) -> Path:
    """The absolute path: "{data}" at the start is the data directory, all else is relative to the file's directory.

    Symbolic links are left alone, so that replacing one (as certificate tools do) is seen at the next reading.
    """
    if text == "{data}" or text.startswith("{data}/"):
        return place.data / text[len("{data}/") :]
    return _plain(place.directory / text)


def _plain(path: Path) -> Path:
    """Without "x/.." where x is no symbolic link: what a person would write."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and len(parts) > 1 and not Path(*parts).is_symlink():
            parts.pop()
        else:
            parts.append(part)
    return Path(*parts)


def _path(value: Any, info: ValidationInfo) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("expected a path as a string, relative to this file's directory or absolute")
    assert isinstance(info.context, Place), "a configuration is made by mailhub.app.config.load or parse"
    return resolve(value, info.context)


_PLACEHOLDER = re.compile(r"\{[^{}]*\}|[{}]")


def _template(value: Any, info: ValidationInfo) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("expected a path as a string, with {local} and perhaps {domain} in it")
    beyond_data = value.removeprefix("{data}")
    if unknown := sorted(set(_PLACEHOLDER.findall(beyond_data)) - {"{domain}", "{local}"}):
        raise ValueError(f"expected no placeholders but {{domain}} and {{local}}, got {', '.join(unknown)}")
    if "{local}" not in beyond_data:
        raise ValueError("expected {local} in it: without, all accounts would share one Maildir")
    assert isinstance(info.context, Place)
    path = str(resolve(value, info.context))
    if set(_PLACEHOLDER.findall(path)) - {"{domain}", "{local}"}:
        raise ValueError(f"expected a path without braces of its own, and it stands for {path}")
    return path


#: Read as an absolute path.
FilePath: TypeAlias = Annotated[Path, BeforeValidator(_path)]
#: A path of Maildirs with {domain} and {local}; read as an absolute one, as text.
MaildirTemplate: TypeAlias = Annotated[str, BeforeValidator(_template)]

# --- names -------------------------------------------------------------------------------------------------------

# RFC 5321 section 4.1.2 sub-domain, with the length of RFC 1035 section 2.3.4.
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_LOCAL_PART_OCTETS_MAX = 64  # RFC 5321 section 4.5.3.1.1


def domain(text: str) -> str:
    """The domain in lower case as A-labels (RFC 5890).  Raises ValueError for what is none."""
    name = text.lower()
    if not name.isascii():
        import idna

        try:
            name = idna.encode(text, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError(f"expected a domain such as example.org: {error}") from None
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        raise ValueError("expected a domain such as example.org")
    return name


def _domain(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("expected a domain such as example.org, as a string")
    return domain(value)


def _hostname(value: Any) -> str:
    expected = 'expected the full name of this machine in the DNS, such as "mail.example.org" (RFC 5321 section 2.3.5)'
    if not isinstance(value, str):
        raise ValueError(expected)
    try:
        name = domain(value)
    except ValueError:
        raise ValueError(expected) from None
    if "." not in name:
        raise ValueError(f"{expected}; a single word is refused by other hosts")
    return name


def _mail_address(value: Any) -> str:
    expected = 'expected an address such as "alice@example.org"'
    if not isinstance(value, str):
        raise ValueError(expected)
    local, at, name = value.rpartition("@")
    if not at or not local or len(local.encode()) > _LOCAL_PART_OCTETS_MAX or any(map(_is_unfit, local)):
        raise ValueError(expected)
    try:
        return f"{local}@{domain(name)}"
    except ValueError:
        raise ValueError(expected) from None


def _owned_address(value: Any) -> str:
    expected = 'expected an address such as "sales@example.org", or "@example.org" for all of a domain'
    if isinstance(value, str) and value.startswith("@"):
        try:
            return "@" + domain(value[1:])
        except ValueError:
            raise ValueError(expected) from None
    try:
        return _mail_address(value)
    except ValueError:
        raise ValueError(expected) from None


def _is_unfit(character: str) -> bool:
    """Whether it cannot stand in a local part without quotes (RFC 5321 section 4.1.2, RFC 6531 section 3.3)."""
    return character <= " " or character == "\x7f" or character in '"(),:;<>@[\\]'


def _route_domain(value: Any) -> str:
    expected = 'expected a domain such as "example.org", or ".example.org" for all domains below it'
    if not isinstance(value, str):
        raise ValueError(expected)
    try:
        return f".{domain(value[1:])}" if value.startswith(".") else domain(value)
    except ValueError:
        raise ValueError(expected) from None


#: Lower-case A-labels.
Domain: TypeAlias = Annotated[str, BeforeValidator(_domain)]
#: A domain with at least one dot.
Hostname: TypeAlias = Annotated[str, BeforeValidator(_hostname)]
#: local@domain, the domain as above.
MailAddress: TypeAlias = Annotated[str, BeforeValidator(_mail_address)]
#: local@domain, or @domain for all of it.
OwnedAddress: TypeAlias = Annotated[str, BeforeValidator(_owned_address)]
#: A domain, or .domain for all below it.
RouteDomain: TypeAlias = Annotated[str, BeforeValidator(_route_domain)]

# --- the network -------------------------------------------------------------------------------------------------

_LISTENING = {"tcp", "tcp6", "unix", "systemd"}
_ENDPOINT_EXPECTED = (
    'expected an endpoint such as "tcp:25", "tcp:2525:interface=127.0.0.1", "tcp6:25", "unix:/run/mailhub/lmtp" '
    'or "systemd:domain=INET:index=0"'
)


@dataclass(frozen=True, slots=True)
class Listening:
    """What an endpoint string says, as far as it matters for conflicts.  `port` is None for other than TCP."""

    kind: str
    port: int | None
    interface: str
    path: str | None = None

    def collides(self, other: Listening) -> bool:
        """Whether the two cannot be bound at the same time.  Port 0 is chosen by the system and never collides."""
        if self.kind == "unix" or other.kind == "unix":
            return self.path is not None and self.path == other.path
        if not self.port or self.port != other.port or self.kind != other.kind:
            return False
        return self.interface == other.interface or "" in (self.interface, other.interface)


def listening(endpoint: str) -> Listening:
    """Take a Twisted server endpoint string apart.  Raises ValueError for one that mailhub cannot listen on."""
    # A colon or backslash that belongs to a value is written behind a backslash (an IPv6 interface, mostly).
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.split(r"(?<!\\):", endpoint)]
    kind, *rest = words
    if kind in ("ssl", "tls"):
        raise ValueError('expected no "ssl:" or "tls:": TLS from the first octet is what msa.listen_tls is for')
    if kind not in _LISTENING:
        raise ValueError(_ENDPOINT_EXPECTED)
    named = dict(word.split("=", 1) for word in rest if "=" in word)
    plain = [word for word in rest if "=" not in word]
    if kind == "systemd":
        if plain or not named.keys() >= {"domain"} or not named.keys() & {"index", "name"}:
            raise ValueError('expected "systemd:domain=INET:index=0" or "systemd:domain=INET:name=NAME"')
        return Listening(kind, None, "")
    first = plain[0] if plain else named.get("port" if kind != "unix" else "address", "")
    if len(plain) > 1 or not first:
        raise ValueError(_ENDPOINT_EXPECTED)
    if not re.fullmatch(r"[1-9][0-9]{0,4}", named.get("backlog", "1"), re.ASCII):
        raise ValueError(f'expected a number behind "backlog=", got "{named["backlog"]}"')
    if kind == "unix":
        if unknown := set(named) - {"address", "mode", "backlog", "lockfile"}:
            raise ValueError(f'expected "mode=..." behind the path, got "{min(unknown)}="')
        if not re.fullmatch(r"(?:0o?)?[0-7]{3}", named.get("mode", "660"), re.ASCII):
            raise ValueError(f'expected octal digits such as "660" behind "mode=", got "{named["mode"]}"')
        return Listening(kind, None, "", first)
    if not (first.isascii() and first.isdigit() and int(first) <= 65535):
        raise ValueError("expected a port from 0 to 65535 behind the first colon")
    if unknown := set(named) - {"port", "interface", "backlog"}:
        raise ValueError(f'expected "interface=..." behind the port, got "{min(unknown)}="')
    interface = named.get("interface", "")
    if interface:
        _check_interface(interface, kind)
    return Listening(kind, int(first), "" if interface in ("0.0.0.0", "::") else interface)  # noqa: S104


def _check_interface(interface: str, kind: str) -> None:
    """Host names would be looked up when the hub starts; an address is always meant as it stands."""
    try:
        address: IPv4Address | IPv6Address = ip_address(interface)
    except ValueError:
        raise ValueError(
            f'expected an IP address behind "interface=", got "{interface}" (colons of IPv6 are written "\\\\:")'
        ) from None
    if (address.version == 6) != (kind == "tcp6"):
        raise ValueError(f'expected "tcp{"6" if address.version == 6 else ""}:" for the interface {interface}')


def _endpoint(value: Any, info: ValidationInfo) -> str:
    if not isinstance(value, str):
        raise ValueError(_ENDPOINT_EXPECTED)
    found = listening(value)
    if found.path is None:
        return value
    assert isinstance(info.context, Place)
    absolute = str(resolve(found.path, info.context)).replace("\\", "\\\\").replace(":", "\\:")
    options = [word for word in re.split(r"(?<!\\):", value)[1:] if "=" in word and not word.startswith("address=")]
    return ":".join(["unix", absolute, *options])


def _network(value: Any) -> IPv4Network | IPv6Network:
    try:
        if isinstance(value, str):
            return ip_network(value)
    except ValueError:
        pass
    raise ValueError('expected a network such as "192.0.2.0/24", "2001:db8::/32" or "127.0.0.1"')


def _dns_server(value: Any) -> str:
    expected = 'expected an IP address with a port if it is not 53: "127.0.0.1", "127.0.0.1:5353" or "[::1]:5353"'
    match = re.fullmatch(r"\[(?P<v6>[^\]]+)\](?::(?P<port6>\d{1,5}))?|(?P<v4>[0-9.]+)(?::(?P<port4>\d{1,5}))?|(?P<bare>[0-9a-fA-F:.]+)", str(value))  # fmt: skip  # noqa: E501
    if match is None:
        raise ValueError(expected)
    host = match["v6"] or match["v4"] or match["bare"]
    port = int(match["port6"] or match["port4"] or 53)
    try:
        address = ip_address(host)
    except ValueError:
        raise ValueError(expected) from None
    if not 0 < port < 65536 or (match["v6"] is not None and address.version != 6):
        raise ValueError(expected)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


_PORTS: Mapping[str, int] = {"smtp": 25, "smtps": 465, "lmtp": 24}
_NEXT_HOP = re.compile(
    r"(?P<protocol>[a-z]+):(?:\[(?P<literal>[0-9A-Fa-f:.]+)\]|(?P<host>[^\[\]:/\s]+))(?::(?P<port>\d{1,5}))?"
)
_NEXT_HOP_EXPECTED = (
    'expected a next hop such as "smtp:relay.example.net:587", "smtps:relay.example.net", "lmtp:127.0.0.1:24", '
    '"lmtp:unix:/run/lists.sock" or "mx"'
)


def _next_hop(value: Any, info: ValidationInfo) -> NextHop:
    if not isinstance(value, str):
        raise ValueError(_NEXT_HOP_EXPECTED)
    if value == "mx":
        return MX
    protocol, _, path = value.partition(":unix:")
    if path:
        if protocol != "lmtp" or "\0" in path:
            raise ValueError('expected "lmtp:unix:/path": only LMTP is spoken over a UNIX socket')
        assert isinstance(info.context, Place)
        return NextHop("unix", str(resolve(path, info.context)))
    match = _NEXT_HOP.fullmatch(value)
    if match is None or match["protocol"] not in _PORTS:
        raise ValueError(_NEXT_HOP_EXPECTED)
    port = int(match["port"] or _PORTS[match["protocol"]])
    if not 0 < port < 65536:
        raise ValueError("expected a port from 1 to 65535")
    known: Protocol = match["protocol"]  # type: ignore[assignment]
    return NextHop(known, _next_host(match["literal"] or match["host"]), port)


def _next_host(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        pass
    try:
        return domain(text)
    except ValueError:
        raise ValueError(f'expected the name or IP address of a host behind the first colon, got "{text}"') from None


#: Where a route leads to.
Hop: TypeAlias = Annotated[NextHop, BeforeValidator(_next_hop)]
#: A Twisted server endpoint string; the path of a UNIX socket is absolute.
Endpoint: TypeAlias = Annotated[str, BeforeValidator(_endpoint)]
Network: TypeAlias = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
#: "IP:PORT", or "[IP]:PORT" for IPv6; the port is always there.
DnsServer: TypeAlias = Annotated[str, BeforeValidator(_dns_server)]
