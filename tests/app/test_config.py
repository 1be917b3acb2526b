"""The configuration: read whole, checked whole, right or refused with all its mistakes at once."""

from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailhub.app.config import Config, from_tables, load, parse
from mailhub.app.config_errors import ConfigError, Problem, lines
from mailhub.queue.next_hop import MX, NextHop

FILE = Path("/etc/mailhub/mailhub.toml")
LEAST = 'hostname = "mail.example.org"\ndata = "/srv/mailhub"\n'
PEOPLE = '[mda]\ndomains = ["a.example"]\n[accounts]\nfile = "a"\n'


def problems(text: str, file: Path = FILE) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        parse(text, file)
    return list(caught.value.problems)


def told(text: str) -> dict[str, str]:
    """What is told about each key."""
    return {problem.key: problem.message for problem in problems(text)}


# --- what is right -----------------------------------------------------------------------------------------------


def test_hostname_and_data_are_enough_and_every_role_is_off() -> None:
    config = parse(LEAST, FILE)
    assert config.hostname == "mail.example.org"
    assert (config.mta.listen, config.msa.listen, config.msa.listen_tls, config.lmtp.listen) == ((), (), (), ())
    assert config.source == FILE


def test_values_are_in_their_final_form() -> None:
    config = parse(
        LEAST
        + """
[limits]
message_octets = "10MiB"
command_seconds = "2m"
[lmtp]
listen = ["unix:run/lmtp"]
trusted = ["192.0.2.0/24"]
[mda]
domains = ["Example.ORG", "bücher.example"]
quota = 1000
[accounts]
file = "accounts"
[queue]
retry = ["1m", "1h30m"]
[dns]
servers = ["127.0.0.1", "127.0.0.1:5353", "[::1]:53", "2001:DB8::1"]
[log]
file = "{data}/../hub.log"
""",
        FILE,
    )
    assert config.limits.message_octets == 10 * 1024 * 1024
    assert config.limits.reserve_octets == 15 * 1024 * 1024
    assert config.limits.command_seconds == 120.0
    assert config.lmtp.listen == ("unix:/etc/mailhub/run/lmtp",)
    assert config.lmtp.trusted == (ip_network("192.0.2.0/24"),)
    assert config.mda.domains == ("example.org", "xn--bcher-kva.example")
    assert config.mda.quota_octets == 1000
    assert config.mda.maildir == "/srv/mailhub/mail/{domain}/{local}/Maildir"
    assert config.accounts.file == Path("/etc/mailhub/accounts")
    assert config.queue.retry == (60.0, 5400.0)
    assert config.dns.servers == ("127.0.0.1:53", "127.0.0.1:5353", "[::1]:53", "[2001:db8::1]:53")
    assert config.tls_directory == Path("/srv/mailhub/tls")


def test_paths_are_relative_to_the_file_and_not_to_the_working_directory(tmp_path: Path) -> None:
    file = tmp_path / "etc" / "hub.toml"
    file.parent.mkdir()
    file.write_text('hostname = "mail.example.org"\ndata = "../var"\n')
    config = load(file)
    assert config.data == tmp_path / "var"
    assert config.log.file == tmp_path / "var" / "log" / "mailhub.jsonl"


def test_a_symbolic_link_is_not_resolved_so_that_a_new_target_is_seen(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "live").symlink_to(tmp_path / "real")
    config = parse(LEAST + '[tls]\ncertificate = "live/../cert.pem"\nkey = "live/key.pem"\n', tmp_path / "hub.toml")
    assert config.tls.key == tmp_path / "live" / "key.pem"
    assert config.tls.certificate == tmp_path / "live" / ".." / "cert.pem"


def test_a_configuration_cannot_be_changed() -> None:
    config = parse(LEAST, FILE)
    with pytest.raises(ValueError, match="frozen"):
        config.limits.hops = 1  # type: ignore[misc]


def test_no_quota_is_none() -> None:
    assert parse(LEAST, FILE).mda.quota_octets is None


