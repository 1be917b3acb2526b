"""Here `hub` is that of a World: the conftest above has a real process by the same name, and would win otherwise."""

from mailhub.testing.fixtures import (  # noqa: F401
    deliver,
    dns_zone,
    hub,
    hub_aliases,
    hub_configuration,
    hub_files,
    hub_people,
    hub_workers,
    remote_mta,
    story,
    world,
    world_seed,
)
