"""Similarity-preserving distillation: which images of a batch are alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import METHODS
from distill_ray.methods.relational import Relational
from distill_ray.settings import Doc

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = LazyModule("torch")

SHORTEST = 1e-6
"""Rows of similarities shorter than this are not brought to length 1."""


@METHODS.register("sp")
@dataclass(frozen=True, kw_only=True)
class SP(Relational):
    r"""`labels * CE + alpha * KD + similarity * (difference between the similarities of images)`.

    ```math
    L = w_1 \, \mathrm{CE} + w_2 \, \mathrm{KD} + \frac{s}{B^2} \sum_{ij} \big( G_{ij}(f) -
    G_{ij}(g) \big)^2
    \qquad G_{ij}(f) = \frac{ f_i^\top f_j }{ \sqrt{ \sum_k ( f_i^\top f_k )^2 } }
    ```

    - `f_i`, `g_i`: the student's and a teacher's features of image i of B, those of all workers.
    - `KD`: the second term of `kd`, at `temperature` and with `combine`. `w_1`, `w_2`, `s`: the
      settings `labels`, `alpha`, `similarity`.
    - With several teachers the terms of each are averaged by `teacher_weights`, or their features
      are one vector (`features: concatenated`).

    The features are those before the classifier, after pooling; the published code takes the maps
    before it. Teachers run in every step.

    Source: Tung & Mori 2019, "Similarity-preserving knowledge distillation", equations 2 to 4,
    https://arxiv.org/abs/1907.09682.

    Example:

    ```yaml
    name: similar
    teachers: {members: 3, model: wrn-10-1}
    student: {model: wrn-10-1, method: sp}
    search:
      space:
        similarity: {log: [300, 30000]}
        alpha: {uniform: [0, 1]}
    ```
    """

    name = "sp"

    similarity: Annotated[float, Ge(0), Doc("weight of the similarities of images")] = 3000.0

    @property
    def feature_weights(self) -> Mapping[str, float]:
        return {"similarity": self.similarity}

    def relations(self, student: Tensor, teacher: Tensor) -> Mapping[str, Tensor]:
        return {"similarity": (similarities(student) - similarities(teacher)).square().mean()}


def similarities(features: Tensor) -> Tensor:
    """Products (B, B) of features (B, D), each row brought to length 1."""
    products = features @ features.mT
    lengths = torch.linalg.vector_norm(products, dim=-1, keepdim=True)
    return products / torch.where(lengths > SHORTEST, lengths, 1)
