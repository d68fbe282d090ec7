"""Distillation into a proxy Dirichlet distribution against the formulas, in SciPy."""

import numpy as np
import pytest
import torch
from scipy.special import digamma, gammaln
from scipy.stats import dirichlet
from torch import nn

from distill_ray.augmentation import Identity
from distill_ray.augmentation.augmentation import Part
from distill_ray.methods import EnDD, ProxyEnDD
from distill_ray.methods.proxy_dirichlet import Concentrations, proxy
from oracles.formulas import Floats, exact, softmax
from oracles.logits import STUDENT, TEACHERS, numerical_gradient, terms_of


def proxy_of(teachers: Floats) -> tuple[Floats, Floats]:
    """Mean and precision of a proxy, of teachers (N, B, K)."""
    q = softmax(teachers)
    mean = q.mean(0)
    disagreement = (mean * (np.log(mean) - np.log(q).mean(0))).sum(-1)
    return mean, (q.shape[-1] - 1) / (2 * disagreement + 1e-7)


def kl(a: np.ndarray, b: np.ndarray) -> float:
    """KL(Dir(a) || Dir(b))."""
    logs = digamma(a) - digamma(a.sum())
    normalisers = gammaln(a.sum()) - gammaln(a).sum() - gammaln(b.sum()) + gammaln(b).sum()
    return float(normalisers + ((a - b) * logs).sum())


def test_the_oracle_is_the_divergence() -> None:
    """By a million samples, to two standard errors."""
    a, b = np.array([2.0, 3.0, 1.5]), np.array([1.0, 4.0, 2.0])
    drawn = np.random.default_rng(0).dirichlet(a, 100_000).T
    ratios = dirichlet.logpdf(drawn, a) - dirichlet.logpdf(drawn, b)
    assert kl(a, b) == pytest.approx(ratios.mean(), abs=2 * ratios.std() / 100_000**0.5)


def test_proxy_by_hand() -> None:
    """Members (1/2, 1/2) and (1/4, 3/4): the mean is (3/8, 5/8).

    Disagreement: 3/8 [ln(3/8) - ln(1/8)/2] + 5/8 [ln(5/8) - ln(3/8)/2]
    = 3/8 (-0.98082925 + 1.03972077) + 5/8 (-0.47000363 + 0.49041463) = 0.03484119.
    The precision is (2 - 1) / (2 * 0.03484119) = 14.3508, to 1e-7 in the denominator.
    """
    teachers = torch.tensor([[[0.5, 0.5]], [[0.25, 0.75]]]).double().log()
    found = proxy(teachers)
    torch.testing.assert_close(found.mean, torch.tensor([[0.375, 0.625]]).double())
    assert found.precision.item() == pytest.approx(14.3508, abs=2e-3)
    torch.testing.assert_close(found.concentrations, 1 + found.mean * found.precision)


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_the_loss_is_the_divergence(direction: str) -> None:
    mean, precision = proxy_of(exact(TEACHERS))
    values = []
    for z, q, beta in zip(exact(STUDENT), mean, precision, strict=True):
        a, b = np.exp(z).astype(float) + 1, (q * beta + 1).astype(float)
        if direction == "forward":
            values.append(kl(b, a))
        else:  # the published divisor; the constants of `dirichlet.entropy` are those of H
            logs = digamma(a) - digamma(a.sum())
            entropy = dirichlet.entropy(a)
            values.append(float(-(q.astype(float) @ logs) - entropy / float(beta + len(q))))
    terms = terms_of(ProxyEnDD(direction=direction))
    assert terms["loss"].item() == pytest.approx(np.mean(values), rel=1e-9)


def test_reverse_is_the_divergence_over_its_precision_and_a_constant() -> None:
    """Of two students, with the precision in the place of the published precision + K."""
    mean, precision = proxy_of(exact(TEACHERS))
    q, beta = mean[0].astype(float), float(precision[0])
    values = []
    for a in (np.array([3.0, 1.5, 2.0, 4.0]), np.array([1.2, 2.5, 6.0, 2.0])):
        logs = digamma(a) - digamma(a.sum())
        loss = -(q @ logs) - dirichlet.entropy(a) / beta
        values.append(loss - kl(a, q * beta + 1) / beta)
    assert values[0] == pytest.approx(values[1], rel=1e-9)


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_gradient(direction: str) -> None:
    def loss(images: torch.Tensor) -> torch.Tensor:
        part = Part(images, torch.tensor([0, 1]))
        return terms_of(ProxyEnDD(direction=direction), part)["loss"]

    student = STUDENT.clone().requires_grad_()
    loss(student).backward()
    expected = numerical_gradient(loss, STUDENT)
    torch.testing.assert_close(student.grad, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("classes", [10, 100, 1000])
def test_unlikely_classes_do_not_dominate_the_gradient(classes: int) -> None:
    """Of a student with equal logits: the share of the gradient on classes other than the likely
    one, where teachers agree but for noise. Of `endd` it is nearly all.
    """
    generator = torch.Generator().manual_seed(0)
    teachers = torch.randn(4, 8, classes, generator=generator, dtype=torch.float64)
    teachers[:, :, 0] += 12
    shares = []
    for method in (EnDD(temperature=1.0), ProxyEnDD()):
        student = torch.zeros(8, classes, dtype=torch.float64, requires_grad=True)
        part = Part(student, torch.zeros(8, dtype=torch.long))
        terms_of(method, part, teachers=teachers)["loss"].backward()
        gradient = student.grad.abs().sum(0)
        shares.append((gradient[1:].sum() / gradient.sum()).item())
    assert shares[0] > 0.95
    assert shares[1] < 0.6


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_large_logits_and_teachers_that_agree_are_finite(direction: str) -> None:
    student = torch.tensor([[300.0, -300, 0], [5e4, 0, 0]], requires_grad=True)
    part = Part(student, torch.tensor([0, 1]))
    same = torch.tensor([[2.0, 1, 0], [90, 0, -90]]).expand(3, 2, 3)
    loss = terms_of(ProxyEnDD(direction=direction), part, teachers=same)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_what_is_deployed_predicts_the_mean_of_the_distribution() -> None:
    class Logits(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images

    deployed = ProxyEnDD().deploy(Logits())
    assert isinstance(deployed, Concentrations)
    a = np.exp(exact(STUDENT)) + 1
    expected = torch.from_numpy((a / a.sum(-1, keepdims=True)).astype(float))
    torch.testing.assert_close(deployed(STUDENT).softmax(-1), expected)


def test_what_is_refused() -> None:
    ProxyEnDD().check_fit(model="wrn-10-1", augmentation=Identity(), teachers=2)
    with pytest.raises(ValueError, match="'proxy-endd' learns how teachers differ and needs at"):
        ProxyEnDD().check_fit(model="wrn-10-1", augmentation=Identity(), teachers=1)
    with pytest.raises(ValueError, match="method 'proxy-endd' is for classification"):
        ProxyEnDD().check_data(task="regression", real_valued=True)
