"""Questions to the DNS, asked once and remembered for as long as the answer says.

dnspython reads and writes the packets, `Backend` moves them, this file decides whom to ask, how often, and what the
answer is worth.  The rule: "no" is said only where a server said no.  NXDOMAIN and no data are answers; SERVFAIL, a
time-out, a refusal and garbage are none: they raise ResolutionDeferred, so that no mail bounces because a server was
down.

Questions that several ask at the same time are asked once.  A question that has failed is not asked again for
FAILURE_SECONDS (RFC 9520 section 3.2).  /etc/hosts and search domains play no part: mail is routed by the DNS.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from typing import Any

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.reversename
from dns.rcode import Rcode
from dns.rdatatype import RdataType
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.logger import Logger
from zope.interface import implementer

from mailhub.dns.backend import Backend, Flooded, Late
from mailhub.dns.cache import Cache
from mailhub.dns.records import Unusable, is_host_name, question_name, read
from mailhub.dns.server import SERVERS_MAX, Server, system_servers
from mailhub.interfaces import IResolver, ResolutionDeferred
from mailhub.model.dns import Answer

#: How long one server may think, and how often the whole list is gone through.
ATTEMPT_SECONDS = 3.0
ROUNDS = 2
#: After this no further server is tried, however many there are.
LIFETIME_SECONDS = 15.0
#: A server that did not answer is asked last for this long, so that one dead server does not slow down every question.
SHUNNED_SECONDS = 30.0

#: An answer is kept no shorter and no longer than this, whatever its TTL says.
TTL_SECONDS_MIN = 5.0
TTL_SECONDS_MAX = 86400.0
#: RFC 2308 section 5: one to three hours for a negative answer work well, more than a day does not.
NEGATIVE_SECONDS_MAX = 3600.0
#: RFC 9520 section 3.2: a failure is remembered at least one second and at most five minutes.
FAILURE_SECONDS = 5.0

ANSWERS_MAX = 10_000
ANSWER_OCTETS_MAX = 16 * 1024 * 1024
FAILURES_MAX = 2_000
#: What an entry weighs beside the octets of its packet.
_ENTRY_OCTETS = 512

#: Sockets open at the same time, and questions that are asked or wait for one.
ASKED_MAX = 100
QUESTIONS_MAX = 5_000

#: What the DNS Flag Day 2020 agreed on: no fragments on any path.
EDNS_PAYLOAD_OCTETS = 1232

Key = tuple[str, RdataType | None]


class _Faulty(Exception):
    """What a server said is no answer."""


@implementer(IResolver)
class Resolver:
    """A stub resolver.

    `reactor` provides IReactorFDSet, IReactorTCP and IReactorTime.  `chance` draws the ids of queries, which nobody may
    guess: outside of tests it is a random.SystemRandom.  The AD bit is believed from servers on the loopback interface,
    and with `trust_ad` from all of them (RFC 6840 section 5.8 wants a safe path to a trusted server).

    `backend` opens the sockets.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        chance: random.Random,
        servers: Sequence[Server] | None = None,
        *,
        attempt_seconds: float = ATTEMPT_SECONDS,
        rounds: int = ROUNDS,
        trust_ad: bool = False,
        backend: Backend | None = None,
    ) -> None:
        self.servers = tuple(system_servers() if servers is None else servers)[:SERVERS_MAX]
        if not self.servers:
            raise ValueError("a resolver needs a server to ask")
        self._steady = reactor
        self._chance = chance
        self._attempt_seconds = attempt_seconds
        self._rounds = rounds
        self._trust_ad = trust_ad
        self._backend = Backend(reactor) if backend is None else backend
        self._answers: Cache[Key, Answer] = Cache(ANSWERS_MAX, ANSWER_OCTETS_MAX)
        self._failures: Cache[Key, str] = Cache(FAILURES_MAX, ANSWER_OCTETS_MAX)
        self._shunned_until: dict[Server, float] = {}
        self._asking: dict[Key, Deferred[None]] = {}
        self._waiters: dict[Key, list[Deferred[Answer]]] = {}
        self._slots = DeferredSemaphore(ASKED_MAX)
        self._closed = False

    # --- IResolver ---------------------------------------------------------------------------------------------

    async def mx(self, domain: str) -> Answer:
        """Records are (preference, host), lowest preference first; a null MX (RFC 7505) is the single (0, "").

        Raises ResolutionDeferred, also where there are MX records and none of them names a host.
        """
        return await self._ask(domain, RdataType.MX)

    async def addresses(self, host: str) -> Answer:
        """Records are IP addresses as text, IPv6 first.  Raises ResolutionDeferred.

        If only one of both families can be learnt, its addresses are the answer, a partial one; but "none" is said only
        by both.
        """
        if not is_host_name(host.lower().removesuffix(".")):
            return Answer((), exists=False)
        six = self._begin(host, RdataType.AAAA)
        four = self._begin(host, RdataType.A)
        answers: list[Answer] = []
        problem: ResolutionDeferred | None = None
        try:
            for family in (six, four):
                try:
                    answers.append(family if isinstance(family, Answer) else await family)
                except ResolutionDeferred as error:
                    problem = error
        finally:
            if isinstance(four, Deferred):  # still there if we were cancelled while waiting for the other
                four.addErrback(lambda _: None)
                four.cancel()
        records = tuple(record for answer in answers for record in answer.records)
        if problem is not None and not records:
            raise problem
        counted = [answer for answer in answers if answer.records] or answers
        return Answer(
            records,
            exists=any(answer.exists for answer in answers),
            authenticated=all(answer.authenticated for answer in counted),
            expires_at=min(answer.expires_at for answer in answers),
            is_partial=problem is not None,
        )

    async def txt(self, name: str) -> Answer:
        """Records are whole strings, as bytes.  Raises ResolutionDeferred."""
        return await self._ask(name, RdataType.TXT)

    async def ptr(self, ip: str) -> Answer:
        """Records are host names, not confirmed by a forward look-up.  Raises ResolutionDeferred."""
        try:
            name = dns.reversename.from_address(ip)
        except (dns.exception.DNSException, ValueError):
            return Answer((), exists=False)
        return await self._ask(name.to_text(omit_final_dot=True), RdataType.PTR)

    async def tlsa(self, name: str) -> Answer:
        """Records are (usage, selector, matching type, association data).  Raises ResolutionDeferred."""
        return await self._ask(name, RdataType.TLSA)

    # --- life --------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Empty the caches."""
        self._answers.clear()
        self._failures.clear()

    async def close(self) -> None:
        """Ask nothing more; those who wait get ResolutionDeferred.  Returns when every socket is closed."""
        self._closed = True
        for asking in list(self._asking.values()):
            asking.cancel()
        await self._backend.close()

    # --- one question ------------------------------------------------------------------------------------------

    async def _ask(self, name: str, kind: RdataType) -> Answer:
        found = self._begin(name, kind)
        return found if isinstance(found, Answer) else await found

    def _begin(self, name: str, kind: RdataType) -> Answer | Deferred[Answer]:
        """The answer, if it is known; else what will fire with it, or fail with ResolutionDeferred."""
        key: Key = (name.lower().removesuffix("."), kind)
        now = self._steady.seconds()
        # RFC 2308 section 5: a name that does not exist has no records of any kind.
        known = self._answers.get(key, now) or self._answers.get((key[0], None), now)
        if known is not None:
            return known
        question = question_name(key[0])
        if question is None:
            return Answer((), exists=False)
        waiter: Deferred[Answer] = Deferred()
        failure = self._failures.get(key, now)
        if failure is None and self._closed:
            failure = "the resolver is closed"
        waiters = self._waiters.get(key)
        if failure is None and waiters is None and len(self._waiters) >= QUESTIONS_MAX:
            failure = "too many questions at once"
        if failure is not None:
            waiter.errback(ResolutionDeferred(failure))
            return waiter
        if waiters is not None:
            waiters.append(waiter)
            return waiter
        self._waiters[key] = [waiter]
        asking = Deferred.fromCoroutine(self._answer(key, question, kind))
        if key in self._waiters:
            self._asking[key] = asking
        return waiter

    async def _answer(self, key: Key, question: dns.name.Name, kind: RdataType) -> None:
        """Ask, remember, and tell all who wait.  Never raises."""
        answer: Answer | None = None
        reason = "the resolver is closed"
        try:
            await self._slots.acquire()
            try:
                answer = await self._exchange(key, question, kind)
            finally:
                self._slots.release()
        except CancelledError:
            pass
        except ResolutionDeferred as problem:
            reason = str(problem)
            self._failures.put(key, reason, self._steady.seconds(), FAILURE_SECONDS, len(reason) + _ENTRY_OCTETS)
        except Exception:
            reason = "an internal error"
            self.log.failure("cannot resolve {name}", name=key[0])
        self._asking.pop(key, None)
        for waiter in self._waiters.pop(key):
            # One that was cancelled takes no notice of what comes later.
            if answer is not None:
                waiter.callback(answer)
            else:
                waiter.errback(ResolutionDeferred(reason))

    async def _exchange(self, key: Key, question: dns.name.Name, kind: RdataType) -> Answer:
        """Go through the servers until one has an answer.  Raises ResolutionDeferred."""
        begun = self._steady.seconds()
        problems: list[str] = []
        for _ in range(self._rounds):
            for server in self._in_order():
                left = begun + LIFETIME_SECONDS - self._steady.seconds()
                if left <= 0:
                    break
                try:
                    response = await self._query(server, question, kind, min(self._attempt_seconds, left))
                    answer = self._read(server, response, key, kind)
                except CancelledError:
                    raise
                except Exception as problem:  # what comes from outside can make a parser raise anything
                    self._shunned_until[server] = self._steady.seconds() + SHUNNED_SECONDS
                    problems.append(f"{server} {_words(problem)}")
                else:
                    self._shunned_until.pop(server, None)
                    return answer
        raise ResolutionDeferred(f"{kind.name} {key[0]}: " + "; ".join(dict.fromkeys(problems)))

    def _in_order(self) -> list[Server]:
        """As configured, those that failed a moment ago last."""
        now = self._steady.seconds()
        return sorted(self.servers, key=lambda server: self._shunned_until.get(server, now) > now)

    async def _query(
        self, server: Server, question: dns.name.Name, kind: RdataType, seconds: float
    ) -> dns.message.QueryMessage:
        """One server's response, over TCP if it does not fit.  Raises whatever goes wrong."""
        # RFC 6840 section 5.7: AD in a query says that we understand AD in the answer.
        query = dns.message.make_query(question, kind, flags=dns.flags.RD | dns.flags.AD)
        query.use_edns(0, payload=EDNS_PAYLOAD_OCTETS)
        response = await self._send(server, query, seconds)
        if response.rcode() in (Rcode.FORMERR, Rcode.NOTIMP) and response.edns < 0:
            # RFC 6891 section 7: a server that does not know EDNS is asked again without.
            query.use_edns(False)
            response = await self._send(server, query, seconds)
        return response

    async def _send(self, server: Server, query: dns.message.QueryMessage, seconds: float) -> dns.message.QueryMessage:
        query.id = self._chance.getrandbits(16)
        family = socket.AF_INET6 if ":" in server.ip else socket.AF_INET
        try:
            response = await self._over(socket.SOCK_DGRAM, family, server, query, seconds)
        except (dns.message.Truncated, Flooded):
            # RFC 7766 section 5, and RFC 5452 section 9.2 for somebody who guesses ids.
            response = await self._over(socket.SOCK_STREAM, family, server, query, seconds)
        if not isinstance(response, dns.message.QueryMessage):
            raise _Faulty("sent something that is no answer")
        return response

    async def _over(
        self, transport: int, family: int, server: Server, query: dns.message.QueryMessage, seconds: float
    ) -> dns.message.Message:
        where = (server.ip, server.port)
        sock = await self._backend.make_socket(family, transport, destination=where, timeout=seconds)
        try:
            if transport == socket.SOCK_STREAM:
                return await dns.asyncquery.tcp(query, server.ip, port=server.port, sock=sock)
            # Whatever does not answer this very question is passed over, until the deadline of the socket.
            return await dns.asyncquery.udp(
                query,
                server.ip,
                port=server.port,
                sock=sock,
                ignore_unexpected=True,
                ignore_errors=True,
                raise_on_truncation=True,
            )
        finally:
            await sock.close()

    def _read(self, server: Server, response: dns.message.QueryMessage, key: Key, kind: RdataType) -> Answer:
        """What the response is worth, remembered.  Raises _Faulty, Unusable, or what dnspython thinks of it."""
        rcode = response.rcode()
        if rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN):
            raise _Faulty(f"said {dns.rcode.to_text(rcode)}")
        chain = response.resolve_chaining()  # CNAMEs followed, at most 16 of them
        exists = rcode == Rcode.NOERROR
        records = read(kind, chain.answer) if chain.answer is not None else ()
        seconds = float(chain.minimum_ttl)
        if chain.answer is not None:
            seconds = min(max(seconds, TTL_SECONDS_MIN), TTL_SECONDS_MAX)
        elif any(authority.rdtype == RdataType.SOA for authority in response.authority):
            seconds = min(max(seconds, TTL_SECONDS_MIN), NEGATIVE_SECONDS_MAX)
        elif exists and (chain.cnames or not response.flags & (dns.flags.RA | dns.flags.AA)):
            # RFC 2308 section 2.2: this is a referral, an alias whose target is missing, or a server that knows
            # nothing about it; it says neither yes nor no.
            raise _Faulty("gave neither records nor a reason")
        else:
            seconds = 0.0  # RFC 2308 section 5: without SOA a negative answer is not kept
        now = self._steady.seconds()
        trusted = self._trust_ad or server.is_loopback
        answer = Answer(
            records,
            exists=exists,
            authenticated=trusted and bool(response.flags & dns.flags.AD),
            expires_at=now + seconds,
        )
        place: Key = key if exists else (key[0], None)
        self._answers.put(place, answer, now, seconds, len(response.wire or b"") + _ENTRY_OCTETS)
        return answer


def _words(problem: Exception) -> str:
    """For people, and without anything that a stranger wrote."""
    match problem:
        case Late():
            return "did not answer in time"
        case _Faulty() | Unusable():
            return str(problem)
        case OSError():
            return f"cannot be reached: {problem.strerror or problem}"
        case EOFError():
            return "closed the connection"
        case _:
            return f"sent garbage ({type(problem).__name__})"
