"""Somebody else's mail servers, each alone with its own files, on a high port of this machine.

Mail servers cannot be installed side by side, so `tests/interop/install` only unpacks them.  Here each one is started
in a mount namespace of its own, where its programs lie over /usr, its configuration and users over /etc, and /run,
/var/lib and /var/spool are empty file systems in memory; and in a process namespace of its own, so that with its first
process all of it is gone, children that went into the background included.

The rule this file keeps: nothing outside of the namespace and of the test's own directory changes, and what cannot be
tried here is skipped with the reason and the command that would help.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import pytest
import trustme

from mailhub.testing.confinement import (
    CACHE,
    answers,
    cannot_confine,
    free_port,
    run,
    users,
    wait_for_greeting,
)

STOP_SECONDS_MAX = 10.0
ARRIVAL_SECONDS_MAX = 60.0
REMEDY = "`make interop`, as root on Debian, brings it"
TOOL_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"

#: Where another test looks for it.
if (CACHE / "postsrsd" / "unpacked").exists():
    os.environ.setdefault("POSTSRSD", str(CACHE / "postsrsd" / "usr" / "sbin" / "postsrsd"))

#: What every peer calls the hub; its certificate has this name too.
HUB_NAME = "mx.example.test"

POSTFIX_MAIN = """
compatibility_level = 3.6
maillog_file = /dev/stdout
data_directory = /var/lib/postfix
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = postfix.example
mynetworks = 127.0.0.0/8
mydestination =
alias_maps =
relay_domains = example.test
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtp_dns_support_level = disabled
smtp_host_lookup = native
lmtp_host_lookup = native
# The header is the client's business: nothing is added, nothing rewritten.
local_header_rewrite_clients =
minimal_backoff_time = 1s
queue_run_delay = 1s
"""
POSTFIX_MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
tlsmgr unix - - n 1000? 1 tlsmgr
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
lmtp unix - - n - - lmtp
virtual unix - n n - - virtual
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""
POSTFIX_TLS = """
smtp_tls_security_level = verify
smtp_tls_CAfile = /etc/hub.pem
"""

#: Behind the lines above.  /var/log is a directory of the test; what arrives there is a Maildir.
RECEIVING_POSTFIX = """
virtual_mailbox_domains = far.example
virtual_mailbox_base = /var/log
virtual_mailbox_maps = static:mail/
virtual_uid_maps = static:61001
virtual_gid_maps = static:61001
virtual_destination_recipient_limit = 1
relay_domains =
"""

EXIM = """
primary_hostname = exim.example
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
spool_directory = /var/spool/exim4
log_file_path = /var/log/exim-%s.log
host_lookup =
rfc1413_query_timeout = 0s
notifier_socket =
smtp_accept_max = 100
smtp_accept_queue_per_connection = 0
# A delivery needs no root here, and so no new program.
deliver_drop_privilege = true
keep_environment =
acl_smtp_rcpt = accept

begin acl

accept:
  accept

begin routers

hub:
  driver = manualroute
  route_list = * {hub} byname
  self = send
  transport = hub

begin transports

hub:
  driver = smtp
  port = {next_port}
{tls}

begin retry

* * F,1h,1s
"""
EXIM_TLS = f"""
  hosts_require_tls = *
  tls_verify_certificates = /etc/hub.pem
  tls_verify_hosts = *
  tls_verify_cert_hostnames = {HUB_NAME}
"""

RECEIVING_EXIM = """
primary_hostname = exim.example
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
spool_directory = /var/spool/exim4
log_file_path = /var/log/exim-%s.log
host_lookup =
rfc1413_query_timeout = 0s
notifier_socket =
smtp_accept_max = 100
smtp_accept_queue_per_connection = 0
tls_advertise_hosts =
deliver_drop_privilege = true
keep_environment =
acl_smtp_rcpt = accept

begin acl

accept:
  accept

begin routers

here:
  driver = accept
  transport = here

begin transports

