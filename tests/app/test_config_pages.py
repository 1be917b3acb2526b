"""The commented sample and the reference page say what the model says."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mailhub.app import reference
from mailhub.app.config import Config, from_tables, load, parse
from mailhub.app.config_errors import section_of

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "etc" / "mailhub.toml"
PAGE = ROOT / "docs" / "reference" / "configuration.md"

#: A commented key or table: "#" and no space behind it.
COMMENTED = re.compile(r'#(\[|"|[a-z_0-9]+ = )')


def keys(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, its default as written) of every key that is no table."""
    for name, field in model.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None:
            yield from keys(inner, f"{above}{name}.")
        else:
            yield above + name, field.default


def flat(tables: dict[str, Any], above: str = "") -> dict[str, Any]:
    found = {}
    for name, value in tables.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = value[0]
        if isinstance(value, dict) and f"{above}{name}" != "msa.extra_addresses":
            found |= flat(value, f"{above}{name}.")
        else:
            found[above + name] = value
    return found


def commented() -> dict[str, Any]:
    """The sample with its commented lines alive and its own settings gone, except those that have no default."""
    lines = []
    for line in SAMPLE.read_text().splitlines():
        if COMMENTED.match(line):
            lines.append(line[1:])
        elif line.startswith(("[", "hostname", "data")):
            lines.append(line)
    return tomllib.loads("\n".join(lines))


def test_the_sample_is_right_and_listens_where_it_is_said_to() -> None:
    config = load(SAMPLE)
    assert config.mta.listen == ("tcp:2525:interface=127.0.0.1",)
    assert config.msa.listen == ("tcp:2587:interface=127.0.0.1",)
    assert config.msa.listen_tls == ("tcp:2465:interface=127.0.0.1",)
    assert config.lmtp.listen == ("tcp:2524:interface=127.0.0.1",)
    assert config.mda.domains == ("example.test",)
    assert config.data == ROOT / "var"
    assert config.accounts.file == ROOT / "var" / "accounts"


def test_every_key_of_the_model_stands_in_the_sample() -> None:
    standing = flat(commented())
    # What a policy looks like is shown once.
    missing = {key for key, _ in keys(Config)} - standing.keys()
    assert {key for key in missing if not re.match(r"(msa|lmtp|outbound)\.policy\.", key)} == set()


def test_every_key_of_the_sample_is_one_of_the_model() -> None:
    assert flat(commented()).keys() <= {key for key, _ in keys(Config)}


def test_the_commented_values_are_the_defaults() -> None:
    standing = flat(commented())
    for key, default in keys(Config):
        # Keys without a default, and an array table, show an example.
        if (
            default is None
            or key.startswith(("tls.site.", "route."))
            or key == "msa.extra_addresses"
            or key not in standing
        ):
            continue
        if key not in ("hostname", "data") and not key.endswith("policy.use"):
            written = list(default) if isinstance(default, tuple) else default
            assert standing[key] == written, key


def test_the_commented_sample_would_be_right_as_well() -> None:
    tables = commented()
    tables["mda"]["domains"] = ["example.test"]
    config = from_tables(tables, SAMPLE)
    least = parse('hostname = "mail.example.test"\ndata = "../var"\n', SAMPLE)
    assert config.limits == least.limits
    assert config.queue == least.queue


def test_each_line_of_the_sample_is_prose_or_a_key_or_a_setting() -> None:
    for line in SAMPLE.read_text().splitlines():
        assert len(line) <= 120, line
        assert not line.startswith("#") or line.startswith("# ") or line == "#" or COMMENTED.match(line), line


def test_the_reference_page_is_in_step_with_the_model() -> None:
    assert PAGE.read_text() == reference.page(), "python -m mailhub.app.reference > docs/reference/configuration.md"


def test_every_key_is_described() -> None:
    for key, field in _fields(Config):
        assert field.description, key
        assert field.description.endswith((".", "only.")), key


def _fields(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        inner = section_of(field.annotation)
        if inner is None:
            yield above + name, field
        else:
            assert inner.__doc__, name
            yield from _fields(inner, f"{above}{name}.")
