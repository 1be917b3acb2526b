"""The rules that stand in each role without being configured.

They surround the `[[role.policy]]` list: some are asked before it, so that no configured policy can wave through what
they refuse; some behind it, so that they answer where nobody else did.  A rule that the list itself names is the
postmaster's: it stands where the list puts it, with the options given there, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Standing:
    """Names of policies, in the order in which they are asked."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


STANDING: Mapping[str, Standing] = {
    "mta": Standing(after=("quota", "local_domains")),
    "msa": Standing(
        before=("authenticated", "sender_owned", "submission_caps"),
        after=("quota", "local_domains", "relay_for_authenticated"),
    ),
    "lmtp": Standing(before=("trusted_peers",), after=("quota", "local_domains")),
}
