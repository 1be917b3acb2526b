"""pytest fixtures for authors of plugins: a whole hub in a World, with their plugin in it.

    pytest_plugins = ["mailhub.testing.fixtures"]


    @pytest.fixture
    def hub_configuration():
        return CONFIGURATION + '[[mta.policy]]\\nuse = "greylist"\\n'


    def test_it(world, hub, deliver, story):
        attempt = deliver(b"Subject: x\\r\\n\\r\\nHello\\r\\n", sender="joe@far.example")
        assert attempt.reply.startswith("450")
        world.run(5 * DAY)

Nothing here waits in real time, and nothing leaves the process.  docs/how-to/test-a-plugin.md shows more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import pytest

from mailhub.history.story import Story
from mailhub.testing.client import PATIENCE_SECONDS, Attempt, Mail
from mailhub.testing.remote_mta import RemoteMta
from mailhub.testing.simulated_hub import CONFIGURATION, SimulatedHub
from mailhub.testing.world import CLIENT, World
from mailhub.testing.zone import Zone


class Deliver(Protocol):
    """What the fixture `deliver` is."""

    def __call__(
        self,
        message: bytes,
        sender: str = "sender@client.example",
        recipients: Sequence[str] | str = ("alice@example.test",),
        ip: str = CLIENT,
    ) -> Attempt: ...


# --- what a test may say otherwise, by a fixture of the same name ------------------------------------------------


@pytest.fixture
def world_seed() -> int:
    """Where chance begins: the same seed is the same history."""
    return 0


@pytest.fixture
def hub_configuration() -> str:
    """The configuration file, with {hostname} and {domain} in it."""
    return CONFIGURATION


@pytest.fixture
def hub_aliases() -> str:
    """The aliases file."""
    return "postmaster: alice\n"


@pytest.fixture
def hub_people() -> Sequence[str]:
    """The local parts of those who have a mailbox."""
    return ("alice", "bob")


@pytest.fixture
def hub_files() -> Mapping[str, str]:
    """Further files beside the configuration, by name: a plugin, for example, in a directory that it names."""
    return {}


@pytest.fixture
def hub_workers() -> int:
    """The processes of the hub."""
    return 1


# --- what a test gets --------------------------------------------------------------------------------------------


@pytest.fixture
def world(world_seed: int) -> Iterator[World]:
    """Time, network, DNS, disks and chance.  The test fails if the program logs a failure that nobody has planned."""
    with World(world_seed) as made:
        yield made
        assert not made.problems, "\n".join(made.problems)


@pytest.fixture
def hub(
    world: World,
    hub_configuration: str,
    hub_aliases: str,
    hub_people: Sequence[str],
    hub_files: Mapping[str, str],
    hub_workers: int,
) -> SimulatedHub:
    """A whole hub, mx.example.test, that serves example.test."""
    return world.hub(
        configuration=hub_configuration,
        aliases=hub_aliases,
        people=hub_people,
        files=hub_files,
        workers=hub_workers,
    )


@pytest.fixture
def remote_mta(world: World) -> Callable[..., RemoteMta]:
    """`remote_mta("far.example")`: a scripted mail host of another domain, with its records in the DNS."""

    def make(domain: str = "far.example", **options: Any) -> RemoteMta:
        return world.remote_mta(domain, **options)

    return make


@pytest.fixture
def dns_zone(world: World) -> Zone:
    """The DNS of everybody: `put`, `take`, `broken`, `silent`."""
    return world.zone


@pytest.fixture
def deliver(world: World, hub: SimulatedHub) -> Deliver:
    """`deliver(message)`: a client sends it to the hub; what came of that, as far as the client knows."""

    def send(
        message: bytes,
        sender: str = "sender@client.example",
        recipients: Sequence[str] | str = ("alice@example.test",),
        ip: str = CLIENT,
    ) -> Attempt:
        wanted = (recipients,) if isinstance(recipients, str) else tuple(recipients)
        attempt = world.send(Mail(message, sender, wanted), hub, ip)
        world.run_until(lambda: attempt.is_over, 2 * PATIENCE_SECONDS)
        return attempt

    return send


@pytest.fixture
def story(hub: SimulatedHub) -> Callable[[str], Story]:
    """`story(queue_id)`: the life of a message, as `mailhub why` tells it; `.verdict` is its end."""
    return hub.story
