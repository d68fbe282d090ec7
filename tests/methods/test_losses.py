"""The losses against the oracles of the published systems, and against what must hold of them."""

import dataclasses
import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from distill_ray.augmentation.augmentation import Part
from distill_ray.methods import losses
from support.tensors import f64

STUDENT = [[1, 0.5, -0.5], [0.2, -1, 0.8]]
TEACHERS = [[[2, 0, -1], [0.5, -0.5, 1.5]], [[1.5, 1, -2], [-0.3, 0.1, 2.2]]]
LABELS = [0, 2]
COMBINATIONS = get_args(losses.Combine)


def labelled(
    labels: list[int],
    partners: list[int] | None = None,
    weights: list[float] | None = None,
) -> Part:
    return Part(
        images=torch.empty(len(labels), 1, 1, 1),
        labels=torch.tensor(labels),
        partner_labels=None if partners is None else torch.tensor(partners),
        label_weight=None if weights is None else f64(weights),
    )


def printed(value: Tensor) -> float:
    """A value to the eight decimals that the oracles are printed with."""
    return round(value.item(), 8)


def random_logits(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def total(student: Tensor, temperature: float, teachers: Tensor, combine: losses.Combine) -> Tensor:
    labels = losses.cross_entropy(student, labelled(LABELS))
    return 0.2 * labels + 0.8 * losses.ensemble_kd(student, teachers, temperature, combine)


@pytest.mark.parametrize(
    ("temperature", "first", "second", "add", "mean_loss", "mean_softmax", "sum_softmax"),
    [
        (1, 0.10768376, 0.13367527, 0.24135903, 0.12067951, 0.08139132, 1.54907700),
        (4, 0.14634210, 0.32910725, 0.47544934, 0.23772467, 0.17016642, 22.52104261),
        (50, 0.13336223, 0.39177963, 0.52514186, 0.26257093, 0.18853657, 3466.11297593),
    ],
)
def test_ensemble_kd_oracle(
    temperature: float,
    first: float,
    second: float,
    add: float,
    mean_loss: float,
    mean_softmax: float,
    sum_softmax: float,
) -> None:
    student, teachers = f64(STUDENT), f64(TEACHERS)
    for combine in COMBINATIONS:
        assert printed(losses.ensemble_kd(student, teachers[:1], temperature, combine)) == first
        assert printed(losses.ensemble_kd(student, teachers[1:], temperature, combine)) == second
    assert printed(losses.ensemble_kd(student, teachers, temperature, "add-loss")) == add
    assert printed(losses.ensemble_kd(student, teachers, temperature, "mean-loss")) == mean_loss
    assert (
        printed(losses.ensemble_kd(student, teachers, temperature, "mean-softmax")) == mean_softmax
    )
    assert printed(losses.ensemble_kd(student, teachers, temperature, "sum-softmax")) == sum_softmax


@pytest.mark.parametrize(
    ("temperature", "first", "add", "mean_loss", "mean_softmax", "sum_softmax"),
    [
        (4, 0.23137617, 0.49466197, 0.30448223, 0.25043562, 18.13113658),
        (50, 0.22099227, 0.53441598, 0.32435923, 0.26513174, 2773.00468324),
    ],
)
def test_total_oracle(
    temperature: float,
    first: float,
    add: float,
    mean_loss: float,
    mean_softmax: float,
    sum_softmax: float,
) -> None:
    student, teachers = f64(STUDENT), f64(TEACHERS)
    assert printed(losses.cross_entropy(student, labelled(LABELS))) == 0.57151245
    assert printed(total(student, temperature, teachers[:1], "mean-softmax")) == first
    assert printed(total(student, temperature, teachers, "add-loss")) == add
    assert printed(total(student, temperature, teachers, "mean-loss")) == mean_loss
    assert printed(total(student, temperature, teachers, "mean-softmax")) == mean_softmax
    assert printed(total(student, temperature, teachers, "sum-softmax")) == sum_softmax


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (
            4,
            [
                [-0.27530645, 0.02253583, 0.25277062],
                [0.22171313, -0.04394832, -0.17776480],
            ],
        ),
        (
            50,
            [
                [-0.27852369, -0.02372950, 0.30225318],
                [0.22757858, -0.06984686, -0.15773173],
            ],
        ),
    ],
)
def test_gradient_oracle(temperature: float, expected: list[list[float]]) -> None:
    """The gradient of the teachers' loss alone, before its weight of 0.8 in the total."""

    def gradient(combine: losses.Combine) -> Tensor:
        student = f64(STUDENT).requires_grad_()
        losses.ensemble_kd(student, f64(TEACHERS), temperature, combine).backward()
        return student.grad

    torch.testing.assert_close(gradient("add-loss"), f64(expected), rtol=0, atol=5.1e-9)
    torch.testing.assert_close(gradient("mean-loss"), gradient("add-loss") / 2, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        gradient("mean-softmax"), gradient("add-loss") / 2, rtol=1e-12, atol=0
    )
    torch.testing.assert_close(gradient("sum-softmax"), gradient("add-loss"), rtol=1e-12, atol=0)


