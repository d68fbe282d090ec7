"""Z-scores of logits, weights by confidence and the divergences of `kd` against the papers'
formulas.
"""

import numpy as np
import pytest
import torch
from torch import nn

from distill_ray.augmentation import Identity
from distill_ray.augmentation.augmentation import Batch, Part
from distill_ray.methods import (
    CRD,
    METHODS,
    AugmentedKD,
    DropoutKD,
    EnsembleKD,
    Hydra,
    HydraPlus,
    LatentBE,
    losses,
    member_losses,
    targets,
)
from distill_ray.methods.method import Student
from distill_ray.methods.softened import FromEnsemble, Softened
from oracles.formulas import cross_entropy, exact, kl, softmax, z_score
from oracles.logits import (
    IDENTITY_STUDENT,
    LABELS,
    PART,
    STUDENT,
    TEACHERS,
    Answers,
    check_gradient,
    terms_of,
)


def distilled(method: EnsembleKD) -> float:
    return terms_of(method)["loss/teachers"].item()


def test_z_scores() -> None:
    """By hand: (3, 0, 0) has the mean 1 and the variance (4 + 1 + 1) / 3 = 2."""
    root = 2**0.5
    by_hand = torch.tensor([[root, -root / 2, -root / 2]], dtype=torch.float64)
    given = torch.tensor([[3.0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(losses.z_scores(given), by_hand, rtol=1e-12, atol=0)
    expected = z_score(exact(TEACHERS)).astype(float)
    np.testing.assert_allclose(losses.z_scores(TEACHERS).numpy(), expected, rtol=1e-12)
    torch.testing.assert_close(losses.z_scores(5 * STUDENT + 3), losses.z_scores(STUDENT))


def test_equal_logits_have_a_score_and_a_gradient() -> None:
    logits = torch.full((2, 4), 3.0, requires_grad=True)
    losses.z_scores(logits).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_the_deviation_of_the_published_code_is_another_temperature() -> None:
    """Four classes, deviation over K - 1: T times sqrt(3 / 4) gives the softmax of the paper's."""
    as_coded = (TEACHERS - TEACHERS.mean(-1, keepdim=True)) / TEACHERS.std(-1, keepdim=True)
    torch.testing.assert_close(
        (as_coded / (2 * 0.75**0.5)).softmax(-1), (losses.z_scores(TEACHERS) / 2).softmax(-1)
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_of_standardised_logits(temperature: float) -> None:
    p = softmax(z_score(exact(STUDENT)), temperature)
    q = softmax(z_score(exact(TEACHERS)), temperature).mean(0)
    expected = temperature**2 * kl(q, p).mean()
    found = distilled(EnsembleKD(temperature=temperature, standardise=True))
    assert found == pytest.approx(float(expected), rel=1e-9)
    assert found != pytest.approx(distilled(EnsembleKD(temperature=temperature)), rel=0.1)


def test_labels_are_compared_with_the_logits_themselves() -> None:
    batch = Batch((PART,), torch.arange(2))
    plain, standardised = (
        EnsembleKD(standardise=standardise).loss(IDENTITY_STUDENT, batch, Answers())
        for standardise in (False, True)
    )
    assert plain["loss/labels"] == standardised["loss/labels"]


def test_confidence() -> None:
    """By hand: the label has probability 1/2 and 1/4, so exp(CE) is 2 and 4, and the weights are
    1 - 2/6 and 1 - 4/6.
    """
    logits = torch.tensor([[[1 / 2, 1 / 4, 1 / 4]], [[1 / 4, 1 / 2, 1 / 4]]]).double().log()
    part = Part(torch.zeros(1, 1), torch.tensor([0]))
    by_hand = torch.tensor([[2 / 3], [1 / 3]], dtype=torch.float64)
    torch.testing.assert_close(targets.confidence(logits, part), by_hand)

    powers = np.exp([cross_entropy(one, LABELS) for one in exact(TEACHERS)])
    expected = (1 - powers / powers.sum(0)) / 2
    np.testing.assert_allclose(targets.confidence(TEACHERS, PART), expected.astype(float))
    np.testing.assert_allclose(expected.sum(0).astype(float), 1)


def test_confidence_in_mixed_images_is_that_in_their_mixed_label() -> None:
    mixed = Part(STUDENT, PART.labels, torch.tensor([0, 1]), torch.tensor([0.25, 0.5]))
    own = np.array([cross_entropy(one, LABELS) for one in exact(TEACHERS)])
    partner = np.array([cross_entropy(one, [0, 1]) for one in exact(TEACHERS)])
    share = np.array([0.25, 0.5])
    powers = np.exp(share * own + (1 - share) * partner)
    expected = (1 - powers / powers.sum(0)) / 2
    np.testing.assert_allclose(targets.confidence(TEACHERS, mixed), expected.astype(float))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_confident_kd(temperature: float) -> None:
    powers = np.exp([cross_entropy(one, LABELS) for one in exact(TEACHERS)])
    share = (1 - powers / powers.sum(0)) / 2
    p, q = softmax(exact(STUDENT), temperature), softmax(exact(TEACHERS), temperature)
    expected = temperature**2 * (share * kl(q, p)).sum(0).mean()
    found = distilled(EnsembleKD(temperature=temperature, combine="confident"))
    assert found == pytest.approx(float(expected), rel=1e-12)
    copies = AugmentedKD(temperature=temperature, combine="confident")
    both = Batch((PART, PART), torch.arange(2))
    terms = copies.loss(IDENTITY_STUDENT, both, Answers())
    assert terms["loss/original"].item() == pytest.approx(float(expected), rel=1e-12)
    assert terms["loss/augmented"].item() == pytest.approx(float(expected), rel=1e-12)


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2


def test_divergences_by_hand() -> None:
    """P = (1/2, 1/2), q = (1/4, 3/4): KL(p || q) = ln(2)/2 + ln(2/3)/2 = ln(4/3)/2 = 0.14384104.

    m = (3/8, 5/8): KL(p || m) = ln(16/15)/2 = 0.03226926 and KL(q || m) = ln(2/3)/4 + 3 ln(6/5)/4 =
    0.03537490, whose mean is 0.03382208.
    """
    p, q = torch.tensor([0.5, 0.5]).double().log(), torch.tensor([0.25, 0.75]).double().log()
    assert losses.divergence(p, q).item() == pytest.approx(0.14384104, abs=5e-9)
    assert losses.symmetric_divergence(p, q).item() == pytest.approx(0.03382208, abs=5e-9)


@pytest.mark.parametrize(
    ("divergence", "of"),
    [("reverse", lambda q, p: kl(p, q)), ("jensen-shannon", lambda q, p: jensen_shannon(p, q))],
)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_other_divergences_of_kd(divergence: str, of: object, temperature: float) -> None:
    p, q = softmax(exact(STUDENT), temperature), softmax(exact(TEACHERS), temperature)
    weights = (1.0, 2.0, 5.0)
    share = exact(weights)[:, None] / 8
    expected = {
        "mean-softmax": of((share[:, :, None] * q).sum(0), p).mean(),
        "mean-loss": (share * of(q, p)).sum(0).mean(),
        "add-loss": 3 * (share * of(q, p)).sum(0).mean(),
    }
    for combine, value in expected.items():
        method = EnsembleKD(
            temperature=temperature, combine=combine, teacher_weights=weights, divergence=divergence
        )
        assert distilled(method) == pytest.approx(float(temperature**2 * value), rel=1e-12)


def test_gradients() -> None:
    check_gradient(EnsembleKD(divergence="reverse", combine="confident"))
    check_gradient(EnsembleKD(divergence="jensen-shannon", standardise=True))


def test_no_gradient_reaches_the_teachers() -> None:
    teachers = TEACHERS.clone().requires_grad_()
    for settings in ({"combine": "confident"}, {"divergence": "reverse"}, {"standardise": True}):
        student = STUDENT.clone().requires_grad_()
        method = EnsembleKD(**settings)
        method.loss(
            Student(nn.Identity(), nn.Identity()),
            Batch((Part(student, PART.labels),), torch.arange(2)),
            lambda part: teachers,
        )["loss"].backward()
        assert teachers.grad is None
        assert student.grad is not None
        assert student.grad.abs().sum() > 0


def test_members_and_heads_can_be_standardised_too() -> None:
    heads = torch.stack([STUDENT, 2 * STUDENT.flip(0)], 1)
    batch = Batch((Part(heads, PART.labels),), torch.arange(2))
    scores = losses.z_scores(heads), losses.z_scores(TEACHERS)
    paired = member_losses.paired_kd(*scores, 4.0)
    hydra = Hydra(standardise=True).loss(IDENTITY_STUDENT, batch, Answers())
    torch.testing.assert_close(hydra["loss"], paired)
    ensemble = LatentBE(standardise=True).loss(IDENTITY_STUDENT, batch, Answers())
    torch.testing.assert_close(ensemble["loss/teachers"], paired)
    expected = z_score(exact(heads[:, 0])), z_score(exact(TEACHERS[2]))
    only = 16 * kl(softmax(expected[1], 4), softmax(expected[0], 4)).mean()
    one = member_losses.paired_kd(scores[0][:, :1], scores[1][2:], 4.0)
    assert one.item() == pytest.approx(float(only), rel=1e-9)


def test_which_methods_have_which_settings() -> None:
    softened = {name for name, method in METHODS.items() if issubclass(method, Softened)}
    assert softened == {
        name
        for name, method in METHODS.items()
        if method.needs_teachers and not name.endswith("endd")
    }
    assert issubclass(CRD, FromEnsemble)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"combine": "confident", "teacher_weights": (1.0, 2.0)},
            "combine 'confident' weights the teachers itself; leave teacher_weights out",
        ),
        (
            {"combine": "sum-softmax", "divergence": "reverse"},
            "only divergence 'forward' is defined for it, found 'reverse'",
        ),
        ({"divergence": "backward"}, "divergence must be one of 'forward', 'reverse', "),
    ],
)
def test_settings_that_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnsembleKD(**settings)


def test_studies_that_are_refused() -> None:
    confident = EnsembleKD(combine="confident")
    confident.check_fit(model="wrn-10-1", augmentation=Identity(), teachers=2)
    with pytest.raises(ValueError, match="'confident' needs at least 2 teachers, found 1"):
        confident.check_fit(model="wrn-10-1", augmentation=Identity(), teachers=1)
    for method in (HydraPlus, DropoutKD):
        method().check_data(task="regression", real_valued=True)
        with pytest.raises(ValueError, match="standardise compares logits of classes"):
            method(standardise=True).check_data(task="regression", real_valued=True)
