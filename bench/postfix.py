"""Postfix as Debian installs it, unpacked and not installed, with a queue, a log and mailboxes on our disk.

Its main.cf is the one of the package and what the package's installation adds for an "Internet Site"; then follows what
a private one must have, and what the work is.  Nothing is tuned: process limits, concurrency and fsync are Debian's.
The log is written by Postfix's own postlogd, which costs it less than Debian's rsyslog.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from bench.plan import Work
from bench.server import DOMAIN, FAR_DOMAIN, HOSTNAME, PASSWORD, STOP_SECONDS_MAX, USERS, Server, tail
from mailhub.testing.confinement import CACHE, cannot_confine, run, users, wait_for_greeting

ROOT = CACHE / "postfix"
SHARE = ROOT / "usr" / "share" / "postfix"

#: What Debian's postinst writes behind main.cf.debian for an Internet Site, apart from the names.
INTERNET_SITE = """
smtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated defer_unauth_destination
mydestination = $myhostname, localhost
relayhost =
mynetworks = 127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128
mailbox_size_limit = 0
recipient_delimiter = +
"""
#: What a private one must have.  The aliases are empty: nobody here is local(8)'s.
PRIVATE = """
myhostname = {hostname}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
maillog_file = /var/log/mail.log
smtpd_tls_cert_file = /etc/bench.pem
smtpd_tls_key_file = /etc/bench.pem
virtual_mailbox_domains = {domain}
virtual_mailbox_base = /var/mail
virtual_mailbox_maps = texthash:/etc/postfix/mailboxes
virtual_uid_maps = static:8
virtual_gid_maps = static:8
virtual_minimum_uid = 8
"""
WORKS = {
    # The kindest there is: the queue manager never sees what is held.
    Work.ACCEPT: "smtpd_sender_restrictions = static:HOLD\n",
    Work.MAILDIR: "",
    Work.RELAY: "transport_maps = inline:{{ {far}=smtp:[127.0.0.1]:{sink} }}\n",
    Work.SUBMIT: (
        "smtpd_sender_restrictions = static:HOLD\n"
        "smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = private/auth\n"
        "smtpd_tls_security_level = encrypt\nsmtpd_tls_auth_only = yes\n"
        "smtpd_client_restrictions = permit_sasl_authenticated,reject\n"
        # Otherwise this machine would be let in without a login.
        "mynetworks =\n"
    ),
}

#: Debian's Postfix asks Dovecot about logins.  The password stands there as it is, so that no hashing costs Postfix.
DOVECOT = """
protocols =
ssl = no
base_dir = /run/dovecot
state_dir = /var/lib/dovecot
log_path = /var/log/dovecot.log
passdb {{
  driver = passwd-file
  args = /etc/bench-logins
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home=/nonexistent
}}
service auth {{
  client_limit = 2000
  unix_listener /var/spool/postfix/private/auth {{
    mode = 0666
  }}
}}
"""


def cannot_run(work: Work = Work.ACCEPT) -> str:
    """Why there is no Postfix to compare with, or an empty string."""
    if not (ROOT / "unpacked").exists():
        return "Postfix is not unpacked: `make interop`, as root on Debian, brings it"
    if work is Work.SUBMIT and shutil.which("dovecot", path="/usr/sbin:/usr/bin") is None:
        return "Dovecot, which knows the logins, is not installed: `make interop`, as root on Debian, brings it"
    return cannot_confine()


class Postfix(Server):
    """Postfix, with all its processes in namespaces of their own."""

    name = "postfix"
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        etc = self.place / "etc"
        bound = {folder: self.place / folder.rpartition("/")[2] for folder in ("/var/spool", "/var/lib", "/var/log")}
        bound["/var/mail"] = self.place / "mail"
        for folder in (etc / "postfix", *bound.values()):
            folder.mkdir(parents=True)
        for user in USERS:
            (self.place / "mail" / user).mkdir(mode=0o700)
            shutil.chown(self.place / "mail" / user, 8, 8)
        for path, text in self._files().items():
            (etc / path).write_text(text)
        script = "mkdir -p /var/lib/postfix /var/spool/postfix/private; "
        script += "chown postfix: /var/lib/postfix /var/spool/postfix/private /var/log; "
        if self.work is Work.SUBMIT:
            script += "dovecot -c /etc/bench-dovecot.conf; "
        script += f"{self.bound}postfix start-fg"
        with (self.place / "output").open("wb") as output:
            self._process = run(script, ROOT, etc, bound, self.place, output, before=(self.meter.join,))
        self.meter.root = self._process.pid
        wait_for_greeting(self._process, self.port, self.told)

    def _files(self) -> dict[str, str]:
        main = (SHARE / "main.cf.debian").read_text() + (SHARE / "main.cf.tls").read_text() + INTERNET_SITE
        main += PRIVATE.format(hostname=HOSTNAME, domain=DOMAIN)
        main += WORKS[self.work].format(far=FAR_DOMAIN, sink=self.sink_port)
        main = last_ones(main)
        return {
            **users(),
            "hosts": f"127.0.0.1 localhost {HOSTNAME}\n",
            "postfix/main.cf": main,
            "postfix/master.cf": master((SHARE / "master.cf.dist").read_text(), self.port),
            "postfix/mailboxes": "".join(f"{user}@{DOMAIN} {user}/\n" for user in USERS),
            "bench.pem": self.certificate.read_text(),
            "bench-dovecot.conf": DOVECOT.format(),
            "bench-logins": f"{USERS[0]}@{DOMAIN}:{{PLAIN}}{PASSWORD}\n",
        }

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        if not self.meter.wait_for_end(STOP_SECONDS_MAX):
            raise RuntimeError(f"Postfix has not stopped:\n{self.told()}")
        self.meter.close()

    def inbox(self, user: str) -> Path:
        return self.place / "mail" / user / "new"

    def held(self) -> tuple[int, int]:
        files = [path for path in (self.place / "spool" / "postfix" / "hold").rglob("*") if path.is_file()]
        return len(files), sum(path.stat().st_size for path in files)

    def told(self) -> str:
        return tail([self.place / "output", *sorted((self.place / "log").glob("*.log"))])


def last_ones(main: str) -> str:
    """A main.cf in which each parameter stands once, as it was set last: Postfix warns of all others."""
    found: dict[str, str] = {}
    for line in main.splitlines():
        if match := re.match(r"(\w+)\s*=", line):
            found.pop(match[1], None)
            found[match[1]] = line
    return "\n".join(found.values()) + "\n"


def master(text: str, port: int) -> str:
    """Debian's master.cf with smtpd on another port, and without chroot jails, which nobody has furnished here."""
    text = re.sub(r"^smtp(\s+inet\s)", rf"127.0.0.1:{port}\1", text, flags=re.MULTILINE)
    return re.sub(r"^(\S+\s+\S+\s+\S+\s+\S+\s+)y(\s)", r"\1n\2", text, flags=re.MULTILINE)
