"""A Selection as a condition of SQL.  Every value is a parameter, never a part of the statement."""

from __future__ import annotations

from typing import Any

from mailhub.model.selection import Selection, Standing, fold

_STATES = {
    None: "state IN ('queued', 'held')",
    Standing.QUEUED: "state = 'queued'",
    Standing.DEFERRED: "state = 'queued' AND attempts > 0",
    Standing.HELD: "state = 'held'",
}


def condition(selection: Selection) -> tuple[str, list[Any]]:
    """What stands behind WHERE for the rows of `message` that are meant, and its values."""
    terms: list[str] = []
    values: list[Any] = []
    if selection.queue_ids:
        terms.append(f"queue_id IN ({', '.join('?' * len(selection.queue_ids))})")
        values += selection.queue_ids
    if selection.sender is not None:
        wanted = fold(selection.sender)
        if wanted.startswith("@"):
            terms.append("substr(lower(reverse_path), ?) = ?")
            values += (-len(wanted), wanted)
        else:
            terms.append("lower(reverse_path) = ?")
            values.append(wanted)
    if selection.received_after is not None:
        terms.append("received_at >= ?")
        values.append(selection.received_after)
    if selection.received_before is not None:
        terms.append("received_at <= ?")
        values.append(selection.received_before)
    if selection.session_prefix is not None:
        terms.append("substr(session_id, 1, ?) = ?")
        values += (len(selection.session_prefix), selection.session_prefix)
    touched = [_STATES[selection.standing]]
    if selection.recipient is not None:
        touched.append("lower(address) = ?")
        values.append(fold(selection.recipient))
    if selection.domain is not None:
        domain = "@" + fold(selection.domain)
        touched.append("substr(address, ?) = ?")
        values += (-len(domain), domain)
    rows = f"SELECT 1 FROM recipient WHERE recipient.queue_id = message.queue_id AND {' AND '.join(touched)}"  # noqa: S608
    terms.append(f"EXISTS ({rows})")
    return " AND ".join(terms), values
