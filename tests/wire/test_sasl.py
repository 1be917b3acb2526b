"""SASL on the server's side, against scramp's own client and against whatever a stranger may send."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramClient, ScramMechanism

from mailhub.model import ScramVerifier
from mailhub.wire import sasl
from mailhub.wire.sasl import (
    Challenge,
    ChannelBinding,
    Done,
    Malformed,
    NeedPassword,
    NeedVerifier,
    Refused,
    Step,
)

ALICE = "alice@example.test"
NONCE = "3rfcNHYJY1ZVvWVs7j0123456789"
EXPORTER = ChannelBinding("tls-exporter", b"e" * 32)
END_POINT = ChannelBinding("tls-server-end-point", b"p" * 32)
PLUS = "SCRAM-SHA-256-PLUS"


def verifier(password: str = "pencil") -> ScramVerifier:
    salt, stored_key, server_key, iterations = ScramMechanism("SCRAM-SHA-256").make_auth_info(
        password, 4096, b"0123456789abcdef"
    )
    return ScramVerifier(salt, iterations, stored_key, server_key)


VERIFIER = verifier()


def begun(mechanism: str, *bindings: ChannelBinding) -> sasl.Exchange:
    exchange = sasl.begin(mechanism, bindings, NONCE)
    assert exchange is not None
    return exchange


def octets_of(step: Step) -> bytes:
    assert isinstance(step, Challenge), step
    return step.octets


# --- PLAIN and LOGIN ---------------------------------------------------------------------------------------------


def test_plain_with_an_initial_response() -> None:
    exchange = begun("plain")
    assert exchange.start(b"\0alice@example.test\0pencil") == NeedPassword(ALICE, "pencil")
    assert exchange.proved(ALICE) == Done(ALICE)


def test_plain_without_an_initial_response() -> None:
    exchange = begun("PLAIN")
    assert exchange.start(None) == Challenge(b"")
    assert exchange.step(b"\0alice\0pass word") == NeedPassword("alice", "pass word")
    assert isinstance(exchange.proved(None), Refused)


@pytest.mark.parametrize("acting_for", ["", "alice", "ALICE", ALICE])
def test_plain_may_act_for_itself(acting_for: str) -> None:
    exchange = begun("PLAIN")
    assert isinstance(exchange.start(f"{acting_for}\0alice\0pencil".encode()), NeedPassword)
    assert exchange.proved(ALICE) == Done(ALICE)


def test_plain_may_not_act_for_another_and_hears_so_only_after_the_password() -> None:
    exchange = begun("PLAIN")
    assert isinstance(exchange.start(b"bob@example.test\0alice\0pencil"), NeedPassword)
    assert isinstance(exchange.proved(ALICE), Refused)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"alice",
        b"\0alice",
        b"\0\0",
        b"\0alice\0",
        b"\0\0pencil",
        b"\0alice\0pen\0cil",
        b"\0\xff\0pencil",
        b"\0alice\0\xc3",
        b"\xff\0alice\0pencil",
        b"\0" + b"a" * 1281 + b"\0pencil",
        b"\0alice\0" + b"p" * 1025,
        b"a" * 100_000,
    ],
)
def test_plain_that_is_none(message: bytes) -> None:
    assert isinstance(begun("PLAIN").start(message), Malformed)


def test_login_in_three_steps() -> None:
    exchange = begun("LOGIN")
    assert exchange.start(None) == Challenge(b"Username:")
    assert exchange.step("ålice@example.test".encode()) == Challenge(b"Password:")
    assert exchange.step(b"pencil") == NeedPassword("ålice@example.test", "pencil")
    assert exchange.proved("ålice@example.test") == Done("ålice@example.test")


def test_login_with_an_initial_response() -> None:
    exchange = begun("LOGIN")
    assert exchange.start(b"alice") == Challenge(b"Password:")
    assert exchange.step(b"pencil") == NeedPassword("alice", "pencil")
    assert isinstance(exchange.proved(None), Refused)


@pytest.mark.parametrize("response", [b"", b"\xff", b"a\0b", b"a" * 1281])
def test_login_that_is_none(response: bytes) -> None:
    assert isinstance(begun("LOGIN").start(response), Malformed)
    exchange = begun("LOGIN")
    exchange.start(b"alice")
    assert isinstance(exchange.step(response), Malformed)


def test_a_password_does_not_show_in_a_traceback() -> None:
    assert "pencil" not in repr(NeedPassword("alice", "pencil"))


def test_what_is_called_out_of_turn_is_a_fault_of_ours() -> None:
    for name in ("PLAIN", "LOGIN"):
        with pytest.raises(RuntimeError):
            begun(name).proved(ALICE)
        with pytest.raises(RuntimeError):
            begun(name).verify_with(ALICE, VERIFIER)
    with pytest.raises(RuntimeError):
        begun("SCRAM-SHA-256").verify_with(ALICE, VERIFIER)
    with pytest.raises(RuntimeError):
        begun("SCRAM-SHA-256").proved(ALICE)
    exchange = begun("PLAIN")
    exchange.start(b"\0alice\0pencil")
    exchange.proved(None)
    with pytest.raises(RuntimeError):
        exchange.proved(ALICE)


# --- SCRAM -------------------------------------------------------------------------------------------------------


def talk(
    exchange: sasl.Exchange,
    client: ScramClient,
    known: ScramVerifier = VERIFIER,
    login: str | None = ALICE,
    change: Callable[[str], str] = lambda text: text,
) -> Step:
    """The whole exchange; `change` is what somebody in the middle makes of the client's first message."""
    step = exchange.start(change(client.get_client_first()).encode())
    if not isinstance(step, NeedVerifier):
        return step
    client.set_server_first(octets_of(exchange.verify_with(login, known)).decode())
    step = exchange.step(client.get_client_final().encode())
    if not isinstance(step, Challenge):
        return step
    client.set_server_final(step.octets.decode())  # raises unless the server has proven itself, too
    return exchange.step(b"")


