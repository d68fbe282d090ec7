"""Contrastive representation distillation: the student's features learn to tell images apart as the
teachers' do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

from annotated_types import Ge, Gt, Lt

from distill_ray._lazy import LazyModule
from distill_ray.methods.augmented_kd import AugmentedKD
from distill_ray.methods.method import METHODS, Setup, Student, Teachers
from distill_ray.settings import Doc

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from distill_ray.augmentation.augmentation import Augmentation, Batch
    from distill_ray.methods import crd_contrast as contrast
else:
    torch = LazyModule("torch")
    contrast = LazyModule("distill_ray.methods.crd_contrast")


@METHODS.register("crd")
@dataclass(frozen=True, kw_only=True)
class CRD(AugmentedKD):
    r"""The loss of `augmented-kd`, or `labels * CE + alpha * KD` where the augmentation has no
    copies, `+ contrast * (contrastive loss)`.

    ```math
    L = L_\mathrm{KD} + b \, \big[ C(v, M_T) + C(u, M_S) \big]
    ```

    ```math
    C(v, M) = - \frac{1}{B} \sum_i \Big[ \log h(v_i, m_i) + \sum_{j=1}^{K} \log\big( 1 - h(v_i,
    m_{ij}) \big) \Big]
    ```

    ```math
    h(v, m) = \frac{ \exp(v^\top m / \tau) / Z }{ \exp(v^\top m / \tau) / Z + K / n }
    \qquad m \leftarrow \frac{ \mu \, m + (1 - \mu) \, v }{ \Vert \mu \, m + (1 - \mu) \, v \Vert }
    ```

    - `v_i`, `u_i`: the student's and the teachers' features of image i of B, each embedded by a
      linear layer and normalised to unit length; the features of several teachers are concatenated.
    - `M_S`, `M_T`: memory banks of the student's and of the teachers' embeddings, one for each of n
      training images.
    - `m_i`: the entry of the image itself; `m_ij`: those of K (`negatives`) images of other
      classes; `Z`: n times the mean of exp(v·m / τ) in the first batch.
    - `b`, `τ`, `μ`: the settings `contrast`, `contrast_temperature`, `memory_momentum`.

    Both linear layers are trained, and dropped at deployment. Negatives are drawn with replacement,
    in the published code without. The defaults are CRD + KD, whose results the tables of the
    good-augmentation paper call CRD; `alpha: 0` is CRD alone.

    Source: Tian, Krishnan & Isola 2020, "Contrastive representation distillation",
    https://arxiv.org/abs/1910.10699.

    Example:

    ```yaml
    name: contrasted
    teachers: {members: 1, model: wrn-10-1}
    student: {model: wrn-10-1, method: crd, negatives: 256}
    search:
      space:
        contrast: {uniform: [0.2, 1.5]}
        contrast_temperature: {log: [0.03, 0.3]}
    ```
    """

    name = "crd"
    needs_features = True
    needed = "contrast, labels and alpha, or original, mixed_labels and augmented"

    labels: Annotated[float, Ge(0), Doc("weight of the label loss on the images")] = 1.0
    alpha: Annotated[
        float, Ge(0), Doc("weight of distillation, on images and augmented copies")
    ] = 1.0
    contrast: Annotated[float, Ge(0), Doc("weight of the contrastive loss")] = 0.8
    negatives: Annotated[
        int, Ge(1), Doc("images of other classes that each image is contrasted with")
    ] = 16384
    contrast_temperature: Annotated[float, Gt(0), Doc("divides the similarity of embeddings")] = (
        0.07
    )
    memory_momentum: Annotated[
        float,
        Ge(0),
        Lt(1),
        Doc("momentum of the memory bank: weight of the old embedding in an update"),
    ] = 0.5
    embedding: Annotated[int, Ge(1), Doc("dimension of the embeddings")] = 128

    def check_fit(self, *, model: str, augmentation: Augmentation, teachers: int) -> None:
        """The common rules, and images that can be told apart; copies beside them are welcome and
        not needed.
        """
        super(AugmentedKD, self).check_fit(
            model=model, augmentation=augmentation, teachers=teachers
        )
        if augmentation.mixes:
            raise ValueError(
                f"method {self.name!r} tells images apart, and augmentation "
                f"{augmentation.name!r} makes one of two; "
                f"augmentation: {{name: additional, scheme: {augmentation.name}}} keeps the "
                "images beside the mixed ones"
            )

    def live_teachers(self, augmentation: Augmentation) -> bool:
        """Their features are needed, not only their predictions."""
        return True

    def student(self, network: nn.Module, setup: Setup) -> nn.Module:
        """The network with its embedding and the memory. Raises `ValueError` for networks outside
        of the catalogue.
        """
        return contrast.ContrastiveStudent(network, setup, self.embedding)

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The weighted sum and its components."""
        network = cast("contrast.ContrastiveStudent", student.network)
        network.embeddings.clear()
        terms = super().loss(student, batch, teachers)
        with torch.no_grad(), student.autocast():
            features = contrast.features_of(teachers.networks, batch.parts[0].images)
        contrasted = network.contrast(
            network.embeddings[0],
            features.float(),
            batch,
            negatives=self.negatives,
            temperature=self.contrast_temperature,
            momentum=self.memory_momentum,
            gather=student.gather,
        )
        return {
            **terms,
            "loss": terms["loss"] + self.contrast * contrasted,
            "loss/contrast": contrasted,
        }

    def _learns(self) -> bool:
        return self.contrast > 0 or super()._learns()

    def deploy(self, student: nn.Module) -> nn.Module:
        """The network without embedding and memory."""
        return cast("contrast.ContrastiveStudent", student).network
