"""Which architecture a file of trained weights is of."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath

import torch
from torch import Tensor

from distill_ray.errors import RequestError
from distill_ray.models.catalogue import build_model, check_model_name, model_names
from distill_ray.models.network import Network
from distill_ray.models.weights import fit_weights

LIBRARY_SIDE = 224
"""Side of the images that torchvision's networks were made for. The weights of its vision
transformers depend on it.
"""

MORE_NAMES = (
    *(f"{kind}-{depth}-{width}" for kind in ("wrn", "pre-wrn") for depth in (10, 16, 22, 28, 34, 40)
      for width in (1, 2, 4, 8, 10)),
    *(f"resnet{depth}" for depth in range(8, 111, 6)),
)  # fmt: skip
"""Names of families with numbers that are tried beside the examples of the catalogue."""


@dataclass(frozen=True)
class Recognised:
    """An architecture that weights fit."""

    model: str
    side: int | None
    """The side of the images that it needs, where it is not that of the data."""
    same_classes: bool
    """Whether it has an output for each class of the data."""


def recognise(
    state: Mapping[str, Tensor], file: str, *, num_classes: int, image_shape: tuple[int, int, int]
) -> Recognised | None:
    """The architecture in the catalogue whose network takes the weights `state`, as `read_weights`
    reads them; None if there is none.

    Those whose names are like that of the `file` are tried first. Networks are built without memory
    for their weights.
    """
    channels = image_shape[0]
    for model in _by_similarity(PurePath(file).stem):
        network, side = _skeleton(model, num_classes, image_shape), None
        if network is None or model.startswith("torchvision/vit"):
            shape = (channels, LIBRARY_SIDE, LIBRARY_SIDE)
            network, side = _skeleton(model, num_classes, shape), LIBRARY_SIDE
        if network is None:
            continue
        for same_classes in (True, False):
            if _fits(network, state, file, new_classifier=not same_classes):
                return Recognised(model, side if side != image_shape[1] else None, same_classes)
    return None


def _by_similarity(stem: str) -> Iterator[str]:
    names = dict.fromkeys([*model_names(), *MORE_NAMES])

    def similarity(name: str) -> float:
        short = name.rpartition("/")[2]
        if short.startswith("pre-") and "pre-" not in stem:
            return -1.0  # the same tensors as the common form, put together differently
        return 2.0 if short in stem else difflib.SequenceMatcher(None, short, stem).ratio()

    yield from sorted(names, key=similarity, reverse=True)


def _skeleton(model: str, num_classes: int, shape: tuple[int, int, int]) -> Network | None:
    """The network without memory for its weights; None where it does not take such images."""
    try:
        check_model_name(model, shape)
        with torch.device("meta"):
            return build_model(model, num_classes=num_classes, image_shape=shape, seed=0)
    except (ValueError, NotImplementedError):  # some architectures draw what has to be in memory
        return None


def _fits(
    network: Network, state: Mapping[str, Tensor], file: str, *, new_classifier: bool
) -> bool:
    with warnings.catch_warnings():  # copying into tensors without memory does nothing
        warnings.simplefilter("ignore")
        try:
            fit_weights(network, state, file, new_classifier=new_classifier)
        except RequestError:
            return False
    return True