def test_policies_keep_their_order_and_their_options() -> None:
    config = parse(
        LEAST
        + """
[[mta.policy]]
use = "greylist"
seconds = 300
on_failure = "ignore"
deadline = "2s"
[[mta.policy]]
use = "blocklist"
shadow = true
zones = ["zen.example"]
""",
        FILE,
    )
    greylist, blocklist = config.rules("mta")
    assert (greylist.use, greylist.on_failure, greylist.deadline) == ("greylist", "ignore", 2.0)
    assert greylist.options == {"seconds": 300}
    assert (blocklist.shadow, blocklist.options) == (True, {"zones": ["zen.example"]})
    assert config.rules("msa") == ()


def test_sections_give_options_to_the_rules_that_they_are_about_also_where_the_file_names_them() -> None:
    config = parse(
        LEAST
        + """
[msa.caps]
messages_per_hour = 7
[msa.extra_addresses]
"alice@example.org" = ["@Example.NET"]
[[msa.policy]]
use = "submission_caps"
exempt = ["list@example.org"]
recipients_per_hour = 9
[lmtp]
trusted = ["192.0.2.0/24"]
[mda]
quota = "1GB"
""",
        FILE,
    )
    (caps,) = config.rules("msa")
    assert caps.options == {
        "messages_per_hour": 7,
        "messages_per_day": 1000,
        "recipients_per_hour": 9,
        "recipients_per_day": 2000,
        "exempt": ["list@example.org"],
    }
    options = config.standing_options
    assert options["submission_caps"]["recipients_per_hour"] == 500
    assert options["sender_owned"] == {"extra": {"alice@example.org": ("@example.net",)}}
    assert options["trusted_peers"] == {"networks": (ip_network("192.0.2.0/24"),)}
    assert options["quota"] == {"default_octets": 10**9}


def test_where_mail_for_others_goes() -> None:
    config = parse(
        LEAST
        + """
[outbound]
smarthost = "smtp:Relay.Example.NET:587"
login = "us"
password_file = "password"
[outbound.limits]
per_destination = 7
[[route]]
domain = ".Bücher.example"
to = "lmtp:unix:run/lists.sock"
[[route]]
sender = "@Example.COM"
to = "smtps:[2001:DB8::1]"
retry = ["1m"]
give_up = "1h"
[[route]]
domain = "near.example"
to = "mx"
tls = "verify"
""",
        FILE,
    )
    assert config.outbound.smarthost == NextHop("smtp", "relay.example.net", 587)
    assert config.outbound.password_file == Path("/etc/mailhub/password")
    assert config.outbound.own_addresses == (ip_network("127.0.0.0/8"), ip_network("::1"))
    assert config.outbound.limits.per_destination == 7
    books, senders, near = config.route
    assert (books.domain, books.to) == (".xn--bcher-kva.example", NextHop("unix", "/etc/mailhub/run/lists.sock"))
    assert (senders.domain, senders.sender, senders.to) == (None, "@example.com", NextHop("smtps", "2001:db8::1", 465))
    assert (senders.retry, senders.give_up, senders.tls) == ((60.0,), 3600.0, None)
    assert (near.to, near.tls) == (MX, "verify")


@pytest.mark.parametrize(
    ("text", "hop"),
    [
        ("smtp:relay.example", NextHop("smtp", "relay.example", 25)),
        ("smtp:localhost:1025", NextHop("smtp", "localhost", 1025)),
        ("smtps:relay.example", NextHop("smtps", "relay.example", 465)),
        ("lmtp:127.0.0.1", NextHop("lmtp", "127.0.0.1", 24)),
        ("smtp:[::1]:2525", NextHop("smtp", "::1", 2525)),
        ("smtp:[192.0.2.1]", NextHop("smtp", "192.0.2.1", 25)),
        ("lmtp:unix:/run/a:b", NextHop("unix", "/run/a:b")),
        ("mx", MX),
    ],
)
def test_a_next_hop_is_read_and_written(text: str, hop: NextHop) -> None:
    config = parse(f'{LEAST}[[route]]\ndomain = "a.example"\nto = "{text}"\n', FILE)
    assert config.route[0].to == hop
    again = parse(f'{LEAST}[[route]]\ndomain = "a.example"\nto = "{hop}"\n', FILE)
    assert again.route[0].to == hop


