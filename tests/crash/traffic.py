"""Sessions that send without pause, and go on through whatever happens to the hub.

The rule: every reply to the end of content goes into the ledger as it came, and what got none stays without; nothing is
sent twice.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType

from tests.crash.ledger import Ledger, Message

#: Messages of one session, and the pause before a connection is tried again.
SESSION_MESSAGES = 20
AGAIN_SECONDS = 0.01
#: A reply that takes longer counts as none.
REPLY_SECONDS = 20.0


class Connection:
    """One SMTP session.  Whatever ends it early is an OSError; a reply that is not in order is one, too."""

    def __init__(self, port: int, source: str = "127.0.0.1", seconds: float = REPLY_SECONDS) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), seconds, (source, 0))
        self._lines = self.socket.makefile("rb")
        try:
            if self.reply() != 220:
                raise ConnectionError("not greeted")
            self.socket.sendall(b"EHLO client.example\r\n")
            self.reply()
        except BaseException:
            self.close()
            raise

    def reply(self) -> int:
        """The code of the next reply."""
        while True:
            line = self._lines.readline(4096)
            if not line.endswith(b"\n"):
                raise ConnectionError("closed")
            if line[3:4] != b"-":
                return int(line[:3])

    def send(self, message: Message) -> int:
        """The reply to the end of the content, or the first refusal before it.  Commands go in one packet."""
        commands = [b"MAIL FROM:<sender@client.example>"]
        commands += [b"RCPT TO:<%s>" % recipient.encode() for recipient in message.recipients]
        self.socket.sendall(b"\r\n".join([*commands, b"DATA", b""]))
        codes = [self.reply() for _ in commands]
        data = self.reply()
        refused = [code for code in codes if code >= 300]
        if data != 354:
            return refused[0] if refused else data
        # Hexadecimal digits: no line begins with a dot.
        self.socket.sendall(b".\r\n" if refused else message.octets + b".\r\n")
        code = self.reply()
        return refused[0] if refused else code

    def close(self) -> None:
        self._lines.close()
        self.socket.close()


class Traffic:
    """So many sessions at once, from entry to exit of the context."""

    def __init__(self, ledger: Ledger, port: int, sessions: int = 8) -> None:
        self._ledger = ledger
        self._port = port
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(sessions)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Let each session send what it has begun, and wait for that."""
        self._over.set()
        for thread in self._threads:
            thread.join(2 * REPLY_SECONDS)
            assert not thread.is_alive(), "a session does not end"

    def await_replies(self, count: int, seconds: float) -> bool:
        """Until the ledger has so many more replies than now; whether they came in time."""
        wanted, ends_at = self._ledger.replies + count, time.monotonic() + seconds
        while self._ledger.replies < wanted:
            if time.monotonic() > ends_at:
                return False
            time.sleep(0.002)
        return True

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._session()
            except (OSError, ValueError):
                self._over.wait(AGAIN_SECONDS)

    def _session(self) -> None:
        connection = Connection(self._port)
        with contextlib.closing(connection):
            for _ in range(SESSION_MESSAGES):
                if self._over.is_set():
                    break
                message = self._ledger.next()
                code = connection.send(message)
                self._ledger.answered(message, code)
                if code != 250:
                    self._over.wait(AGAIN_SECONDS)
