"""docs/how-to/write-a-plugin.md: what it shows works as it stands there."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import mailhub
from mailhub.app.config import Policy
from mailhub.app.discovery import discover
from mailhub.app.seating import seat
from mailhub.policy.panel import Seat
from mailhub.testing.hub import build_hub

PAGE = (Path(mailhub.__file__).parent.parent / "docs" / "how-to" / "write-a-plugin.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_plugin_and_its_test_and_its_configuration(tmp_path: Path) -> None:
    plugin, test = blocks("python")
    (tmp_path / "hello_leads_back.py").write_text(plugin)
    found = discover([tmp_path])
    assert found.faults == ()

    _, configuration = blocks("toml")
    (table,) = tomllib.loads(configuration)["mta"]["policy"]
    taken = seat(Policy(**table), "mta.policy[0]", found, lambda _: build_hub(), Path("hub.toml"))
    assert isinstance(taken, Seat), taken
    assert (taken.deadline_seconds, taken.on_failure, taken.shadow) == (10.0, "ignore", True)
    assert taken.policy.trust == ("relay.example.net",)  # type: ignore[attr-defined]

    names = vars(sys.modules[type(taken.policy).__module__])
    exec(compile(test, "write-a-plugin.md", "exec"), names)
    names["test_a_name_that_leads_back"]()
