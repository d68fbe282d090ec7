"""TDiv-SDiv: images perturbed towards where two teachers disagree and the two students that learn
from them do not yet.

Source: Nam et al. 2022, "Improving ensemble distillation with weight averaging and diversifying
perturbation", as coded.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from distill_ray.methods.losses import at_least_float32

Pair = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images (B, C, H, W) to the logits (B, K) of members i and j."""


def diversify(images: Tensor, teachers: Pair, members: Pair) -> Tensor:
    """Images (B, C, H, W) in [0, 1], moved one step up the gradient of `disagreement(teachers) -
    disagreement(members)`.

    `teachers` and `members` are two functions of images, for the same pair (i, j), of networks in
    evaluation mode; their parameters get no gradient, and none flows back through the result.
    """
    moved = images.detach().requires_grad_()
    with torch.enable_grad():
        objective = disagreement(*teachers(moved)) - disagreement(*members(moved))
    (gradient,) = torch.autograd.grad(objective, moved)
    return ascend(images.detach(), gradient)


def disagreement(first: Tensor, second: Tensor) -> Tensor:
    """Cross-entropy of logits `first` (B, K) against the probabilities of `second`, which are
    constant: the sum over images.
    """
    probabilities = at_least_float32(second.detach()).softmax(-1)
    return -(probabilities * at_least_float32(first).log_softmax(-1)).sum()


def ascend(images: Tensor, gradient: Tensor) -> Tensor:
    """Images moved along the gradient by a Euclidean length of sqrt(D) / 255, D values per image,
    and clipped to [0, 1].

    Where the gradient of an image is 0 it stays as it is. The scale of the gradient does not
    matter, however small.
    """
    flat = gradient.flatten(1)
    scaled = flat / flat.abs().amax(1, keepdim=True)
    direction = torch.nan_to_num(scaled / scaled.norm(dim=1, keepdim=True), nan=0.0)
    step = direction.view_as(gradient) * (math.sqrt(flat.shape[1]) / 255)
    return (images + step).clamp(0, 1)