def test_scram_proves_both_sides() -> None:
    client = ScramClient(["SCRAM-SHA-256"], ALICE, "pencil")
    assert talk(begun("SCRAM-SHA-256"), client) == Done(ALICE)


def test_scram_asks_for_the_login_that_the_client_named() -> None:
    client = ScramClient(["SCRAM-SHA-256"], "a,l=ice", "pencil")
    exchange = begun("SCRAM-SHA-256")
    assert exchange.start(None) == Challenge(b"")
    assert exchange.step(client.get_client_first().encode()) == NeedVerifier("a,l=ice")


@pytest.mark.parametrize("binding", [EXPORTER, END_POINT])
@pytest.mark.parametrize("offered", [(EXPORTER, END_POINT), (END_POINT, EXPORTER)])
def test_scram_plus_binds_to_what_the_client_can(binding: ChannelBinding, offered: tuple[ChannelBinding, ...]) -> None:
    client = ScramClient([PLUS], ALICE, "pencil", channel_binding=(binding.type, binding.data))
    assert talk(begun(PLUS, *offered), client) == Done(ALICE)


@pytest.mark.parametrize("binding", [EXPORTER, END_POINT])
def test_scram_plus_over_another_connection_is_refused(binding: ChannelBinding) -> None:
    client = ScramClient([PLUS], ALICE, "pencil", channel_binding=(binding.type, b"another connection"))
    assert isinstance(talk(begun(PLUS, binding), client), Refused)


def test_a_client_that_was_told_there_is_no_plus_is_refused() -> None:
    client = ScramClient(["SCRAM-SHA-256"], ALICE, "pencil", channel_binding=(END_POINT.type, END_POINT.data))
    first = client.get_client_first()
    assert first.startswith("y,,")
    assert isinstance(begun("SCRAM-SHA-256", END_POINT).start(first.encode()), Refused)
    # Where there is none, the client is right.
    assert isinstance(begun("SCRAM-SHA-256").start(first.encode()), NeedVerifier)


def test_a_downgrade_on_the_way_breaks_the_proof() -> None:
    client = ScramClient([PLUS], ALICE, "pencil", channel_binding=(END_POINT.type, END_POINT.data))
    step = talk(
        begun("SCRAM-SHA-256", END_POINT),
        client,
        change=lambda first: first.replace("p=tls-server-end-point,,", "n,,"),
    )
    assert isinstance(step, Refused)


@pytest.mark.parametrize("header", ["n,,", "y,,"])
def test_plus_without_a_binding_is_refused(header: str) -> None:
    assert isinstance(begun(PLUS, END_POINT).start(f"{header}n=alice,r=abcdefgh".encode()), Refused)


@pytest.mark.parametrize("name", ["tls-unique", "tls-nothing", ""])
def test_other_bindings_are_not_offered(name: str) -> None:
    assert isinstance(begun(PLUS, END_POINT).start(f"p={name},,n=alice,r=abcdefgh".encode()), Malformed)
    with pytest.raises(ValueError, match="not a channel binding"):
        ChannelBinding(name, b"data")


def test_a_wrong_password_fails_at_the_end() -> None:
    assert isinstance(talk(begun("SCRAM-SHA-256"), ScramClient(["SCRAM-SHA-256"], ALICE, "pen")), Refused)


