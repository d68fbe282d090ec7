"""The optimiser of a recipe, and its learning rate at every step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from distill_ray.job import Recipe


def make_optimizer(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> torch.optim.SGD:
    """SGD as the recipe says: momentum without dampening, weight decay as an L2 penalty on every parameter."""
    return torch.optim.SGD(
        parameters,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov and recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of 0-based `step`.

    A linear warm-up from 0, then either half a cosine down to 0 at the last step (Loshchilov & Hutter 2017, no restarts; with
    5 warm-up epochs the schedule of LatentBE), or a staircase: `lr * decay^m` with m the number of milestones that lie before
    the current epoch, so that a milestone's own epoch still runs at the higher rate.
    """
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.lr * step / warmup
    if recipe.schedule == "step":
        epoch = step // steps_per_epoch + 1
        return recipe.lr * recipe.decay ** sum(milestone < epoch for milestone in recipe.milestones)
    progress = (step - warmup) / (recipe.epochs * steps_per_epoch - warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * progress))
