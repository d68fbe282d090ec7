"""Learning from labels, and from labels and an ensemble, as the training loop calls it."""

import pytest
import torch
from torch import Tensor, nn

from distill_ray.augmentation import AUGMENTATIONS, Identity
from distill_ray.augmentation.augmentation import Batch, Part
from distill_ray.methods import METHODS, EnsembleKD, Supervised
from distill_ray.methods.method import Student
from support.teachers import TeachersByImage
from support.tensors import f64

STUDENT = f64([[1, 0.5, -0.5], [0.2, -1, 0.8]])
TEACHERS = f64([[[2, 0, -1], [0.5, -0.5, 1.5]], [[1.5, 1, -2], [-0.3, 0.1, 2.2]]])
STUDENT_OF_COPY = f64([[0.3, 0.6, -0.2], [0.1, 0, 0.4]])
TEACHER_OF_COPY = f64([[[0.9, 1.1, -1.3], [0.2, 0.4, 0.9]]])


def batch_of(*images: Tensor) -> Batch:
    parts = tuple(Part(images=own, labels=torch.tensor([0, 2])) for own in images)
    return Batch(parts=parts, positions=torch.arange(2))


IDENTITY_STUDENT = Student(nn.Identity(), nn.Identity())
NOT_ASKED = TeachersByImage(STUDENT[:0], TEACHERS[:, :0])
"""Teachers of a method that learns from labels alone: asking them fails."""


@pytest.mark.parametrize(
    ("combine", "at_4", "at_50"),
    [
        ("add-loss", 0.49466197, 0.53441598),
        ("mean-loss", 0.30448223, 0.32435923),
        ("mean-softmax", 0.25043562, 0.26513174),
    ],
)
def test_totals_of_the_calibrated_ensemble_system(combine: str, at_4: float, at_50: float) -> None:
    for temperature, expected in ((4.0, at_4), (50.0, at_50)):
        method = EnsembleKD(temperature=temperature, alpha=0.8, combine=combine)
        terms = method.loss(IDENTITY_STUDENT, batch_of(STUDENT), TeachersByImage(STUDENT, TEACHERS))
        assert round(terms["loss"].item(), 8) == expected
        assert round(terms["loss/labels"].item(), 8) == 0.57151245
        assert terms["loss"].item() == pytest.approx(
            0.2 * terms["loss/labels"].item() + 0.8 * terms["loss/teachers"].item()
        )


def test_parts_are_averaged() -> None:
    """Components of the good-augmentation system's loss oracle."""
    method = EnsembleKD(temperature=4.0, alpha=0.9)
    answers = TeachersByImage(
        torch.cat([STUDENT, STUDENT_OF_COPY]), torch.cat([TEACHERS[:1], TEACHER_OF_COPY], dim=1)
    )
    first = method.loss(IDENTITY_STUDENT, batch_of(STUDENT), answers)
    assert round(first["loss"].item(), 8) == 0.18885913
    both = method.loss(IDENTITY_STUDENT, batch_of(STUDENT, STUDENT_OF_COPY), answers)
    assert both["loss/teachers"].item() == pytest.approx((0.14634210 + 0.13285806) / 2, abs=1e-8)


def test_versions_of_an_image_agree_at_a_price() -> None:
    """The AugMix oracle: the cross-entropy of the clean version, and 12 times the Jensen-Shannon
    divergence of all three.
    """
    versions = f64(
        [
            [1, 0, -1],
            [0.5, 0.5, 0],
            [0.8, 0.3, -0.6],
            [0.1, 0.9, 0],
            [1.4, -0.2, -1.2],
            [0.7, 0.2, 0.4],
        ]
    )
    part = Part(images=versions, labels=torch.tensor([0, 1] * 3), copies=3)
    batch = Batch(parts=(part,), positions=torch.arange(2))
    for weight, expected in ((0.0, 0.68281303), (12.0, 0.99631121)):
        loss = Supervised(consistency=weight).loss(IDENTITY_STUDENT, batch, NOT_ASKED)["loss"]
        assert round(loss.item(), 8) == expected
    assert Supervised().consistency == 12.0


