"""The shape that every network here has, so that one transformation of it serves them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from distill_ray.models.preprocessing import Preprocessing
from distill_ray.task import Task


class Network(nn.Module):
    """Images (B, C, H, W) in [0, 1] to logits (B, K): `normalise`, then `features`, then
    `classifier`.

    `features` is a chain of modules that ends in one vector per image, (B, D). `name` is the name
    in the catalogue, `seed` what the weights were drawn with and `draw` the architecture's rule for
    drawing them. For the `task` regression the outputs are mean and log-variance, (B, 2).

    A network of the user's own that does not end in a linear layer is whole in `features`, and its
    `classifier` passes on what it gets: `with_features` refuses it.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        normalise: Normalise,
        architecture: Architecture,
        task: Task = "classification",
    ) -> None:
        super().__init__()
        self.name = name
        self.task = task
        self.seed = seed
        self.draw = architecture.draw
        self.normalise = normalise
        self.features = architecture.features
        self.classifier = cast("nn.Linear", architecture.classifier)
        self.library_classifier = architecture.library_classifier

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(self.normalise(images)))
        return logits

    def units(self) -> list[int]:
        """Where in `features` the units begin: the modules that hold a convolution or a linear
        layer.

        A unit is such a module and those after it that hold none, such as a final normalisation and
        the pooling.
        """
        return [
            index
            for index, module in enumerate(self.features)
            if any(isinstance(layer, nn.Conv2d | nn.Linear) for layer in module.modules())
        ]

    def from_library(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`state`, by the names of the library that the architecture is from, by those it has here.

        Auxiliary classifiers, which the network does not have, are left out.
        """
        if self.library_classifier is None:
            return dict(state)
        own, renamed = self.state_dict(), {}
        for key, tensor in state.items():
            if self.library_classifier and key.startswith(f"{self.library_classifier}."):
                renamed["classifier" + key.removeprefix(self.library_classifier)] = tensor
            elif not key.startswith(_AUXILIARY) or f"features.0.{key}" in own:
                renamed[f"features.0.{key}"] = tensor
        return renamed


def with_features(network: nn.Module) -> Network:
    """`network`, or `ValueError` with the reason where its features cannot be told from its
    classifier.
    """
    if not isinstance(network, Network):
        raise ValueError(
            f"only networks of the catalogue show their features, found {type(network).__name__}"
        )
    if not isinstance(network.classifier, nn.Linear):
        raise ValueError(
            f"model {network.name!r} does not show its features: this method needs a network "
            "that ends in a linear layer, whose inputs are one vector per image"
        )
    return network


_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


def as_constructed(module: nn.Module) -> None:
    """The rule of architectures that keep the weights PyTorch draws when a layer is made."""


@dataclass(frozen=True)
class Architecture:
    """What a builder returns: the two parts of a `Network`, and how their weights are drawn where
    not by PyTorch's defaults.

    `draw` is applied to either part, and later to parts of them: it must not rely on what surrounds
    a layer. `library_classifier` is the path of the classifier in the network of another library
    whose other modules are all in `features[0]`; empty where it is there as well, None for networks
    of this package.
    """

    features: nn.Sequential
    classifier: nn.Linear | nn.Identity
    draw: Callable[[nn.Module], None] = as_constructed
    library_classifier: str | None = None


class Normalise(nn.Module):
    """Prepares images as `preprocessing` says, then subtracts the mean of each channel and divides
    by its standard deviation; both are buffers, never trained.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__()
        self.preprocessing = preprocessing or Preprocessing()
        self.register_buffer(
            "mean", torch.tensor(mean, dtype=torch.get_default_dtype()).view(-1, 1, 1)
        )
        self.register_buffer(
            "std", torch.tensor(std, dtype=torch.get_default_dtype()).view(-1, 1, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        wanted = self.preprocessing
        if wanted.size is not None and images.shape[-2:] != (wanted.size, wanted.size):
            images = nn.functional.interpolate(
                images, (wanted.size, wanted.size), mode=wanted.interpolation, antialias=True
            )
        if wanted.channels == "bgr":
            images = images.flip(1)
        if wanted.value_range != 1:
            images = images * wanted.value_range
        return (images - self.mean).div_(self.std)