def test_the_limit_of_a_high_temperature_is_centred_logit_matching() -> None:
    student, teachers = f64(STUDENT), f64(TEACHERS)
    for teacher, expected in zip(teachers, (0.13166667, 0.39611111), strict=True):
        difference = student - teacher
        limit = (difference - difference.mean(1, keepdim=True)).square().sum() / (
            2 * student.numel()
        )
        assert printed(limit) == expected
        hot = losses.ensemble_kd(student, teacher.unsqueeze(0), 1e4, "mean-softmax")
        assert hot.item() == pytest.approx(expected, abs=1e-4)


def test_combinations_differ_by_a_constant_and_a_factor() -> None:
    student, teachers = random_logits(7, 5), random_logits(4, 7, 5, seed=1)
    mean_loss = losses.ensemble_kd(student, teachers, 3.0, "mean-loss")
    one_by_one = [
        losses.ensemble_kd(student, teacher.unsqueeze(0), 3.0, "mean-softmax")
        for teacher in teachers
    ]
    torch.testing.assert_close(mean_loss, torch.stack(one_by_one).mean())
    torch.testing.assert_close(
        losses.ensemble_kd(student, teachers, 3.0, "add-loss"), 4 * mean_loss
    )
    constants = [
        losses.ensemble_kd(logits, teachers, 3.0, "mean-loss")
        - losses.ensemble_kd(logits, teachers, 3.0, "mean-softmax")
        for logits in (student, random_logits(7, 5, seed=2))
    ]
    torch.testing.assert_close(constants[0], constants[1])
    oracle = [
        losses.ensemble_kd(f64(STUDENT), f64(TEACHERS), 4, combine)
        for combine in ("mean-loss", "mean-softmax")
    ]
    assert (oracle[0] - oracle[1]).item() == pytest.approx(0.06755825, abs=1e-8)
    four, at_50 = random_logits(4, 7, 5, seed=3), 50.0
    offset = losses.ensemble_kd(student, four, at_50, "sum-softmax") - 4 * losses.ensemble_kd(
        student, four, at_50, "mean-softmax"
    )
    assert offset.item() == pytest.approx(13862.94, abs=0.005)
    assert 0.8 * offset.item() == pytest.approx(11090.35, abs=0.005)


def test_cross_entropy_form_differs_by_the_teachers_entropy() -> None:
    """Oracle 8.5 of the latent BatchEnsemble system, which writes its loss without the teachers'
    entropy.
    """
    teachers = f64([[[2, 0.5, -1], [0, 1, 3]], [[1, 1.5, -0.5], [-1, 2, 2.5]]])
    student = f64([[1.2, 0.3, -0.8], [0.1, 0.9, 1.7]]).requires_grad_()
    loss = losses.ensemble_kd(student, teachers, 4.0, "mean-loss")
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(17.0826487393 - 16.8750100508, abs=1.1e-10)
    expected = [
        [0.0139929867, -0.0559697095, 0.0419767228],
        [0.1301003367, -0.0176914013, -0.1124089354],
    ]
    torch.testing.assert_close(gradient, f64(expected), rtol=0, atol=5.1e-11)
    labels = losses.cross_entropy(student, labelled([0, 2]))
    assert labels.item() == pytest.approx(0.4672681783, abs=5.1e-11)
    assert (0.3 * labels + 0.7 * (loss + 16.8750100508)).item() == pytest.approx(
        12.0980345710, abs=1.1e-10
    )
    of_mean_logits = losses.ensemble_kd(student, teachers.mean(0, keepdim=True), 4.0)
    mean = (teachers.mean(0) / 4).softmax(-1)
    wrong = of_mean_logits - 16 * (mean * mean.log()).sum(-1).mean()
    assert wrong.item() == pytest.approx(17.0837927142, abs=5.1e-11), (
        "the oracle's example of another target"
    )


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_weighted_teachers(combine: losses.Combine) -> None:
    student, teachers = random_logits(6, 4), random_logits(3, 6, 4, seed=1)
    plain = losses.ensemble_kd(student, teachers, 2.0, combine)
    torch.testing.assert_close(
        losses.ensemble_kd(student, teachers, 2.0, combine, weights=[5, 5, 5]), plain
    )
    doubled = losses.ensemble_kd(student, teachers[[0, 0, 2]], 2.0, combine)
    torch.testing.assert_close(
        losses.ensemble_kd(student, teachers, 2.0, combine, weights=[2, 0, 1]), doubled
    )


def test_no_gradient_reaches_the_teachers() -> None:
    student, teachers = (
        random_logits(3, 4).requires_grad_(),
        random_logits(2, 3, 4, seed=1).requires_grad_(),
    )
    losses.ensemble_kd(student, teachers, 2.0, "mean-loss").backward()
    assert teachers.grad is None
    assert student.grad.abs().sum() > 0


