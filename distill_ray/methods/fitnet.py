"""FitNets: a map inside of the student resembles one of the teacher's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from distill_ray.methods.method import METHODS
from distill_ray.methods.tapped import Tapped
from distill_ray.settings import Doc

if TYPE_CHECKING:
    from torch import Tensor

    from distill_ray.methods import taps


@METHODS.register("fitnet")
@dataclass(frozen=True, kw_only=True)
class FitNet(Tapped):
    r"""`labels * CE + alpha * KD + hint * (squared difference between a map of the student and one
    of the teacher)`.

    ```math
    L = w_1 \, \mathrm{CE} + w_2 \, \mathrm{KD} + h \, \frac{1}{B C H W} \big\Vert r(f) - g
    \big\Vert^2
    ```

    - `f`, `g`: maps at the ends of a unit of the student and of a teacher, for B images, C channels
      of the teacher, H by W.
    - `r`: a trained 1x1 convolution where the widths differ; it is left out of what is deployed.
      The larger of two maps of different size is averaged down.
    - `KD`: the second term of `kd`, at `temperature` and with `combine`. `w_1`, `w_2`, `h`: the
      settings `labels`, `alpha`, `hint`.
    - With several teachers the terms of each are averaged by `teacher_weights`; each has an `r` of
      its own.

    The units are `student_units` and `teacher_units`, counted from 1; several pairs are added. When
    none are named, those with maps of one size are paired, the last of each size, and the middle
    pair is compared. The paper trains the lower half of the student for the hint first and then all
    of it for labels and outputs; here, as in later comparisons, all terms are trained together.
    Teachers run in every step.

    Source: Romero, Ballas, Kahou, Chassang, Gatta & Bengio 2015, "FitNets: hints for thin deep
    nets", https://arxiv.org/abs/1412.6550.

    Example:

    ```yaml
    name: hints
    teachers: {members: 3, model: wrn-10-2}
    student: {model: wrn-10-1, method: fitnet, student_units: [3], teacher_units: [3]}
    search:
      space:
        hint: {log: [1, 1000]}
        alpha: {uniform: [0, 1]}
    ```
    """

    name = "fitnet"
    projects = True

    hint: Annotated[float, Ge(0), Doc("weight of the difference between maps")] = 100.0

    @property
    def feature_weights(self) -> Mapping[str, float]:
        return {"hint": self.hint}

    def chosen(self, pairs: Sequence[taps.Pair]) -> Sequence[taps.Pair]:
        """The one in the middle."""
        return [pairs[len(pairs) // 2]]

    def map_term(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().mean()