# --- what is wrong, one mistake at a time -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        # keys
        ('hostnam = "x"', "hostnam", 'did you mean "hostname"?'),
        ("[mat]", "mat", 'did you mean "mta"?'),
        ("[mta]\nlisten_tls = []", "mta.listen_tls", "did you mean"),
        ("[mta]\ndomains = []", "mta.domains", "there is mda.domains, but none here"),
        ("[limits]\nxyzzy = 1", "limits.xyzzy", "known here: message_octets, recipients"),
        ("[msa.caps]\nmessages_per_minute = 1", "msa.caps.messages_per_minute", 'did you mean "messages_per_hour"?'),
        # types
        ("workers = 65", "workers", "expected at most 64; got 65"),
        ("workers = 0", "workers", "expected at least 1; got 0"),
        ("workers = true", "workers", "expected a whole number; got true"),
        ("user = 5", "user", "expected a string in quotes; got 5"),
        ('user = ""', "user", "expected a name"),
        ("mta = 5", "mta", "expected a table; got 5"),
        ('[mta]\nlisten = "tcp:25"', "mta.listen", 'expected an array in brackets; got "tcp:25"'),
        ('[limits]\nsessions = "1000"', "limits.sessions", 'expected a whole number; got "1000"'),
        ("[limits]\nsessions = 1.0", "limits.sessions", "expected a whole number; got 1.0"),
        ('[limits]\nreserve = "x"', "limits.reserve", "expected a number"),
        ('[mta]\npolicy = [{use = "x", shadow = "false"}]', "mta.policy[0].shadow", 'true or false; got "false"'),
        ("[[mta.policy]]\nshadow = true", "mta.policy[0].use", "is required and missing"),
        ('[[mta.policy]]\nuse = "x"\non_failure = "drop"', "mta.policy[0].on_failure", 'expected "defer", "ignore" or'),
        ('[msa]\nextra_addresses = ["x"]', "msa.extra_addresses", "expected a table"),
        # values
        ("[limits]\ncommand_seconds = 300", "limits.command_seconds", "expected a duration"),
        ('[limits]\ncommand_seconds = "0s"', "limits.command_seconds", 'expected more than 0s; got "0s"'),
        ('[mta]\ngreet_delay = "5m"', "mta.greet_delay", 'expected at most 30s; got "5m"'),
        ('[limits]\nmessage_octets = "1kB"', "limits.message_octets", 'expected at least 64KiB; got "1kB"'),
        ('[limits]\nmessage_octets = "5XB"', "limits.message_octets", "expected a size"),
        ("[limits]\nmessage_octets = -1", "limits.message_octets", "expected a size"),
        ("[limits]\nrecipients = 10", "limits.recipients", "expected at least 100"),
        ("[limits]\nhops = 3", "limits.hops", "expected at least 25"),
        ("[limits]\nreserve = 0.5", "limits.reserve", "expected at least 1"),
        ("[limits]\nreserve = inf", "limits.reserve", "expected a finite number"),
        ("[queue]\nretry = []", "queue.retry", "expected at least one element"),
        ('[queue]\nretry = ["5m", "x"]', "queue.retry[1]", "expected a duration"),
        ('[log]\nlevel = "loud"', "log.level", 'expected "debug", "info", "warn" or "error"; got "loud"'),
        ('[tls]\nminimum = "1.0"', "tls.minimum", 'expected "1.2" or "1.3"; got "1.0"'),
        ("[log]\nfile = 5", "log.file", "expected a path"),
        ('[log]\nfile = ""', "log.file", "expected a path"),
        ('[mda]\nmaildir = "mail"', "mda.maildir", "expected {local} in it"),
        ('[mda]\nmaildir = "{user}/{local}"', "mda.maildir", "got {user}"),
        ('[mda]\nmaildir = "{local"', "mda.maildir", "got {"),
        ('[mda]\ndomains = ["a b"]', "mda.domains[0]", "expected a domain"),
        ('[mda]\ndomains = ["192.0.2.1"]', "mda.domains[0]", "expected a domain"),
        ('[mda]\ndomains = ["x_y.example"]', "mda.domains[0]", "expected a domain"),
        ('[mda]\ndomains = ["-a.example"]', "mda.domains[0]", "expected a domain"),
        ('[mda]\ndomains = ["a..example"]', "mda.domains[0]", "expected a domain"),
        ("[msa.extra_addresses]\nalice = []", "msa.extra_addresses.alice", "expected an address"),
        ('[msa.extra_addresses]\n"a@b.example" = ["c"]', 'msa.extra_addresses."a@b.example"[0]', "for all of a domain"),
        ('[mta]\nlisten = ["25"]', "mta.listen[0]", 'expected an endpoint such as "tcp:25"'),
        ('[mta]\nlisten = ["tcp:"]', "mta.listen[0]", "expected an endpoint"),
        ('[mta]\nlisten = ["tcp:smtp"]', "mta.listen[0]", "expected a port"),
        ('[mta]\nlisten = ["tcp:70000"]', "mta.listen[0]", "expected a port"),
        ('[mta]\nlisten = ["tcp:25:interface=localhost"]', "mta.listen[0]", "expected an IP address"),
        ('[mta]\nlisten = ["tcp:25:interface=\\\\:\\\\:1"]', "mta.listen[0]", 'expected "tcp6:"'),
        ('[mta]\nlisten = ["tcp:25:iface=::"]', "mta.listen[0]", "expected an endpoint"),
        ('[mta]\nlisten = ["tcp:25:iface=127.0.0.1"]', "mta.listen[0]", 'got "iface="'),
        ('[msa]\nlisten_tls = ["ssl:465"]', "msa.listen_tls[0]", 'expected no "ssl:"'),
        ('[lmtp]\ntrusted = ["192.0.2.1/24"]', "lmtp.trusted[0]", "expected a network"),
        ('[dns]\nservers = ["resolver.example"]', "dns.servers[0]", "expected an IP address"),
        ('[dns]\nservers = ["127.0.0.1:0"]', "dns.servers[0]", "expected an IP address"),
        # the way out
        ('[outbound]\nsmarthost = "relay.example"', "outbound.smarthost", "expected a next hop such as"),
        ('[outbound]\nsmarthost = "http:relay.example:80"', "outbound.smarthost", "expected a next hop"),
        ('[outbound]\nsmarthost = "smtp:"', "outbound.smarthost", "expected a next hop"),
        ('[outbound]\nsmarthost = "smtp:a:b:25"', "outbound.smarthost", "expected a next hop"),
        ('[outbound]\nsmarthost = "smtp:[relay.example]:25"', "outbound.smarthost", "expected a next hop"),
        ('[outbound]\nsmarthost = "smtp:relay.example:0"', "outbound.smarthost", "expected a port from 1 to 65535"),
        ('[outbound]\nsmarthost = "smtp:relay.example:99999"', "outbound.smarthost", "expected a port"),
        ('[outbound]\nsmarthost = "smtp:re_lay:25"', "outbound.smarthost", "the name or IP address of a host"),
        ('[outbound]\nsmarthost = "smtp:[1.2.3]:25"', "outbound.smarthost", "the name or IP address of a host"),
        ("[limits]\nbacklog = 65536", "limits.backlog", "expected at most 65535"),
        ('[mta]\nlisten = ["tcp:25:backlog=x"]', "mta.listen[0]", 'expected a number behind "backlog="'),
        ('[lmtp]\nlisten = ["unix:/run/x:mode=rw"]', "lmtp.listen[0]", 'expected octal digits such as "660"'),
        ('[lmtp]\nlisten = ["unix:/run/x:modus=660"]', "lmtp.listen[0]", 'got "modus="'),
        ('[outbound]\nsmarthost = "smtp:unix:/run/x"', "outbound.smarthost", "only LMTP is spoken"),
        ("[outbound]\nsmarthost = 25", "outbound.smarthost", "expected a next hop"),
        ('[outbound]\nsmarthots = "smtp:relay.example"', "outbound.smarthots", 'did you mean "smarthost"?'),
        ('[outbound]\ntls = "must"', "outbound.tls", 'expected "none", "may", "require" or "verify"; got "must"'),
        ("[outbound]\nport = 0", "outbound.port", "expected at least 1; got 0"),
        ('[outbound]\nown_addresses = ["x"]', "outbound.own_addresses[0]", "expected a network"),
        ("[outbound.limits]\nper_destination = 0", "outbound.limits.per_destination", "expected at least 1"),
        ('[[route]]\ndomain = "a.example"', "route[0].to", "is required and missing"),
        ('[[route]]\ndomain = "a b"\nto = "mx"', "route[0].domain", 'or ".example.org" for all domains below it'),
        ('[[route]]\ndomain = "..a"\nto = "mx"', "route[0].domain", "expected a domain"),
        ('[[route]]\nsender = "alice"\nto = "mx"', "route[0].sender", "expected an address"),
        ('[[route]]\ndomain = "a.example"\nto = "mx"\nretry = []', "route[0].retry", "at least one element"),
        ('[route]\ndomain = "a.example"', "route", "expected an array in brackets"),
    ],
)
def test_one_mistake_is_one_clear_message(text: str, key: str, expected: str) -> None:
    # Keys without a table must stand before the first header.
    found = told(f"{LEAST}{text}\n")
    assert list(found) == [key]
    assert expected in found[key]
    assert "\n" not in found[key]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('data = "x"', "hostname"),
        ('hostname = "mail"\ndata = "x"', "hostname"),
        ('hostname = "192.0.2.1"\ndata = "x"', "hostname"),
        ('hostname = "mail.example.org."\ndata = "x"', "hostname"),
        ('hostname = 5\ndata = "x"', "hostname"),
        ('hostname = "mail.example.org"', "data"),
        ('hostname = "mail.example.org"\ndata = 5', "data"),
        ('hostname = "mail.example.org"\ndata = ""', "data"),
    ],
)
def test_what_is_required(text: str, key: str) -> None:
    assert list(told(text)) == [key]


