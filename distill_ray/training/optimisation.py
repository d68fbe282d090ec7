"""The optimiser of a recipe, its learning rate at every step, and the limit of its steps."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from distill_ray.job import Recipe


def make_optimizer(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD (momentum without dampening) or Adam (betas 0.9 and 0.999), as the recipe says.

    Weight decay is an L2 penalty on every parameter, for Adam too (Kingma & Ba 2015, not AdamW).
    """
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
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
    the current epoch, so that a milestone's own epoch still runs at the higher rate. With `schedule_every: epoch` all steps of
    an epoch have the cosine of its first step, as in Hydra+; the warm-up moves at every step all the same.
    """
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.lr * step / warmup
    if recipe.schedule == "step":
        epoch = step // steps_per_epoch + 1
        return recipe.lr * recipe.decay ** sum(milestone < epoch for milestone in recipe.milestones)
    if recipe.schedule_every == "epoch":
        step -= step % steps_per_epoch
    progress = max(step - warmup, 0) / (recipe.epochs * steps_per_epoch - warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * progress))


def clip_gradients(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> None:
    """Scale the gradients of all `parameters` together down to the norm `clip_norm`, where the recipe has one and they exceed it.

    The penalty of weight decay is added afterwards and is not limited.
    """
    if recipe.clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
