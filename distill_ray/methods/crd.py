"""Contrastive representation distillation: the student's features are to tell images apart as the teachers' do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

from distill_ray._lazy import LazyModule
from distill_ray.methods.good_augmentation import AugmentedKD
from distill_ray.methods.method import METHODS, Setup, Student, Teachers
from distill_ray.settings import Setting

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from distill_ray.augment.view import Batch, View
    from distill_ray.methods import contrast
else:
    torch = LazyModule("torch")
    contrast = LazyModule("distill_ray.methods.contrast")


@METHODS.register("crd")
@dataclass(frozen=True, kw_only=True)
class CRD(AugmentedKD):
    """The loss of `AugmentedKD`, or of plain distillation where the view has no copies, and `contrast` times a contrastive loss.

    Student's and teachers' features are embedded by a linear layer each, and the embedding of an image by the one is compared
    with what is remembered of the other: of the same image, and of `negatives` images of other classes, drawn with replacement
    (the published code draws without). Both layers learn and are left behind at deployment. Several teachers' features are
    put side by side.

    The defaults are CRD + KD, whose results the good-augmentation tables call CRD; `alpha: 0` is CRD alone.

    Source: Tian, Krishnan & Isola 2020, "Contrastive representation distillation".
    """

    name = "crd"
    needed = "contrast, labels and alpha, or original, mixed_labels and augmented"

    labels: Annotated[float, Setting("weight of the labels of the images", at_least=0)] = 1.0
    alpha: Annotated[float, Setting("weight of the teachers' answers, on images and augmented copies", at_least=0)] = 1.0
    contrast: Annotated[float, Setting("weight of the contrastive loss", at_least=0)] = 0.8
    negatives: Annotated[int, Setting("images of other classes that each image is compared with", at_least=1)] = 16384
    contrast_temperature: Annotated[float, Setting("divides the similarity of embeddings", above=0)] = 0.07
    memory_momentum: Annotated[float, Setting("share of the old in what is remembered of an image", at_least=0, below=1)] = 0.5
    embedding: Annotated[int, Setting("dimension of the embeddings", at_least=1)] = 128

    def check_fit(self, *, model: str, view: View, teachers: int) -> None:
        """The common rules, and images that can be told apart; copies beside them are welcome and not needed."""
        super(AugmentedKD, self).check_fit(model=model, view=view, teachers=teachers)
        if view.mixes:
            raise ValueError(
                f"method {self.name!r} tells images apart, and augment {view.name!r} makes one of two; "
                f"augment: {{name: additional, scheme: {view.name}}} keeps the images beside the mixed ones"
            )

    def live_teachers(self, view: View) -> bool:
        """Their features are needed, not their answers alone."""
        return True

    def student(self, network: nn.Module, setup: Setup) -> nn.Module:
        """The network with its embedding and the memory. Raises `ValueError` for networks outside of the catalogue."""
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
        return {**terms, "loss": terms["loss"] + self.contrast * contrasted, "loss/contrast": contrasted}

    def _learns(self) -> bool:
        return self.contrast > 0 or super()._learns()

    def deploy(self, student: nn.Module) -> nn.Module:
        """The network without what the comparison needed."""
        return cast("contrast.ContrastiveStudent", student).network