# --- contradictions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ('[tls]\nkey = "k"', "tls.key", "expected tls.certificate beside it"),
        ('[tls]\ncertificate = "c"', "tls.certificate", "expected tls.key beside it"),
        ('[mta]\nlisten = ["tcp:25"]', "mda.domains", "expected at least one domain"),
        ('[lmtp]\nlisten = ["tcp:24"]', "mda.domains", "expected at least one domain"),
        ('[msa]\nlisten = ["tcp:587"]', "accounts.file", "nobody who could"),
        ('[msa]\nlisten_tls = ["tcp:465"]', "accounts.file", "nobody who could"),
        ('[mta]\nlisten = ["tcp:25"]\n[mda]\ndomains = ["a.example"]', "accounts.file", "nobody is here"),
        ('[accounts]\nfile = "a"\naliases = "./a"', "accounts.aliases", "another file"),
        ('[accounts]\nfile = "a"\n[mda]\ndomains = ["a.example", "A.example"]', "mda.domains", "each domain once"),
        (
            '[accounts]\nfile = "a"\n[mda]\ndomains = ["a.example", "b.example"]\nmaildir = "m/{local}"',
            "mda.maildir",
            "{domain}",
        ),
        (
            '[accounts]\nfile = "a"\n[msa]\nlisten = ["tcp:587"]\nlisten_tls = ["tcp:587:interface=127.0.0.1"]',
            "msa.listen_tls[0]",
            "taken by msa.listen[0]",
        ),
        ("[limits]\nsessions = 10", "limits.sessions_per_address", "at most limits.sessions, which is 10"),
        ('[limits]\ncommand_seconds = "5s"', "limits.overload_command_seconds", "which is 5s"),
        ('[queue]\nretry = ["6d"]', "queue.give_up", "which is 6d"),
        ('[queue]\nretry = ["0s"]', "queue.retry[0]", "at least 1s"),
        ('[queue]\nwarn_after = "5d"', "queue.warn_after", "less than queue.give_up, which is 5d"),
        ("[msa.caps]\nmessages_per_hour = 5000", "msa.caps.messages_per_hour", "which is 1000"),
        ('group = "mail"', "group", "expected user beside it"),
        ('[[route]]\nto = "mx"', "route[0].domain", "a way for all mail is what outbound.smarthost is for"),
        (
            '[[route]]\ndomain = "a.example"\nto = "mx"\n[[route]]\ndomain = "A.example"\nto = "mx"',
            "route[1].domain",
            "mail that route[0] does not take before",
        ),
        (
            '[[route]]\nsender = "@a.example"\nto = "mx"\n[[route]]\nsender = "@a.example"\nto = "lmtp:h.example"',
            "route[1].sender",
            "mail that route[0] does not take before",
        ),
        (
            '[mda]\ndomains = ["a.example"]\n[[route]]\ndomain = "a.example"\nto = "mx"',
            "route[0].domain",
            "so its mail stays here",
        ),
        ('[[route]]\ndomain = "a.example"\nto = "mx"\ngive_up = "1m"', "route[0].give_up", "than the first wait"),
        ('[[route]]\ndomain = "a.example"\nto = "mx"\nretry = ["0s"]', "route[0].retry[0]", "at least 1s"),
        ('[outbound]\nsmarthost = "mx"', "outbound.smarthost", "expected a host"),
        ('[outbound]\nlogin = "a"\npassword_file = "p"', "outbound.smarthost", "there is a login for one"),
        ('[outbound]\npassword_file = "p"', "outbound.login", "expected a user name beside the password"),
        ('[outbound]\nsmarthost = "smtp:h.example"\nlogin = "a"', "outbound.password_file", "beside the login"),
        (
            '[outbound]\nsmarthost = "smtp:h.example"\nlogin = "a"\npassword_file = "p"\ntls = "may"',
            "outbound.tls",
            "never goes over the network in the clear",
        ),
        (
            '[[route]]\ndomain = "a.example"\nto = "mx"\nlogin = "a"\npassword_file = "p"',
            "route[0].login",
            'expected none: we log in over "smtp:" and "smtps:" alone',
        ),
        (
            '[[route]]\ndomain = "a.example"\nto = "smtps:h.example"\ntls = "none"',
            "route[0].tls",
            "TLS from the first octet",
        ),
        (
            '[[route]]\ndomain = "a.example"\nto = "lmtp:unix:/x"\ntls = "verify"',
            "route[0].tls",
            "no TLS is spoken over a UNIX socket",
        ),
        (
            f'{PEOPLE}[mta]\nlisten = ["tcp:25"]\n[outbound]\nsmarthost = "smtp:mail.example.org"',
            "outbound.smarthost",
            "this is our own mta.listen[0]",
        ),
        (
            f'{PEOPLE}[lmtp]\nlisten = ["unix:run/lmtp"]\n[[route]]\ndomain = "b.example"\nto = "lmtp:unix:run/lmtp"',
            "route[0].to",
            "this is our own lmtp.listen[0]",
        ),
        ('[outbound]\nsrs_domain = "b.example"', "outbound.srs_domain", "expected one of mda.domains"),
        (
            '[[tls.site]]\nnames = ["a.example"]\ncertificate = "c"\nkey = "k"\n' * 2,
            "tls.site[1].names",
            "also in tls.site[0].names",
        ),
    ],
)
def test_values_that_cannot_be_right_together(text: str, key: str, expected: str) -> None:
    found = told(f"{LEAST}{text}\n")
    assert list(found) == [key]
    assert expected in found[key]


