"""What the scenarios share: a client that sends octets as it likes, and patience for what the hub does by itself."""

from __future__ import annotations

import base64
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

#: How long a reply, or the end of a connection, is waited for.
PATIENCE_SECONDS = 20.0
HELLO = {"lmtp": "LHLO client.example"}


class Client:
    """One connection to a role of a hub.  A reply is given as text, its lines joined by LF, without the last CRLF."""

    def __init__(self, hub: Any, role: str, source: str = "127.0.0.1", banner: bool = True) -> None:
        self.hub = hub
        self.role = role
        self._buffer = b""
        self._socket = socket.create_connection(("127.0.0.1", hub.ports[role]), PATIENCE_SECONDS, (source, 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if role.endswith("-tls"):
            self._wrap()
        self.banner = self.reply() if banner else ""

    def _wrap(self) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._socket = context.wrap_socket(self._socket)

    # --- octets ------------------------------------------------------------------------------------------------

    def send(self, octets: bytes) -> None:
        self._socket.sendall(octets)

    def _line(self) -> str:
        while b"\r\n" not in self._buffer:
            octets = self._socket.recv(65536)
            if not octets:
                raise EOFError(f"closed behind {self._buffer!r}")
            self._buffer += octets
        line, self._buffer = self._buffer.split(b"\r\n", 1)
        return line.decode("ascii")

    def reply(self) -> str:
        lines = [self._line()]
        while lines[-1][3:4] == "-":
            lines.append(self._line())
        return "\n".join(lines)

    def replies(self, number: int) -> list[str]:
        return [self.reply() for _ in range(number)]

    @property
    def is_closed(self) -> bool:
        """Whether the server has closed the connection and said nothing more."""
        try:
            octets = self._socket.recv(65536)
        except (ConnectionResetError, ssl.SSLError):
            return not self._buffer
        return not octets and not self._buffer

    def close(self) -> None:
        self._socket.close()

    # --- commands ----------------------------------------------------------------------------------------------

    def ask(self, *commands: str | bytes) -> str:
        """Send these lines one after the other; the reply to the last of them."""
        said = ""
        for command in commands:
            self.send((command.encode() if isinstance(command, str) else command) + b"\r\n")
            said = self.reply()
        return said

    def hello(self) -> Client:
        assert self.ask(HELLO.get(self.role, "EHLO client.example")).startswith("250")
        return self

    def start_tls(self) -> Client:
        assert self.ask("STARTTLS").startswith("220 ")
        self._wrap()
        return self.hello()

    def log_in(self, login: str = "alice@example.test", password: str | None = None) -> Client:
        password = self.hub.passwords[login] if password is None else password
        assert self.ask("AUTH PLAIN " + plain(login, password)) == "235 2.7.0 Welcome"
        return self

    def begin(self, *recipients: str, sender: str = "sender@elsewhere.example") -> Client:
        """A transaction with these recipients; alice if there are none."""
        assert self.ask(f"MAIL FROM:<{sender}>").startswith("250 ")
        for recipient in recipients or ("alice@example.test",):
            assert self.ask(f"RCPT TO:<{recipient}>").startswith("250 ")
        return self

    def data(self, content: bytes) -> str:
        """The reply to this content (dots and all as they are), which the end of content follows."""
        assert self.ask("DATA").startswith("354 ")
        self.send(content + b".\r\n")
        return self.reply()


def plain(login: str, password: str) -> str:
    """The initial response of AUTH PLAIN."""
    return base64.b64encode(f"\0{login}\0{password}".encode()).decode()


def _ready(hub: Any, role: str, **options: Any) -> Client:
    """A client that has said hello, and on the MSA under TLS and logged in."""
    client = Client(hub, role, **options).hello()
    if role == "msa":
        client.start_tls()
    return client.log_in() if role.startswith("msa") else client


def _eventually(question: Callable[[], Any]) -> Any:
    """The first answer that is true; the hub has threads and times of its own."""
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not (answer := question()):
        assert time.monotonic() < ends_at, "it did not happen"
        time.sleep(0.01)
    return answer


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    """`connect(hub, "mta", source=...)`: a client that has read the banner."""
    made: list[Client] = []

    def begin(*arguments: Any, **options: Any) -> Client:
        made.append(Client(*arguments, **options))
        return made[-1]

    yield begin
    for client in made:
        client.close()


@pytest.fixture
def ready() -> Iterator[Callable[..., Client]]:
    """`ready(hub, "msa")`: a client that may begin a transaction."""
    made: list[Client] = []

    def begin(*arguments: Any, **options: Any) -> Client:
        made.append(_ready(*arguments, **options))
        return made[-1]

    yield begin
    for client in made:
        client.close()


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """`eventually(lambda: ...)`: waits until it is true, and gives back what it is."""
    return _eventually
