"""LatentBE: a BatchEnsemble learns member by member from an ensemble and becomes one plain network
by averaging its members.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal, cast

from annotated_types import Ge, Le

from distill_ray._lazy import LazyModule
from distill_ray.methods.method import METHODS, Setup, Student, Teachers
from distill_ray.methods.softened import Softened
from distill_ray.models import check_batch_ensemble
from distill_ray.settings import Doc
from distill_ray.task import Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from distill_ray.augmentation.augmentation import Augmentation, Batch, Part
    from distill_ray.methods import latent_be_perturbation as perturbation
    from distill_ray.methods import losses, member_losses
    from distill_ray.models import batch_ensemble
else:
    torch = LazyModule("torch")
    losses = LazyModule("distill_ray.methods.losses")
    member_losses = LazyModule("distill_ray.methods.member_losses")
    perturbation = LazyModule("distill_ray.methods.latent_be_perturbation")
    batch_ensemble = LazyModule("distill_ray.models.batch_ensemble")


@METHODS.register("latent-be")
@dataclass(frozen=True, kw_only=True)
class LatentBE(Softened):
    r"""`(1 - alpha) * CE + alpha * T² mean over m of KL(teacher m || member m)` of a BatchEnsemble,
    averaged into one network.

    ```math
    L = \frac{1}{M} \sum_m \Big[ (1 - \alpha) \, \mathrm{CE}(y, z_m) + \alpha \, T^2 \,
    \mathrm{KL}( q_m \Vert p_m ) \Big]
    ```

    ```math
    \text{layer of member } m: \quad s_m \odot \big( W (r_m \odot x) + b \big)
    \qquad \text{deployed:} \quad W' = (\bar s \, \bar r^\top) \odot W
    ```

    - `z_m`: logits of member m, one member per teacher; `q_m`, `p_m`: softmax of teacher m and of
      member m at T.
    - `W`, `b`: weights and bias of a convolution or linear layer, shared by all members; `r_m`,
      `s_m`: the member's own factors for its inputs and outputs, initialised to 1. Their means over
      the members are deployed.

    With `perturb: tdiv-sdiv` images are first perturbed towards where two teachers disagree and
    their two members do not, and teachers and student see the perturbed images:

    ```math
    x' = \mathrm{clip}\Big( x + \frac{\sqrt{D}}{255} \frac{g}{\Vert g \Vert}, 0, 1 \Big)
    \qquad g = \nabla_x \big[ \mathrm{CE}( q_j, t_i(x) ) - \mathrm{CE}( p_j, z_i(x) ) \big]
    ```

    - `i`, `j`: two different members, drawn in every step; `t_i`: logits of teacher i. All are in
      evaluation mode and at T = 1, and `q_j` and `p_j` are constant.
    - `D`: values per image, so that images change by 1/255 per value in root mean square.

    The loss is smaller than the published one by the entropy of the teachers, which is constant.
    Weight decay pulls the members' factors towards 1, and their gradient is M times that of this
    mean over members, as published; both are built into the BatchEnsemble. Defaults are those of
    the published code; merging by `mean-of-products` of s and r is how a later paper describes the
    method, and a `scaled` bias is what the published code uses in validation during training.

    Source: Nam, Lee, Heo & Lee 2022, "Improving ensemble distillation with weight averaging and
    diversifying perturbation", as coded, https://arxiv.org/abs/2206.15047.

    Example:

    ```yaml
    name: averaged
    teachers: {members: 4, model: wrn-10-1}
    student: {model: wrn-10-1, method: latent-be}
    search:
      space:
        temperature: {log: [1, 20]}
        perturb: {choice: [none, tdiv-sdiv]}
    ```
    """

    name = "latent-be"
    even_tail = True

    alpha: Annotated[
        float, Ge(0), Le(1), Doc("weight of the teachers; the labels' weight is 1 - alpha")
    ] = 1.0
    perturb: Annotated[
        Literal["none", "tdiv-sdiv"], Doc("how images are perturbed before each step")
    ] = "none"
    merge: Annotated[
        Literal["product-of-means", "mean-of-products"],
        Doc("how members are merged into one network"),
    ] = "product-of-means"
    merged_bias: Annotated[
        Literal["kept", "scaled"], Doc("what merging does to the bias of the classifier")
    ] = "kept"

    def check_fit(self, *, model: str, augmentation: Augmentation, teachers: int) -> None:
        """Besides the common rules: a model that can be a BatchEnsemble, and two teachers where
        images are perturbed.
        """
        super().check_fit(model=model, augmentation=augmentation, teachers=teachers)
        check_batch_ensemble(model)
        if self.perturb != "none" and teachers < 2:
            raise ValueError(
                f"perturb {self.perturb!r} needs at least 2 teachers, found {teachers}"
            )

    def check_data(self, *, task: Task, real_valued: bool) -> None:
        """Besides the common rules: pixels, where images are perturbed, since those stay between
        black and white.
        """
        super().check_data(task=task, real_valued=real_valued)
        if real_valued and self.perturb != "none":
            raise ValueError(
                f"perturb {self.perturb!r} changes pixels, and the inputs of this data set "
                "are real numbers; use none"
            )

    def live_teachers(self, augmentation: Augmentation) -> bool:
        """True where images are perturbed, since the perturbation depends on the teachers."""
        return self.perturb != "none" or super().live_teachers(augmentation)

    def student(self, network: nn.Module, setup: Setup) -> nn.Module:
        """A BatchEnsemble with one member per teacher. Raises `ValueError` for a network that
        cannot become one.
        """
        return batch_ensemble.to_batch_ensemble(network, setup.teachers)

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The weighted sum, with its two components as `"loss/labels"` and `"loss/teachers"`,
        averaged over the parts.
        """
        from_labels, from_teachers = [], []
        for offered in batch.parts:
            part, answers = self._shown(offered, student, batch, teachers)
            logits = losses.at_least_float32(student(part.images))
            from_labels.append(losses.cross_entropy(logits, part))
            from_teachers.append(
                member_losses.paired_kd(
                    self.comparable(logits), self.comparable(answers), self.temperature
                )
            )
        labels, distilled = losses.average(from_labels), losses.average(from_teachers)
        return {
            "loss": labels.lerp(distilled, self.alpha),
            "loss/labels": labels,
            "loss/teachers": distilled,
        }

    def deploy(self, student: nn.Module) -> nn.Module:
        """The merged network, of the plain network's shape."""
        return cast("batch_ensemble.BatchEnsemble", student).merge(self.merge, self.merged_bias)

    def _shown(
        self, offered: Part, student: Student, batch: Batch, teachers: Teachers
    ) -> tuple[Part, Tensor]:
        if self.perturb == "none":
            return student.pick(offered, teachers)
        part = offered if offered.pick is None else student.pick(offered, teachers)[0]
        moved = replace(part, images=self._moved(part.images, student, batch, teachers), slots=None)
        return moved, teachers(moved)

    def _moved(self, images: Tensor, student: Student, batch: Batch, teachers: Teachers) -> Tensor:
        first, second = pair(batch, len(teachers.networks))

        def by_teachers(images: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                other = teachers.networks[second](images)
            return teachers.networks[first](images), other

        with student.evaluating() as network:
            ensemble = cast("batch_ensemble.BatchEnsemble", network)

            def by_members(images: Tensor) -> tuple[Tensor, Tensor]:
                with torch.no_grad():
                    other = ensemble.logits_of(images, (second,)).squeeze(1)
                return ensemble.logits_of(images, (first,)).squeeze(1), other

            return perturbation.diversify(images, by_teachers, by_members)


def pair(batch: Batch, members: int) -> tuple[int, int]:
    """The two different members of this step, in order; every pair is equally likely, and all
    workers have the same.
    """
    (first, other), *_ = batch.draws.uniform("pair of members", batch.step, batch.step + 1, 2)
    leading, following = int(first * members), int(other * (members - 1))
    return leading, following + (following >= leading)
