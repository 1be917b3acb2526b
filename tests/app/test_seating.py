"""From rules to seats: names, options and their types, standing rules; every problem with its key, all at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Literal

import pytest
from zope.interface import implementer

from mailhub.app.discovery import Discovery, Fault, Found, discover
from mailhub.app.seating import Rule, seat, seats
from mailhub.model import Reply, Session, Transaction
from mailhub.plugin import Hub, IConnectionPolicy, ISenderPolicy, PolicyMaker
from mailhub.plugins.greylist import Greylist
from mailhub.policy.panel import Seat
from mailhub.policy.standing import STANDING
from mailhub.testing.hub import build_hub

FILE = Path("hub.toml")
KEY = "mta.policy[0]"


@implementer(ISenderPolicy)
@dataclass
class Options:
    hub: Hub
    needed: str
    count: int = 1
    ratio: float = 0.5
    idle_seconds: float = 60.0
    whole_seconds: int = 60
    size_octets: int = 0
    words: tuple[str, ...] = ()
    table: dict[str, tuple[str, ...]] = field(default_factory=dict)
    mode: Literal["soft", "hard"] = "soft"
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    maybe: str | None = None
    flag: bool = False
    own: dict[str, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.count > 9:
            raise ValueError("count is at most 9")

    async def judge_sender(self, transaction: Transaction) -> Reply | None:
        return None


@implementer(ISenderPolicy)
class Mute:
    def __init__(self, hub: Hub) -> None:
        pass


@implementer(IConnectionPolicy, ISenderPolicy)
@dataclass
class Careless:
    hub: Hub
    api_key: str = ""

    async def judge_connection(self) -> Reply | None:
        return None


@implementer(IConnectionPolicy)
class Free:
    def __init__(self, hub: Hub, **options: Any) -> None:
        self.options = options

    async def judge_connection(self, session: Session) -> Reply | None:
        return None


def crash(hub: Hub) -> None:
    raise KeyError("inside")


DISCOVERY = Discovery(
    {
        name: Found(PolicyMaker(name, factory), f"/plugins/{name}.py")
        for name, factory in {
            "options": Options,
            "mute": Mute,
            "careless": Careless,
            "free": Free,
            "nothing": lambda hub: object(),
            "crash": crash,
        }.items()
    },
    {"twice": ("/a/twice.py", "/b/twice.py")},
    (Fault("/plugins/broken.py", "line 3: KeyError: 'x'"),),
)


def hub_for(name: str) -> Hub:
    return build_hub(hostname=f"{name}.example.test")


def made(use: str = "options", **options: Any) -> Any:
    """The policy."""
    taken = seat(Rule(use, options), KEY, DISCOVERY, hub_for, FILE)
    assert isinstance(taken, Seat), [str(problem) for problem in taken]
    return taken.policy


def problems(use: str = "options", **options: Any) -> list[str]:
    taken = seat(Rule(use, options), KEY, DISCOVERY, hub_for, FILE)
    assert not isinstance(taken, Seat)
    return [str(problem) for problem in taken]


# --- options -----------------------------------------------------------------------------------------------------


def test_options_get_the_types_of_the_policys_fields() -> None:
    policy = made(
        needed="x",
        count=3,
        ratio=1,
        words=["a", "b"],
        table={"k": ["v"]},
        mode="hard",
        networks=["192.0.2.0/24", "2001:db8::/32"],
        maybe="m",
        flag=True,
    )
    assert (policy.needed, policy.count, policy.ratio, policy.flag, policy.maybe) == ("x", 3, 1.0, True, "m")
    assert policy.words == ("a", "b")
    assert policy.table == {"k": ("v",)}
    assert policy.networks == (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"))
    assert policy.hub.hostname == "options.example.test"


def test_values_that_the_configuration_has_read_already_are_welcome() -> None:
    networks = (ip_network("192.0.2.0/24"),)
    assert made(needed="x", networks=networks, words=("a",)).networks == networks


@pytest.mark.parametrize(
    ("given", "seconds"), [("5m", 300.0), ("1h30m", 5400.0), ("500ms", 0.5), (300, 300.0), (0.5, 0.5)]
)
def test_durations_may_have_a_unit(given: object, seconds: float) -> None:
    assert made(needed="x", idle_seconds=given).idle_seconds == seconds


def test_a_name_that_is_only_seconds_and_sizes_too() -> None:
    taken = seat(Rule("greylist", {"seconds": "10m"}), KEY, discover(), hub_for, FILE)
    assert isinstance(taken, Seat)
    assert isinstance(taken.policy, Greylist)
    assert taken.policy.seconds == 600.0
    assert made(needed="x", size_octets="2GB", whole_seconds="5m").size_octets == 2_000_000_000


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"needed": 3}, "mta.policy[0].needed: expected a valid string, got 3"),
        ({"needed": "x", "count": "3"}, "mta.policy[0].count: expected a valid integer, got '3'"),
        ({"needed": "x", "count": 3.0}, "mta.policy[0].count: expected a valid integer, got 3.0"),
        ({"needed": "x", "count": True}, "mta.policy[0].count: expected a valid integer, got True"),
        ({"needed": "x", "flag": "false"}, "mta.policy[0].flag: expected a valid boolean, got 'false'"),
        ({"needed": "x", "flag": 1}, "mta.policy[0].flag: expected a valid boolean, got 1"),
        ({"needed": "x", "ratio": "0.5"}, "mta.policy[0].ratio: expected a valid number, got '0.5'"),
        ({"needed": "x", "words": "a"}, "mta.policy[0].words: "),
        ({"needed": "x", "words": ["a", 2]}, "mta.policy[0].words: [1]: expected a valid string, got 2"),
        ({"needed": "x", "table": {"k": [1]}}, "mta.policy[0].table: .k[0]: expected a valid string, got 1"),
        ({"needed": "x", "mode": "Hard"}, "mta.policy[0].mode: expected 'soft' or 'hard', got 'Hard'"),
        ({"needed": "x", "networks": ["192.0.2.1/24"]}, "mta.policy[0].networks: [0]"),
        ({"needed": "x", "idle_seconds": "5 minutes"}, "mta.policy[0].idle_seconds: expected a duration such as"),
        ({"needed": "x", "idle_seconds": -1}, "mta.policy[0].idle_seconds: expected 0 or more, got -1"),
        ({"needed": "x", "idle_seconds": float("inf")}, "mta.policy[0].idle_seconds: expected 0 or more"),
        ({"needed": "x", "idle_seconds": float("nan")}, "mta.policy[0].idle_seconds: expected 0 or more"),
        ({"needed": "x", "idle_seconds": True}, "mta.policy[0].idle_seconds: expected a valid number"),
        ({"needed": "x", "whole_seconds": "500ms"}, "mta.policy[0].whole_seconds: expected a valid integer"),
        ({"needed": "x", "size_octets": "2 GX"}, "mta.policy[0].size_octets: expected a size such as"),
        ({}, 'mta.policy[0].needed: policy "options" needs this option'),
        (
            {"needed": "x", "coutn": 1},
            'mta.policy[0].coutn: policy "options" has no such option, did you mean "count"?',
        ),
        ({"needed": "x", "own": {}}, 'mta.policy[0].own: policy "options" has no such option'),
        ({"needed": "x", "hub": "x"}, 'mta.policy[0].hub: policy "options" has no such option'),
        (
            {"needed": "x", "count": 10},
            'mta.policy[0]: policy "options" of /plugins/options.py cannot be made: count is',
        ),
    ],
)
def test_an_option_that_does_not_fit(options: Mapping[str, Any], told: str) -> None:
    (problem,) = problems(**options)
    assert problem.startswith(f"hub.toml: {told}")


def test_all_problems_of_a_rule_are_told_at_once() -> None:
    told = problems(count="x", flag=0, other=1)
    assert [line.split(": ")[1].rpartition(".")[2] for line in told] == ["count", "flag", "other", "needed"]


def test_a_factory_may_take_whatever_it_is_given() -> None:
    assert made("free", anything=[1, 2], limit_seconds="1m").options == {"anything": [1, 2], "limit_seconds": 60}


# --- policies ----------------------------------------------------------------------------------------------------


def test_an_unknown_name_is_told_with_what_was_probably_meant() -> None:
    (problem,) = problems("option")
    assert problem.startswith('hub.toml: mta.policy[0].use: expected the name of a policy, got "option", did you mean')
    assert '"options"?' in problem
    assert "/plugins/broken.py: line 3" in problem


def test_an_ambiguous_name_is_told_with_both_places() -> None:
    (problem,) = problems("twice")
    assert "/a/twice.py" in problem
    assert "/b/twice.py" in problem


@pytest.mark.parametrize(
    ("use", "told"),
    [
        ("nothing", "provides none of IConnectionPolicy"),
        ("mute", "does not do what ISenderPolicy says: there is no judge_sender"),
        ("crash", "cannot be made: KeyError: 'inside'"),
    ],
)
def test_a_policy_that_is_none(use: str, told: str) -> None:
    (problem,) = problems(use)
    assert told in problem
    assert f"/plugins/{use}.py" in problem


def test_an_option_of_a_policy_that_is_none_is_not_told() -> None:
    (problem,) = problems("careless", api_key="the secret")
    assert problem == (
        'hub.toml: mta.policy[0].use: policy "careless" of /plugins/careless.py does not do what IConnectionPolicy '
        "says: judge_connection cannot be called as it should"
    )


def test_a_seat_has_what_the_rule_says() -> None:
    rule = Rule("free", {}, on_failure="refuse", deadline=7.0, shadow=True)
    taken = seat(rule, "msa.policy[3]", DISCOVERY, hub_for, FILE)
    assert isinstance(taken, Seat)
    assert (taken.name, taken.deadline_seconds, taken.on_failure, taken.shadow, taken.key) == (
        "free",
        7.0,
        "refuse",
        True,
        "msa.policy[3]",
    )


def test_each_option_is_resolved_where_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from typing import TYPE_CHECKING\n"
        "from mailhub.plugin import PolicyMaker\n"
        "from mailhub.plugins.greylist import Greylist\n"
        "if TYPE_CHECKING:\n"
        "    from nowhere import Hub, Unknown\n"
        "@dataclass\n"
        "class Child(Greylist):\n"
        "    more: str = ''\n"
        "    odd: Unknown = None\n"
        "child = PolicyMaker('child', Child)\n"
    )
    found = discover([tmp_path])
    assert found.faults == ()
    taken = seat(Rule("child", {"more": "x", "trust_after": 3}), KEY, found, hub_for, FILE)
    assert isinstance(taken, Seat)
    refused = seat(Rule("child", {"odd": 1, "trust_after": "3"}), KEY, found, hub_for, FILE)
    assert not isinstance(refused, Seat)
    assert "annotation of this option cannot be understood: NameError" in str(refused[0])
    assert "trust_after: expected a valid integer" in str(refused[1])


# --- standing rules ----------------------------------------------------------------------------------------------


def order(role: str, *uses: str, **standing: Mapping[str, Any]) -> list[str]:
    taken, found = seats(role, [Rule(use) for use in uses], standing, discover(), hub_for, FILE)
    assert found == ()
    return [each.name for each in taken]


def test_standing_rules_surround_the_configured_ones() -> None:
    assert order("mta", "greylist") == ["greylist", "quota", "local_domains"]
    assert order("msa", "greylist") == [
        "authenticated",
        "sender_owned",
        "submission_caps",
        "greylist",
        "quota",
        "local_domains",
        "relay_for_authenticated",
    ]
    assert order("lmtp") == ["trusted_peers", "quota", "local_domains"]


def test_a_standing_rule_that_is_named_stands_where_it_was_put() -> None:
    assert order("mta", "local_domains", "greylist") == ["local_domains", "greylist", "quota"]
    assert order("msa", "rate", "sender_owned")[:4] == ["authenticated", "submission_caps", "rate", "sender_owned"]


def test_their_options_come_from_the_tree_or_from_their_own_table() -> None:
    standing = {"quota": {"default_octets": 5}, "trusted_peers": {"networks": (ip_network("192.0.2.0/24"),)}}
    taken, _ = seats("lmtp", [], standing, discover(), hub_for, FILE)
    policies: dict[str, Any] = {each.name: each.policy for each in taken}
    assert policies["quota"].default_octets == 5
    assert policies["trusted_peers"].networks == (ip_network("192.0.2.0/24"),)
    taken, _ = seats("lmtp", [Rule("quota", {"cache_seconds": "1m"})], standing, discover(), hub_for, FILE)
    policies = {each.name: each.policy for each in taken}
    assert policies["quota"].default_octets == 0
    assert policies["quota"].cache_seconds == 60.0


def test_keys_tell_where_each_seat_comes_from() -> None:
    taken, _ = seats("mta", [Rule("greylist"), Rule("rate")], {}, discover(), hub_for, FILE)
    assert [each.key for each in taken] == [
        "mta.policy[0]",
        "mta.policy[1]",
        "mta.policy (quota stands by itself)",
        "mta.policy (local_domains stands by itself)",
    ]


def test_all_problems_of_all_rules_are_told_at_once() -> None:
    rules = [Rule("greylits"), Rule("greylist", {"seconds": "soon"}), Rule("rate", {"exempt": ["x"]})]
    _, found = seats("mta", rules, {"quota": {"cache": 1}}, discover(), hub_for, FILE)
    assert [problem.key for problem in found] == [
        "mta.policy[0].use",
        "mta.policy[1].seconds",
        "mta.policy[2].exempt",
        "mta.policy (quota stands by itself).cache",
    ]
    assert 'did you mean "greylist"?' in found[0].message


def test_every_standing_rule_exists_and_can_be_made() -> None:
    for role in STANDING:
        assert order(role)
