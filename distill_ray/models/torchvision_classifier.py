"""Torchvision's classification networks, with a classifier for the classes at hand and a stem for
the channels at hand.
"""

from __future__ import annotations

from typing import Any

import torchvision
from torch import nn

from distill_ray.models.layers import GlobalAveragePool
from distill_ray.models.network import Architecture


def torchvision_classifier(
    image_shape: tuple[int, int, int], num_classes: int, architecture: str
) -> Architecture:
    """Features (one unit) and classifier of torchvision's `architecture`, untrained and without
    auxiliary classifiers.

    The classifier is the last linear layer. SqueezeNet has none: its convolutional classifier gives
    way to global pooling and a linear layer. For images that do not have three channels, the first
    convolution is replaced by one that takes them.
    """
    settings: dict[str, Any] = {}
    if architecture in ("googlenet", "inception_v3"):
        settings = {"aux_logits": False, "init_weights": True}
    elif architecture.startswith("vit_"):
        settings = {"image_size": image_shape[1]}
    elif architecture.startswith("maxvit_"):
        settings = {"input_size": image_shape[1:]}
    backbone = torchvision.models.get_model(
        architecture, weights=None, num_classes=num_classes, **settings
    )
    if image_shape[0] != 3:
        stem = next(module for module in backbone.modules() if isinstance(module, nn.Conv2d))
        stem.in_channels = image_shape[0]
        stem.weight = nn.Parameter(
            stem.weight.new_empty(stem.out_channels, image_shape[0], *stem.kernel_size)
        )
        stem.reset_parameters()
    linear = [
        (path, module) for path, module in backbone.named_modules() if isinstance(module, nn.Linear)
    ]
    if not linear:
        return Architecture(
            nn.Sequential(backbone.features, GlobalAveragePool()), nn.Linear(512, num_classes)
        )
    path, classifier = linear[-1]
    backbone.set_submodule(path, nn.Identity())
    return Architecture(nn.Sequential(backbone), classifier, library_classifier=path)