@pytest.mark.parametrize(
    ("one", "other", "collide"),
    [
        ("tcp:25", "tcp:25", True),
        ("tcp:25", "tcp:25:interface=127.0.0.1", True),
        ("tcp:25:interface=0.0.0.0", "tcp:25:interface=127.0.0.1", True),
        ("tcp:25:interface=127.0.0.2", "tcp:25:interface=127.0.0.1", False),
        ("tcp:25", "tcp6:25", False),
        ("tcp:25", "tcp:26", False),
        ("tcp:0", "tcp:0", False),
        ("unix:/run/a", "unix:/run/../run/a", True),
        ("unix:/run/a", "unix:/run/b", False),
    ],
)
def test_a_port_is_bound_once(one: str, other: str, collide: bool) -> None:
    text = f'{LEAST}[mta]\nlisten = ["{one}"]\n[lmtp]\nlisten = ["{other}"]\n[mda]\ndomains = ["a.example"]\n'
    text += '[accounts]\nfile = "a"\n'
    if collide:
        assert list(told(text)) == ["lmtp.listen[0]"]
    else:
        parse(text, FILE)


# --- all of it at once -------------------------------------------------------------------------------------------


def test_all_mistakes_are_told_at_once_each_with_its_line() -> None:
    found = problems("""\
hostname = "mail"
data = "x"
[limits]
hops = 3
[tls]
key = "only"
[mta]
listen = ["tcp:25", "udp:25"]
[msa]
listen = ["tcp:587"]
lissten_tls = []
[[mta.policy]]
use = "a"
[[mta.policy]]
use = "b"
on_failure = "x"
""")
    assert [(problem.line, problem.key) for problem in found] == [
        (1, "hostname"),
        (4, "limits.hops"),
        (6, "tls.key"),
        (8, "mta.listen[1]"),
        (10, "accounts.file"),
        (11, "msa.lissten_tls"),
        (16, "mta.policy[1].on_failure"),
    ]
    assert str(found[1]) == "/etc/mailhub/mailhub.toml:4: limits.hops: expected at least 25; got 3"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[tls]\ncertificate = 5\nkey = "k"\n', "tls.certificate"),
        ('[mta]\nlisten = ["tcp:25"]\n[mda]\ndomains = ["a b"]\n', "mda.domains[0]"),
        ('[msa]\nlisten = ["tcp:587"]\n[accounts]\nfile = 5\n', "accounts.file"),
        ('[queue]\ngive_up = "soon"\nwarn_after = "6d"\n', "queue.give_up"),
    ],
)
def test_a_contradiction_with_a_value_that_is_wrong_anyway_is_not_told(text: str, key: str) -> None:
    assert list(told(LEAST + text)) == [key]


