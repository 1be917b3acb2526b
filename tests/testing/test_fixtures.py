"""The fixtures for authors of plugins, used as docs/how-to/test-a-plugin.md shows them."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mailhub
from mailhub.app.config_errors import ConfigError
from mailhub.history.story import Story
from mailhub.model import reply
from mailhub.testing.client import Mail
from mailhub.testing.remote_mta import RemoteMta
from mailhub.testing.simulated_hub import CONFIGURATION, SimulatedHub
from mailhub.testing.world import DAY, HOUR, MINUTE, World
from mailhub.testing.zone import Zone

if TYPE_CHECKING:
    from mailhub.testing.fixtures import Deliver

PAGE = Path(mailhub.__file__).parent.parent / "docs" / "how-to" / "test-a-plugin.md"
HELLO = b"Subject: Hello\r\n\r\nHello, Alice\r\n"
#: What the example may take; 100 ms is the aim, the rest is for a slow machine.
SECONDS_MAX = 0.4


@pytest.fixture
def hub_configuration() -> str:
    return CONFIGURATION + '[[mta.policy]]\nuse = "greylist"\nseconds = "5m"\ntrust_after = 0\n'


@pytest.fixture
def hub_aliases() -> str:
    return "friends: joe@far.example\n"


def test_greylisting_over_five_days(world: World, hub: SimulatedHub, deliver: Deliver) -> None:
    begun_at = time.process_time()
    assert deliver(HELLO, sender="joe@far.example").reply.startswith("450 4.7.1")
    world.run(4 * MINUTE)
    assert deliver(HELLO, sender="joe@far.example").reply.startswith("450 4.7.1")
    world.run(2 * MINUTE)
    assert deliver(HELLO, sender="joe@far.example").is_acknowledged
    world.run(MINUTE)
    hub.kill()  # what the policy has noted is durable within seconds
    hub.start()
    world.run(5 * DAY)
    assert deliver(HELLO, sender="joe@far.example").is_acknowledged
    assert deliver(HELLO, sender="jane@far.example").reply.startswith("450 4.7.1")
    world.run(MINUTE)
    assert len(hub.mailbox("alice@example.test")) == 2
    assert world.now > 1_750_000_000 + 5 * DAY
    took = time.process_time() - begun_at
    print(f"five virtual days took {took * 1000:.0f} ms")
    assert took < SECONDS_MAX


def test_a_remote_host_and_the_names_that_lead_to_it(
    world: World,
    hub: SimulatedHub,
    deliver: Deliver,
    remote_mta: Callable[..., RemoteMta],
    dns_zone: Zone,
    story: Callable[[str], Story],
) -> None:
    far = remote_mta("far.example")
    far.at("rcpt", reply(450, "4.2.0", "Later"), times=1)
    dns_zone.broken.add("far.example")
    assert not deliver(HELLO, recipients="friends@example.test").is_acknowledged
    world.run(10 * MINUTE)
    attempt = deliver(HELLO, recipients="friends@example.test")
    assert attempt.is_acknowledged
    world.run(HOUR)
    assert not far.messages
    dns_zone.broken.clear()
    world.run(DAY)
    assert [message.content.endswith(HELLO) for message in far.messages] == [True]
    told = story(attempt.queue_id)
    assert told.verdict == "delivered"
    assert sum(event.kind == "deferred" for event in told.events) > 1


def test_the_page_shows_a_test_that_works(tmp_path: Path) -> None:
    """The example of the page, run by a pytest of its own in the same process's interpreter."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "test_page.py").write_text(blocks[0])
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout


# --- what a test must be able to rely on --------------------------------------------------------------------------

PLUGINS = '[plugins]\ndirectories = ["plugins"]\n[[mta.policy]]\nuse = "{use}"\non_failure = "ignore"\n'
FORGETS = """
from dataclasses import dataclass
from zope.interface import implementer
from mailhub.plugin import Hub, ISenderPolicy, PolicyMaker, reply
met = set()
@implementer(ISenderPolicy)
@dataclass
class ComeBack:
    hub: Hub
    async def judge_sender(self, transaction):
        if transaction.reverse_path in met:
            return None
        met.add(transaction.reverse_path)
        return reply(450, "4.7.1", "Come back")
come_back = PolicyMaker("come_back", ComeBack)
"""
READS = """
from dataclasses import dataclass
from zope.interface import implementer
from mailhub.plugin import Hub, ISenderPolicy, PolicyMaker
@implementer(ISenderPolicy)
@dataclass
class Reads:
    hub: Hub
    async def judge_sender(self, transaction):
        open("/no/such/file")
reads = PolicyMaker("reads", Reads)
"""


def _asked(world: World, hub: SimulatedHub) -> str:
    attempt = world.send(Mail(HELLO), hub)
    world.run_until(lambda: attempt.is_over, HOUR)
    return attempt.reply[:9]


def test_what_a_module_has_noted_ends_with_its_process() -> None:
    configuration = CONFIGURATION + PLUGINS.format(use="come_back")
    for _ in range(2):  # the second World is as new as the first
        with World(0) as world:
            hub = world.hub(configuration=configuration, files={"plugins/forgets.py": FORGETS})
            assert [_asked(world, hub), _asked(world, hub)] == ["450 4.7.1", "250 2.0.0"]
            hub.kill()
            hub.start()
            world.run(MINUTE)
            assert _asked(world, hub) == "450 4.7.1"


def test_the_error_of_an_operating_system_in_a_policy_is_a_problem_too() -> None:
    with World(0) as world:
        hub = world.hub(configuration=CONFIGURATION + PLUGINS.format(use="reads"), files={"plugins/reads.py": READS})
        assert _asked(world, hub) == "250 2.0.0"
        assert "FileNotFoundError" in world.problems[0]


def test_a_configuration_that_is_refused_leaves_no_files_to_the_next_one() -> None:
    with World(0) as world:
        with pytest.raises(ConfigError):
            world.hub(configuration="nonsense", files={"plugins/reads.py": READS})
        configuration = CONFIGURATION + PLUGINS.format(use="come_back")
        hub = world.hub(configuration=configuration, files={"plugins/comes_next.py": FORGETS})
        assert [path.name for path in hub.config.source.parent.glob("plugins/*.py")] == ["comes_next.py"]


def test_content_without_a_last_line_end_is_sent_all_the_same(
    world: World, hub: SimulatedHub, deliver: Deliver
) -> None:
    deliver(HELLO, sender="joe@far.example")
    world.run(6 * MINUTE)
    assert deliver(HELLO.removesuffix(b"\r\n"), sender="joe@far.example").is_acknowledged
    world.run(MINUTE)
    assert hub.mailbox("alice@example.test")[0].endswith(HELLO)
