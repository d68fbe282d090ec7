"""A study whose working directory vanishes while it runs, as `ray job submit` may have it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TINY = Path(__file__).parents[1] / "tiny.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["[teach] ", "[search 1/"])
def test_nothing_after_the_start_depends_on_it(tmp_path: Path, moment: str) -> None:
    here = tmp_path / "here"
    here.mkdir()
    command = [sys.executable, "-m", "distill_ray", "run", str(TINY)]
    command += ["--store", str(tmp_path / "store"), "--set", "search.trials=2"]
    printed = ""
    with subprocess.Popen(
        command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as study:
        assert study.stdout is not None
        for line in study.stdout:
            printed += line
            if line.startswith(moment) and here.exists():
                shutil.rmtree(here)
    assert not here.exists(), printed
    assert study.returncode == 0, printed
