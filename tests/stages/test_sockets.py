"""Which addresses a whole study of this machine alone binds or connects to, by the calls of every
process: none but those of the loopback interface.
"""

from __future__ import annotations

import ipaddress
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from support.studies import TINY

pytestmark = pytest.mark.slow

ROUTE = '"8.8.8.8"'
"""Ray connects a UDP socket to it, which sends nothing, to see which of this machine's addresses
the kernel would take.
"""

ADDRESS = re.compile(r'inet_(?:addr\("|pton\(AF_INET6, ")([^"]+)"')


def test_a_default_run_uses_loopback_alone(tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed (Debian: apt-get install strace)")
    trace = tmp_path / "trace"
    watched = [
        strace,
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-yy",
        "-e",
        "trace=bind,connect,sendto,sendmsg",
    ]
    study = [sys.executable, "-m", "distill_ray", "run", str(TINY), "--set", "search.trials=1"]
    done = subprocess.run(
        [*watched, "-o", str(trace), *study, "--store", str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    calls: Counter[tuple[str, str]] = Counter()
    processes = set()
    for line in trace.read_text().splitlines():
        process, call = line.split(maxsplit=1)
        if "<UDP" in call and call.startswith("connect(") and ROUTE in call:
            continue
        for address in ADDRESS.findall(call):
            calls[call.partition("(")[0], address] += 1
            processes.add(process)
    print(f"{len(processes)} threads and processes: {dict(calls)}")
    assert calls["bind", "127.0.0.1"] and len(processes) > 10  # so that the test can fail
    assert {address for _, address in calls if not is_loopback(address)} == set()


def is_loopback(address: str) -> bool:
    place = ipaddress.ip_address(address)
    return (getattr(place, "ipv4_mapped", None) or place).is_loopback
