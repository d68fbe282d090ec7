"""What is known of a student's size before it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from distill_ray.job import Recipe
from distill_ray.models import build_model
from distill_ray.models.cost import count_operations
from distill_ray.task import Task

BYTES_PER_MEGABYTE = 1e6


def deployed_network(
    recipe: Recipe,
    num_classes: int,
    image_shape: tuple[int, int, int],
    task: Task = "classification",
    *,
    outlined: bool = False,
) -> nn.Module:
    """The network of a recipe as it is deployed, untrained, in evaluation mode: images (B, C, H, W)
    in [0, 1] to logits (B, K). With `outlined` it has shapes and no numbers.
    """
    with torch.device("meta" if outlined else "cpu"):
        network = build_model(
            recipe.model,
            num_classes=num_classes,
            image_shape=image_shape,
            preprocessing=recipe.prepared(image_shape[0]),
            seed=0,
            task=task,
        )
        return recipe.method.deployed_like(network).eval()


def counted_costs(network: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, float]:
    """The costs of a network that are counted: `parameters`, `macs` of one image (C, H, W), and
    `megabytes` of its weights and buffers in float32.
    """
    state: Mapping[str, Any] = network.state_dict()
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "macs": count_operations(network, image_shape).multiply_adds,
        "megabytes": sum(4 * tensor.numel() for tensor in state.values()) / BYTES_PER_MEGABYTE,
    }
