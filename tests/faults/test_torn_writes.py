"""A crash, or a full disk, at every single file operation of what writes: training, teacher logits,
the search, notes, setting aside.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def interruptions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`interrupt.c` as a library to be loaded before all others."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("interrupting file operations takes Linux and a C compiler")
    library = tmp_path_factory.mktemp("interrupt") / "interrupt.so"
    source = Path(__file__).with_name("interrupt.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.mark.parametrize("how", ["die", "full"])
def test_interrupted_everywhere_and_done_again(
    how: str, interruptions: Path, tmp_path: Path
) -> None:
    """Afterwards it reads as done or as not done, and doing it again gives what was never
    interrupted.
    """
    command = [sys.executable, str(Path(__file__).with_name("interrupted.py")), how, str(tmp_path)]
    environment = os.environ | {"LD_PRELOAD": str(interruptions)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=6000, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(done.stdout)
    told = re.findall(r"(.+): interrupted (\d+) times, (\d+) operations", done.stdout)
    assert [what for what, _, _ in told] == [
        "training",
        "teacher_logits",
        "search",
        "diary",
        "setting-aside",
        "mlflow",
    ]
    # Of which some are tried
    whole = [(int(times), int(operations)) for what, times, operations in told if what != "mlflow"]
    if how == "die":
        assert all(times == operations > 10 for times, operations in whole)
    else:
        # what can do without the disk, such as the teacher logits of a run, is not interrupted by
        # it
        assert sum(times for times, _ in whole) > 300
