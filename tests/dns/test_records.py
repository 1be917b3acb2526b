"""Only what can name a host is called a host."""

import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailhub.dns.records import host_name, is_host_name, question_name


@pytest.mark.parametrize(
    "name", ["a", "mail.example.org", "1.2.example", "xn--bcher-kva.example", "a_b.example", "x" * 63 + ".example"]
)
def test_host_names(name: str) -> None:
    assert is_host_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "-a.example",
        "a-.example",
        "x" * 64 + ".example",
        "a b",
        "a\n",
        "a\0.b",
        "192.0.2.1",
        "example.1",
        "[192.0.2.1]",
        "::1",
        "a/b",
        "../etc",
        "é.example",
        "A.example",
        ".".join(["abcdefg"] * 32),
    ],
)
def test_no_host_names(name: str) -> None:
    assert not is_host_name(name)


labels = st.lists(st.binary(min_size=1, max_size=63), min_size=1, max_size=3)


@given(labels)
def test_whatever_a_zone_holds_becomes_a_host_name_or_nothing(found: list[bytes]) -> None:
    host = host_name(dns.name.Name([*found, b""]))
    assert host is None or (is_host_name(host) and host.encode().split(b".") == [label.lower() for label in found])


def test_the_root_is_the_empty_name() -> None:
    assert host_name(dns.name.root) == ""


@given(st.text(max_size=300))
def test_whatever_is_asked_becomes_one_absolute_name_or_nothing(text: str) -> None:
    name = question_name(text)
    assert name is None or (name.is_absolute() and len(name.labels) == text.removesuffix(".").count(".") + 2)
