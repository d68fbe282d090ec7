"""Relational distillation: distances and angles between the images of a batch."""

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
"""Differences shorter than this have no direction: their angles count as right ones."""


@METHODS.register("rkd")
@dataclass(frozen=True, kw_only=True)
class RKD(Relational):
    r"""`labels * CE + alpha * KD + distance * (distances between features) + angle * (angles
    between features)`.

    ```math
    L = w_1 \, \mathrm{CE} + w_2 \, \mathrm{KD} + \frac{d}{B^2} \sum_{ij} h\big( \delta_{ij}(f),
    \delta_{ij}(g) \big) + \frac{a}{B^3} \sum_{ijk} h\big( \alpha_{ijk}(f), \alpha_{ijk}(g) \big)
    ```

    ```math
    \delta_{ij}(f) = \frac{ \Vert f_i - f_j \Vert }{ \mu(f) }
    \qquad \alpha_{ijk}(f) = \Big\langle \frac{f_i - f_j}{\Vert f_i - f_j \Vert},
    \frac{f_k - f_j}{\Vert f_k - f_j \Vert} \Big\rangle
    \qquad h(u, v) = \tfrac{1}{2} (u - v)^2 \text{ up to } 1, \; |u - v| - \tfrac{1}{2}
    \text{ beyond}
    ```

    - `f_i`, `g_i`: the student's and a teacher's features of image i of B, those of all workers;
      `μ`: the mean of the distances that are not 0. Pairs and triples with repeated images count as
      well, as in the published code, with differences of 0.
    - `KD`: the second term of `kd`, at `temperature` and with `combine`. `w_1`, `w_2`, `d`, `a`:
      the settings `labels`, `alpha`, `distance`, `angle`.
    - With several teachers the terms of each are averaged by `teacher_weights`, or their features
      are one vector (`features: concatenated`).

    The features are those before the classifier. Angles take memory for B³ numbers; `angle: 0`
    leaves them out. Teachers run in every step.

    Source: Park, Kim, Lu & Cho 2019, "Relational knowledge distillation",
    https://arxiv.org/abs/1904.05068.

    Example:

    ```yaml
    name: related
    teachers: {members: 3, model: wrn-10-1}
    student: {model: wrn-10-1, method: rkd}
    search:
      space:
        distance: {log: [1, 100]}
        angle: {log: [1, 100]}
        features: {choice: [each, concatenated]}
    ```
    """

    name = "rkd"

    distance: Annotated[float, Ge(0), Doc("weight of the distances between images")] = 25.0
    angle: Annotated[float, Ge(0), Doc("weight of the angles between three images")] = 50.0

    @property
    def feature_weights(self) -> Mapping[str, float]:
        return {"distance": self.distance, "angle": self.angle}

    def relations(self, student: Tensor, teacher: Tensor) -> Mapping[str, Tensor]:
        terms = {}
        if self.distance:
            terms["distance"] = huber(distances(student), distances(teacher))
        if self.angle:
            terms["angle"] = huber(angles(student), angles(teacher))
        return terms


def huber(one: Tensor, other: Tensor) -> Tensor:
    """The mean of h over all entries; no gradient reaches `other`."""
    return torch.nn.functional.smooth_l1_loss(one, other.detach())


def distances(features: Tensor) -> Tensor:
    """Distances (B, B) between features (B, D), over the mean of those that are not 0."""
    lengths = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    count = (lengths > 0).sum().clamp_min(1)
    return lengths / (lengths.sum() / count).clamp_min(SHORTEST)


def angles(features: Tensor) -> Tensor:
    """Cosines (B, B, B) of the angles at the first image between the second and the third."""
    differences = features.unsqueeze(0) - features.unsqueeze(1)
    lengths = torch.linalg.vector_norm(differences, dim=-1, keepdim=True)
    directions = differences / torch.where(lengths > SHORTEST, lengths, 1)
    return directions @ directions.mT
