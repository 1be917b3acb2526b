"""A name server on the loopback interface, for hubs in processes of their own: its whole world is a few lines.

    with NameServer("one.example. MX 10 mx.one.example.", "mx.one.example. A 127.0.0.1") as names:
        names.address                         "127.0.0.1:40053", as `[dns] servers` wants it
        names.put("two.example. MX 0 .")      from now on

A name that no line begins with does not exist.  It answers over UDP, from a thread of its own.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from types import TracebackType

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

#: What is told of a name may be believed for so many seconds; not at all, so that a test can change its mind.
TTL_SECONDS = 0
SOA = "ns.invalid. postmaster.invalid. 1 3600 600 86400 0"


class NameServer:
    """See above.  `asked` counts the questions, as (name without the last dot, type)."""

    def __init__(self, *lines: str) -> None:
        self._records: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], dns.rrset.RRset] = {}
        self._lock = threading.Lock()
        self.asked: Counter[tuple[str, str]] = Counter()
        #: Names for which it fails, as a broken zone does.
        self.broken: set[str] = set()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.put(*lines)
        self._thread = threading.Thread(target=self._run, name="name server", daemon=True)
        self._thread.start()

    def put(self, *lines: str) -> None:
        """Add these records, each as `name type data`."""
        for line in lines:
            name, kind, data = line.split(maxsplit=2)
            made = dns.rrset.from_text(name, TTL_SECONDS, "IN", kind, data)
            with self._lock:
                known = self._records.setdefault((made.name, made.rdtype), made)
                if known is not made:
                    known.update(made)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        # The thread waits for a datagram; this is the last one.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            self._over = True
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def __enter__(self) -> NameServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    _over = False

    def _run(self) -> None:
        while True:
            datagram, client = self._socket.recvfrom(65_535)
            if self._over:
                return
            with contextlib.suppress(dns.exception.DNSException, OSError):
                self._socket.sendto(self._answer(dns.message.from_wire(datagram)).to_wire(max_size=65_535), client)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        with self._lock:
            self.asked[name, dns.rdatatype.to_text(question.rdtype)] += 1
            found = self._records.get((question.name, question.rdtype))
            exists = any(known == question.name for known, _ in self._records)
        if name in self.broken:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif found is not None:
            response.answer.append(found)
        else:
            response.set_rcode(dns.rcode.NOERROR if exists else dns.rcode.NXDOMAIN)
            response.authority.append(dns.rrset.from_text(".", TTL_SECONDS, "IN", "SOA", SOA))
        return response
