"""Any network with several heads: the first part shared, the rest once per head."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from distill_ray.models.layers import HeadwiseOperation
from distill_ray.models.network import Network, with_features
from distill_ray.task import Task


def to_multi_head(network: nn.Module, heads: int, depth: int = 0) -> MultiHead:
    """`network` with `heads` classifiers, each with the last `depth` units of the features to
    itself.

    The first head and the trunk are copies of the network's own; the other heads are drawn afresh,
    by the architecture's rule, as a function of the network's seed. With depth 0 only the
    classifier is multiplied. Raises `ValueError` for a depth that leaves no unit to share.
    """
    if heads < 1:
        raise ValueError(f"heads must be at least 1, found {heads}")
    if not isinstance(network, Network):
        raise ValueError(
            f"only a network of the catalogue can become multi-head, found {type(network).__name__}"
        )
    network = with_features(network)
    units = network.units()
    if not 0 <= depth < len(units):
        raise ValueError(
            f"model {network.name!r} cannot become multi-head with depth {depth}: it has "
            f"{len(units)} units, and one at least "
            "must be shared"
        )
    cut = units[-depth] if depth else len(network.features)
    head = nn.Sequential(*network.features[cut:], network.classifier)
    trunk = nn.Sequential(network.normalise, *network.features[:cut])
    return MultiHead(
        copy.deepcopy(trunk),
        [copy.deepcopy(head), *_redrawn(network, head, heads - 1)],
        network.task,
    )


def _redrawn(network: Network, head: nn.Sequential, count: int) -> Iterator[nn.Sequential]:
    stream = int.from_bytes(hashlib.sha256(f"heads {network.seed}".encode()).digest()[:7])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream)
        for _ in range(count):
            other = copy.deepcopy(head)
            for layer in other.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                    layer.reset_parameters()
            network.draw(other)
            yield other


class MultiHead(nn.Module):
    """Images (B, C, H, W) to the logits of every head (B, M, K). Each head has its own batch
    normalisation.

    All heads are computed at once, side by side along the channels: first those of head 0, then
    those of head 1. Their parameters have the names of one head and are stacked likewise: M * out
    rows for a weight that has out in one head.
    """

    def __init__(
        self, trunk: nn.Sequential, heads: list[nn.Sequential], task: Task = "classification"
    ) -> None:
        super().__init__()
        self.task = task
        self.members = len(heads)
        self.trunk = trunk
        self.heads = side_by_side(heads)

    def forward(self, images: Tensor) -> Tensor:
        features = self.trunk(images)
        logits: Tensor = self.heads(torch.cat([features] * self.members, 1)).unflatten(
            1, (self.members, -1)
        )
        return logits

    def head_weights(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Weight (M, out, ...) and bias (M, out) of every convolution and linear layer of the
        heads, from first to last.
        """
        for layer in self.heads.modules():
            if isinstance(layer, nn.Conv2d | StackedLinear):
                yield (
                    self._by_head(layer.weight),
                    None if layer.bias is None else self._by_head(layer.bias),
                )

    def _by_head(self, stacked: Tensor) -> Tensor:
        by_head: Tensor = stacked.unflatten(0, (self.members, -1))
        return by_head


def side_by_side(heads: list[nn.Sequential]) -> nn.Sequential:
    """One module that computes several of the same shape at once, their inputs and outputs side by
    side along dimension 1.
    """
    together = copy.deepcopy(heads[0])
    for path, layer in list(together.named_modules()):
        layers = [head.get_submodule(path) for head in heads]
        for name, values in (
            *layer.named_parameters(recurse=False),
            *layer.named_buffers(recurse=False),
        ):
            if values.dim() > 0:
                stacked = torch.cat([getattr(other, name).detach() for other in layers])
                setattr(
                    layer,
                    name,
                    nn.Parameter(stacked) if isinstance(values, nn.Parameter) else stacked,
                )
        if isinstance(layer, nn.Conv2d):
            layer.groups *= len(heads)
            layer.in_channels *= len(heads)
            layer.out_channels *= len(heads)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.num_features *= len(heads)
        elif isinstance(layer, nn.Linear):
            together.set_submodule(path, StackedLinear(layer, len(heads)))
        elif isinstance(layer, HeadwiseOperation):
            layer.heads = len(heads)
    return together


class StackedLinear(nn.Module):
    """M linear layers side by side, (B, M * in) to (B, M * out), with the rows of all of them in
    one weight (M * out, in).
    """

    def __init__(self, stacked: nn.Linear, members: int) -> None:
        super().__init__()
        self.members = members
        self.weight = stacked.weight
        self.bias = stacked.bias

    def forward(self, inputs: Tensor) -> Tensor:
        by_member = inputs.unflatten(1, (self.members, -1)).transpose(0, 1)
        weight = self.weight.unflatten(0, (self.members, -1)).transpose(1, 2)
        if self.bias is None:
            outputs = torch.bmm(by_member, weight)
        else:
            outputs = torch.baddbmm(self.bias.view(self.members, 1, -1), by_member, weight)
        return outputs.transpose(0, 1).flatten(1)
