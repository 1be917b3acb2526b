"""The aliases file: `name: target, target`, one alias an entry, an indented line continuing the one before.

A name is `name` (in every domain of ours), `name@domain`, or `@domain` for all that is nobody else there.  A target is
an address, or a bare name: in the domain of the alias, or, where that has nobody of the name, in the one domain of ours
that has an account of it.  There are no programs, files or includes: what an address
from outside can reach must not be a shell, nor a path (the oldest wound of mail servers).

The rule: every entry is an alias, a comment or a problem, and a bad target costs the other targets nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from mailhub.model import Address, Alias
from mailhub.store import names
from mailhub.store.edited_file import EditRefused
from mailhub.store.names import BadName, shown
from mailhub.store.problem import Problem

ENTRY_OCTETS_MAX = 64 * 1024
TARGETS_MAX = 1000
ALIASES_MAX = 100_000  # after bare names were spread over the domains
PROBLEMS_MAX = 1000

_CORRECT = "Correct the entry, or remove it"
_ALIAS_FORM = "Write `name: target, target`"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: its name folded ("team", "team@example.test" or "@example.test"), its targets as written."""

    name: str
    targets: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True)
class AliasesFile:
    """What stands in the file.  `aliases` has catch-alls under an empty local part; `entry_of` says where each stands.
    Bare targets are addresses in the domain of their alias."""

    entries: tuple[Entry, ...]
    aliases: dict[Address, Alias]
    entry_of: dict[Address, Entry]
    problems: tuple[Problem, ...]


NO_ALIASES = AliasesFile((), {}, {}, ())


def parse(octets: bytes, domains: Collection[str], path: str) -> AliasesFile:
    """Read the file.  Never raises; `path` stands in the problems, `domains` are those that we host."""
    entries: dict[str, Entry] = {}
    problems: list[Problem] = []

    def report(line: int, what: str, remedy: str) -> None:
        if len(problems) < PROBLEMS_MAX:
            problems.append(Problem(path, line, what, remedy))

    for number, raw in _entries(octets):
        try:
            name, targets = _parse_entry(raw)
            _check_domain(name, domains)
        except (BadName, ValueError) as error:
            remedy = _ALIAS_FORM if b":" not in raw else _CORRECT
            report(number, str(error), remedy)
            continue
        good: list[str] = []
        for target in targets:
            try:
                good.append(parse_target(target))
            except BadName as error:
                report(number, f"in alias {name}: {error}", "Remove this target; the others are used")
        if not targets:
            report(number, f"alias {name} has no target", _ALIAS_FORM)
        elif name in entries:
            report(number, f"alias {name} stands in line {entries[name].line} already, which is the one used", _CORRECT)
        elif len(good) > TARGETS_MAX:
            report(number, f"alias {name} has more than {TARGETS_MAX} targets", "Split it into several aliases")
        elif good:
            entries[name] = Entry(name, tuple(dict.fromkeys(good)), number)

    aliases: dict[Address, Alias] = {}
    entry_of: dict[Address, Entry] = {}
    for entry in sorted(entries.values(), key=lambda entry: "@" not in entry.name):  # name@domain before bare names
        for address in _addresses(entry.name, domains):
            if address in aliases:
                continue
            if len(aliases) >= ALIASES_MAX:
                report(entry.line, f"there are more than {ALIASES_MAX} aliases; the rest is not used", _CORRECT)
                return AliasesFile(tuple(entries.values()), aliases, entry_of, tuple(problems))
            aliases[address] = Alias(address, tuple(_at(target, address.domain) for target in entry.targets))
            entry_of[address] = entry
    return AliasesFile(tuple(entries.values()), aliases, entry_of, tuple(problems))


def parse_alias_name(text: str) -> str:
    """An alias name in its folded form.  Raises BadName."""
    local, at, domain = text.rpartition("@")
    if not at:
        return names.parse_local(text)
    if not local:
        return "@" + names.parse_domain(domain)
    return f"{names.parse_local(local)}@{names.parse_domain(domain)}"


def parse_target(text: str) -> str:
    """A target in the form in which it is kept.  Raises BadName, with the reason for what is refused on principle."""
    bare = text.lstrip('"')
    if bare.startswith("|"):
        raise BadName(f"{shown(text)} would start a program, and mail from outside never starts one here")
    if bare.startswith("/"):
        raise BadName(f"{shown(text)} is a file, and mail is written into mailboxes only")
    if bare.lower().startswith(":include:"):
        raise BadName(f"{shown(text)} would read another file; name the targets here")
    if bare.startswith("\\"):
        raise BadName(f"{shown(text)}: write the name without the backslash, it keeps a copy in the mailbox")
    if text.startswith("@"):
        raise BadName(f"{shown(text)} is a whole domain; a target is one address")
    if "@" not in text:
        names.parse_local(text)
        return text
    return str(names.parse_address(text))


