"""Knowledge review: each stage of the student, with what is deeper, resembles the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import METHODS, Setup
from distill_ray.methods.tapped import Tapped
from distill_ray.settings import Doc

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distill_ray.methods import reviewkd_fusion as fusion
else:
    fusion = LazyModule("distill_ray.methods.reviewkd_fusion")


@METHODS.register("reviewkd")
@dataclass(frozen=True, kw_only=True)
class ReviewKD(Tapped):
    r"""`labels * CE + alpha * KD + review * (hierarchical context loss between fused maps of the
    student and maps of the teacher, summed over pairs of units)`.

    ```math
    L = w_1 \, \mathrm{CE} + w_2 \, \mathrm{KD} + r \sum_u \mathrm{HCL}(\phi_3(z_u), g_u)
    ```

    ```math
    z_u = a_u \odot \phi_1(f_u) + b_u \odot z_{u+1}
    \qquad (a_u, b_u) = \sigma\big( A [ \phi_1(f_u), z_{u+1} ] \big)
    ```

    ```math
    \mathrm{HCL}(f, g) = \frac{ \sum_l 2^{-l} \, \mathrm{MSE}\big( P_l(f), P_l(g) \big) }{ \sum_l
    2^{-l} }
    ```

    - `f_u`, `g_u`: maps at the ends of a unit of the student and of a teacher.
    - `z_u`: attention-based fusion. The deepest is `φ1(f)`; what is deeper is enlarged to the size
      of `f_u` (nearest pixel), and `a_u`, `b_u` are one weight each for every image and pixel.
    - `φ1`, `φ3`: convolutions of 1 and 3 pixels with batch normalisation, to the width of the
      student's deepest map (512 at most) and to that of `g_u`; `A`: a 1x1 convolution.
    - `P_l`: `P_0` leaves the map as it is, the others average it to 4x4, 2x2 and 1x1 pixels; those
      not smaller than the map are left out, and l counts the rest.
    - `KD`: the second term of `kd`, at `temperature` and with `combine`. `w_1`, `w_2`, `r`: the
      settings `labels`, `alpha`, `review`.
    - With several teachers the terms of each are averaged by `teacher_weights`; each has a fusion
      of its own. Fusions are trained, and left out of what is deployed.

    The units are `student_units` and `teacher_units`, counted from 1. When none are named, those
    with maps of one size are paired, the last of each size. The published code also compares the
    pooled features as a last stage, takes maps before their activation, and raises `r` from 0 in
    the first epochs; here maps are larger than one pixel, as in the other methods, and `r` is
    constant. Teachers run in every step.

    Source: Chen, Liu, Zhao & Jia 2021, "Distilling knowledge via knowledge review", section 3,
    https://arxiv.org/abs/2104.09044; sizes and weights of the levels as coded.

    Example:

    ```yaml
    name: reviewed
    teachers: {members: 3, model: wrn-10-2}
    student: {model: wrn-10-1, method: reviewkd}
    search:
      space:
        review: {log: [0.1, 10]}
        alpha: {uniform: [0, 1]}
    ```
    """

    name = "reviewkd"

    review: Annotated[float, Ge(0), Doc("weight of the difference between fused maps")] = 1.0

    @property
    def feature_weights(self) -> Mapping[str, float]:
        return {"review": self.review}

    def student(self, network: nn.Module, setup: Setup) -> nn.Module:
        """The network with a fusion of its maps for each teacher. Raises `ValueError` for networks
        outside of the catalogue, and for units that are not there or cannot be paired.
        """
        in_order = [sorted(pairs) for pairs in self.pairs(network, setup)]
        return fusion.ReviewingStudent(network, setup.networks, in_order, setup.image_shape)

    def map_term(self, student: Tensor, teacher: Tensor) -> Tensor:
        return fusion.hierarchical_context(student, teacher)
