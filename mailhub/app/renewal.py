"""What is made from the configuration anew while the hub runs: who judges, what is offered, where mail goes out to.

The rule: no sockets and no TLS here, so that `mailhub simulate`, which asks for the same, need not load them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from twisted.logger import Logger

from mailhub.app import outbound
from mailhub.app.config import Config
from mailhub.app.config_errors import ConfigError, Problem
from mailhub.app.seating import seats
from mailhub.plugin import Hub as PolicyHub
from mailhub.policy.panel import Panel
from mailhub.receiver.login import Logins
from mailhub.receiver.receiver import Reception
from mailhub.roles.offer import Offer
from mailhub.wire.smtp.extensions import Extensions
from mailhub.wire.smtp.server import Limits

if TYPE_CHECKING:
    from mailhub.app.house import House

_log = Logger(namespace="mailhub")


def receptions(house: House, config: Config) -> Mapping[str, Reception]:
    """What the sessions of each listening role share, by role.  Raises ConfigError with every policy that is wrong."""
    discovery = house.plugins(config)
    for fault in discovery.faults:
        _log.warn("a plugin cannot be used: {fault}", fault=str(fault))
    problems: list[Problem] = []
    panels: dict[str, Panel] = {}
    for role in ("mta", "msa", "lmtp"):
        taken, wrong = seats(
            role,
            config.rules(role),
            config.standing_options,
            discovery,
            lambda name, role=role: policy_hub(house, role, name),  # type: ignore[misc]
            config.source,
        )
        problems += wrong
        panels[role] = Panel(taken, house.reactor, house.history)
    if problems:
        raise ConfigError(config.located(problems))
    return {role: _reception(house, config, role, panel) for role, panel in panels.items()}


def set_routes(house: House, config: Config) -> None:
    """Where mail goes out to, and with which passwords.  Raises ConfigError, and then nothing has changed."""
    plan, credentials = outbound.plan(config), outbound.credentials(config)
    policies = outbound.route_policies(config, lambda name: policy_hub(house, "outbound", name))
    house.outside.renew(plan, policies)
    house.relay.outside.credentials = credentials


def _reception(house: House, config: Config, role: str, panel: Panel) -> Reception:
    submits = role == "msa"
    logins = Logins(house.accounts, house.throttle, house.history, house.chance, config.msa.throttle.tries)
    return Reception(
        role=role,
        hostname=config.hostname,
        postmaster_domain=config.mda.domains[0] if config.mda.domains else config.hostname,
        panel=panel,
        spool=house.spool,
        accounts=house.accounts,
        clock=house.clock,
        steady=house.reactor,
        history=house.history,
        logins=logins if submits else None,
        submits=submits,
        names=house.names if config.history.names else None,
        greet_delay_seconds=config.mta.greet_delay if role == "mta" else 0.0,
        hops_max=config.limits.hops,
    )


def offer(config: Config) -> Offer:
    """What every listening role offers at least, and how patient it is."""
    limits = config.limits
    return Offer(
        Extensions(
            hostname=config.hostname,
            size_max=limits.message_octets,
            binarymime=True,
            limits_rcptmax=limits.recipients,
        ),
        Limits(
            line_octets_max=limits.command_octets,
            auth_line_octets_max=limits.auth_octets,
            content_line_octets_max=limits.line_octets,
            recipients_max=limits.recipients,
            errors_max=limits.errors,
            refused_recipients_max=limits.refused_recipients,
            idle_commands_max=limits.idle_commands,
        ),
        idle_seconds=limits.command_seconds,
        hurried_idle_seconds=limits.overload_command_seconds,
        tls_seconds=limits.tls_seconds,
        content_rate_min=limits.content_octets_per_second,
    )


def policy_hub(house: House, role: str, name: str) -> PolicyHub:
    """What the policy of this name may use, in this role."""
    return PolicyHub(
        hostname=house.config.hostname,
        role=role,
        clock=house.clock,
        random=house.chance,
        resolver=house.resolver,
        accounts=house.accounts,
        mailboxes=house.mailboxes,
        executor=house.executor,
        memory=house.memory.namespace(name),
        log=Logger(namespace=f"mailhub.policy.{name}"),
    )
