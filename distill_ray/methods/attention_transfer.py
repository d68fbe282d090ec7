"""Attention transfer: the student is active where in the image the teacher is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import METHODS
from distill_ray.methods.tapped import Tapped
from distill_ray.settings import Doc

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = LazyModule("torch")

SMALLEST = 1e-6
"""Attention maps shorter than this are not brought to length 1."""


@METHODS.register("attention-transfer")
@dataclass(frozen=True, kw_only=True)
class AttentionTransfer(Tapped):
    r"""`labels * CE + alpha * KD + attention * (squared difference between attention maps, summed
    over pairs of units)`.

    ```math
    L = w_1 \, \mathrm{CE} + w_2 \, \mathrm{KD} + b \sum_u \frac{1}{B H W} \big\Vert Q(f_u) - Q(g_u)
    \big\Vert^2
    \qquad Q(f)_{hw} \propto \sum_c f_{chw}^2, \; \Vert Q(f) \Vert = 1
    ```

    - `f_u`, `g_u`: maps at the ends of a unit of the student and of a teacher, for B images, H by
      W; the larger of two maps of different size is averaged down first.
    - `KD`: the second term of `kd`, at `temperature` and with `combine`. `w_1`, `w_2`, `b`: the
      settings `labels`, `alpha`, `attention`.
    - With several teachers the terms of each are averaged by `teacher_weights`.

    The units are `student_units` and `teacher_units`, counted from 1. When none are named, those
    with maps of one size are paired, the last of each size. The mean of squares is that of the
    published code; the paper has half the length of the difference. Teachers run in every step.

    Source: Zagoruyko & Komodakis 2017, "Paying more attention to attention", section 3.1,
    https://arxiv.org/abs/1612.03928.

    Example:

    ```yaml
    name: attentive
    teachers: {members: 3, model: wrn-10-2}
    student: {model: wrn-10-1, method: attention-transfer}
    search:
      space:
        attention: {log: [10, 10000]}
        alpha: {uniform: [0, 1]}
    ```
    """

    name = "attention-transfer"

    attention: Annotated[float, Ge(0), Doc("weight of the difference between attention maps")] = (
        1000.0
    )

    @property
    def feature_weights(self) -> Mapping[str, float]:
        return {"attention": self.attention}

    def map_term(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (attention(student) - attention(teacher)).square().mean()


def attention(maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) as attention (B, H W): squares averaged over channels, of length 1."""
    energy = maps.square().mean(1).flatten(1)
    lengths = torch.linalg.vector_norm(energy, dim=1, keepdim=True)
    return energy / torch.where(lengths > SMALLEST, lengths, 1)
