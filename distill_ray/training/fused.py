"""The forward pass of a frozen network on a CPU as one program of oneDNN's graph compiler."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from distill_ray.errors import first_line
from distill_ray.models.network import Network
from distill_ray.training.device import autocast
from distill_ray.training.top_k import TAIL_BOUND, total_variation

logger = logging.getLogger(__name__)

WARM_UP = 2
"""Passes after which a program is what it stays: the first is only watched."""


class FusedForward:
    """What a frozen network makes of images (B, C, H, W), by a program for each shape of them.

    Batch normalisation is folded into the convolutions before it, and what follows them, such as
    ReLUs and sums, is computed with them; in bfloat16 weights are converted once, not in each pass.
    That takes about a second of computing. Images go through the network as it is where it cannot
    be traced without running it, and where the program moves predictions by more than storing the
    largest logits alone may.
    """

    def __init__(self, network: nn.Module, precision: str) -> None:
        self._network = network
        self._precision = precision
        self._forward: dict[torch.Size, Callable[[Tensor], Tensor]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """The logits (B, K), float32."""
        if images.shape not in self._forward:
            self._forward[images.shape] = self._made_for(images)
        return self._forward[images.shape](images)

    def _as_it_is(self, images: Tensor) -> Tensor:
        with autocast(images.device, self._precision):
            logits: Tensor = self._network(images)
        return logits.float()

    def _made_for(self, images: Tensor) -> Callable[[Tensor], Tensor]:
        """The program for images of that shape, or the network as it is."""
        if not isinstance(self._network, Network) or self._network.task != "classification":
            return self._as_it_is
        try:
            program = _program(self._network, images, self._precision)
            moved = float(total_variation(program(images), self._as_it_is(images)).mean())
        except Exception as error:  # whatever tracing meets in the code of a network
            logger.info("%s answers layer by layer: %s", self._network.name, first_line(error))
            return self._as_it_is
        if not moved <= TAIL_BOUND:
            logger.info("%s answers layer by layer: as a program it differs", self._network.name)
            return self._as_it_is
        return program


class FusedTeachers:
    """Frozen networks as programs, which give their raw logits, (N, B, K). A network that is there
    twice is one program.
    """

    def __init__(self, networks: Sequence[nn.Module], precision: str) -> None:
        made = {network: FusedForward(network, precision) for network in networks}
        self._programs = [made[network] for network in networks]

    def __call__(self, images: Tensor) -> Tensor:
        """The logits for images (B, C, H, W)."""
        with torch.inference_mode():
            return torch.stack([program(images) for program in self._programs])


def _program(network: Network, images: Tensor, precision: str) -> Callable[[Tensor], Tensor]:
    """The network as a program for images of that shape. Images are normalised in float32."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own plans for torch.jit
        plain = copy.deepcopy(nn.Sequential(network.features, network.classifier)).eval()
        folded = fuse(plain).to(dtype).to(memory_format=torch.channels_last)
        example = network.normalise(images.clone()).to(dtype)
        torch.jit.enable_onednn_fusion(True)
        traced = torch.jit.freeze(torch.jit.trace(folded, example, check_trace=False).eval())
        for _ in range(WARM_UP):
            traced(example)

    def forward(batch: Tensor) -> Tensor:
        logits: Tensor = traced(network.normalise(batch).to(dtype))
        return logits.float()

    return forward
