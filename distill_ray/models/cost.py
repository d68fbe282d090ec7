"""What one image costs a network in arithmetic."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Operations:
    """`multiply_adds` are those of convolutions and linear layers; `total` counts one for each of
    them and the other operations.

    The others are, as in the tables of Hydra+: one per output of an addition (bias or residual) and
    of a ReLU, two per output of a batch normalisation, one per input of a pooling. GFLOPs in the
    tables on CIFAR are 2e-9 times `multiply_adds`.
    """

    multiply_adds: int
    total: int


def count_operations(network: nn.Module, image_shape: tuple[int, int, int]) -> Operations:
    """The operations of `network` in evaluation for one image (C, H, W). Nothing is computed:
    shapes alone go through it.
    """
    network = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as flops, _Counter() as counter:
        network(torch.empty(1, *image_shape, device="meta"))
    multiply_adds = flops.get_total_flops() // 2
    return Operations(multiply_adds, multiply_adds + counter.others)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.others = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.removesuffix("_")
        output = result[0] if isinstance(result, tuple) else result
        if name == "convolution":
            self.others += output.numel() if args[2] is not None else 0
        elif name in ("addmm", "baddbmm"):
            self.others += output.numel()
        elif name in OUTPUTS:
            self.others += OUTPUTS[name] * output.numel()
        elif name in POOLINGS:
            self.others += args[0].numel()
        return result


OUTPUTS = {"relu": 1, "add": 1, "native_batch_norm": 2, "_native_batch_norm_legit_no_training": 2}
POOLINGS = ("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "mean")
