"""The student's forward and backward pass as one compiled program, where that pays back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from distill_ray.training.device import Worker

Compile = Literal["auto", "always", "never"]

PAYS_BACK = 10_000
"""Steps of a job on a GPU from which `auto` compiles.

Compiling takes a minute; what it spares is some milliseconds of launches a step.
"""

VARIANTS = 64
"""Programs that a process keeps: one for each model and size of batch, which all its trials share.

Of the same code torch keeps eight, and runs what comes after them uncompiled.
"""


def compiled(
    network: nn.Module, worker: Worker, wanted: Compile, steps: int, say: Callable[[str], None]
) -> Callable[[Tensor], Tensor] | None:
    """`network` compiled, for a job of so many steps; None where it is not wanted or does not pay.

    The steps are those of the whole job, so that one that is resumed near its end still gets the
    same result to the last bit.

    On a GPU its kernels are launched as one CUDA graph. On a CPU `auto` leaves it: it gains a few
    percent after a minute (BENCHMARKS.md). It is for a worker alone. The shape of images that comes
    first is the one compiled for; others, such as a smaller last batch, run as they are. Where
    compiling fails, as without a compiler, `say` is told and everything does.
    """
    pays = wanted == "always" or (
        wanted == "auto" and worker.device.type == "cuda" and steps >= PAYS_BACK
    )
    if not pays or worker.world_size > 1:
        return None
    torch._dynamo.config.recompile_limit = VARIANTS
    program = torch.compile(
        network,
        dynamic=False,
        mode="reduce-overhead" if worker.device.type == "cuda" else "default",
    )
    shape: torch.Size | None = None
    failed = False

    def forward(images: Tensor) -> Tensor:
        nonlocal shape, failed
        if failed or images.shape != (shape or images.shape):
            plain: Tensor = network(images)
            return plain
        if shape is not None:
            answers: Tensor = program(images)
            return answers
        shape = images.shape
        try:
            return forward(images)
        except Exception as error:
            failed = True
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            say(
                f"training is not compiled, which needs a C++ compiler, and Triton on a GPU: {reason}"
            )
            return forward(images)

    return forward
