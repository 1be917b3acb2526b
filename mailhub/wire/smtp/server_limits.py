"""What one session of the server's side may cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one session may cost.  A command line is counted with its line end, a line of content without."""

    line_octets_max: int = 4096
    auth_line_octets_max: int = 12_288  # RFC 4954 section 4
    content_line_octets_max: int = 65_536
    buffer_octets_max: int = 65_536  # that come without a line end, until the session ends
    recipients_max: int = 1000  # of one transaction
    errors_max: int = 20  # of one session, and so are the next
    refused_recipients_max: int = 20  # refused for good, with 5yz
    idle_commands_max: int = 100  # NOOP and its kind, since the last message


NORMAL_LIMITS = Limits()