def test_gradient_is_that_of_finite_differences() -> None:
    teachers = random_logits(3, 4, 5, seed=1)
    for combine in COMBINATIONS:
        student = random_logits(4, 5).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda logits, c=combine: losses.ensemble_kd(logits, teachers, 3.0, c),
            (student,),
        )


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_saturated_logits_give_finite_loss_and_gradient(
    combine: losses.Combine,
) -> None:
    student = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    teachers = torch.tensor([[[-1e4, 0.0, 1e4]], [[0.0, 1e4, -1e4]]])
    loss = losses.ensemble_kd(student, teachers, 1.0, combine)
    loss.backward()
    assert math.isfinite(loss.item())
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 4.0, 50.0])
@pytest.mark.parametrize("combine", COMBINATIONS)
def test_float32_is_close_to_float64(temperature: float, combine: losses.Combine) -> None:
    student, teachers = random_logits(64, 100), random_logits(4, 64, 100, seed=1)
    exact = losses.ensemble_kd(student, teachers, temperature, combine)
    single = losses.ensemble_kd(student.float(), teachers.float(), temperature, combine)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(exact.item(), rel=1e-4)


def test_narrow_logits_are_widened_even_under_autocast() -> None:
    student, teachers = (
        random_logits(64, 10).bfloat16(),
        random_logits(3, 64, 10, seed=1),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distilled = losses.ensemble_kd(student, teachers, 4.0, "mean-loss", weights=[1.0, 2.0, 3.0])
        labels = losses.cross_entropy(student, labelled([0] * 64))
        mixed = losses.cross_entropy(student, labelled([0] * 64, [1] * 64, [0.3] * 64))
    assert distilled.dtype == labels.dtype == mixed.dtype == torch.float32
    exact = losses.ensemble_kd(student.double(), teachers, 4.0, "mean-loss", weights=[1, 2, 3])
    assert distilled.item() == pytest.approx(exact.item(), rel=1e-4)


def test_mixup_oracle() -> None:
    logits = f64([[2, 0, -1]])
    assert printed(losses.cross_entropy(logits, labelled([0], [2], [0.3]))) == 2.26984602


def test_cutmix_oracle() -> None:
    logits = f64([[2, 0, -1]])
    part = labelled([0], [1], [0.78125])
    assert printed(losses.cross_entropy(logits, part)) == 0.60734602
    torch.testing.assert_close(part.targets(3), torch.tensor([[0.78125, 0.21875, 0.0]]))


def test_mixed_cross_entropy_is_that_against_the_mixed_targets() -> None:
    logits = random_logits(5, 4)
    part = labelled([0, 1, 2, 3, 0], [1, 1, 0, 2, 3], [0.0, 0.25, 0.5, 0.75, 1.0])
    expected = -(part.targets(4).double() * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(losses.cross_entropy(logits, part), expected)
    unmixed = labelled([0, 1, 2, 3, 0])
    torch.testing.assert_close(
        losses.cross_entropy(logits, unmixed),
        torch.nn.functional.cross_entropy(logits, unmixed.labels),
    )


def test_jensen_shannon_oracle() -> None:
    versions = f64(
        [
            [[1, 0, -1], [0.5, 0.5, 0]],
            [[0.8, 0.3, -0.6], [0.1, 0.9, 0]],
            [[1.4, -0.2, -1.2], [0.7, 0.2, 0.4]],
        ]
    )
    mean = versions.softmax(-1).mean(0)
    to_mean = [
        (version.softmax(-1) * (version.log_softmax(-1) - mean.log())).sum(-1).mean()
        for version in versions
    ]
    assert [printed(divergence) for divergence in to_mean] == [0.00139896, 0.03907482, 0.03790078]
    assert printed(losses.jensen_shannon(*versions)) == 0.02612485
    assert losses.jensen_shannon(versions[0], versions[0]).item() == pytest.approx(0, abs=1e-15)
    bounds = torch.tensor([[1e4, 0.0], [0.0, 1e4]]).chunk(2)
    assert losses.jensen_shannon(*bounds).item() == pytest.approx(math.log(2))


def test_smoothed_labels_are_those_of_torch_also_where_they_are_mixed() -> None:
    logits = random_logits(5, 4, seed=3)
    mixed = labelled([0, 1, 2, 3, 0], [1, 1, 0, 2, 3], [0.3, 0.5, 1.0, 0.0, 0.9])
    for part in (labelled([0, 1, 2, 3, 0]), mixed):
        smoothed = dataclasses.replace(part, label_smoothing=0.1)
        expected = torch.nn.functional.cross_entropy(
            logits, part.targets(4).double(), label_smoothing=0.1
        )
        torch.testing.assert_close(losses.cross_entropy(logits, smoothed), expected)
        members = torch.stack([logits, logits], dim=1)
        torch.testing.assert_close(losses.cross_entropy(members, smoothed), expected)
