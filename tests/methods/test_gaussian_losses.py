"""Losses of regression against the oracles of the multi-head system."""

import pytest
import torch

from distill_ray.methods.gaussian_losses import (
    aggregated_gaussians,
    gaussian_likelihood,
    mixture,
    paired_gaussians,
)
from support.tensors import f64

TEACHERS = f64(
    [[[0.5, -0.2], [0.7, 0.1], [0.4, 0]], [[-1, 0.3], [-0.8, -0.5], [-1.3, 0.2]]]
).transpose(0, 1)
HEADS = f64([[[0.6, 0], [0.2, -0.3]], [[-0.9, 0.1], [-1.1, 0.4]]])
TARGETS = f64([0.55, -1.2])


def test_components() -> None:
    assert gaussian_likelihood(HEADS, TARGETS).item() == pytest.approx(0.0569995340, abs=5.1e-11)
    assert aggregated_gaussians(HEADS, TEACHERS).item() == pytest.approx(0.5366598967, abs=5.1e-11)
    assert paired_gaussians(HEADS, TEACHERS).item() == pytest.approx(0.5787762242, abs=5.1e-11)
    population = 0.5312052001  # the oracle's value for variances divided by M instead of M - 1
    assert aggregated_gaussians(HEADS, TEACHERS).item() != pytest.approx(population, abs=1e-3)
    pairs = [
        paired_gaussians(HEADS[:, [head]], TEACHERS[[teacher]]).item()
        for teacher, head in ((0, 0), (1, 1), (2, 0))
    ]
    assert pairs == pytest.approx([0.5397954759, 0.5990469671, 0.5974862296], abs=1e-8)


def test_total() -> None:
    total = (
        0.45 * aggregated_gaussians(HEADS, TEACHERS)
        + 0.45 * paired_gaussians(HEADS, TEACHERS)
        + 0.1 * gaussian_likelihood(HEADS, TARGETS)
    )
    assert total.item() == pytest.approx(0.5076462078, abs=5.1e-11)


def test_moments_of_the_mixtures() -> None:
    mean, variance = mixture(TEACHERS, 0)
    torch.testing.assert_close(mean, f64([0.5333333333, -1.0333333333]), rtol=0, atol=5.1e-11)
    torch.testing.assert_close(variance, f64([0.9979672337, 1.1225974185]), rtol=0, atol=1e-8)
    mean, variance = mixture(HEADS, 1)
    torch.testing.assert_close(mean, f64([0.4, -1.0]))
    torch.testing.assert_close(variance, f64([0.9504091203, 1.3184978179]), rtol=0, atol=1e-8)


def test_it_is_the_divergence_up_to_terms_of_the_teacher() -> None:
    """The true divergence of the oracle, from the pairs."""
    constant = torch.stack([0.5 * (TEACHERS[pair, :, 1] + 1).mean() for pair in range(3)]).mean()
    assert (paired_gaussians(HEADS, TEACHERS) - constant).item() == pytest.approx(
        0.0871095545, abs=1e-7
    )
    same = TEACHERS.transpose(0, 1)
    own = torch.stack([0.5 * (TEACHERS[pair, :, 1] + 1).mean() for pair in range(3)]).mean()
    assert (paired_gaussians(same, TEACHERS) - own).item() == pytest.approx(0, abs=1e-7)


def test_a_single_head_has_no_variance_between_heads() -> None:
    _, variance = mixture(HEADS[:, :1], 1)
    torch.testing.assert_close(variance, HEADS[:, 0, 1].exp(), rtol=0, atol=2e-8)
    heads = HEADS[:, :1].clone().requires_grad_()
    aggregated_gaussians(heads, TEACHERS).backward()
    assert heads.grad.isfinite().all()


def test_tiny_variances_stay_finite() -> None:
    heads = f64([[[0.0, -60.0]], [[0.0, -60.0]]]).requires_grad_()
    gaussian_likelihood(heads, TARGETS).backward()
    assert heads.grad.isfinite().all()


def test_gradients_are_those_of_finite_differences_and_stop_at_the_teachers() -> None:
    heads, teachers = HEADS.clone().requires_grad_(), TEACHERS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda outputs: paired_gaussians(outputs, TEACHERS), (heads,))
    assert torch.autograd.gradcheck(
        lambda outputs: aggregated_gaussians(outputs, TEACHERS), (heads,)
    )
    (paired_gaussians(heads, teachers) + aggregated_gaussians(heads, teachers)).backward()
    assert teachers.grad is None
