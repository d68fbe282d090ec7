"""timm's networks under our interface."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn

from distill_ray.errors import first_line
from distill_ray.models.network import Architecture
from distill_ray.models.timm_preprocessing import configuration_of


def timm_classifier(
    image_shape: tuple[int, int, int], num_classes: int, architecture: str
) -> Architecture:
    """Features (one unit) and classifier of timm's `architecture`, untrained.

    A network whose classifier is not one linear layer after a vector per image is whole in the
    features, and serves methods that need its logits alone. Those that are made for one size of
    images are made for this one where they can be.

    Raises `ValueError` when it does not take such images.
    """
    channels, *sides = image_shape
    settings: dict[str, Any] = {}
    configuration = configuration_of(architecture)
    if configuration.fixed_input_size and tuple(sides) != configuration.input_size[1:]:
        settings["img_size"] = tuple(sides)
    try:
        network: Any = timm.create_model(
            architecture.partition(".")[0],
            pretrained=False,
            num_classes=num_classes,
            in_chans=channels,
            **settings,
        )
        outputs = _answers(network, image_shape)
    except Exception as error:  # each architecture has its own way to say what it cannot take
        raise ValueError(_refusal(architecture, image_shape, configuration, error)) from error
    if outputs.shape != (1, num_classes):
        raise ValueError(
            f"timm/{architecture} is no classifier: it returns {tuple(outputs.shape[1:])} for an "
            "image"
        )
    classifier = network.get_classifier()
    # By what timm calls the classifier; that it comes last is seen by the shape of what is left
    paths = [path for path, module in network.named_modules() if module is classifier]
    if isinstance(classifier, nn.Linear) and len(paths) == 1:
        network.set_submodule(paths[0], nn.Identity())
        if _answers(network, image_shape).shape == (1, classifier.in_features):
            return Architecture(nn.Sequential(network), classifier, library_classifier=paths[0])
        network.set_submodule(paths[0], classifier)
    return Architecture(nn.Sequential(network), nn.Identity(), library_classifier="")


@torch.no_grad()
def _answers(network: nn.Module, image_shape: tuple[int, int, int]) -> Tensor:
    """What the network returns for an image, in evaluation mode."""
    network.eval()
    outputs: Tensor = network(torch.zeros(1, *image_shape))
    network.train()
    return outputs


def _refusal(
    architecture: str,
    image_shape: tuple[int, int, int],
    configuration: PretrainedCfg,
    error: Exception,
) -> str:
    side = configuration.input_size[1]
    return (
        f"timm/{architecture} does not take images of {image_shape[1]}x{image_shape[2]} "
        f"({first_line(error)}); it was made for {side}x{side}: preprocessing: {{size: {side}}}"
    )
