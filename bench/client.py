"""A client that loads a server over TLS, with or without a login, which smtp-source cannot.

It runs as a process of its own, several at once, each with a few threads that say what smtp-source says: one command at
a time, and the whole content in one write.  Whoever starts it writes a line when it is to begin, so that its own
start is not measured.  `python -m bench.client` reads the Share, as JSON, from its first line of input.
"""

from __future__ import annotations

import base64
import json
import socket
import ssl
import sys
import threading
from dataclasses import dataclass

PATIENCE_SECONDS = 120.0
LINE = b"X" * 78 + b"\r\n"
READY = "ready"


@dataclass(frozen=True)
class Share:
    """What one of these processes does: `messages` over `sessions` threads, to one recipient."""

    port: int
    octets: int
    sessions: int
    messages: int
    reused: bool
    sender: str
    recipient: str
    tls: bool = True
    login: str = ""
    password: str = ""


def content(share: Share) -> bytes:
    """A message of the wanted size, and the dot that ends it."""
    header = f"From: <{share.sender}>\r\nTo: <{share.recipient}>\r\nSubject: load\r\n\r\n".encode()
    rest = max(0, share.octets - len(header))
    lines = LINE * (rest // len(LINE))
    last = rest - len(lines)
    return header + lines + (b"X" * (last - 2) + b"\r\n" if last > 2 else b"") + b".\r\n"


class Session:
    """One connection, as far as it has come.  Raises RuntimeError for a reply that is not the wanted one."""

    def __init__(self, share: Share, context: ssl.SSLContext) -> None:
        self._share = share
        self._socket = socket.create_connection(("127.0.0.1", share.port), PATIENCE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.expect(b"2")
        self.say(b"EHLO client.example\r\n", b"2")
        if share.tls:
            self.say(b"STARTTLS\r\n", b"2")
            self._socket = context.wrap_socket(self._socket)
            self.say(b"EHLO client.example\r\n", b"2")
        if share.login:
            proof = base64.b64encode(f"\0{share.login}\0{share.password}".encode())
            self.say(b"AUTH PLAIN " + proof + b"\r\n", b"2")

    def say(self, octets: bytes, wanted: bytes) -> None:
        self._socket.sendall(octets)
        self.expect(wanted)

    def expect(self, wanted: bytes) -> None:
        """The next reply, of however many lines, begins with this digit."""
        reply = b""
        while not reply.endswith(b"\n") or reply[reply.rfind(b"\n", 0, -1) + 4 :][:1] == b"-":
            octets = self._socket.recv(4096)
            if not octets:
                raise RuntimeError(f"the server has hung up behind {reply!r}")
            reply += octets
        if not reply.startswith(wanted):
            raise RuntimeError(f"{reply!r}")

    def send(self, message: bytes) -> None:
        self.say(b"MAIL FROM:<" + self._share.sender.encode() + b">\r\n", b"2")
        self.say(b"RCPT TO:<" + self._share.recipient.encode() + b">\r\n", b"2")
        self.say(b"DATA\r\n", b"3")
        self.say(message, b"2")

    def quit(self) -> None:
        self.say(b"QUIT\r\n", b"2")
        self._socket.close()


def work(share: Share) -> None:
    """All of the share.  Raises the first error that a thread had."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    message = content(share)
    errors: list[Exception] = []

    def run(count: int) -> None:
        try:
            session = Session(share, context)
            for number in range(count):
                if number and not share.reused:
                    session.quit()
                    session = Session(share, context)
                session.send(message)
            session.quit()
        except (OSError, RuntimeError) as error:
            errors.append(error)

    each, more = divmod(share.messages, share.sessions)
    counts = [each + (number < more) for number in range(share.sessions)]
    threads = [threading.Thread(target=run, args=(count,)) for count in counts if count]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def main() -> None:
    """Say that we are ready, wait for the word, work."""
    share = Share(**json.loads(sys.stdin.readline()))
    print(READY, flush=True)
    sys.stdin.readline()
    work(share)


if __name__ == "__main__":
    main()
