"""Decoupled distillation against the formulas of the paper, spelled out in NumPy."""

import numpy as np
import pytest
import torch

from distill_ray.augmentation.augmentation import Part
from distill_ray.methods import DKD
from distill_ray.methods.dkd import decoupled
from oracles.formulas import Floats, cross_entropy, exact, kl, softmax, z_score
from oracles.logits import (
    LABELS,
    MIXED,
    PART,
    PARTNERS,
    STUDENT,
    TEACHERS,
    WEIGHTS,
    check_gradient,
    terms_of,
)


def by_class(p: Floats, q: Floats, labels: list[int]) -> tuple[Floats, Floats]:
    """Binary divergence and that among the other classes, of rows p and q (B, K)."""
    target, nontarget = [], []
    for p_row, q_row, label in zip(p, q, labels, strict=True):
        pair_p = np.array([p_row[label], 1 - p_row[label]])
        pair_q = np.array([q_row[label], 1 - q_row[label]])
        target.append(kl(pair_q, pair_p))
        others_p, others_q = np.delete(p_row, label), np.delete(q_row, label)
        nontarget.append(kl(others_q / others_q.sum(), others_p / others_p.sum()))
    return np.array(target), np.array(nontarget)


def test_by_hand() -> None:
    """P = (1/2, 1/4, 1/4) and q = (1/4, 1/2, 1/4), label 0.

    KL of (1/4, 3/4) from (1/2, 1/2): ln(1/2)/4 + 3 ln(3/2)/4 = 0.13081204. Among the others
    (2/3, 1/3) from (1/2, 1/2): 2 ln(4/3)/3 + ln(2/3)/3 = 0.05663301.
    """
    p = torch.tensor([[1 / 2, 1 / 4, 1 / 4]]).double().log()
    q = torch.tensor([[[1 / 4, 1 / 2, 1 / 4]]]).double().log()
    target, nontarget = decoupled(p, q, torch.tensor([0]))
    assert target.item() == pytest.approx(0.13081204, abs=5e-9)
    assert nontarget.item() == pytest.approx(0.05663301, abs=5e-9)


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_terms_of_several_teachers(temperature: float, standardise: bool) -> None:
    scale = z_score if standardise else exact
    p = softmax(scale(exact(STUDENT)), temperature)
    q = softmax(scale(exact(TEACHERS)), temperature)
    weights = (1.0, 2.0, 5.0)
    each = np.array([by_class(p, one, LABELS) for one in q])
    powers = np.exp([cross_entropy(one, LABELS) for one in exact(TEACHERS)])
    expected = {
        "mean-softmax": by_class(p, (exact(weights)[:, None, None] / 8 * q).sum(0), LABELS),
        "mean-loss": (exact(weights)[:, None, None] / 8 * each).sum(0),
        "confident": ((1 - powers / powers.sum(0))[:, None] / 2 * each).sum(0),
    }
    for combine, (target, nontarget) in expected.items():
        method = DKD(
            temperature=temperature,
            standardise=standardise,
            combine=combine,
            teacher_weights=() if combine == "confident" else weights,
            labels=0.3,
            target=0.7,
            nontarget=2.0,
        )
        terms = terms_of(method)
        square = temperature**2
        labels = cross_entropy(exact(STUDENT), LABELS).mean()
        assert terms["loss/labels"].item() == pytest.approx(float(labels), rel=1e-12)
        assert terms["loss/target"].item() == pytest.approx(float(square * target.mean()), rel=1e-9)
        assert terms["loss/nontarget"].item() == pytest.approx(
            float(square * nontarget.mean()), rel=1e-9
        )
        total = 0.3 * labels + square * (0.7 * target.mean() + 2 * nontarget.mean())
        assert terms["loss"].item() == pytest.approx(float(total), rel=1e-9)


def test_both_together_are_the_divergence_of_kd() -> None:
    """Equation 5 of the paper: KL = target + (1 - probability of the label) * nontarget."""
    p, q = STUDENT.log_softmax(-1), TEACHERS.log_softmax(-1)
    target, nontarget = decoupled(p, q, PART.labels)
    rest = 1 - q.exp()[:, [0, 1], LABELS]
    expected = (q.exp() * (q - p)).sum(-1)
    torch.testing.assert_close(target + rest * nontarget, expected)


def test_a_mixed_image_counts_for_both_labels_by_their_share() -> None:
    p, q = softmax(exact(STUDENT), 4), softmax(exact(TEACHERS), 4).mean(0)
    share = exact(WEIGHTS)
    (target, nontarget), (partner_target, partner_nontarget) = (
        by_class(p, q, labels) for labels in (LABELS, PARTNERS)
    )
    terms = terms_of(DKD(), MIXED)
    expected = 16 * (share * target + (1 - share) * partner_target).mean()
    assert terms["loss/target"].item() == pytest.approx(float(expected), rel=1e-7)
    expected = 16 * (share * nontarget + (1 - share) * partner_nontarget).mean()
    assert terms["loss/nontarget"].item() == pytest.approx(float(expected), rel=1e-7)


def test_distillation_sets_in_slowly() -> None:
    """In epoch 3 of a ramp of 4, and from its end on."""
    terms = terms_of(DKD(ramp=4), epoch=3)
    distilled = terms["loss/target"] + 8 * terms["loss/nontarget"]
    torch.testing.assert_close(terms["loss"], terms["loss/labels"] + 0.75 * distilled)
    for method in (DKD(ramp=4), DKD()):
        torch.testing.assert_close(
            terms_of(method, epoch=9)["loss"], terms["loss/labels"] + distilled
        )


def test_a_teacher_that_is_sure_leaves_finite_gradients() -> None:
    student = torch.tensor([[80.0, 0, -80]], requires_grad=True)
    part = Part(student, torch.tensor([0]))
    teachers = torch.tensor([[[200.0, 0, -200]], [[-200.0, 200, 0]]])
    loss = terms_of(DKD(temperature=1.0), part, teachers=teachers)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_gradient() -> None:
    check_gradient(DKD(combine="confident"), MIXED)


def test_settings_that_are_refused() -> None:
    with pytest.raises(ValueError, match="labels, target and nontarget must not all be 0"):
        DKD(labels=0.0, target=0.0, nontarget=0.0)
    with pytest.raises(ValueError, match="combine must be one of 'mean-softmax', 'mean-loss', "):
        DKD(combine="add-loss")
    with pytest.raises(ValueError, match="method 'dkd' is for classification; for regression"):
        DKD().check_data(task="regression", real_valued=True)