def test_an_unknown_login_fails_at_the_end_and_no_sooner() -> None:
    fake = ScramVerifier(b"0123456789abcdef", 4096, b"s" * 32, b"k" * 32)
    client = ScramClient(["SCRAM-SHA-256"], "nobody", "pencil")
    exchange = begun("SCRAM-SHA-256")
    exchange.start(client.get_client_first().encode())
    first = octets_of(exchange.verify_with(None, fake)).decode()
    client.set_server_first(first)
    assert isinstance(exchange.step(client.get_client_final().encode()), Refused)


def test_even_a_proven_fake_is_nobody() -> None:
    assert isinstance(talk(begun("SCRAM-SHA-256"), ScramClient(["SCRAM-SHA-256"], "x", "pencil"), login=None), Refused)


def test_a_client_cannot_be_somebody_else() -> None:
    step = begun("SCRAM-SHA-256").start(b"n,a=bob,n=alice,r=abcdefgh")
    assert isinstance(step, Malformed)


def test_an_ended_exchange_takes_nothing_more() -> None:
    exchange = begun("SCRAM-SHA-256")
    talk(exchange, ScramClient(["SCRAM-SHA-256"], ALICE, "wrong"))
    with pytest.raises(RuntimeError):
        exchange.step(b"")


def test_the_acknowledgement_is_empty() -> None:
    client = ScramClient(["SCRAM-SHA-256"], ALICE, "pencil")
    exchange = begun("SCRAM-SHA-256")
    exchange.start(client.get_client_first().encode())
    client.set_server_first(octets_of(exchange.verify_with(ALICE, VERIFIER)).decode())
    octets_of(exchange.step(client.get_client_final().encode()))
    assert isinstance(exchange.step(b"x"), Malformed)


def test_a_stored_verifier_that_scramp_refuses_logs_nobody_in() -> None:
    exchange = begun("SCRAM-SHA-256")
    exchange.start(b"n,,n=alice,r=abcdefgh")
    assert isinstance(exchange.verify_with(ALICE, ScramVerifier(b"short", 1, b"", b"")), Refused)


def test_saslprep_makes_two_spellings_one() -> None:
    client = ScramClient(["SCRAM-SHA-256"], ALICE, "\u2168 pencil")  # a roman numeral nine, which is IX
    assert talk(begun("SCRAM-SHA-256"), client, known=verifier("IX pencil")) == Done(ALICE)


# --- offers, and hostile input -----------------------------------------------------------------------------------


def test_what_is_offered() -> None:
    assert sasl.offered() == ("SCRAM-SHA-256", "PLAIN", "LOGIN")
    assert sasl.offered((END_POINT,)) == (PLUS, "SCRAM-SHA-256", "PLAIN", "LOGIN")
    assert sasl.begin(PLUS, (), NONCE) is None
    assert sasl.begin("CRAM-MD5", (), NONCE) is None
    assert "tls-exporter" in sasl.BINDING_TYPES


hostile = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda parts: b"".join(parts),
        st.lists(
            st.sampled_from(
                [b"n", b"y", b"p=tls-exporter", b",", b"=", b"n=alice", b"r=abc", b"a=", b"c=biws", b"\0", b"p=", b"m="]
            )
            | st.text(max_size=4).map(lambda text: text.encode("utf-8", "surrogatepass")),
            max_size=12,
        ),
    ),
)


@given(st.sampled_from(sasl.offered((EXPORTER,))), st.none() | hostile, st.lists(hostile, max_size=3))
def test_no_octets_raise(mechanism: str, initial: bytes | None, responses: list[bytes]) -> None:
    exchange = begun(mechanism, EXPORTER)
    step = exchange.start(initial)
    for response in responses:
        match step:
            case Challenge():
                step = exchange.step(response)
            case NeedPassword(login, password):
                assert login
                assert password
                step = exchange.proved(None)
            case NeedVerifier(login):
                assert login
                step = exchange.verify_with(None, VERIFIER)
            case Done():
                raise AssertionError("nobody proved anything")
            case Refused(why) | Malformed(why):
                assert why
                return


@given(hostile)
def test_no_final_message_raises_or_proves(final: bytes) -> None:
    exchange = begun("SCRAM-SHA-256")
    exchange.start(b"n,,n=alice,r=abcdefgh")
    exchange.verify_with(ALICE, VERIFIER)
    assert isinstance(exchange.step(final), Refused | Malformed)


def test_an_endless_message_is_not_parsed() -> None:
    assert isinstance(begun("SCRAM-SHA-256").start(b"n,,n=alice,r=" + b"a" * 100_000), Malformed)


def test_a_guessable_nonce_is_a_fault_of_ours() -> None:
    for nonce in ("short", "a comma, in a nonce", "a,comma,in,the,nonce", "nul\0in-a-long-nonce"):
        with pytest.raises(ValueError, match="nonce"):
            sasl.begin("SCRAM-SHA-256", (), nonce)
