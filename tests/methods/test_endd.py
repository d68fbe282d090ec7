"""Ensemble distribution distillation against the oracle of the multi-head system."""

import pytest
import torch
from torch import nn

from distill_ray.augmentation.augmentation import Batch, Part
from distill_ray.augmentation.draws import Draws
from distill_ray.methods.endd import EnDD, dirichlet_likelihood
from distill_ray.methods.method import Student
from support.teachers import FixedTeachers
from support.tensors import f64

TEACHERS = f64(
    [[[2, 0, -1], [1, 0.5, 0], [3, -1, 0.5]], [[0, 1, 2], [-0.5, 0, 1.5], [1, -1, 0.5]]]
).transpose(0, 1)
STUDENT = f64([[1, 0, -0.5], [0.2, 0.3, 1]])


def batch(epoch: int) -> Batch:
    part = Part(images=STUDENT, labels=torch.tensor([0, 2]))
    return Batch(parts=(part, part), positions=torch.arange(2), draws=Draws(seed=0, epoch=epoch))


IDENTITY_STUDENT = Student(nn.Identity(), nn.Identity())


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, -1.5584562394), (3.0, -8.1067224809)])
def test_oracle(temperature: float, expected: float) -> None:
    """The published formula adds 1e-8 in logarithms and gamma functions."""
    assert dirichlet_likelihood(STUDENT, TEACHERS, temperature).item() == pytest.approx(
        expected, abs=3e-7
    )
    terms = EnDD(temperature=temperature).loss(
        IDENTITY_STUDENT, batch(epoch=1), FixedTeachers(TEACHERS)
    )
    assert terms["loss"].item() == pytest.approx(expected, abs=3e-7)


def test_gradient_oracle() -> None:
    student = STUDENT.clone().requires_grad_()
    dirichlet_likelihood(student, TEACHERS, 1.0).backward()
    expected = [
        [-0.3046311905, 0.2801947045, -0.1150823546],
        [-0.0453015802, 0.1624249992, -0.2360448495],
    ]
    torch.testing.assert_close(student.grad, f64(expected), rtol=0, atol=3e-7)


def test_it_is_the_likelihood_of_the_members() -> None:
    distribution = torch.distributions.Dirichlet(STUDENT.exp())
    expected = -torch.stack(
        [distribution.log_prob(teacher.softmax(-1)) for teacher in TEACHERS]
    ).mean()
    torch.testing.assert_close(dirichlet_likelihood(STUDENT, TEACHERS, 1.0), expected)


def test_precision_of_the_oracle() -> None:
    torch.testing.assert_close(
        STUDENT.exp().sum(-1), f64([4.3248124882, 5.2895433942]), rtol=0, atol=5.1e-11
    )
    wide = f64([6, 2, 1, 0, 0, -1, -1, -2, 0, 1])
    assert [round((wide / temperature).exp().sum().item(), 1) for temperature in (8, 1)] == [
        11.2,
        420.1,
    ]


def test_smoothing() -> None:
    distribution = torch.distributions.Dirichlet(STUDENT.exp())
    smoothed = [0.9 * teacher.softmax(-1) + 0.1 / 3 for teacher in TEACHERS]
    expected = -torch.stack(
        [distribution.log_prob(probabilities) for probabilities in smoothed]
    ).mean()
    torch.testing.assert_close(
        dirichlet_likelihood(STUDENT, TEACHERS, 1.0, smoothing=0.1), expected
    )


def test_annealing() -> None:
    method = EnDD(temperature=9.0, anneal_from=10, anneal_until=30)
    assert [method.temperature_at(epoch) for epoch in (0, 10, 15, 20, 30, 99)] == [
        9.0,
        9.0,
        7.0,
        5.0,
        1.0,
        1.0,
    ]
    assert EnDD(temperature=9.0).temperature_at(99) == 9.0
    loss = method.loss(IDENTITY_STUDENT, batch(epoch=31), FixedTeachers(TEACHERS))["loss"]
    torch.testing.assert_close(loss, dirichlet_likelihood(STUDENT, TEACHERS, 1.0))


def test_no_gradient_reaches_the_teachers_and_precision_holds() -> None:
    teachers, student = TEACHERS.clone().requires_grad_(), STUDENT.bfloat16().requires_grad_()
    loss = dirichlet_likelihood(student, teachers, 3.0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert teachers.grad is None
    assert student.grad is not None


def test_settings_that_are_refused() -> None:
    with pytest.raises(ValueError, match="anneal_until must be above anneal_from, 5, found 5"):
        EnDD(anneal_from=5, anneal_until=5)
    with pytest.raises(ValueError, match="smoothing must be at least 0, at most 1, found 2"):
        EnDD(smoothing=2.0)
