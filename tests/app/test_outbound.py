"""From the configuration to the way out."""

import random
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from twisted.internet.task import Clock

from mailhub.app.config import Config, parse
from mailhub.app.config_errors import ConfigError
from mailhub.app.examination import examine
from mailhub.app.finding import Severity
from mailhub.app.outbound import credentials, ourselves, outside_router, plan, route_policies, srs
from mailhub.model import Address, Credentials, Envelope, Lmtp, Nowhere, Recipient, Route, Smtp
from mailhub.queue.next_hop import MX
from mailhub.store.disk import RealDisk
from mailhub.testing.accounts import Accounts
from mailhub.testing.hub import build_hub
from mailhub.testing.resolver import Resolver

Value = TypeVar("Value")

LEAST = """
hostname = "mail.example.org"
data = "var"
[mta]
listen = ["tcp:2525", "unix:run/x", "tcp6:26"]
[mda]
domains = ["example.org"]
[accounts]
file = "accounts"
"""


def at_once(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """The result of a coroutine that must not wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: Value = stop.value
        return value
    raise AssertionError("it waited")


def read(tmp_path: Path, text: str = "") -> Config:
    (tmp_path / "var").mkdir(exist_ok=True)
    return parse(LEAST + text, tmp_path / "hub.toml")


def routed(config: Config, address: str, sender: str = "alice@example.org") -> Route:
    resolver = Resolver(
        mx={"far.example": [(10, "mx.far.example")]},
        addresses={"mx.far.example": ["192.0.2.1"], "relay.example": ["192.0.2.9"], "home.example": ["192.0.2.77"]},
    )
    router = outside_router(config, resolver, random.Random(0), Clock(), lambda ip: ip == "192.0.2.77")
    local, _, domain = address.partition("@")
    recipient = Address(local, domain)
    sender_local, _, sender_domain = sender.partition("@")
    envelope = Envelope("q1", Address(sender_local, sender_domain), (), 0.0)
    return at_once(router.route(envelope, Recipient(recipient, recipient)))


def password(tmp_path: Path, name: str = "password", mode: int = 0o600) -> None:
    (tmp_path / name).write_text("correct horse\n")
    (tmp_path / name).chmod(mode)


# --- the plan ------------------------------------------------------------------------------------------------------


def test_without_a_word_it_is_mx_with_tls_where_it_is_offered(tmp_path: Path) -> None:
    config = read(tmp_path)
    assert plan(config).fallback.to == MX
    route = routed(config, "bob@far.example")
    assert isinstance(route, Smtp)
    assert (route.destination, route.tls, route.tls_source) == ("far.example", "may", "by default")
    assert credentials(config) == {}
    assert route_policies(config, lambda name: build_hub()) == ()


ROUTES = """
[outbound]
smarthost = "smtp:relay.example:587"
login = "us"
password_file = "password"
[[route]]
domain = "near.example"
sender = "@example.org"
to = "smtp:relay.example"
per_destination = 3
[[route]]
domain = ".lists.example"
to = "lmtp:unix:run/lists"
[[route]]
domain = "far.example"
to = "mx"
tls = "require"
[[route]]
domain = "old.example"
to = "smtps:relay.example"
login = "them"
password_file = "other"
tls = "require"
[[route]]
domain = "lmtp.example"
to = "lmtp:127.0.0.1"
"""


@pytest.mark.parametrize(
    ("address", "destination", "tls", "source"),
    [
        ("bob@anywhere.example", "smtp:relay.example:587", "verify", "by default"),
        ("bob@near.example", "smtp:relay.example:25", "may", "by default"),
        ("bob@far.example", "far.example", "require", "route[2].tls"),
        ("bob@old.example", "smtps:relay.example:465", "require", "route[3].tls"),
    ],
)
def test_every_way_has_its_tls_and_says_whose_it_is(
    tmp_path: Path, address: str, destination: str, tls: str, source: str
) -> None:
    route = routed(read(tmp_path, ROUTES), address)
    assert isinstance(route, Smtp)
    assert (route.destination, route.tls, route.tls_source) == (destination, tls, source)


def test_lmtp_ways(tmp_path: Path) -> None:
    config = read(tmp_path, ROUTES)
    assert routed(config, "all@a.lists.example") == Lmtp(f"unix:{tmp_path}/run/lists", tls="none")
    assert routed(config, "all@lmtp.example") == Lmtp("tcp:127.0.0.1:24", tls="may")


def test_who_sends_matters_where_the_entry_says_so(tmp_path: Path) -> None:
    route = routed(read(tmp_path, ROUTES), "bob@near.example", "carol@elsewhere.example")
    assert isinstance(route, Smtp)
    assert route.destination == "smtp:relay.example:587"


def test_the_pace_of_a_route(tmp_path: Path) -> None:
    route = routed(read(tmp_path, ROUTES), "bob@near.example")
    assert isinstance(route, Smtp)
    assert route.pace.per_destination == 3
    assert route.pace.retry is None


def test_we_know_ourselves(tmp_path: Path) -> None:
    config = read(tmp_path)
    us = ourselves(config, lambda ip: False)
    assert us.hostname == "mail.example.org"
    assert us.ports == {2525, 26}
    assert isinstance(routed(config, "bob@home.example"), Smtp)
    ours_now = routed(read(tmp_path, "[outbound]\nport = 2525\n"), "bob@home.example")
    assert isinstance(ours_now, Nowhere)
    assert str(ours_now.reply).startswith("554 5.4.6 ")


# --- passwords -----------------------------------------------------------------------------------------------------


def test_a_route_leads_to_its_own_password(tmp_path: Path) -> None:
    password(tmp_path)
    (tmp_path / "other").write_text("battery staple\n")
    (tmp_path / "other").chmod(0o600)
    config = read(tmp_path, ROUTES)
    known = credentials(config)
    smarthost, old = (routed(config, address) for address in ("x@anywhere.example", "x@old.example"))
    assert isinstance(smarthost, Smtp)
    assert isinstance(old, Smtp)
    assert known[smarthost.login or ""] == Credentials("us", "correct horse")
    assert known[old.login or ""] == Credentials("them", "battery staple")
    assert "horse" not in repr(known)
    none = routed(config, "bob@near.example")
    assert isinstance(none, Smtp)
    assert none.login is None


def test_every_password_that_is_of_no_use_is_told_with_its_key_and_line(tmp_path: Path) -> None:
    password(tmp_path, mode=0o644)
    config = read(tmp_path, ROUTES)
    with pytest.raises(ConfigError) as caught:
        credentials(config)
    first, second = caught.value.problems
    assert (first.key, second.key) == ("outbound.password_file", "route[3].password_file")
    assert "chmod 600" in first.message
    assert f"{tmp_path}/other cannot be read: No such file" in second.message
    lines = (LEAST + ROUTES).splitlines()
    assert lines[(first.line or 0) - 1] == 'password_file = "password"'
    assert lines[(second.line or 0) - 1] == 'password_file = "other"'


def test_check_tells_it_too(tmp_path: Path) -> None:
    found = [each for each in examine(read(tmp_path, ROUTES), 0.0) if each.severity is Severity.ERROR]
    told = [each.message for each in found if "password_file" in each.message]
    assert len(told) == 2


def test_check_warns_of_a_hub_that_strangers_can_make_talk_to_itself(tmp_path: Path) -> None:
    found = examine(read(tmp_path, "[outbound]\nown_addresses = []\n"), 0.0)
    assert [each.about for each in found if "loopback" in each.message] == ["outbound.own_addresses"]


# --- policies ------------------------------------------------------------------------------------------------------


def test_a_policy_that_is_missing_is_told_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        route_policies(read(tmp_path, '[[outbound.policy]]\nuse = "greylisst"\n'), lambda name: build_hub())
    (problem,) = caught.value.problems
    assert problem.key == "outbound.policy[0].use"
    assert 'did you mean "greylist"?' in problem.message


PLUGIN = """
from dataclasses import dataclass
from zope.interface import implementer
from mailhub.plugin import Envelope, Host, Hub, IRoutePolicy, PolicyMaker, Recipient, Route, Smtp

@implementer(IRoutePolicy)
@dataclass
class Detour:
    hub: Hub
    host: str

    async def choose_route(self, envelope: Envelope, recipient: Recipient) -> Route | None:
        return Smtp("detour", (Host(self.host, "192.0.2.6"),))

detour = PolicyMaker("detour", Detour)
"""


def test_a_policy_of_the_postmaster_chooses(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "detour.py").write_text(PLUGIN)
    text = '[plugins]\ndirectories = ["plugins"]\n[[outbound.policy]]\nuse = "detour"\nhost = "d.example"\n'
    config = read(tmp_path, text)
    policies = route_policies(config, lambda name: build_hub())
    router = outside_router(config, Resolver(), random.Random(0), Clock(), lambda ip: False, policies)
    recipient = Address("bob", "far.example")
    route = at_once(router.route(Envelope("q1", None, (), 0.0), Recipient(recipient, recipient)))
    assert isinstance(route, Smtp)
    assert (route.destination, route.why, route.hosts[0].name) == ("detour", "policy detour", "d.example")


# --- SRS -----------------------------------------------------------------------------------------------------------


def test_keys_are_made_once_and_sign(tmp_path: Path) -> None:
    config = read(tmp_path)
    accounts = Accounts(["example.org"], [])
    sender, alias = Address("carol", "source.example"), Address("team", "example.org")
    one = srs(config, accounts, random.Random(1), Clock(), RealDisk())
    other = srs(config, accounts, random.Random(2), Clock(), RealDisk())
    assert one is not None
    assert other is not None
    rewritten = one.rewrite(sender, alias)
    assert rewritten is not None
    assert rewritten.domain == "example.org"
    assert other.reverse(rewritten) == sender


def test_it_can_be_turned_off_and_have_a_domain(tmp_path: Path) -> None:
    accounts = Accounts(["example.org", "b.example"], [])
    off = read(tmp_path, "[outbound]\nsrs = false\n")
    assert srs(off, accounts, random.Random(0), Clock(), RealDisk()) is None
    assert not (tmp_path / "var" / "srs-keys").exists()
    text = LEAST.replace('"example.org"]', '"example.org", "b.example"]') + '[outbound]\nsrs_domain = "b.example"\n'
    named = srs(parse(text, tmp_path / "hub.toml"), accounts, random.Random(0), Clock(), RealDisk())
    assert named is not None
    rewritten = named.rewrite(Address("carol", "source.example"), Address("team", "example.org"))
    assert rewritten is not None
    assert rewritten.domain == "b.example"


def test_keys_that_are_of_no_use_are_told(tmp_path: Path) -> None:
    config = read(tmp_path)
    config.srs_keys.write_text("short\n")
    config.srs_keys.chmod(0o600)
    with pytest.raises(ConfigError, match=r"outbound\.srs: .*can be guessed"):
        srs(config, Accounts(), random.Random(0), Clock(), RealDisk())
    assert any("can be guessed" in each.message for each in examine(config, 0.0))
