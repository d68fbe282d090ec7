"""The optimiser of a recipe, its learning rate at every step, and gradient clipping."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from distill_ray.augmentation.epoch import steps_per_epoch
from distill_ray.job import Recipe
from distill_ray.training import _torch_internals
from distill_ray.training.fine_tuning import rate_factors


def make_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """SGD (momentum without dampening), Adam or AdamW (betas 0.9 and 0.999), as the recipe says.

    Weight decay is an L2 penalty, for Adam too (Kingma & Ba 2015); with a `clip_norm` it is left to
    `clip_gradients`. AdamW shrinks weights by lr * weight_decay in each step instead, whatever
    their gradients (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101). Parameters of
    layers that are not `decayed` are exempt, and without `decay_norms` all of one dimension:
    biases, and the scales of normalisation. With `layer_decay` each group of parameters has its
    `factor` of the learning rate.
    """
    penalised, others = _by_decay(recipe, network)
    decay = recipe.weight_decay
    if recipe.clip_norm is not None and recipe.optimizer != "adamw":
        decay = 0.0
    layer_decay = 1.0 if recipe.layer_decay is None else recipe.layer_decay
    factors = {} if layer_decay == 1 else rate_factors(network, layer_decay)
    groups: list[dict[str, Any]] = []
    for parameters, weight_decay in ((penalised, decay), (others, 0.0)):
        by_factor: dict[float, list[nn.Parameter]] = {}
        for parameter in parameters:
            by_factor.setdefault(factors.get(parameter, 1.0), []).append(parameter)
        groups += [
            {"params": alike, "weight_decay": weight_decay, "factor": factor}
            for factor, alike in by_factor.items()
        ]
    make = _torch_internals.optimizer_without_compiler
    if recipe.optimizer == "adam":
        return make(torch.optim.Adam, groups, lr=recipe.lr, fused=True)
    if recipe.optimizer == "adamw":
        return make(torch.optim.AdamW, groups, lr=recipe.lr, fused=True)
    nesterov = recipe.nesterov and recipe.momentum > 0
    return make(
        torch.optim.SGD,
        groups,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=nesterov,
        fused=True,
    )


@dataclass(frozen=True)
class Steps:
    """How the batches of an epoch make steps of the optimizer: `accumulate` of them together."""

    images: int
    batch_size: int
    accumulate: int
    drop_last: bool

    @classmethod
    def of(cls, recipe: Recipe, images: int) -> Steps:
        """Those of a training split of so many images."""
        return cls(images, recipe.batch_size, recipe.accumulate, recipe.drop_last)

    @property
    def per_epoch(self) -> int:
        """Steps of the optimizer."""
        return steps_per_epoch(self.images, self.batch_size * self.accumulate, self.drop_last)

    @property
    def batches(self) -> int:
        """Batches that they are made of: with `drop_last` only those of whole steps."""
        batches = steps_per_epoch(self.images, self.batch_size, self.drop_last)
        return min(batches, self.per_epoch * self.accumulate)

    def is_last(self, number: int) -> bool:
        """Whether the 0-based batch is the last of its step."""
        return (number + 1) % self.accumulate == 0 or number + 1 == self.batches

    def share(self, number: int, size: int) -> float:
        """The share of the 0-based batch, of `size` images, in its step's images."""
        first = number - number % self.accumulate
        whole = self.batch_size * self.accumulate
        return size / min(whole, self.images - first * self.batch_size)


def _by_decay(recipe: Recipe, network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that weight decay applies to, and the others."""
    exempt: set[int] = set()
    for layer in network.modules():
        if not getattr(layer, "decayed", True):
            exempt |= {id(parameter) for parameter in layer.parameters()}
    parameters = list(network.parameters())
    if not recipe.decay_norms:
        exempt |= {id(parameter) for parameter in parameters if parameter.ndim <= 1}
    penalised = [parameter for parameter in parameters if id(parameter) not in exempt]
    others = [parameter for parameter in parameters if id(parameter) in exempt]
    return penalised, others


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of 0-based `step`.

    A linear warm-up from 0, then either half a cosine down to `final_lr` at the end (Loshchilov &
    Hutter 2017, no restarts; with 5 warm-up epochs the schedule of LatentBE), or a staircase: `lr *
    decay^m` with m the number of milestones that lie before the current epoch, so that a
    milestone's own epoch still runs at the higher rate. With `schedule_every: epoch` all steps of
    an epoch have the cosine of its first step, as in Hydra+; the warm-up still changes at every
    step.
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
    share = 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.final_lr + (recipe.lr - recipe.final_lr) * share


def clip_gradients(recipe: Recipe, network: nn.Module) -> None:
    """Scale down the gradients to the global norm `clip_norm`, where the recipe has one and they
    exceed it.

    They are those of the whole loss, the penalty of weight decay included, as in Hydra+; the decay
    of AdamW is no part of the loss.
    """
    if recipe.clip_norm is None:
        return
    if recipe.optimizer != "adamw":
        with torch.no_grad():
            for parameter in _by_decay(recipe, network)[0]:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter, alpha=recipe.weight_decay)
    nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
