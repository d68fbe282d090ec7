"""A student, three teachers and two images of four classes, shared by tests of losses of logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from distill_ray.augmentation.augmentation import Batch, Part
from distill_ray.augmentation.draws import Draws
from distill_ray.methods import Method
from distill_ray.methods.method import Student

STUDENT = torch.tensor([[1, 0.5, -0.5, 2], [0.2, -1, 0.8, 0]], dtype=torch.float64)
TEACHERS = torch.tensor(
    [
        [[2, 0, -1, 0.5], [0.5, -0.5, 1.5, 3]],
        [[1.5, 1, -2, 0], [-0.3, 0.1, 2.2, -1]],
        [[0, 1, 2, 3], [4, 0, 1, -2]],
    ],
    dtype=torch.float64,
)
LABELS = [3, 2]
PARTNERS, WEIGHTS = [0, 1], [0.25, 0.5]
PART = Part(STUDENT, torch.tensor(LABELS))
MIXED = Part(STUDENT, torch.tensor(LABELS), torch.tensor(PARTNERS), torch.tensor(WEIGHTS))
IDENTITY_STUDENT = Student(nn.Identity(), nn.Identity())


class Answers:
    """The teachers' logits, shown to a student whose images are its logits."""

    networks = ()

    def __init__(self, logits: Tensor = TEACHERS) -> None:
        self.logits = logits

    def __call__(self, part: Part) -> Tensor:
        return self.logits


def terms_of(
    method: Method, *parts: Part, teachers: Tensor = TEACHERS, epoch: int = 1
) -> Mapping[str, Tensor]:
    """The loss and its components for a batch of `parts`."""
    shown = parts or (PART,)
    batch = Batch(shown, torch.arange(len(shown[0].images)), draws=Draws(seed=0, epoch=epoch))
    return method.loss(IDENTITY_STUDENT, batch, Answers(teachers))


def numerical_gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The gradient of a scalar by central differences, in float64."""
    gradient = torch.zeros_like(at)
    for place in range(at.numel()):
        step = torch.zeros_like(at)
        step.view(-1)[place] = 1e-5
        gradient.view(-1)[place] = (loss(at + step) - loss(at - step)) / 2e-5
    return gradient


def check_gradient(method: Method, *shown: Part) -> None:
    """That the loss of `method` has the gradient of its value, with respect to the student."""

    def loss(images: Tensor) -> Tensor:
        parts = [replace(part, images=images + part.images) for part in shown or (PART,)]
        return terms_of(method, *parts)["loss"]

    nowhere = torch.zeros_like(STUDENT).requires_grad_()
    loss(nowhere).backward()
    with torch.no_grad():
        expected = numerical_gradient(loss, torch.zeros_like(STUDENT))
    torch.testing.assert_close(nowhere.grad, expected, rtol=1e-6, atol=1e-8)