def test_lines_are_found_past_multi_line_strings_and_quoted_keys() -> None:
    found = lines('a = """\nb = 1\n[c]\n"""\n"d e".f = 1\n  [ g . "h" ] # i\nj = [\n  1\n]\n[[k]]\nl=1\n[[k]]\nl=2\n')
    assert found == {
        ("a",): 1,
        ("d e", "f"): 5,
        ("g", "h"): 6,
        ("g", "h", "j"): 7,
        ("k", 0): 10,
        ("k", 0, "l"): 11,
        ("k", 1): 12,
        ("k", 1, "l"): 13,
    }


def test_a_problem_that_is_found_later_gets_its_line() -> None:
    config = parse(LEAST + '\n[[mta.policy]]\nuse = "a"\nzones = 5\n', FILE)
    problems = [Problem(FILE, key, "x") for key in ("mta.policy[0].zones", "mta.policy[0].missing", "msa.policy (a)")]
    assert [problem.line for problem in config.located(problems)] == [6, 4, None]


# --- files that are no configuration ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [('hostname = "mail\n', 1, 17), ("hostname =\n", 1, 11), ("a = 1\na = 2\n", 2, 6), ("[mta\n", 1, 5)],
)
def test_broken_toml_has_a_place(text: str, line: int, column: int) -> None:
    (problem,) = problems(text)
    assert (problem.line, problem.column) == (line, column)
    assert problem.message.startswith("broken TOML: ")


