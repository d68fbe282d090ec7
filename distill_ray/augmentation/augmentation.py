"""What an augmentation is: the images that a training step sees, as a pure function of (seed,
epoch, position).

An image has three numbers:

- its *row* in the data set, which never changes;
- its *position* in the epoch, whose order is a permutation of the training split's rows; random
  numbers are addressed by it;
- a *slot* for each version of it in a part, where something that belongs to that version is stored:
  `position * versions + version`, for teacher logits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from distill_ray._lazy import LazyModule
from distill_ray.augmentation.draws import Draws
from distill_ray.registry import Registry
from distill_ray.settings import check
from distill_ray.task import Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distill_ray.augmentation.source import BatchSource
else:
    torch = LazyModule("torch")

Criterion = Literal["student-entropy", "teacher-entropy", "kl"]
"""What makes an image worth picking: the entropy of the student, of the teachers, or KL(teachers ||
student).
"""


@dataclass(frozen=True)
class Part:
    """One group of images that goes through the networks together, with its own batch statistics.

    `images` is float (B, C, H, W) in [0, 1], or any real numbers; `labels` is int64 (B,), float32
    for regression. Where images are mixed from two, `partner_labels` (B,) holds the labels of the
    second and `label_weight` (B,) in [0, 1] the share of the first.

    With `copies` above 1 the images are that many versions of the same B / copies originals, one
    version after the other, the least changed first: `logits.unflatten(0, (part.copies, -1))`
    separates them. With a `pick` the images are a pool, out of which
    `distill_ray.augmentation.picking.pick` chooses those to train on.

    `label_smoothing` is the share of a label's probability that a loss spreads evenly over all
    classes, and `class_weights` (K,) are what the probability of each class of a label counts, 1
    unless given; the training loop sets both.

    `number` counts the parts of a batch from 0. `slots` (B,), int64 on the CPU, or on the device of
    images that were picked there, are where the teacher logits of these images are stored. Images
    that are changed after the augmentation made them have none.
    """

    images: Tensor
    labels: Tensor
    partner_labels: Tensor | None = None
    label_weight: Tensor | None = None
    copies: int = 1
    pick: Pick | None = None
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    number: int = 0
    slots: Tensor | None = None

    def targets(self, num_classes: int) -> Tensor:
        """Class probabilities that the labels stand for, float32 (B, K), without smoothing."""
        own = torch.nn.functional.one_hot(self.labels, num_classes).float()
        if self.partner_labels is None or self.label_weight is None:
            return own
        partner = torch.nn.functional.one_hot(self.partner_labels, num_classes).float()
        weight = self.label_weight.float().unsqueeze(1)
        return weight * own + (1 - weight) * partner


@dataclass(frozen=True)
class Pick:
    """The choice that is still to be made in a part: of all workers' pools together the `total`
    images highest in `criterion`.

    In ascending order of the criterion, this worker gets those from `start` to `stop`.
    """

    criterion: Criterion
    total: int
    start: int
    stop: int


_NOWHERE = Draws(seed=0, epoch=0)


@dataclass(frozen=True)
class Batch:
    """What one training step of one worker sees: one or more parts, and where they come from.

    `positions` (B,) and `rows` (B,) say which images, both int64 on the CPU. `weight` is the factor
    for this worker's mean loss with which the average over the workers is the mean over the whole
    batch; it differs from 1 only where a batch does not divide evenly. `shares` says how many
    images each worker has of the whole batch, and is empty if unknown. `draws` and `step`
    address the random numbers of methods that need some: `batch.draws.uniform("pairs", batch.step,
    batch.step + 1, 2)`.
    """

    parts: tuple[Part, ...]
    positions: Tensor
    rows: Tensor | None = None
    weight: float = 1.0
    step: int = 0
    draws: Draws = _NOWHERE
    shares: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Augmentation(ABC):
    """A way to present the training images; its settings are its fields.

    An augmentation is batched tensor code on the training device, and OpenCV's for photographs on a
    CPU. Every random number comes from
    `source`, addressed by (seed, epoch, position), so that a resumed run, another number of
    workers, and teacher and student all see the same images.

    What methods may ask of an augmentation:

    - `part_count`: parts per batch;
    - `mixes`: whether the first part mixes pairs of images;
    - `copies`: versions of each image in the first part;
    - `picks`: whether the last part is a pool to pick from.
    """

    name: ClassVar[str]
    part_count: ClassVar[int] = 1
    real_valued: ClassVar[bool] = False
    """Whether the augmentation accepts inputs that are real numbers, not pixels."""
    mixes: ClassVar[bool] = False
    crops_whole: ClassVar[bool] = False
    """Whether it crops from whole images, where these are not square, and not from the squares in
    their middle.
    """

    @property
    def mixes_labels(self) -> bool:
        """Whether any part mixes pairs of images, and with them their classes' probabilities."""
        return self.mixes

    def check_task(self, task: Task) -> None:
        """Raise `ValueError` with the reason when the augmentation is not for that task."""
        if task != "regression":
            return
        if self.mixes_labels:
            raise ValueError("mixes the classes of two images, and regression has none")
        if self.picks or self.copies > 1:
            raise ValueError("compares predicted classes, and regression has none")

    def __post_init__(self) -> None:
        check(self)

    @property
    def copies(self) -> int:
        """Versions of every original in the first part."""
        return 1

    @property
    def picks(self) -> bool:
        """Whether the last part is a pool to pick from."""
        return False

    @property
    def by_batch(self) -> bool:
        """Whether an image also depends on which batch it lies in; an augmentation that draws once
        per batch says so by `per`.
        """
        return getattr(self, "per", "image") == "batch"

    @property
    def asks_student(self) -> bool:
        """Whether picking also depends on the student, so that the teachers alone do not determine
        the images.
        """
        return False

    def check_images(self, channels: int, height: int, width: int) -> None:
        """Raise `ValueError` with the reason when the augmentation cannot be applied to images of
        that shape.
        """
        return

    @abstractmethod
    def parts(self, source: BatchSource) -> tuple[Part, ...]:
        """The parts of the batch that `source` gives access to."""

    def to_dict(self) -> dict[str, Any]:
        """Name and settings, as JSON values; the part of a job's identity that belongs to the
        augmentation.
        """
        return {"name": self.name} | {
            field.name: getattr(self, field.name) for field in fields(self)
        }


AUGMENTATIONS: Registry[type[Augmentation]] = Registry("augmentation")
