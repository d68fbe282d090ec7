"""Normalised distillation against the formulas of the paper, spelled out in NumPy."""

import numpy as np
import pytest
import torch

from distill_ray.augmentation.augmentation import Part
from distill_ray.methods import NKD
from oracles.formulas import Floats, cross_entropy, exact, softmax, z_score
from oracles.logits import (
    LABELS,
    MIXED,
    PARTNERS,
    STUDENT,
    TEACHERS,
    WEIGHTS,
    check_gradient,
    terms_of,
)


def target_term(q: Floats, labels: list[int]) -> Floats:
    """Minus the teacher's probability of the label times the log of the student's, at T = 1."""
    rows = range(len(labels))
    return -q[rows, labels] * np.log(softmax(exact(STUDENT))[rows, labels])


def nontarget_term(p: Floats, q: Floats, labels: list[int]) -> Floats:
    """Cross-entropy among the classes other than the label, each normalised."""
    values = []
    for p_row, q_row, label in zip(p, q, labels, strict=True):
        others_p, others_q = np.delete(p_row, label), np.delete(q_row, label)
        values.append(-(others_q / others_q.sum() * np.log(others_p / others_p.sum())).sum())
    return np.array(values)


def test_by_hand() -> None:
    """P = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4), label 0, T = 1.

    CE = ln 2 = 0.69314718; the target's term is ln(2)/4 = 0.17328680; among the others (2/3, 1/3)
    against (1/2, 1/2) costs ln 2. With weights 1, 1, 1.5: ln 2 (1 + 1/4 + 3/2) = 1.90615475.
    """
    student = torch.tensor([[1 / 2, 1 / 4, 1 / 4]]).double().log()
    teacher = torch.tensor([[[1 / 4, 1 / 2, 1 / 4]]]).double().log()
    terms = terms_of(NKD(), Part(student, torch.tensor([0])), teachers=teacher)
    assert terms["loss/labels"].item() == pytest.approx(0.69314718, abs=5e-9)
    assert terms["loss/target"].item() == pytest.approx(0.17328680, abs=5e-9)
    assert terms["loss/nontarget"].item() == pytest.approx(0.69314718, abs=5e-9)
    assert terms["loss"].item() == pytest.approx(1.90615475, abs=5e-9)


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_terms_of_several_teachers(temperature: float, standardise: bool) -> None:
    scale = z_score if standardise else exact
    p = softmax(scale(exact(STUDENT)), temperature)
    q, q1 = softmax(scale(exact(TEACHERS)), temperature), softmax(exact(TEACHERS))
    share = exact((1, 2, 5))[:, None] / 8
    powers = np.exp([cross_entropy(one, LABELS) for one in exact(TEACHERS)])
    confidence = (1 - powers / powers.sum(0)) / 2
    targets = np.array([target_term(one, LABELS) for one in q1])
    others = np.array([nontarget_term(p, one, LABELS) for one in q])
    expected = {
        "mean-softmax": (
            target_term((share[:, :, None] * q1).sum(0), LABELS),
            nontarget_term(p, (share[:, :, None] * q).sum(0), LABELS),
        ),
        "mean-loss": ((share * targets).sum(0), (share * others).sum(0)),
        "confident": ((confidence * targets).sum(0), (confidence * others).sum(0)),
    }
    for combine, (target, nontarget) in expected.items():
        weights = () if combine == "confident" else (1.0, 2.0, 5.0)
        method = NKD(
            temperature=temperature,
            standardise=standardise,
            combine=combine,
            teacher_weights=weights,
        )
        terms = terms_of(method)
        assert terms["loss/target"].item() == pytest.approx(float(target.mean()), rel=1e-9)
        nontarget = temperature**2 * nontarget
        assert terms["loss/nontarget"].item() == pytest.approx(float(nontarget.mean()), rel=1e-9)


def test_a_mixed_image_counts_for_both_labels_by_their_share() -> None:
    p, q = softmax(exact(STUDENT)), softmax(exact(TEACHERS)).mean(0)
    share = exact(WEIGHTS)
    terms = terms_of(NKD(), MIXED)
    expected = share * target_term(q, LABELS) + (1 - share) * target_term(q, PARTNERS)
    assert terms["loss/target"].item() == pytest.approx(float(expected.mean()), rel=1e-7)
    expected = share * nontarget_term(p, q, LABELS) + (1 - share) * nontarget_term(p, q, PARTNERS)
    assert terms["loss/nontarget"].item() == pytest.approx(float(expected.mean()), rel=1e-7)


def test_gradient() -> None:
    check_gradient(NKD(standardise=True), MIXED)


def test_settings_that_are_refused() -> None:
    with pytest.raises(ValueError, match="labels, target and nontarget must not all be 0"):
        NKD(labels=0.0, target=0.0, nontarget=0.0)
    with pytest.raises(ValueError, match="method 'nkd' is for classification; for regression"):
        NKD().check_data(task="regression", real_valued=True)