def test_supervised_ignores_teachers() -> None:
    batch = batch_of(STUDENT, STUDENT)
    assert (
        round(Supervised().loss(IDENTITY_STUDENT, batch, NOT_ASKED)["loss"].item(), 8) == 0.57151245
    )


@pytest.mark.parametrize(
    "method",
    [EnsembleKD(alpha=0.5), EnsembleKD(combine="mean-loss"), Supervised()],
    ids=["kd", "mean", "scratch"],
)
def test_a_step_moves_the_student_alone(method: Supervised | EnsembleKD) -> None:
    torch.manual_seed(0)
    network, teacher = (
        nn.Sequential(nn.Flatten(), nn.Linear(12, 3)),
        nn.Sequential(nn.Flatten(), nn.Linear(12, 3)),
    )

    class Live:
        networks = (teacher,)

        def __call__(self, part: Part) -> Tensor:
            return torch.stack([teacher(part.images)])

    part = Part(images=torch.rand(5, 3, 2, 2), labels=torch.tensor([0, 1, 2, 0, 1]))
    batch = Batch(parts=(part,), positions=torch.arange(5))
    terms = method.loss(Student(network, network), batch, Live())
    terms["loss"].backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for parameter in network.parameters()
    )
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(term.dtype == torch.float32 and term.shape == () for term in terms.values())


def test_weights_of_teachers() -> None:
    batch, answers = batch_of(STUDENT), TeachersByImage(STUDENT, TEACHERS)
    only_first = EnsembleKD(teacher_weights=(3.0, 0.0)).loss(IDENTITY_STUDENT, batch, answers)
    alone = EnsembleKD().loss(IDENTITY_STUDENT, batch, TeachersByImage(STUDENT, TEACHERS[:1]))
    torch.testing.assert_close(only_first["loss"], alone["loss"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, found 0"),
        ({"alpha": 1.1}, "alpha must be at least 0, at most 1, found 1.1"),
        (
            {"combine": "median"},
            "combine must be one of 'mean-softmax', 'mean-loss', 'add-loss', 'sum-softmax', "
            "'confident', found 'median'",
        ),
        ({"teacher_weights": (1.0, -1.0)}, "teacher_weights must be at least 0"),
        ({"teacher_weights": (0.0, 0.0)}, "teacher_weights must not all be 0"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnsembleKD(**settings)


def test_combinations_that_are_refused() -> None:
    with pytest.raises(
        ValueError, match="teacher_weights must be one for each of 2 teachers, found 3"
    ):
        EnsembleKD(teacher_weights=(1.0, 2.0, 3.0)).check_fit(
            model="wrn-10-1", augmentation=Identity(), teachers=2
        )
    with pytest.raises(ValueError, match="method 'kd' learns from teachers, and there are none"):
        EnsembleKD().check_fit(model="wrn-10-1", augmentation=Identity(), teachers=0)
    EnsembleKD(teacher_weights=(1.0, 2.0)).check_fit(
        model="wrn-10-1", augmentation=Identity(), teachers=2
    )
    Supervised().check_fit(model="wrn-10-1", augmentation=Identity(), teachers=0)
    picking = AUGMENTATIONS["additional"](pick="kl")
    with pytest.raises(
        ValueError,
        match="augmentation 'additional' picks images with the help of teachers; method "
        "'supervised' has none",
    ):
        Supervised().check_fit(model="wrn-10-1", augmentation=picking, teachers=0)
    EnsembleKD().check_fit(model="wrn-10-1", augmentation=picking, teachers=1)
    assert not EnsembleKD().live_teachers(picking)
    assert not EnsembleKD().live_teachers(Identity())


def test_evaluating_a_student_leaves_its_statistics_alone() -> None:
    network = nn.BatchNorm2d(3)
    before = network.running_mean.clone()
    with Student(network, network).evaluating() as evaluated:
        assert not evaluated.training
        evaluated(torch.rand(4, 3, 2, 2))
    assert network.training
    torch.testing.assert_close(network.running_mean, before)


def test_registered_methods_carry_their_names() -> None:
    assert {name: METHODS[name].name for name in METHODS} == {name: name for name in METHODS}
    assert {"kd", "supervised"} <= set(METHODS)
