"""`mailhub demo --once`, as somebody runs it who has just installed mailhub."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

#: It takes about three seconds by itself; the machine may be busy.
SECONDS_MAX = 60


def start(temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mailhub", "demo", *arguments],
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # As in a terminal, whoever runs these tests: a shell has what it starts in the background ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_six_mails_go_as_told_and_nothing_is_left(tmp_path: Path) -> None:
    process = start(tmp_path, "--once")
    output, _ = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0, output
    wanted = [
        r"^1\. Delivered",
        r": delivered, from <alice@example\.test> to <bob@example\.test>",
        r"logged in +as alice@example\.test",
        r"^2\. Refused as relay",
        r"refused +<victim@elsewhere\.example> at RCPT.*: 550 5\.7\.1 ",
        r"^3\. Greylisted",
        r"refused +<bob@example\.test> at RCPT.* by greylist \(mta\.policy\[0\].*\): 450 4\.7\.1 ",
        r": delivered, from <carol@client\.example> to <bob@example\.test>",
        r"^4\. Deferred",
        r"deferred +<ann@slow\.example>: 451 4\.7\.1 Too busy",
        r"> .*delivered +<ann@slow\.example>: 250",
        r"^5\. Bounced",
        r"> .*failed +<nobody@far\.example>: 550 5\.1\.1 No such user",
        r": delivered, from <> to <alice@example\.test>",
        r"^6\. Forwarded",
        r"alias +friends@example\.test -> joe@far\.example",
        r"The other host got it from <SRS0=\S+=client\.example=carol@example\.test>",
        r"^All six went as they should",
    ]
    lines = iter(output.splitlines())
    for pattern in wanted:
        assert any(re.search(pattern, line) for line in lines), f"{pattern} is missing in\n{output}"
    assert list(tmp_path.iterdir()) == []


def test_it_goes_on_until_it_is_interrupted(tmp_path: Path) -> None:
    process = start(tmp_path)
    assert process.stdout is not None
    begun_at = time.monotonic()
    seen = ""
    for line in process.stdout:
        seen += line
        if line.startswith("nobody@far.example does not exist"):
            break
        assert time.monotonic() < begun_at + SECONDS_MAX
    (port,) = re.findall(r"mail from the world \(MTA\) +127\.0\.0\.1:(\d+)", seen)
    assert int(port) > 1024
    (directory,) = tmp_path.iterdir()
    assert (directory / "mailhub.toml").exists()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=SECONDS_MAX)
    assert list(tmp_path.iterdir()) == []
