"""The roles that listen, made from the parts of a hub."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mailhub.app import renewal
from mailhub.app.config import Config
from mailhub.app.house import House
from mailhub.app.privileges import Person
from mailhub.receiver.receiver import Reception
from mailhub.roles import lmtp, msa, mta
from mailhub.roles.receiving import Edge, ReceivingRole


def receiving_roles(
    house: House,
    config: Config,
    chosen: Collection[str],
    receptions: Mapping[str, Reception],
    person: Person | None,
    inherited: Mapping[tuple[str, str], int],
    session_mark: str,
) -> list[ReceivingRole]:
    """Those of the `chosen` that listen somewhere.  `person` gets the UNIX sockets, if we make them as root."""
    edge = Edge(
        house.reactor,
        house.doorkeeper,
        house.descriptors,
        house.certificates,
        config.limits.backlog,
        config.limits.drain_seconds,
        None if person is None else (person.uid, person.gid),
        inherited,
        session_mark,
    )
    offer = renewal.offer(config)
    made = {
        "mta": mta.mta(edge, config.mta.listen, receptions["mta"], offer),
        "msa": msa.msa(edge, config.msa.listen, config.msa.listen_tls, receptions["msa"], offer),
        "lmtp": lmtp.lmtp(edge, config.lmtp.listen, receptions["lmtp"], offer),
    }
    return [role for name, role in made.items() if name in chosen and role.listeners]


def renew(roles: Collection[ReceivingRole], config: Config, receptions: Mapping[str, Reception]) -> None:
    """Have sessions that begin from now on follow this configuration."""
    offer = renewal.offer(config)
    manners = {"mta": mta.manners, "msa": msa.manners, "lmtp": lmtp.manners}
    for role in roles:
        role.renew(receptions[str(role.name)], manners[str(role.name)](offer))
