"""Probabilistic transfer: how likely each image of a batch is the neighbour of another."""

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

SMALLEST = 1e-7
"""Added to probabilities in logarithms, and to lengths; part of the published definition."""


@METHODS.register("pkt")
@dataclass(frozen=True, kw_only=True)
class PKT(Relational):
    r"""`labels * CE + alpha * KD + neighbours * (divergence between the probabilities of being
    neighbours)`.

    ```math
    L = w_1 \, \mathrm{CE} + w_2 \, \mathrm{KD} + \frac{n}{B^2} \sum_{ij} P_{ij}(g) \ln
    \frac{P_{ij}(g)}{P_{ij}(f)}
    \qquad P_{ij}(f) = \frac{ 1 + \cos(f_i, f_j) }{ \sum_k ( 1 + \cos(f_i, f_k) ) }
    ```

    - `f_i`, `g_i`: the student's and a teacher's features of image i of B, those of all workers.
    - `KD`: the second term of `kd`, at `temperature` and with `combine`. `w_1`, `w_2`, `n`: the
      settings `labels`, `alpha`, `neighbours`.
    - With several teachers the terms of each are averaged by `teacher_weights`, or their features
      are one vector (`features: concatenated`).

    As in the published code an image is a neighbour of itself and the sum is divided by B²; the
    paper leaves out i = j and sums. The features are those before the classifier. Teachers run in
    every step.

    Source: Passalis & Tefas 2018, "Learning deep representations with probabilistic knowledge
    transfer", https://arxiv.org/abs/1803.10837.

    Example:

    ```yaml
    name: neighbours
    teachers: {members: 3, model: wrn-10-1}
    student: {model: wrn-10-1, method: pkt}
    search:
      space:
        neighbours: {log: [3000, 300000]}
        alpha: {uniform: [0, 1]}
    ```
    """

    name = "pkt"

    neighbours: Annotated[float, Ge(0), Doc("weight of the probabilities of being neighbours")] = (
        30000.0
    )

    @property
    def feature_weights(self) -> Mapping[str, float]:
        return {"neighbours": self.neighbours}

    def relations(self, student: Tensor, teacher: Tensor) -> Mapping[str, Tensor]:
        p, q = probabilities(student), probabilities(teacher)
        ratio = ((q + SMALLEST) / (p + SMALLEST)).log()
        return {"neighbours": (q * ratio).mean()}


def probabilities(features: Tensor) -> Tensor:
    """Probabilities (B, B) of each image to be the neighbour of the one in its row, by the cosines
    of features (B, D).
    """
    lengths = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    directions = features / (lengths + SMALLEST)
    shares: Tensor = (1 + directions @ directions.mT) / 2
    return shares / shares.sum(-1, keepdim=True)
