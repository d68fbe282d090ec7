"""Distillation by correlation against NumPy's Pearson correlation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from distill_ray.augmentation.augmentation import Part
from distill_ray.methods import DIST
from distill_ray.methods.dist import correlation
from oracles.formulas import Floats, cross_entropy, exact, softmax, z_score
from oracles.logits import numerical_gradient, terms_of

RANDOM = np.random.default_rng(0)
STUDENT = torch.from_numpy(RANDOM.normal(size=(5, 4)))
TEACHERS = torch.from_numpy(RANDOM.normal(size=(3, 5, 4)))
LABELS = [3, 2, 0, 1, 1]


def mean_distance(p: Floats, q: Floats) -> float:
    """The mean over rows of 1 - their correlation; 1e-8 is added to the published denominator."""
    values = []
    for one, other in zip(p - p.mean(1)[:, None], q - q.mean(1)[:, None], strict=True):
        values.append(1 - one @ other / (np.sqrt(one @ one * (other @ other)) + 1e-8))
    return float(np.mean(values))


def test_the_oracle_is_a_correlation() -> None:
    one, other = RANDOM.normal(size=(2, 6))
    expected = 1 - np.corrcoef(one, other)[0, 1]
    assert mean_distance(one[None], other[None]) == pytest.approx(expected, abs=1e-7)


def test_by_hand() -> None:
    """(1, 2, 3) less its mean is (-1, 0, 1), (1, 4, 1) is (-1, 2, -1): the product is 0.

    (1, 2, 6) is (-2, -1, 3): the product with (-1, 0, 1) is 5, over sqrt(2) sqrt(14) = 5.29150262.
    """
    one = torch.tensor([[1.0, 2, 3], [1, 2, 3]], dtype=torch.float64)
    other = torch.tensor([[1.0, 4, 1], [1, 2, 6]], dtype=torch.float64)
    expected = torch.tensor([0, 5 / 28**0.5], dtype=torch.float64)
    torch.testing.assert_close(correlation(one, other), expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_terms_of_several_teachers(temperature: float, standardise: bool) -> None:
    scale = z_score if standardise else exact
    p = softmax(scale(exact(STUDENT)), temperature)
    q = softmax(scale(exact(TEACHERS)), temperature)
    share = exact((1, 2, 5)) / 8
    mean = (share[:, None, None] * q).sum(0)
    each = [(mean_distance(p, one), mean_distance(p.T, one.T)) for one in q]
    inter, intra = share.astype(float) @ np.array(each)
    expected = {
        "mean-softmax": (mean_distance(p, mean), mean_distance(p.T, mean.T)),
        "mean-loss": (inter, intra),
    }
    for combine, (inter, intra) in expected.items():
        method = DIST(
            temperature=temperature,
            standardise=standardise,
            combine=combine,
            teacher_weights=(1.0, 2.0, 5.0),
            intra=3.0,
        )
        terms = terms_of(method, Part(STUDENT, torch.tensor(LABELS)), teachers=TEACHERS)
        square = temperature**2
        assert terms["loss/inter"].item() == pytest.approx(square * inter, rel=1e-9)
        assert terms["loss/intra"].item() == pytest.approx(square * intra, rel=1e-9)
        labels = float(cross_entropy(exact(STUDENT), LABELS).mean())
        total = labels + square * (2 * inter + 3 * intra)
        assert terms["loss"].item() == pytest.approx(total, rel=1e-9)


def test_only_the_shape_of_a_prediction_counts() -> None:
    p = STUDENT.softmax(-1)
    torch.testing.assert_close(
        correlation(p, 0.25 * p + 0.1), torch.ones(5).double(), atol=1e-5, rtol=0
    )


def test_gradient() -> None:
    part = Part(STUDENT, torch.tensor(LABELS))

    def loss(images: torch.Tensor) -> torch.Tensor:
        return terms_of(DIST(inter=3.0), replace(part, images=images), teachers=TEACHERS)["loss"]

    student = STUDENT.clone().requires_grad_()
    loss(student).backward()
    expected = numerical_gradient(loss, STUDENT)
    torch.testing.assert_close(student.grad, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("rows", [1, 3])
def test_what_does_not_vary_has_no_correlation_and_no_gradient(rows: int) -> None:
    """One image, or images that all have the same prediction."""
    student = torch.ones(rows, 4, requires_grad=True)
    part = Part(student, torch.zeros(rows, dtype=torch.long))
    loss = terms_of(DIST(), part, teachers=torch.ones(2, rows, 4))["loss"]
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_settings_that_are_refused() -> None:
    with pytest.raises(ValueError, match="labels, inter and intra must not all be 0"):
        DIST(labels=0.0, inter=0.0, intra=0.0)
    with pytest.raises(ValueError, match="combine must be one of 'mean-softmax', 'mean-loss', "):
        DIST(combine="confident")
    with pytest.raises(ValueError, match="method 'dist' is for classification; for regression"):
        DIST().check_data(task="regression", real_valued=True)
