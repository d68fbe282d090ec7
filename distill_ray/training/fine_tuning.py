"""Training that starts from trained weights: what stays as it is at first, and learning rates that
fall from the classifier to the first layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from distill_ray.errors import RequestError
from distill_ray.job import Recipe

_SHARED = re.compile(r"(^|\.)(features|trunk)\.")
"""Names of what comes from the file in every shape that methods give a student: its features, or
the part that heads share.
"""

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Frozen:
    """The part of a student that `freeze` keeps as it is: all but the classifier, the heads, and
    what tells the members of a BatchEnsemble apart.

    Raises `RequestError` for a network that has nothing else.
    """

    def __init__(self, recipe: Recipe, network: nn.Module) -> None:
        self._until = recipe.freeze
        named = dict(network.named_parameters())
        names = [name for name in named if _is_frozen(name)]
        if recipe.freeze and len(names) == len(named):
            raise RequestError(
                f"freeze: model {recipe.model} does not end in a linear layer, so that nothing "
                "would be trained; leave freeze out"
            )
        self._parameters = [named[name] for name in names]
        self._norms = [
            layer
            for name, layer in network.named_modules()
            if _is_frozen(f"{name}.") and isinstance(layer, nn.modules.batchnorm._NormBase)
        ]

    def hold_statistics(self, epoch: int) -> None:
        """Let frozen batch normalisation use its running statistics, after `network.train()`."""
        if epoch <= self._until:
            for layer in self._norms:
                layer.eval()

    def drop_gradients(self, epoch: int) -> None:
        """Keep the optimiser, and its momentum, from what is frozen in this epoch."""
        if epoch <= self._until:
            for parameter in self._parameters:
                parameter.grad = None


def _is_frozen(name: str) -> bool:
    return _SHARED.search(name) is not None and not name.endswith("_offset")


def rate_factors(network: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """The factor of the learning rate of each parameter: 1 for the classifier, and `decay` times
    that of the block after it for every block before.

    A block is one repeated part of the architecture, such as the residual block of a ResNet or the
    layer of a transformer, or a convolution that stands by itself; normalisation belongs to the
    block before it. Source: Clark et al. 2020, ELECTRA; as used by BEiT and MAE.
    """
    depth_of = dict.fromkeys(network.parameters(), 0)  # such as position embeddings
    depth = 0
    for block in _blocks(network, composite=True):
        own = list(block.parameters())
        if all(parameter.ndim <= 1 for parameter in own):  # normalisation
            depth_of |= dict.fromkeys(own, max(depth - 1, 0))
            continue
        depth_of |= dict.fromkeys(own, depth)
        depth += 1
    return {parameter: decay ** max(depth - 1 - at, 0) for parameter, at in depth_of.items()}


def _blocks(module: nn.Module, *, composite: bool) -> Iterator[nn.Module]:
    """The blocks of `module`, in order; `composite` says whether a module that is no container may
    be taken apart.
    """
    children = [child for child in module.children() if any(True for _ in child.parameters())]
    parts = isinstance(module, CONTAINERS) and any(_is_composed(child) for child in children)
    whole = not composite and not parts and not isinstance(module, CONTAINERS)
    if not children or whole or (isinstance(module, CONTAINERS) and not parts):
        yield module
        return
    alone = len(children) == 1 or not isinstance(module, CONTAINERS)
    for child in children:
        yield from _blocks(child, composite=alone and (_has_blocks(child) or len(children) == 1))


def _is_composed(module: nn.Module) -> bool:
    return any(True for _ in module.children())


def _has_blocks(module: nn.Module) -> bool:
    """Whether a container of several composed parts lies within."""
    return any(
        isinstance(inner, CONTAINERS) and sum(map(_is_composed, inner.children())) > 1
        for inner in module.modules()
    )