@pytest.mark.parametrize(
    ("text", "expected"), [("a = " + "9" * 5000, "a number has too many digits"), ("a = " + "[" * 5000, "too deeply")]
)
def test_toml_beyond_the_limits_of_python(text: str, expected: str) -> None:
    (problem,) = problems(text)
    assert expected in problem.message
    assert "at line" not in problem.message


def test_toml_that_ends_too_early_has_the_last_line() -> None:
    (problem,) = problems('a = 1\nb = """\nc\n')
    assert problem.line == 3
    assert "end of the file" in problem.message


@pytest.mark.parametrize("octets", [b"a = '\xff'\n", b"\xff\xfea\0"])
def test_a_file_that_is_not_utf_8(tmp_path: Path, octets: bytes) -> None:
    file = tmp_path / "hub.toml"
    file.write_bytes(b"# one\n" + octets)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert [(problem.line, problem.file) for problem in caught.value.problems] == [(2, file)]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "hub.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)


def test_a_file_that_is_something_else(tmp_path: Path) -> None:
    file = tmp_path / "hub.toml"
    with file.open("wb") as stream:
        stream.truncate(5 * 1024 * 1024)
    with pytest.raises(ConfigError, match="not a configuration"):
        load(file)


_SCALARS = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8), st.none())
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["listen", "policy", "use", "site", "names", "key", "file"]), inner),
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(sorted(Config.model_fields)), _TREES))
def test_whatever_the_tables_hold_the_answer_is_a_configuration_or_its_problems(tables: dict[str, object]) -> None:
    found: tuple[Problem, ...] = ()
    try:
        from_tables(tables, FILE)
    except ConfigError as error:
        found = error.problems or (Problem(FILE, "", ""),)
    assert all(problem.message and str(problem).isprintable() for problem in found)
