"""Compiled training learns the same, and where there is no compiler training goes on without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distill_ray.training import Worker
from distill_ray.training.compiling import PAYS_BACK, compiled
from support.small import losses

UNCOMPILED = Path(__file__).parents[1] / "support" / "uncompiled.py"


@pytest.mark.slow
def test_compiled_training_learns_the_same() -> None:
    lines: list[str] = []
    torch.compiler.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    plain = losses("never", say=lines.append)
    assert not counters["stats"]
    program = losses("always", say=lines.append)
    assert lines == []
    assert counters["stats"]["unique_graphs"] == 1, "batches of another size are not compiled for"
    assert program == pytest.approx(plain, rel=1e-4)


@pytest.mark.slow
def test_every_model_that_a_process_trains_is_compiled() -> None:
    """Torch keeps eight programs of the same code, and all networks have the same `forward`."""
    torch.compiler.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    for width in range(2, 11):
        losses("always", f"mlp-{width}")
    assert counters["stats"]["unique_graphs"] == 9


@pytest.mark.slow
def test_without_a_compiler_it_is_said_and_training_goes_on(tmp_path: Path) -> None:
    """In a process of its own, whose compiler does not exist and whose cache is empty."""
    environment = os.environ | {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, UNCOMPILED], capture_output=True, text=True, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(
        "training is not compiled, which needs a C++ compiler, and Triton on a GPU: "
    )


def test_auto_compiles_where_it_pays_back() -> None:
    network = torch.nn.Linear(2, 2)

    def compiles(wanted: str, device: str, steps: int, workers: int = 1) -> bool:
        worker = Worker(torch.device(device), 0, workers)
        return compiled(network, worker, wanted, steps, print) is not None  # type: ignore[arg-type]

    assert compiles("auto", "cuda", PAYS_BACK)
    assert not compiles("auto", "cuda", PAYS_BACK - 1)
    assert not compiles("auto", "cpu", 10**9)
    assert not compiles("never", "cuda", 10**9)
    assert compiles("always", "cpu", 1)
    assert not compiles("always", "cpu", 1, workers=2)
