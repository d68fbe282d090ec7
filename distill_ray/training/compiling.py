"""The student's forward and backward pass as one compiled program, where that pays back."""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch import Tensor, nn

from distill_ray.errors import first_line
from distill_ray.training import _torch_internals
from distill_ray.training.device import Worker

logger = logging.getLogger(__name__)

Compile = Literal["auto", "always", "never"]

PAYS_BACK_STEPS = 10_000
"""Steps of a job on a GPU from which `auto` compiles.

Compiling takes a minute; what it spares is some milliseconds of launches a step.
"""

PROGRAMS_KEPT = 64
"""Programs that a process keeps: one for each model and size of batch, which all its trials share.

Of the same code torch keeps eight, and runs what comes after them uncompiled.
"""


def compiles(mode: Compile, worker: Worker, steps: int) -> bool:
    """Whether the student of a job with so many steps is compiled; only one that a single worker
    trains ever is.

    The steps are those of the whole job, so that one that is resumed near its end still gets the
    same result to the last bit. On a CPU `auto` compiles nothing: it gains a few percent after a
    minute (BENCHMARKS.md).
    """
    if worker.world_size > 1 or mode == "never":
        return False
    return mode == "always" or (worker.device.type == "cuda" and steps >= PAYS_BACK_STEPS)


class CompiledForward:
    """The forward pass of a network, compiled for images of the shape that comes first.

    On a GPU its kernels are launched as one CUDA graph. Images of other shapes, such as those of a
    smaller last batch, go through the network as it is. So do all images if compilation fails (no
    C++ compiler, say), which is logged once.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        _torch_internals.keep_compiled_programs(PROGRAMS_KEPT)
        mode = "reduce-overhead" if device.type == "cuda" else "default"
        self._network = network
        self._program = torch.compile(network, dynamic=False, mode=mode)
        self._shape: torch.Size | None = None
        self._failed = False

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to what the network makes of them."""
        if self._shape is None:
            return self._first(images)
        forward = self._network if self._failed or images.shape != self._shape else self._program
        outputs: Tensor = forward(images)
        return outputs

    def _first(self, images: Tensor) -> Tensor:
        """The outputs for the images whose shape is compiled for."""
        self._shape = images.shape
        outputs: Tensor
        try:
            outputs = self._program(images)
        except Exception as error:
            self._failed = True
            logger.warning(
                "training is not compiled, which needs a C++ compiler, and Triton on a GPU: %s",
                first_line(error),
            )
            outputs = self._network(images)
        return outputs