def _entries(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Number of the first line and the joined content of every entry."""
    for lines, start in _spans(octets):
        yield start, _joined(lines)


def _spans(octets: bytes) -> Iterator[tuple[list[bytes], int]]:
    """The physical lines of each entry, comments between them included, with the number of the first."""
    span: list[bytes] = []
    pending: list[bytes] = []  # comments and empty lines that belong to the entry only if it goes on behind them
    start = 0
    for number, line in enumerate(octets.split(b"\n"), 1):
        if _is_comment(line):
            if span:
                pending.append(line)
        elif span and line[:1] in b" \t":
            span += [*pending, line]
            pending = []
        else:
            if span:
                yield span, start
            span, pending, start = [line], [], number
    if span:
        yield span, start


def _is_comment(line: bytes) -> bool:
    bare = line.strip(b" \t\r")
    return not bare or bare.startswith(b"#")


def _parse_entry(raw: bytes) -> tuple[str, list[str]]:
    """Name and targets, the targets unread.  Raises ValueError."""
    if len(raw) > ENTRY_OCTETS_MAX:
        raise ValueError(f"the entry is longer than {ENTRY_OCTETS_MAX} octets")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the entry is not UTF-8 (octet {error.start + 1})") from None
    if names.has_control(text.replace("\t", " ")):
        raise ValueError("the entry contains a control character")
    name, colon, rest = text.partition(":")
    if not colon:
        raise ValueError('the entry has no ":" behind the name')
    return parse_alias_name(name.strip()), _split(rest)


def _split(text: str) -> list[str]:
    """The comma-separated words; a comma between quotes separates nothing."""
    words, quoted, begin = [], False, 0
    for index, character in enumerate(text):
        if character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            words.append(text[begin:index])
            begin = index + 1
    words.append(text[begin:])
    return [word.strip() for word in words if word.strip()]


def _check_domain(name: str, domains: Collection[str]) -> None:
    _, at, domain = name.rpartition("@")
    if at and domain not in domains:
        raise BadName(f"alias {name} is in none of the domains of [mda]")


def _addresses(name: str, domains: Collection[str]) -> list[Address]:
    local, at, domain = name.rpartition("@")
    return [Address(local, domain)] if at else [Address(name, each) for each in sorted(domains)]


def _at(target: str, domain: str) -> Address:
    local, at, its_domain = target.rpartition("@")
    return Address(local, its_domain) if at else Address(target, domain)


# --- edits: they change one entry and leave every other octet as it is -----------------------------------------------


def add(octets: bytes, name: str, targets: Sequence[str]) -> bytes:
    """The file with these targets added to alias `name` (folded), or with a new alias at its end.

    Of several entries of that name it is the one that is used; what cannot be read is none, and stays as it is.
    """
    found = [(span, start) for span, start in _spans(octets) if _name_of(span) == name and _is_readable(span)]
    for span, start in sorted(found, key=lambda each: not _is_used(each[0]))[:1]:
        there = {_comparable(target) for target in _targets_of(span)}
        new = [target for target in targets if _comparable(target) not in there]
        if not new:
            raise EditRefused(f"alias {name} has these targets already")
        if _joined(span).count(b'"') % 2:
            raise EditRefused(f"alias {name} in line {start} has a quote that is never closed; correct it by hand")
        lines = octets.split(b"\n")
        last = start + len(span) - 2  # the spans end with a line of the entry's own
        line = lines[last].removesuffix(b"\r")
        end = lines[last][len(line) :]
        line = line.rstrip(b" \t")
        comma = b" " if line.endswith(b",") or not there else b", "
        lines[last] = line + comma + ", ".join(new).encode() + end
        return b"\n".join(lines)
    separator = b"" if not octets or octets.endswith(b"\n") else b"\n"
    return octets + separator + f"{name}: {', '.join(targets)}\n".encode()


def remove(octets: bytes, name: str, targets: Sequence[str] = ()) -> bytes:
    """The file without alias `name` (folded), or without these targets of it.  Raises EditRefused."""
    lines = octets.split(b"\n")
    named = [(span, start) for span, start in _spans(octets) if _name_of(span) == name]
    found = [(span, start) for span, start in named if _is_readable(span)] if targets else named
    if not found:
        raise EditRefused(f"there is no alias {name}")
    gone = {_comparable(target) for target in targets}
    missing = gone - {_comparable(target) for span, _ in found for target in _targets_of(span)}
    if missing:
        raise EditRefused(f"alias {name} has no target {', '.join(sorted(missing))}")
    for span, start in reversed(found):  # from the end, so that the numbers before it stay true
        rest = [target for target in _targets_of(span) if _comparable(target) not in gone] if targets else []
        comments = [line for line in span if _is_comment(line)]
        entry = [f"{name}: {', '.join(rest)}".encode()] if rest else []
        lines[start - 1 : start - 1 + len(span)] = [*entry, *comments]
    return b"\n".join(lines)


def _joined(span: Sequence[bytes]) -> bytes:
    return b" ".join(line.removesuffix(b"\r").strip(b" \t") for line in span if not _is_comment(line))


def _name_of(span: Sequence[bytes]) -> str | None:
    try:
        return parse_alias_name(_joined(span).partition(b":")[0].decode("utf-8").strip())
    except ValueError:
        return None


def _is_readable(span: Sequence[bytes]) -> bool:
    try:
        _parse_entry(_joined(span))
    except (BadName, ValueError):
        return False
    return True


def _is_used(span: Sequence[bytes]) -> bool:
    """Whether there is a target in it that can be used: the first entry of a name that has one is the alias."""
    for target in _targets_of(span):
        try:
            parse_target(target)
        except BadName:
            continue
        return True
    return False


def _targets_of(span: Sequence[bytes]) -> list[str]:
    return _split(_joined(span).partition(b":")[2].decode("utf-8", "replace"))


def _comparable(target: str) -> str:
    return names.fold(target)
