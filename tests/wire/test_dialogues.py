r"""Whole dialogues as text: every file in tests/dialogues is one session, or several.

    # a comment
    config: lmtp, size_max=1000, auth=PLAIN LOGIN     fields of Extensions, and "lmtp"; a new session begins here
    limits: recipients_max=2                          fields of Limits
    answer RCPT bob@example.test: 550 5.1.1 Nobody    what the adapter answers (see conftest.py); holds until changed
    early: GET                                        octets that come before the banner is said
    C: EHLO client.example                            a line from the client; CR LF is added
    c: a\rb\0                                         octets from the client; \r \n \0 \t \\ \xNN are understood
    S: 250 2.1.0 Sender OK                            the next line from the server; "..." at its end is anything
    closed                                            the session has ended

All that the server says must stand in the file.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from mailhub.wire.smtp import replies
from mailhub.wire.smtp.server import Extensions, Limits

DIALOGUES = Path(__file__).parent.parent / "dialogues"
FILES = sorted(DIALOGUES.glob("*.txt"))


def values(text: str) -> dict[str, Any]:
    """`a, b=2, c=X Y` as keyword arguments."""
    found: dict[str, Any] = {}
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, equals, value = word.partition("=")
        if not equals:
            found[name] = True
        elif name == "auth":
            found[name] = tuple(value.split())
        elif value in ("yes", "no"):
            found[name] = value == "yes"
        else:
            found[name] = int(value)
    return found


class Script:
    """Runs the lines of one file."""

    def __init__(self, conversation: Callable[..., Any]) -> None:
        self.conversation = conversation
        self.expected: list[str] = []
        self.restart({})

    def restart(self, options: dict[str, Any]) -> None:
        self.options = options
        self.limits: dict[str, Any] = {}
        self.answers: dict[str, str] = {}
        self.talk: Any = None
        self.seen = 0

    def begin(self, early: bytes = b"") -> None:
        if self.talk is None:
            options = dict(self.options)
            lmtp = options.pop("lmtp", False)
            extensions = Extensions("mx.example.test", **options)
            self.talk = self.conversation(self.answers, extensions=extensions, limits=Limits(**self.limits), lmtp=lmtp)
            if early:
                self.talk.session.receive(early)
            self.talk.run()

    def settle(self) -> None:
        """What was said so far is what the file has."""
        if self.talk is not None:
            said = self.talk.replies[self.seen :].decode("ascii").split("\r\n")[:-1]
            self.seen = len(self.talk.replies)
        else:
            said = []
        shown = [
            wanted if wanted.endswith("...") and line.startswith(wanted[:-3]) else line
            for line, wanted in zip(said, self.expected + [""] * len(said), strict=False)
        ]
        assert shown == self.expected
        self.expected = []

    def line(self, line: str) -> None:
        word, _, rest = line.partition(": ")
        if line == "closed":
            self.settle()
            assert self.talk.is_over
        elif word == "S":
            self.begin()
            self.expected.append(rest)
        elif word in ("C", "c"):
            self.begin()
            self.settle()
            octets = rest.encode()
            self.talk.send(codecs.escape_decode(octets)[0] if word == "c" else octets + b"\r\n")  # type: ignore[attr-defined]
        elif word == "early":
            self.begin(rest.encode())
        elif word.startswith("answer "):
            self.answers[word[7:]] = rest
            if self.talk is not None:
                self.talk.answers[word[7:]] = rest
        elif word == "limits":
            self.limits.update(values(rest))
        elif word.rstrip(":") == "config":
            self.settle()
            self.restart(values(rest))
        else:
            assert not line or line.startswith("#"), f"not understood: {line}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_dialogue(file: Path, conversation: Callable[..., Any]) -> None:
    script = Script(conversation)
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            script.line(line.rstrip() if not line.startswith(("C:", "c:")) else line)
        except AssertionError as error:
            raise AssertionError(f"{file.name}:{number}: {error}") from None
    script.settle()


def test_there_are_dialogues() -> None:
    assert len(FILES) >= 8


def test_every_reply_of_the_session_appears_in_a_dialogue() -> None:
    text = "\n".join(file.read_text() for file in FILES)
    fixed = {name: value for name, value in vars(replies).items() if isinstance(value, replies.Reply)}
    assert len(fixed) > 40
    missing = [name for name, value in fixed.items() if f"S: {value}" not in text]
    assert missing == []


def test_the_values_of_a_config_line_are_fields() -> None:
    assert values("lmtp, size_max=10, auth=PLAIN LOGIN, chunking=no") == {
        "lmtp": True,
        "size_max": 10,
        "auth": ("PLAIN", "LOGIN"),
        "chunking": False,
    }
    assert {"size_max", "auth", "chunking"} <= {field.name for field in fields(Extensions)}
