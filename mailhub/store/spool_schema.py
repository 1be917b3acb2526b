"""How a queued message looks in SQL: for `sqlite3 queue.db` as much as for us.

Addresses, replies and states are text as a postmaster would write them; times are seconds since the epoch.  Every
value round-trips exactly; whatever cannot be read back raises ValueError, and its message is quarantined, not guessed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeAlias

from mailhub.model import (
    NO_MAIL_PARAMETERS,
    Address,
    EnhancedStatus,
    Envelope,
    MailParameters,
    Recipient,
    Reply,
    ReversePath,
    State,
)

Row: TypeAlias = tuple[Any, ...]

#: Kept in PRAGMA user_version.  A change of SCHEMA raises it and brings the statements that lead from the last one.
VERSION = 1

#: By itself, since it is made anew when it was corrupt.
CONTENT = """
CREATE TABLE content (
    queue_id TEXT PRIMARY KEY,
    octets   BLOB NOT NULL          -- as received
) WITHOUT ROWID;
"""

SCHEMA = f"""
CREATE TABLE message (
    queue_id     TEXT PRIMARY KEY,
    due_at       REAL,              -- when a recipient is next to be tried; null: nothing to do (held, quarantined)
    received_at  REAL NOT NULL,
    reverse_path TEXT NOT NULL,     -- '<>' is the null reverse-path
    size         INTEGER NOT NULL,  -- octets of the content
    in_file      INTEGER NOT NULL,  -- 1: the content is a file under content/; 0: a row of the table content
    peer_ip      TEXT NOT NULL,
    login        TEXT,
    session_id   TEXT NOT NULL,
    hops         INTEGER NOT NULL,
    labels       TEXT NOT NULL,     -- words with a space between them
    parameters   TEXT NOT NULL,     -- of MAIL, as JSON; those not given are left out
    prefix       BLOB NOT NULL      -- the header fields that we add, as they go on the wire
) WITHOUT ROWID;

