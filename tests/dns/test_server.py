"""Which servers are asked."""

from pathlib import Path

import pytest

from mailhub.dns.server import Server, server, system_servers


@pytest.mark.parametrize(
    ("text", "ip", "port"),
    [
        ("127.0.0.1", "127.0.0.1", 53),
        ("127.0.0.1:5353", "127.0.0.1", 5353),
        ("::1", "::1", 53),
        ("[::1]", "::1", 53),
        ("[2001:DB8::0]:65535", "2001:db8::", 65535),
        ("fe80::1%eth0", "fe80::1%eth0", 53),
    ],
)
def test_a_server(text: str, ip: str, port: int) -> None:
    assert server(text) == Server(ip, port)
    assert server(str(server(text))) == server(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dns.example.org",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "[::1",
        "[::1]x",
        "1.2.3",
        "127.0.0.1:²",
        "::1:53:",
        "[127.0.0.1]]:53",
    ],
)
def test_no_server(text: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        server(text)


def test_those_of_the_system(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("# mine\nsearch example.org\nnameserver 192.0.2.1\nnameserver 2001:db8::1\noptions edns0\n")
    assert system_servers(str(path)) == (Server("192.0.2.1"), Server("2001:db8::1"))


@pytest.mark.parametrize("text", ["", "nameserver\n", "nameserver rubbish\n", "\0\xff"])
def test_the_local_host_where_there_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "resolv.conf"
    path.write_bytes(text.encode("latin-1"))
    assert system_servers(str(path)) == (Server("127.0.0.1"),)
    assert system_servers(str(tmp_path / "missing")) == (Server("127.0.0.1"),)


def test_loopback() -> None:
    assert server("127.0.0.53").is_loopback
    assert server("::1").is_loopback
    assert not server("192.0.2.1").is_loopback
