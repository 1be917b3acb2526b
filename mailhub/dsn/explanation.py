"""What a delivery status notification says to people.

The rule: the reader does not know what an SMTP server is.  He reads what happened, to whom, what the other side said,
and what he can do now; in this order, and in whole sentences.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailhub.dsn.report import DIAGNOSTIC_CHARACTERS_MAX, Report
from mailhub.dsn.rules import Action
from mailhub.dsn.text import clean, wrap
from mailhub.model import EnhancedStatus, Envelope
from mailhub.model.trace import date

#: More recipients than these are counted, not listed; the machine-readable part has them all.
RECIPIENTS_SHOWN_MAX = 50
_ADDRESS_SHOWN_MAX = 320

#: The beginning of the Subject field, and the whole of it where the message had none.
SUBJECT = {
    Action.FAILED: ("Not delivered", "Your message was not delivered"),
    Action.DELAYED: ("Delayed", "Your message is delayed"),
    Action.DELIVERED: ("Delivered", "Your message was delivered"),
    Action.RELAYED: ("Handed on", "Your message was handed on"),
}

_NEWS = {
    Action.FAILED: "Your message could not be delivered to {whom}. We have stopped trying.",
    Action.DELAYED: "Your message has not been delivered yet to {whom}.",
    Action.DELIVERED: "As you asked to be told: your message was delivered to {whom}.",
    Action.RELAYED: "As you asked to be told: your message was handed on to the mail system of {whom}. That system"
    " does not send delivery reports, so this is the last that you will hear of it.",
}

# By subject and detail of RFC 3463, then by subject alone.
_ADVICE = {
    (1, 0): "There is no such mailbox. Please check the address for a spelling mistake.",
    (1, 1): "There is no such mailbox. Please check the address for a spelling mistake.",
    (1, 2): "The part behind the @ sign takes no mail. Please check it for a spelling mistake.",
    (1, 3): "The address is not written correctly.",
    (1, 6): "The mailbox has moved. Please ask the recipient, in another way, for the new address.",
    (1, 8): "The recipient's system does not accept your own address as that of a sender.",
    (1, 10): "The part behind the @ sign says that it takes no mail at all. Please check it for a spelling mistake.",
    (2, 1): "The mailbox is closed. Please reach the recipient in another way.",
    (2, 2): "The mailbox is full. Please tell the recipient in another way, and send the message again later.",
    (2, 3): "The message is larger than the recipient may receive. Please send less, or in parts.",
    (3, 4): "The message is larger than the recipient's system takes. Please send less, or in parts.",
    (4, 4): "We found no mail system for the part behind the @ sign. Please check it for a spelling mistake.",
    (4, 6): "The message was going round in a circle. Please tell the recipient's postmaster.",
    (4, 7): "The recipient's system could not be reached for too long. Please try again in some days.",
    (6, 7): "The recipient's system cannot take addresses with letters beyond plain English.",
    (7, 1): "The recipient's system does not want this message. If it should, please ask its postmaster.",
}
_ADVICE_BY_SUBJECT = {
    1: "Something is wrong with the address. Please check it for a spelling mistake.",
    2: "Something is wrong with the mailbox. Please reach the recipient in another way.",
    3: "The recipient's mail system is in trouble. Please send the message again later.",
    4: "The recipient's mail system could not be reached. Please send the message again later.",
    5: "The two mail systems did not understand each other. Please tell your postmaster.",
    6: "The recipient's mail system cannot take a message of this kind.",
    7: "The recipient's mail system refused the message. If it should not have, please ask its postmaster.",
}
_NO_ADVICE = "What was answered is all that we know."


def advice(status: EnhancedStatus) -> str:
    """One or two sentences about what the status means for the sender."""
    exact = _ADVICE.get((status.subject, status.detail))
    return exact or _ADVICE_BY_SUBJECT.get(status.subject, _NO_ADVICE)


def write(envelope: Envelope, reports: Sequence[Report], hostname: str, utf8: bool, returned: str) -> str:
    """The text, lines ending with CRLF.  `returned` is the sentence about the part that is attached."""
    action = reports[0].action
    whom = "the recipient below" if len(reports) == 1 else f"the {len(reports)} recipients below"
    lines = [f"This is the mail system at {hostname}.", ""]
    lines += wrap(_NEWS[action].format(whom=whom))
    for report in reports[:RECIPIENTS_SHOWN_MAX]:
        lines += ["", *_one(report, utf8)]
    if len(reports) > RECIPIENTS_SHOWN_MAX:
        lines += ["", f"    and {len(reports) - RECIPIENTS_SHOWN_MAX} more; the attached report lists them all."]
    if action is Action.DELAYED:
        until = reports[0].retry_until
        when = f" until {date(until)}" if until is not None else ""
        lines += [
            "",
            *wrap(
                f"You need not do anything, and please do not send the message again: we keep trying{when}."
                " If it cannot be delivered by then, we will tell you."
            ),
        ]
    elif action is Action.FAILED:
        lines += [
            "",
            *wrap(
                f"If you need help, please write to postmaster@{hostname} and attach this message, or say that its"
                f" number is {envelope.queue_id}."
            ),
        ]
    lines += ["", *wrap(f"We took the message from you on {date(envelope.received_at)}. {returned}"), ""]
    return "\r\n".join(lines)


def _one(report: Report, utf8: bool) -> list[str]:
    """A recipient: who, what was said, and what it means."""
    recipient = report.recipient
    lines = wrap(clean(str(recipient.address), _ADDRESS_SHOWN_MAX, only_ascii=not utf8), "    ")
    if recipient.original != recipient.address:
        original = clean(str(recipient.original), _ADDRESS_SHOWN_MAX, only_ascii=not utf8)
        lines += wrap(f"(to which we send what comes for {original})", "    ")
    if report.action in (Action.DELIVERED, Action.RELAYED):
        return lines
    if recipient.last_reply is not None:
        said = clean(str(recipient.last_reply), DIAGNOSTIC_CHARACTERS_MAX, only_ascii=not utf8)
        who = f"{clean(report.remote, _ADDRESS_SHOWN_MAX)} answered" if report.remote else "The reason"
        lines += [*wrap(f"{who}:", "        "), *wrap(said, "            ")]
    if report.action is Action.FAILED:
        lines += wrap(advice(report.status), "        ")
    return lines
