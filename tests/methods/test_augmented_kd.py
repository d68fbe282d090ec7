"""Distillation on images and augmented copies, against the good-augmentation system's oracle."""

import functools

import pytest
import torch
from torch import Tensor, nn

from distill_ray.augmentation import AUGMENTATIONS
from distill_ray.augmentation.augmentation import Batch, Part, Pick
from distill_ray.methods.augmented_kd import AugmentedKD
from distill_ray.methods.method import Student
from support.teachers import TeachersByImage
from support.tensors import f64

STUDENT, COPY = f64([[1, 0.5, -0.5], [0.2, -1, 0.8]]), f64([[0.3, 0.6, -0.2], [0.1, 0, 0.4]])
TEACHER, TEACHER_OF_COPY = (
    f64([[2, 0, -1], [0.5, -0.5, 1.5]]),
    f64([[0.9, 1.1, -1.3], [0.2, 0.4, 0.9]]),
)
IDENTITY_STUDENT = Student(nn.Flatten(), nn.Flatten())


def images(logits: Tensor) -> Tensor:
    """Images (B, 3, 1, 1) that a network which only flattens has these logits for."""
    return logits.unflatten(1, (3, 1, 1))


ANSWERS = TeachersByImage(
    torch.cat([STUDENT, COPY]), torch.cat([TEACHER, TEACHER_OF_COPY]).unsqueeze(0)
)
LABELS = torch.tensor([0, 2])


def batch(copy: Part) -> Batch:
    return Batch(parts=(Part(images(STUDENT), LABELS), copy), positions=torch.arange(2))


def test_oracle() -> None:
    terms = AugmentedKD().loss(IDENTITY_STUDENT, batch(Part(images(COPY), LABELS)), ANSWERS)
    assert round(terms["loss/labels"].item(), 8) == 0.57151245
    assert round(terms["loss/original"].item(), 8) == 0.14634210
    assert round(terms["loss/augmented"].item(), 8) == 0.13285806
    assert round(terms["loss"].item(), 8) == 0.30843139
    identity = AugmentedKD().loss(IDENTITY_STUDENT, batch(Part(images(STUDENT), LABELS)), ANSWERS)
    assert round(identity["loss"].item(), 8) == 0.32056702
    plain = AugmentedKD(augmented=0.0).loss(
        IDENTITY_STUDENT, batch(Part(images(COPY), LABELS)), ANSWERS
    )
    assert round(plain["loss"].item(), 8) == 0.18885913


def test_mixed_labels_count_by_their_weight() -> None:
    copy = Part(images(COPY), LABELS, torch.tensor([2, 1]), f64([0.3, 0.8]))
    expected = -(copy.targets(3).double() * COPY.log_softmax(1)).sum(1).mean()
    terms = AugmentedKD(mixed_labels=0.5).loss(IDENTITY_STUDENT, batch(copy), ANSWERS)
    torch.testing.assert_close(terms["loss/mixed-labels"], expected, rtol=0, atol=1e-7)
    without = AugmentedKD().loss(IDENTITY_STUDENT, batch(copy), ANSWERS)
    torch.testing.assert_close(
        terms["loss"] - without["loss"], 0.9 * 0.5 * expected, rtol=0, atol=1e-7
    )


def test_x_and_its_copy_have_batch_statistics_of_their_own() -> None:
    seen = []
    AugmentedKD().loss(
        Student(nn.Flatten(), lambda shown: seen.append(len(shown)) or shown.flatten(1)),
        batch(Part(images(COPY), LABELS)),
        ANSWERS,
    )
    assert seen == [2, 2]


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [("teacher-entropy", [2, 4, 1]), ("student-entropy", [0, 4, 2]), ("kl", [3, 5, 0])],
)
def test_picks_of_a_pool(criterion: str, expected: list[int]) -> None:
    """The pick oracle; the students see the picked images in ascending order of the criterion."""
    teacher = f64([[4, 0, 0], [1, 0.9, 0.8], [2, 1, 0], [0, 3, 2.5], [0.5, 0.4, 0], [3, 2.9, -1]])
    student = f64(
        [[1.5, 0, 0.2], [2, 0.1, 0], [0.3, 0.2, 0.1], [0, 4, 1], [1, 1.2, 0.9], [0.4, 2, -0.5]]
    )
    pool = Part(images(student), torch.zeros(6, dtype=torch.long), pick=Pick(criterion, 3, 0, 3))
    shown = Part(images(student[:3]), torch.zeros(3, dtype=torch.long))
    seen = []

    class Recorder(nn.Module):
        def forward(self, shown: Tensor) -> Tensor:
            seen.append((self.training, shown.flatten(1)))
            return shown.flatten(1)

    network = Recorder()
    answers = TeachersByImage(student, teacher.unsqueeze(0))
    both = Batch(parts=(shown, pool), positions=torch.arange(3))
    softened = functools.partial(AugmentedKD().softened, epoch=1)
    terms = AugmentedKD().loss(Student(network, network, softened=softened), both, answers)
    assert all(training or len(shown) == 6 for training, shown in seen)
    assert torch.equal([shown for training, shown in seen if training][1], student[expected])
    picked = Batch(
        parts=(shown, Part(images(student[expected]), torch.zeros(3, dtype=torch.long))),
        positions=torch.arange(3),
    )
    torch.testing.assert_close(
        terms["loss"], AugmentedKD().loss(Student(network, network), picked, answers)["loss"]
    )


def test_what_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match="labels and alpha, or original, mixed_labels and augmented, must not all be 0",
    ):
        AugmentedKD(labels=0.0, original=0.0, augmented=0.0)
    with pytest.raises(ValueError, match="augmented must be at least 0"):
        AugmentedKD(augmented=-1.0)
    with pytest.raises(
        ValueError,
        match="needs images and augmented copies beside them; augmentation 'crop-flip' has none",
    ):
        AugmentedKD().check_fit(
            model="wrn-10-1", augmentation=AUGMENTATIONS["crop-flip"](), teachers=1
        )
    AugmentedKD().check_fit(
        model="wrn-10-1", augmentation=AUGMENTATIONS["additional"](), teachers=1
    )
