"""Any network with several heads: the first part shared, the rest once per head."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from distill_ray.models.network import Network


def to_multi_head(network: nn.Module, heads: int, depth: int = 0) -> MultiHead:
    """`network` with `heads` classifiers, each with the last `depth` units of the features to itself.

    The first head and the trunk are copies of the network's own; the other heads are drawn afresh, by the architecture's rule,
    as a function of the network's seed. With depth 0 only the classifier is multiplied. Raises `ValueError` for a depth that
    leaves no unit to share.
    """
    if heads < 1:
        raise ValueError(f"heads must be at least 1, found {heads}")
    if not isinstance(network, Network):
        raise ValueError(f"only a network of the catalogue can become multi-head, found {type(network).__name__}")
    units = network.units()
    if not 0 <= depth < len(units):
        raise ValueError(
            f"model {network.name!r} cannot become multi-head with depth {depth}: it has {len(units)} units, and one at least "
            "must be shared"
        )
    cut = units[-depth] if depth else len(network.features)
    head = nn.Sequential(*network.features[cut:], network.classifier)
    return MultiHead(nn.Sequential(network.normalise, *network.features[:cut]), [head, *_redrawn(network, head, heads - 1)])


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
    """Images (B, C, H, W) to the logits of every head (B, M, K). Each head has its own batch normalisation.

    All heads are computed at once. Their parameters and buffers have the names of one head and are stacked along the first
    dimension: M * out for a weight that has out rows in one head.
    """

    def __init__(self, trunk: nn.Sequential, heads: list[nn.Sequential]) -> None:
        super().__init__()
        self.members = len(heads)
        self.trunk = copy.deepcopy(trunk)
        self.heads = copy.deepcopy(heads[0])
        others = [dict(head.named_modules()) for head in heads]
        for path, layer in self.heads.named_modules():
            for name, _ in list(layer.named_parameters(recurse=False)):
                stacked = _stacked([getattr(modules[path], name).detach() for modules in others])
                setattr(layer, name, nn.Parameter(stacked))
            for name, _ in list(layer.named_buffers(recurse=False)):
                setattr(layer, name, _stacked([getattr(modules[path], name) for modules in others]))

    def forward(self, images: Tensor) -> Tensor:
        parameters = {name: self._by_head(value) for name, value in self.heads.named_parameters()}
        buffers = {name: self._by_head(value) for name, value in self.heads.named_buffers()}

        def head(parameters: dict[str, Tensor], buffers: dict[str, Tensor], features: Tensor) -> Tensor:
            logits: Tensor = functional_call(self.heads, (parameters, buffers), (features,))
            return logits

        every_head = vmap(head, in_dims=(0, 0, None), out_dims=1, randomness="different")
        logits: Tensor = every_head(parameters, buffers, self.trunk(images))
        return logits

    def head_weights(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Weight (M, out, ...) and bias (M, out) of every convolution and linear layer of the heads, from first to last."""
        for layer in self.heads.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                yield self._by_head(layer.weight), None if layer.bias is None else self._by_head(layer.bias)

    def _by_head(self, stacked: Tensor) -> Tensor:
        by_head: Tensor = stacked.unflatten(0, (self.members, -1))
        return by_head


def _stacked(values: list[Tensor]) -> Tensor:
    return torch.cat([value.unsqueeze(0) if value.dim() == 0 else value for value in values])