here:
  driver = appendfile
  maildir_format
  directory = /var/log/mail
  create_directory
  delivery_date_add
  envelope_to_add
  return_path_add
  user = Debian-exim
"""

OPENSMTPD = """
smtp limit max-mails 10000
# Otherwise it opens one connection every five seconds.
mta limit conn-delay-route 0 conn-delay-relay 0 max-conn-per-route 20 max-conn-per-host 20
listen on 127.0.0.1 port {port} hostname opensmtpd.example
action "hub" relay helo opensmtpd.example host {scheme}://{hub}:{next_port}{tls}
match from any for any action "hub"
"""

RECEIVING_OPENSMTPD = """
smtp limit max-mails 10000
table people {{ "@far.example" = "mail" }}
listen on 127.0.0.1 port {port} hostname opensmtpd.example
action "here" maildir "/var/log/mail" virtual <people>
match from any for domain "far.example" action "here"
"""

#: It wants a certificate, and a port for submissions; its own user is whoever starts it.
CHASQUID = """
hostname: "chasquid.example"
smtp_address: "127.0.0.1:{port}"
submission_address: "127.0.0.1:{submission_port}"
submission_over_tls_address: "127.0.0.1:{tls_port}"
data_dir: "/var/lib/chasquid"
mail_log_path: "<stderr>"
"""
#: What is delivered appears in the Maildir whole.  Its process ids are those of a new namespace, and do not come again.
CHASQUID_KEEP = """#!/bin/sh
cat >/var/log/mail/tmp/$$ && mv /var/log/mail/tmp/$$ /var/log/mail/new/
"""

RECEIVING_DOVECOT = """
protocols = lmtp
mail_location = maildir:/var/log/mail
mail_max_lock_timeout = 30s
service lmtp {{
  inet_listener lmtp {{
    port = {port}
  }}
}}
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home=/run/home
}}
"""

DOVECOT = """
base_dir = /run/dovecot
state_dir = /var/lib/dovecot
log_path = /dev/stderr
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
default_login_user = dovenull
default_internal_user = dovecot
first_valid_uid = 1
first_valid_gid = 1
mail_uid = mail
mail_gid = mail
"""

#: A local address where nobody answers, which a peer is told at once: the resolver of this machine may be out of
#: reach, and then a server that looks up each sender would wait for it, message by message.
NO_RESOLVER = "127.9.9.9"


@dataclass
class Peer:
    """A server that runs.  `port` is where it listens; `told()` what it has said."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    directory: Path

    def inbox(self) -> list[Path]:
        """The messages that one of Peers.receiver has, in whatever order."""
        new = self.directory / "log" / "mail" / "new"
        return list(new.iterdir()) if new.is_dir() else []

    def told(self) -> str:
        """Its log so far: what it wrote to its standard output, and into files."""
        paths = [self.directory / "output", *sorted((self.directory / "log").iterdir())]
        return "\n".join(path.read_text(errors="replace") for path in paths if path.is_file())

    def stop(self) -> None:
        """End it with all its children; nothing of its files is left, so it need not be asked."""
        self.process.kill()
        self.process.wait()
        ends_at = time.monotonic() + STOP_SECONDS_MAX
        while answers(self.port):
            assert time.monotonic() < ends_at, f"{self.name} goes on without its namespace"
            time.sleep(0.01)


