"""BatchEnsemble: any network as M members that share all weights but two vectors per layer, and the
way back to one network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from distill_ray.models.network import Network

MergeRule = Literal["product-of-means", "mean-of-products"]
MergedBias = Literal["kept", "scaled"]


def to_batch_ensemble(network: nn.Module, members: int) -> BatchEnsemble:
    """A BatchEnsemble of `members` made from a copy of `network`: its convolutions and linear
    layers, the classifier included.

    Every r and s starts at 1, so all members begin as the same function. Raises `ValueError` for a
    network that has trained parameters outside of convolutions, linear layers and batch
    normalisation, where a member could not be told apart.
    """
    if members < 1:
        raise ValueError(f"members must be at least 1, found {members}")
    if not isinstance(network, Network):
        raise ValueError(
            "only a network of the catalogue can become a BatchEnsemble, found "
            f"{type(network).__name__}"
        )
    for layer in network.modules():
        own = list(layer.parameters(recurse=False))
        plain = type(layer) in (nn.Conv2d, nn.Linear) or isinstance(layer, nn.BatchNorm2d)
        if (own and not plain) or (isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros"):
            raise ValueError(
                f"model {network.name!r} cannot become a BatchEnsemble: its "
                f"{type(layer).__name__} is neither a zero-padded "
                "convolution nor a linear layer nor batch normalisation"
            )
    return BatchEnsemble(network, members)


class BatchEnsemble(nn.Module):
    """Images (B, C, H, W) to the logits of every member (B, M, K). Batch normalisation is shared:
    its batch is all M * B samples.

    Inside, the batch is tiled member by member: sample n belongs to member n // B. Parameters are
    those of the plain network under their names, and for each layer `r_offset` (M, in) and
    `s_offset` (M, out). Source: Wen et al. 2020; initialisation, gradients and merging as coded by
    Nam et al. 2022.
    """

    def __init__(self, network: Network, members: int) -> None:
        super().__init__()
        self.members = members
        self.network = copy.deepcopy(network)
        self._plain = (copy.deepcopy(network).to("meta"),)
        for path, layer in list(self.network.named_modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                self.network.set_submodule(path, BatchEnsembleLayer(layer, members))

    def forward(self, images: Tensor) -> Tensor:
        return _by_image(self.network(torch.cat([images] * self.members)), self.members)

    def logits_of(self, images: Tensor, members: Sequence[int]) -> Tensor:
        """Logits of some members alone (B, len(members), K), at the cost of those members.

        In evaluation they are exactly what `forward` gives. In training they are not: batch
        normalisation sees fewer samples.
        """
        chosen = {
            path: torch.stack([offset[member] for member in members])
            for path, offset in self._offsets()
        }
        tiled = functional_call(self.network, chosen, (torch.cat([images] * len(members)),))
        return _by_image(tiled, len(members))

    def merge(self, rule: MergeRule = "product-of-means", bias: MergedBias = "kept") -> Network:
        """One plain network from all members; batch normalisation is copied as it is.

        `product-of-means` scales a weight by mean r times mean s, as the authors' code does,
        `mean-of-products` by the mean of the members' products. A `kept` bias is the shared one, as
        in the authors' evaluation; a `scaled` one is multiplied by mean s, as in their validation
        during training.
        """
        state = {path: value.detach().clone() for path, value in self.network.state_dict().items()}
        for path, layer in self.network.named_modules():
            if isinstance(layer, BatchEnsembleLayer):
                del state[f"{path}.r_offset"], state[f"{path}.s_offset"]
                r, s = layer.r.detach(), layer.s.detach()
                if rule == "product-of-means":
                    scale = layer.scale(r.mean(0, keepdim=True), s.mean(0, keepdim=True))
                else:
                    scale = layer.scale(r, s)
                state[f"{path}.weight"] *= scale.mean(0)
                if bias == "scaled" and layer.bias is not None:
                    state[f"{path}.bias"] *= s.mean(0)
        merged = copy.deepcopy(self._plain[0])
        merged.load_state_dict(state, assign=True)
        return merged.train(self.training)

    def _offsets(self) -> Iterator[tuple[str, nn.Parameter]]:
        for path, parameter in self.network.named_parameters():
            if path.endswith((".r_offset", ".s_offset")):
                yield path, parameter


class BatchEnsembleLayer(nn.Module):
    """A convolution or linear layer of which member m computes `s_m * (W (r_m * x) + b)`.

    What is trained is r - 1 and s - 1: the weight decay that every parameter has then draws r and s
    towards 1. Their gradient is M times that of the loss, which is a mean over the members, so each
    member learns as fast as a network of its own. The scales go into the weight, member by member,
    which is cheaper than scaling the maps on both sides of the layer.
    """

    def __init__(self, plain: nn.Conv2d | nn.Linear, members: int) -> None:
        super().__init__()
        self.weight = plain.weight
        self.bias = plain.bias
        self.convolution = isinstance(plain, nn.Conv2d)
        self.groups = plain.groups if isinstance(plain, nn.Conv2d) else 1
        self.settings: dict[str, Any] = {}
        if isinstance(plain, nn.Conv2d):
            self.settings = {
                name: getattr(plain, name) for name in ("stride", "padding", "dilation", "groups")
            }
        self.r_offset = nn.Parameter(
            plain.weight.new_zeros(members, plain.weight.shape[1] * self.groups)
        )
        self.s_offset = nn.Parameter(plain.weight.new_zeros(members, plain.weight.shape[0]))

    @property
    def r(self) -> Tensor:
        """Scales of the inputs, (M, in)."""
        return _from_one(self.r_offset)

    @property
    def s(self) -> Tensor:
        """Scales of the outputs, (M, out)."""
        return _from_one(self.s_offset)

    def forward(self, inputs: Tensor) -> Tensor:
        s = self.s
        members = len(s)
        weights = (self.weight * self.scale(self.r, s)).unbind()
        biases = [None] * members if self.bias is None else (self.bias * s).unbind()
        layer = functional.conv2d if self.convolution else functional.linear
        parts = zip(inputs.chunk(members), weights, biases, strict=True)
        return torch.cat(
            [layer(part, weight, bias, **self.settings) for part, weight, bias in parts]
        )

    def scale(self, r: Tensor, s: Tensor) -> Tensor:
        """What r (M, in) and s (M, out) make of the weight: factors of its shape, (M, out, in /
        groups, ...).
        """
        outer: Tensor = s.unflatten(1, (self.groups, -1, 1)) * r.unflatten(1, (self.groups, 1, -1))
        factors = outer.flatten(1, 2)
        return factors[..., None, None] if self.convolution else factors


def _from_one(offset: Tensor) -> Tensor:
    """`1 + offset`, with a gradient that is as many times as large as there are members."""
    return 1 + offset.detach() + len(offset) * (offset - offset.detach())


def _by_image(tiled: Tensor, members: int) -> Tensor:
    by_member: Tensor = tiled.unflatten(0, (members, -1))
    return by_member.transpose(0, 1)
