"""What a method is: how a student is shaped, what it is told at each step, and what is left of it afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from distill_ray.registry import Registry
from distill_ray.settings import check

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distill_ray.augment.view import Batch, Part

Student = Callable[["Tensor"], "Tensor"]
"""The student in training: images (B, C, H, W) in [0, 1] to logits (B, K), or (B, M, K) for M members or heads."""

Teachers = Callable[["Part"], "Tensor"]
"""Raw logits of every teacher for one part, (N, B, K), without gradient; the order of the teachers is that of the job."""


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way to learn from teachers or labels; its settings are its fields, all of them searchable.

    The training loop calls `student` once, `loss` at every step and `deploy` at every evaluation and at the end.
    """

    name: ClassVar[str]
    needs_teachers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self)

    def student(self, network: nn.Module, teachers: int) -> nn.Module:
        """The network as it is trained, made from the plain `network` that the recipe names, for that many teachers."""
        return network

    @abstractmethod
    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        """The scalar to minimise under `"loss"`, and under other names its components, for the record."""

    def deploy(self, student: nn.Module) -> nn.Module:
        """The network that is evaluated, saved and shipped: images to logits (B, K)."""
        return student

    def to_dict(self) -> dict[str, Any]:
        """Name and settings, as JSON values; the part of a job's identity that belongs to the method."""
        return {"name": self.name} | {field.name: getattr(self, field.name) for field in fields(self)}


METHODS: Registry[type[Method]] = Registry("method")