@dataclass
class Peers:
    """Starts peers in a directory of the test's own, and ends them all."""

    directory: Path
    running: list[Peer] = field(default_factory=list)

    def postfix(self, next_port: int, protocol: str = "smtp", certificate: Path | None = None, more: str = "") -> Peer:
        """A Postfix that hands all mail to `next_port`, over "smtp" or "lmtp"; `more` are further lines of main.cf.

        With a certificate it insists on TLS, and on that certificate.
        """
        place, port = self._place("postfix"), free_port()
        main = f"{POSTFIX_MAIN}default_transport = {protocol}\nrelay_transport = {protocol}\n"
        main += f"relayhost = [{HUB_NAME}]:{next_port}\n" if protocol == "smtp" else ""
        main += f"transport_maps = static:lmtp:inet:{HUB_NAME}:{next_port}\n" if protocol == "lmtp" else ""
        main += POSTFIX_TLS if certificate is not None else ""
        files = {"postfix/main.cf": main + more, "postfix/master.cf": POSTFIX_MASTER.format(port=port)}
        script = "mkdir -p /var/lib/postfix /var/spool/postfix && chown postfix /var/lib/postfix; postfix start-fg"
        return self._start("postfix", place, port, files, script, certificate)

    def exim(self, next_port: int, certificate: Path | None = None, text: str = EXIM) -> Peer:
        """An Exim that hands all mail to `next_port`, or does what `text` says."""
        place, port = self._place("exim"), free_port()
        tls = EXIM_TLS if certificate is not None else "  hosts_avoid_tls = *"
        files = {"exim4/exim4.conf": text.format(port=port, next_port=next_port, hub=HUB_NAME, tls=tls)}
        script = "mkdir /var/spool/exim4 && chown Debian-exim: /var/spool/exim4; exim4 -bdf"
        return self._start("exim", place, port, files, script, certificate)

    def opensmtpd(self, next_port: int, certificate: Path | None = None, text: str = OPENSMTPD) -> Peer:
        """An OpenSMTPD that hands all mail to `next_port`, or does what `text` says."""
        place, port = self._place("opensmtpd"), free_port()
        scheme, tls = ("smtp+notls", "") if certificate is None else ("smtp+tls", " tls no-verify")
        text = text.format(port=port, next_port=next_port, hub=HUB_NAME, scheme=scheme, tls=tls)
        script = "mkdir -p /var/lib/opensmtpd/empty; smtpd -d"
        return self._start("opensmtpd", place, port, {"smtpd.conf": text}, script, certificate)

    def dovecot(self, configuration: str, port: int, mail: Path | None = None) -> Peer:
        """A Dovecot with these further settings, which listens on `port`.  It finds `mail`, a Maildir, in /run/mail."""
        if shutil.which("dovecot", path=TOOL_PATH) is None:
            pytest.skip(f"dovecot is not installed: {REMEDY}")
        place = self._place("dovecot")
        script = "dovecot -F -c /etc/dovecot-private.conf"
        if mail is not None:
            # Its owner is whoever the hub runs as; in the copy it is whoever Dovecot reads mail as.
            script = f"cp -a {quote(str(mail))} /run/mail && chown -R mail:mail /run/mail; {script}"
        return self._start("dovecot", place, port, {"dovecot-private.conf": DOVECOT + configuration}, script)

    def receiver(self, name: str) -> Peer:
        """A server of this name that keeps all mail for far.example, see Peer.inbox; "dovecot" speaks LMTP."""
        match name:
            case "postfix":
                return self.postfix(0, more=RECEIVING_POSTFIX)
            case "exim":
                return self.exim(0, text=RECEIVING_EXIM)
            case "opensmtpd":
                return self.opensmtpd(0, text=RECEIVING_OPENSMTPD)
            case "dovecot":
                port = free_port()
                return self.dovecot(RECEIVING_DOVECOT.format(port=port), port)
            case "chasquid":
                return self.chasquid()
        raise ValueError(name)

    def chasquid(
        self,
        certificate: bytes | None = None,
        key: bytes | None = None,
        login: str = "",
        password: str = "",
        submission_port: int = 0,
        tls_port: int = 0,
    ) -> Peer:
        """A chasquid that keeps all mail for far.example, and takes more from who logs in on its other ports."""
        place, port = self._place("chasquid"), free_port()
        if certificate is None or key is None:
            issued = trustme.CA().issue_cert("chasquid.example")
            certificate, key = issued.cert_chain_pems[0].bytes(), issued.private_key_pem.bytes()
        files = {
            "chasquid/chasquid.conf": CHASQUID.format(
                port=port, submission_port=submission_port or free_port(), tls_port=tls_port or free_port()
            ),
            "chasquid/keep": CHASQUID_KEEP,
            "chasquid/certs/chasquid.example/fullchain.pem": certificate.decode(),
            "chasquid/certs/chasquid.example/privkey.pem": key.decode(),
            "chasquid/domains/far.example/aliases": "alice: | /run/chasquid/keep\nbob: | /run/chasquid/keep\n",
        }
        # Its database of users lies in its configuration, and /etc can only be read.
        script = "cp -a /etc/chasquid /run/chasquid && chmod 755 /run/chasquid/keep && mkdir -p /var/lib/chasquid; "
        script += "mkdir -p /var/log/mail/tmp /var/log/mail/new; "
        if login:
            script += f"chasquid-util -C=/run/chasquid user-add {quote(login)} --password={quote(password)}; "
        return self._start("chasquid", place, port, files, script + "chasquid -config_dir=/run/chasquid")

    def stop(self) -> None:
        for peer in self.running:
            peer.stop()

    def _place(self, name: str) -> Path:
        """A new directory for this peer, once it is known that it can run here."""
        fault = cannot_confine()
        if fault:
            pytest.skip(f"{name} cannot be run apart from this system: {fault}")
        if name != "dovecot" and not (CACHE / name / "unpacked").exists():
            pytest.skip(f"{name} is not unpacked in {CACHE / name}: {REMEDY}")
        place = self.directory / f"{name}-{len(self.running)}"
        (place / "etc").mkdir(parents=True)
        (place / "log").mkdir()
        (place / "log").chmod(0o777)
        return place

    def _start(
        self,
        name: str,
        place: Path,
        port: int,
        files: dict[str, str],
        script: str,
        certificate: Path | None = None,
    ) -> Peer:
        """Run the script in namespaces of its own, and wait until something answers on the port."""
        names = {"hosts": f"127.0.0.1 localhost {HUB_NAME}\n", "resolv.conf": f"nameserver {NO_RESOLVER}\n"}
        for path, text in {**files, **users(), **names}.items():
            (place / "etc" / path).parent.mkdir(parents=True, exist_ok=True)
            (place / "etc" / path).write_text(text)
        if certificate is not None:
            (place / "etc" / "hub.pem").write_bytes(certificate.read_bytes())
        with (place / "output").open("wb") as output:
            process = run(script, CACHE / name, place / "etc", {"/var/log": place / "log"}, place, output)
        peer = Peer(name, port, process, place)
        self.running.append(peer)
        wait_for_greeting(process, port, peer.told)
        return peer


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    """Starts other people's servers; they end with the test."""
    running = Peers(tmp_path)
    yield running
    running.stop()


@pytest.fixture
def new_port() -> Callable[[], int]:
    """`new_port()` is a TCP port of 127.0.0.1 that nobody uses now."""
    return free_port


@pytest.fixture
def arrived() -> Callable[..., list[bytes]]:
    """`arrived(hub, address, count, wanted)`: the messages in an inbox, once there are at least so many of them.

    `wanted` chooses among them by their octets; `told` adds to what is said when they do not come in time.
    """

    def wait(
        hub: Any,
        address: str,
        count: int,
        wanted: Callable[[bytes], bool] = lambda octets: True,
        told: Callable[[], str] = lambda: "",
    ) -> list[bytes]:
        inbox = hub.maildir(address) / "new"
        ends_at = time.monotonic() + ARRIVAL_SECONDS_MAX
        while True:
            if inbox.is_dir() and len(os.listdir(inbox)) >= count:
                found = [octets for octets in hub.messages(address) if wanted(octets)]
                if len(found) >= count:
                    return found
            else:
                found = []
            assert time.monotonic() < ends_at, f"{len(found)} of {count} are there\n{told()[-5000:]}"
            time.sleep(0.02)  # another process writes to disk: there is nothing to wait on

    return wait
