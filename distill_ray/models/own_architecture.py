"""A network of the user's own in the shape of all others."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from distill_ray.errors import first_line, out_of_memory
from distill_ray.models.network import Architecture
from distill_ray.models.own_modules import factory_of


def own_architecture(
    image_shape: tuple[int, int, int], num_classes: int, digest: str, factory: str
) -> Architecture:
    """The network that `factory` of the file with that digest makes.

    It is called with `num_classes` and `image_shape`, each where it has a parameter of that name. A
    last linear layer whose inputs are one vector per image becomes the classifier; a network
    without one is whole in the features, and serves methods that need its logits alone.

    Raises `ValueError` when it makes no module, or one that does not return logits (B, K).
    """
    offered = {"num_classes": num_classes, "image_shape": image_shape}
    network = _made(factory_of(digest, factory), factory, offered)
    probe = torch.rand(2, *image_shape, generator=torch.Generator().manual_seed(0))
    # In training it may return something else. On a copy, whose statistics may change.
    for training in (True, False):
        _check_logits(copy.deepcopy(network).train(training), factory, probe, num_classes)
    linear = [
        (path, layer)
        for path, layer in network.named_modules()
        if path and isinstance(layer, nn.Linear) and layer.out_features == num_classes
    ]
    if linear:
        path, classifier = linear[-1]
        body = copy.deepcopy(network)
        body.set_submodule(path, nn.Identity())
        if _composes(network, body, classifier, probe):
            return Architecture(nn.Sequential(body), classifier, library_classifier=path)
    return Architecture(nn.Sequential(network), nn.Identity(), library_classifier="")


def _made(make: Callable[..., Any], factory: str, offered: dict[str, Any]) -> nn.Module:
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        raise ValueError(f"{factory} cannot be called; it must return a network") from None
    arguments = {name: value for name, value in offered.items() if name in parameters}
    try:
        network = make(**arguments)
    except Exception as error:  # whatever the user's code does
        given = ", ".join(f"{name}={value}" for name, value in arguments.items())
        raise ValueError(f"{factory}({given}) failed: {_reason(error)}") from error
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise ValueError(f"{factory} returns {kind}, and must return a torch.nn.Module")
    return network


def _reason(error: Exception) -> str:
    return out_of_memory(error) or f"{type(error).__name__}: {first_line(error)}"


@torch.no_grad()
def _check_logits(network: nn.Module, factory: str, probe: Tensor, num_classes: int) -> None:
    when = "in training" if network.training else "in evaluation"
    try:
        logits = network(probe)
    except Exception as error:  # whatever the user's code does
        raise ValueError(
            f"{factory}: images of shape {tuple(probe.shape)} fail {when}: {_reason(error)}"
        ) from error
    if not isinstance(logits, Tensor):
        kind = type(logits).__name__
        raise ValueError(f"{factory} returns a {kind} {when}; return the logits alone, (B, K)")
    if logits.shape != (len(probe), num_classes):
        raise ValueError(
            f"{factory} returns {tuple(logits.shape)} for {len(probe)} images {when}, and the "
            f"data has {num_classes} classes: return logits (B, {num_classes}), no features; a "
            "parameter num_classes is told the number"
        )


@torch.no_grad()
def _composes(network: nn.Module, body: nn.Module, classifier: nn.Linear, probe: Tensor) -> bool:
    """Whether `network` is `body` with `classifier` after it."""
    body, network = copy.deepcopy(body).eval(), copy.deepcopy(network).eval()
    try:
        features, logits = body(probe), network(probe)
    except Exception:  # it wants something else of that layer than its outputs
        return False
    fits = isinstance(features, Tensor) and features.shape[1:] == (classifier.in_features,)
    return fits and bool(torch.equal(classifier(features), logits))
