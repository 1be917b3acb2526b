"""Every envelope comes back from its rows exactly; what cannot be read is an error and no guess."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailhub.model import Address, EnhancedStatus, Envelope, MailParameters, Recipient, Reply, State
from mailhub.store import spool_schema as schema

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
line = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=30)
domains = st.sampled_from(["example.org", "xn--bcher-kva.example", "[192.0.2.1]", "[IPv6:2001:db8::1]", "[tag:a@b]"])
addresses = st.builds(Address, st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), domains)


@st.composite
def replies(draw: st.DrawFn) -> Reply:
    code = draw(st.integers(200, 599))
    status = None
    if code // 100 != 3 and draw(st.booleans()):
        status = EnhancedStatus(code // 100, draw(st.integers(0, 999)), draw(st.integers(0, 999)))
    return Reply(code, draw(line), status, tuple(draw(st.lists(line, max_size=3))))


times = st.floats(0, 2**33)
recipients = st.builds(
    Recipient,
    address=addresses,
    original=addresses,
    orcpt=st.none() | st.tuples(st.sampled_from(["rfc822", "utf-8", "x"]), text),
    notify=st.frozensets(st.sampled_from(["SUCCESS", "FAILURE", "DELAY"])) | st.just(frozenset({"NEVER"})),
    forwarded_by=st.none() | addresses,
    state=st.sampled_from(State),
    attempts=st.integers(0, 1000),
    next_attempt_at=times,
    last_reply=st.none() | replies(),
    delay_told=st.booleans(),
)
parameters = st.builds(
    MailParameters,
    size=st.none() | st.integers(0, 2**40),
    body=st.sampled_from([None, "7BIT", "8BITMIME", "BINARYMIME"]),
    smtputf8=st.booleans(),
    ret=st.sampled_from([None, "FULL", "HDRS"]),
    envid=st.none() | text,
    requiretls=st.booleans(),
    auth=st.none() | text,
)
envelopes = st.builds(
    Envelope,
    queue_id=st.just("1hqkpg5pr00h6bcfn"),
    reverse_path=st.none() | addresses,
    recipients=st.lists(recipients, min_size=1, max_size=3).map(tuple),
    received_at=times,
    prefix=st.binary(max_size=50),
    size=st.integers(0, 2**40),
    parameters=parameters,
    peer_ip=text,
    login=st.none() | text,
    session_id=text,
    hops=st.integers(0, 100),
    labels=st.lists(st.sampled_from(["dsn", "list", "vacation"]), max_size=2).map(tuple),
)


@given(envelopes)
def test_an_envelope_comes_back_from_its_rows(envelope: Envelope) -> None:
    message = schema.message_row(envelope, schema.due_at(envelope), in_file=False)
    rows = [schema.recipient_row(envelope.queue_id, at, one) for at, one in enumerate(envelope.recipients)]
    assert schema.envelope_from_rows(message, rows) == envelope


def test_no_field_is_forgotten() -> None:
    """A field that somebody adds to a value must be added to the schema (and to the strategies above) as well."""
    known = {
        Envelope: "queue_id reverse_path recipients received_at prefix size parameters peer_ip login session_id hops"
        " labels",
        Recipient: "address original orcpt notify forwarded_by state attempts next_attempt_at last_reply delay_told",
        MailParameters: "size body smtputf8 ret envid requiretls auth",
        Reply: "code text status more",
    }
    for kind, names in known.items():
        assert list(kind.__match_args__) == names.split(), kind


@pytest.mark.parametrize(
    "written", ["", "nobody", "@example.org", "a@", 'a"b@example.org', "a b@example.org", "a@b@c.d"]
)
def test_text_that_is_no_address_is_an_error(written: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        schema.address_from_text(written)


@pytest.mark.parametrize("written", ["", "250", "250 ok", "999 - text", "250 5.1.1 text", "abc - text"])
def test_text_that_is_no_reply_is_an_error(written: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        schema.reply_from_text(written)


def test_a_label_is_one_word() -> None:
    envelope = Envelope("1", None, (), 0.0, labels=("two words",))
    with pytest.raises(ValueError, match="one word"):
        schema.message_row(envelope, None, in_file=False)