CREATE INDEX message_due ON message (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE recipient (
    queue_id        TEXT NOT NULL,
    position        INTEGER NOT NULL,
    address         TEXT NOT NULL,
    original        TEXT NOT NULL,  -- as the client gave it
    state           TEXT NOT NULL,  -- queued, held, delivered, failed, discarded
    attempts        INTEGER NOT NULL,
    next_attempt_at REAL NOT NULL,
    last_reply      TEXT,           -- code, enhanced status or '-', text; further lines below it
    orcpt           TEXT,           -- type;address
    notify          TEXT NOT NULL,  -- SUCCESS,FAILURE,DELAY or NEVER; empty when not given
    forwarded_by    TEXT,           -- the alias of ours that sends this copy to an outside address
    delay_told      INTEGER NOT NULL,
    PRIMARY KEY (queue_id, position)
) WITHOUT ROWID;

{CONTENT}
CREATE TABLE quarantine (           -- messages that could not be read; their rows stay where they are
    queue_id     TEXT PRIMARY KEY,
    set_aside_at REAL NOT NULL,
    cause        TEXT NOT NULL
) WITHOUT ROWID;
"""

MESSAGE_COLUMNS = (
    "queue_id, due_at, received_at, reverse_path, size, in_file, peer_ip, login, session_id, hops, labels, parameters,"
    " prefix"
)
RECIPIENT_COLUMNS = (
    "queue_id, position, address, original, state, attempts, next_attempt_at, last_reply, orcpt, notify, forwarded_by,"
    " delay_told"
)

_NULL_PATH = "<>"
_NOTHING = "{}"
_PARAMETERS = tuple(field.name for field in fields(MailParameters))
_STATES = {state.value: state for state in State}
_NO_NOTIFY: frozenset[str] = frozenset()


# --- values as text ----------------------------------------------------------------------------------------------


def address_from_text(text: str) -> Address:
    """The address that `str(address)` wrote.  Raises ValueError for any other text."""
    # The text of an address literal may hold an "@", never a "[" (RFC 5321 section 4.1.3, dcontent).
    local, _, domain = text.rpartition("@[") if text.endswith("]") else text.rpartition("@")
    if text.endswith("]"):
        domain = "[" + domain
    if local.startswith('"'):
        local = _unquoted(local)
    address = Address(local, domain)
    if not domain or str(address) != text:
        raise ValueError(f"not an address: {text!r}")
    return address


def _unquoted(text: str) -> str:
    characters = iter(text[1:-1])
    return "".join(next(characters, "") if character == "\\" else character for character in characters)


def _path_from_text(text: str) -> ReversePath:
    return None if text == _NULL_PATH else address_from_text(text)


def text_from_reply(reply: Reply) -> str:
    """`550 5.1.1 No such user`, with "-" where there is no enhanced status; further lines follow, each on its own."""
    return "\n".join((f"{reply.code} {reply.status or '-'} {reply.text}", *reply.more))


def reply_from_text(text: str) -> Reply:
    """The reply that `text_from_reply` wrote.  Raises ValueError for any other text."""
    first, *more = text.split("\n")
    code, status, words = first.split(" ", 2)
    return Reply(int(code), words, None if status == "-" else EnhancedStatus.parse(status), tuple(more))


def _text_from_parameters(parameters: MailParameters) -> str:
    if parameters is NO_MAIL_PARAMETERS:
        return _NOTHING
    given = {
        name: value for name in _PARAMETERS if (value := getattr(parameters, name)) != getattr(NO_MAIL_PARAMETERS, name)
    }
    return json.dumps(given, separators=(",", ":"))


def _parameters_from_text(text: str) -> MailParameters:
    if text == _NOTHING:
        return NO_MAIL_PARAMETERS
    try:
        return MailParameters(**json.loads(text))
    except TypeError as error:
        raise ValueError(f"not the parameters of MAIL: {text!r}") from error


def _text_from_labels(labels: Sequence[str]) -> str:
    if not all(label and label.split() == [label] for label in labels):
        raise ValueError(f"a label is one word: {labels!r}")
    return " ".join(labels)


# --- rows --------------------------------------------------------------------------------------------------------


def due_at(envelope: Envelope) -> float | None:
    """When the earliest queued recipient is to be tried: one for which no time was set yet, when the message came.

    None if none is queued.
    """
    times = [recipient.next_attempt_at for recipient in envelope.recipients if recipient.state is State.QUEUED]
    # Never the later of both: a message may have come under a clock that was ahead, and has been set back.
    return (min(times) or envelope.received_at) if times else None


def message_row(envelope: Envelope, due: float | None, in_file: bool) -> Row:
    """MESSAGE_COLUMNS of this message.  Raises ValueError for labels that are no words."""
    reverse_path = envelope.reverse_path
    return (
        envelope.queue_id,
        due,
        envelope.received_at,
        _NULL_PATH if reverse_path is None else str(reverse_path),
        envelope.size,
        int(in_file),
        envelope.peer_ip,
        envelope.login,
        envelope.session_id,
        envelope.hops,
        _text_from_labels(envelope.labels) if envelope.labels else "",
        _text_from_parameters(envelope.parameters),
        envelope.prefix,
    )


def recipient_row(queue_id: str, position: int, recipient: Recipient) -> Row:
    """RECIPIENT_COLUMNS of one recipient."""
    address = str(recipient.address)
    orcpt, forwarded_by, reply = recipient.orcpt, recipient.forwarded_by, recipient.last_reply
    return (
        queue_id,
        position,
        address,
        address if recipient.original is recipient.address else str(recipient.original),
        recipient.state.value,
        recipient.attempts,
        recipient.next_attempt_at,
        None if reply is None else text_from_reply(reply),
        None if orcpt is None else f"{orcpt[0]};{orcpt[1]}",
        ",".join(sorted(recipient.notify)) if recipient.notify else "",
        None if forwarded_by is None else str(forwarded_by),
        int(recipient.delay_told),
    )


def recipient_from_row(row: Row) -> Recipient:
    """Raises ValueError (TypeError for a column of another type) when a column cannot be read."""
    _, _, address, original, state, attempts, next_attempt_at, last_reply, orcpt, notify, forwarded_by, delay_told = row
    if state not in _STATES:
        raise ValueError(f"not a state: {state!r}")
    orcpt_type, separator, orcpt_address = (orcpt or "").partition(";")
    if orcpt is not None and not separator:
        raise ValueError(f"not an ORCPT: {orcpt!r}")
    mailbox = address_from_text(address)
    return Recipient(
        address=mailbox,
        original=mailbox if original == address else address_from_text(original),
        orcpt=None if orcpt is None else (orcpt_type, orcpt_address),
        notify=frozenset(notify.split(",")) if notify else _NO_NOTIFY,
        forwarded_by=None if forwarded_by is None else address_from_text(forwarded_by),
        state=_STATES[state],
        attempts=int(attempts),
        next_attempt_at=float(next_attempt_at),
        last_reply=None if last_reply is None else reply_from_text(last_reply),
        delay_told=bool(delay_told),
    )


def envelope_from_rows(message: Row, recipients: Sequence[Row]) -> Envelope:
    """Raises ValueError or TypeError when a column cannot be read, or when there are no recipients."""
    queue_id, _, received_at, reverse_path, size, _, peer_ip, login, session_id, hops, labels, parameters, prefix = (
        message
    )
    if not recipients:
        raise ValueError("the message has no recipients")
    return Envelope(
        queue_id=queue_id,
        reverse_path=_path_from_text(reverse_path),
        recipients=tuple(recipient_from_row(row) for row in recipients),
        received_at=float(received_at),
        prefix=bytes(prefix),
        size=int(size),
        parameters=_parameters_from_text(parameters),
        peer_ip=peer_ip,
        login=login,
        session_id=session_id,
        hops=int(hops),
        labels=tuple(labels.split(" ")) if labels else (),
    )
