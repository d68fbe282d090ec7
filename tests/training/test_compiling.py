"""Compiled training learns the same, and without a compiler training goes on uncompiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_ray.training import Worker
from distill_ray.training.compiling import PAYS_BACK_STEPS, CompiledForward, compiles
from support.small import losses

HERE = Worker(torch.device("cpu"))
UNCOMPILED = Path(__file__).parents[1] / "support" / "uncompiled.py"


@pytest.mark.slow
def test_compiled_training_learns_the_same(caplog: pytest.LogCaptureFixture) -> None:
    torch.compiler.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    plain = losses("never")
    assert not counters["stats"]
    program = losses("always")
    assert not caplog.messages
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
def test_without_a_compiler_it_is_logged_and_training_goes_on(tmp_path: Path) -> None:
    """In a process of its own, whose compiler does not exist and whose cache is empty."""
    environment = os.environ | {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, UNCOMPILED], capture_output=True, text=True, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    (line,) = (text for text in ended.stderr.splitlines() if "is not compiled" in text)
    assert line.startswith(
        "training is not compiled, which needs a C++ compiler, and Triton on a GPU: "
    )


class Counting(torch.nn.Module):
    """Doubles its input, and counts the calls that are not compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return 2 * images


@pytest.mark.parametrize("fails", [False, True])
def test_one_shape_goes_through_the_program(
    fails: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first; and none after a failure, which costs no batch and is logged once."""
    programs: list[torch.Size] = []

    def compile(network: Any, **settings: Any) -> Any:
        def program(images: Tensor) -> Tensor:
            programs.append(images.shape)
            if fails:
                raise RuntimeError("no compiler\nin detail")
            return 2 * images

        return program

    monkeypatch.setattr(torch, "compile", compile)
    network = Counting()
    forward = CompiledForward(network, HERE.device)
    for count in (4, 4, 3, 4):
        images = torch.rand(count, 2)
        assert torch.equal(forward(images), 2 * images)
    assert programs == [torch.Size([4, 2])] * (1 if fails else 3)
    assert network.calls == (4 if fails else 1)
    assert len(caplog.messages) == fails
    assert not fails or caplog.messages[0].endswith("Triton on a GPU: no compiler")


def test_auto_compiles_where_it_pays_back() -> None:
    def on(mode: str, device: str, steps: int, workers: int = 1) -> bool:
        return compiles(mode, Worker(torch.device(device), 0, workers), steps)  # type: ignore[arg-type]

    assert on("auto", "cuda", PAYS_BACK_STEPS)
    assert not on("auto", "cuda", PAYS_BACK_STEPS - 1)
    assert not on("auto", "cpu", 10**9)
    assert not on("never", "cuda", 10**9)
    assert on("always", "cpu", 1)
    assert not on("always", "cpu", 1, workers=2)
