"""What a method is: how a student is shaped, its loss at each step, and what is deployed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from distill_ray._lazy import LazyModule
from distill_ray.registry import Registry
from distill_ray.settings import check
from distill_ray.task import Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from distill_ray.augmentation import picking
    from distill_ray.augmentation.augmentation import Augmentation, Batch, Part
else:
    picking = LazyModule("distill_ray.augmentation.picking")


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way to learn from teachers or labels; its settings are its fields, all of them searchable.

    The training loop calls `student` once, `loss` at every step and `deploy` at every evaluation
    and at the end. A method is a value: its state lives in the buffers of the student, and its
    random numbers come from `batch.draws`, so that a resumed run continues exactly as an
    undisturbed one.
    """

    name: ClassVar[str]
    needs_teachers: ClassVar[bool] = False
    compares_versions: ClassVar[bool] = False
    """Whether the method trains for consistency between the versions of an image, where an
    augmentation shows several.
    """
    tasks: ClassVar[tuple[Task, ...]] = ("classification",)
    needs_features: ClassVar[bool] = False
    """Whether the method looks at the features before the classifier, or gives the student other
    classifiers.
    """
    even_tail: ClassVar[bool] = False
    """Whether a teacher's largest logits are enough, with the mass of all others spread evenly over
    them.
    """

    @property
    def takes_unlabelled(self) -> bool:
        """Whether the method also learns from images without a label, which have the label -1:
        terms against the labels leave them out, as `losses.cross_entropy` does.
        """
        return False

    def __post_init__(self) -> None:
        check(self)

    def check_fit(self, *, model: str, augmentation: Augmentation, teachers: int) -> None:
        """Raise `ValueError` with the reason when the method cannot be used with that model,
        augmentation or number of teachers.
        """
        if self.needs_teachers and not teachers:
            raise ValueError(f"method {self.name!r} learns from teachers, and there are none")
        if augmentation.picks and not self.needs_teachers:
            raise ValueError(
                f"augmentation {augmentation.name!r} picks images with the help of teachers; "
                f"method {self.name!r} has none"
            )
        if augmentation.copies > 1 and not self.compares_versions:
            raise ValueError(
                f"augmentation {augmentation.name!r} shows each image in "
                f"{augmentation.copies} versions that should agree, and method {self.name!r} "
                "does not ask that of them; turn the augmentation's consistency off, or use "
                "supervised"
            )

    def check_teachers(self, models: Sequence[str]) -> None:  # noqa: B027  (most take all)
        """Raise `ValueError` with the reason when the method cannot learn from teachers of these
        models.
        """

    def check_data(self, *, task: Task, real_valued: bool) -> None:
        """Raise `ValueError` with the reason when the method is not for that task, or not for
        inputs that are real numbers.
        """
        if task not in self.tasks:
            others = ", ".join(
                sorted(name for name, method in METHODS.items() if task in method.tasks)
            )
            raise ValueError(
                f"method {self.name!r} is for {' and '.join(self.tasks)}; for {task} there "
                f"are {others}"
            )

    def live_teachers(self, augmentation: Augmentation) -> bool:
        """Whether teachers must run in every step, since stored teacher logits for the images of
        `augmentation` are not enough.

        They are enough for picking from a pool, since they cover the whole pool.
        """
        return False

    def needs_all_classes(self, augmentation: Augmentation) -> str | None:
        """What needs a teacher's logits for all classes, in words; None where the largest ones are
        enough.

        Predictions that also decide which images are picked must be whole.
        """
        if not self.even_tail:
            return f"method {self.name!r}"
        if augmentation.picks:
            return f"augmentation {augmentation.name!r}, which picks images by the logits,"
        return None

    def student(self, network: nn.Module, setup: Setup) -> nn.Module:
        """The network as it is trained, made from the plain `network` that the recipe names."""
        return network

    def softened(self, logits: Tensor, epoch: int) -> Tensor:
        """Logits (..., K) of student or teachers as they are compared in the 1-based `epoch`: over
        the temperature, if the method has one.
        """
        return logits

    @abstractmethod
    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The scalar to minimise, as `"loss"`, and its components under other names, for the
        record; means over images.
        """

    def deploy(self, student: nn.Module) -> nn.Module:
        """The network that is evaluated, saved and exported: images to logits (B, K)."""
        return student

    def deployed_like(self, network: nn.Module) -> nn.Module:
        """A network of the form that `deploy` returns, made from the plain `network`: saved weights
        are loaded into it.
        """
        return network

    def to_dict(self) -> dict[str, Any]:
        """Name and settings, as JSON values; the part of a job's identity that belongs to the
        method.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"name": self.name} | {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }


@dataclass(frozen=True)
class Setup:
    """What a student may depend on besides its network: the teachers and the training images.

    `networks` holds the teachers themselves where the method wants them live, and is empty
    otherwise. `rows` says which images of the data set are the training split, and `labels` are
    theirs; `image_shape` is that of one image, (channels, height, width).
    """

    teachers: int = 0
    networks: Sequence[nn.Module] = ()
    rows: Sequence[int] | NDArray[np.int64] = ()
    labels: Sequence[int] | NDArray[np.int64] = ()
    image_shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Student:
    """The student in training; calling it maps images (B, C, H, W) in [0, 1] to logits (B, K), or
    (B, M, K) for M members.

    `network` is what `Method.student` made, `parallel` the same with gradients averaged over the
    workers, `autocast` the precision of forward passes, and `gather` concatenates the rows of all
    workers, in the order of positions: each has the same number of rows for every image of its
    share of the batch. `softened` is that of the method, in this epoch.
    """

    network: nn.Module
    parallel: Callable[[Tensor], Tensor]
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    gather: Callable[[Tensor], Tensor] = lambda rows: rows
    softened: Callable[[Tensor], Tensor] = lambda logits: logits

    def __call__(self, images: Tensor) -> Tensor:
        """A forward pass in training."""
        with self.autocast():
            return self.parallel(images)

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """The network in evaluation mode, for a pass outside training: running statistics are used
        and not updated.
        """
        self.network.eval()
        try:
            with self.autocast():
                yield self.network
        finally:
            self.network.train()

    def pick(self, part: Part, teachers: Teachers) -> tuple[Part, Tensor]:
        """What to train on, `part` itself or what it asks to be picked from it, and the teachers'
        logits for that, (N, B, K).
        """
        if part.pick is None:
            return part, teachers(part)
        with self.evaluating() as network:
            return picking.pick(part, network, teachers, self.gather, self.softened)


class Teachers(Protocol):
    """The teachers, in the order of the job."""

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The teachers themselves, in eval mode with frozen weights and so differentiable with
        respect to images.

        Only a method whose `live_teachers` returns true may rely on them.
        """

    def __call__(self, part: Part) -> Tensor:
        """Raw logits of every teacher for one part, (N, B, K), without gradient."""


METHODS: Registry[type[Method]] = Registry("method")
