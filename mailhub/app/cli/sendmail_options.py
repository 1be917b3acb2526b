"""The options of sendmail, as programs have given them for forty years.

They are no options of click's: one letter each, with a value that sticks or follows, in bundles, and with recipients
between them.  Options that tune another mail system are taken and ignored, so that programs need not be told about us;
those that would change what happens to the mail, and that we do not have, are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


class BadUsage(Exception):
    """The command line is wrong; the text says how."""


@dataclass
class Invocation:
    """What was asked for.  `mode` is "send", "smtp", "list", "flush" or "aliases"."""

    mode: str = "send"
    recipients: list[str] = field(default_factory=list)
    sender: str | None = None  # -f, -r
    full_name: str | None = None  # -F
    from_header: bool = False  # -t: recipients stand in the header
    dot_ends: bool = True  # without -i, -oi: a line with a dot alone ends the message
    notify: frozenset[str] = frozenset()  # -N
    ret: str | None = None  # -R
    envid: str | None = None  # -V
    config: str | None = None  # -C, --config
    verbose: bool = False  # -v


#: With a value that is ignored: body type, debug level, hop count, log tag, macro, option, protocol, traffic log.
_IGNORED_WITH_VALUE = frozenset("BdhLMOpX")
#: Ignored: gateway submission, ignored Errors-To, me too, no aliasing, submission.
_IGNORED = frozenset("GEUmn")
_MODES = {"m": "send", "s": "smtp", "p": "list", "i": "aliases"}
_NOTIFY = frozenset({"NEVER", "SUCCESS", "FAILURE", "DELAY"})


def parse(arguments: Sequence[str]) -> Invocation:
    """Raises BadUsage."""
    asked = Invocation()
    left = list(arguments)
    while left:
        word = left.pop(0)
        if word == "--":
            asked.recipients += left
            break
        if word == "--config" or word.startswith("--config="):
            asked.config = word[9:] if "=" in word else _next(left, word)
        elif word.startswith("--"):
            raise BadUsage(f"there is no option {word}")
        elif word.startswith("-") and len(word) > 1:
            _bundle(asked, word[1:], left)
        else:
            asked.recipients.append(word)
    return asked


def _bundle(asked: Invocation, letters: str, left: list[str]) -> None:
    """One word of options: letters without values, and perhaps one with a value at its end."""
    while letters:
        letter, letters = letters[0], letters[1:]
        match letter:
            case "t":
                asked.from_header = True
            case "i":
                asked.dot_ends = False
            case "v":
                asked.verbose = True
            case "o":  # -oi, and all that -o could set: sticks, or follows
                value = letters or _next(left, "-o")
                asked.dot_ends = asked.dot_ends and value != "i"
                return
            case "b":
                mode = letters or _next(left, "-b")
                if mode not in _MODES:
                    raise BadUsage(f"-b{mode} is not offered here; the hub itself is started with twistd")
                asked.mode = _MODES[mode]
                return
            case "q":  # -q, -q30m, -qRtext: all are a flush
                asked.mode = "flush"
                return
            case "f" | "r":
                asked.sender = letters or _next(left, f"-{letter}")
                return
            case "F":
                asked.full_name = letters or _next(left, "-F")
                return
            case "C":
                asked.config = letters or _next(left, "-C")
                return
            case "N":
                asked.notify = _notify(letters or _next(left, "-N"))
                return
            case "R":
                asked.ret = _ret(letters or _next(left, "-R"))
                return
            case "V":
                asked.envid = letters or _next(left, "-V")
                if not (asked.envid.isprintable() and len(asked.envid) <= 100):
                    raise BadUsage("-V: at most 100 characters that can be printed")  # RFC 3461 section 4.4
                return
            case _ if letter in _IGNORED:
                pass
            case _ if letter in _IGNORED_WITH_VALUE:
                if not letters:
                    _next(left, f"-{letter}")
                return
            case _:
                raise BadUsage(f"there is no option -{letter}")


def _next(left: list[str], option: str) -> str:
    if not left:
        raise BadUsage(f"{option} needs a value")
    return left.pop(0)


def _notify(text: str) -> frozenset[str]:
    # RFC 3461 section 4.1: NEVER stands alone.
    found = frozenset(word.strip().upper() for word in text.split(","))
    if not found <= _NOTIFY or ("NEVER" in found and len(found) > 1):
        raise BadUsage(f"-N {text!a}: expected never, or some of success,failure,delay")
    return found


def _ret(text: str) -> str:
    if text.lower() not in ("full", "hdrs"):
        raise BadUsage(f"-R {text!a}: expected full or hdrs")
    return text.upper()
