"""Uncertainty, its sources and what it reveals: printed oracles, closed forms against samples,
agreement with libraries.
"""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from scipy.special import log_softmax
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from distill_ray.metrics.classification import FloatArray
from distill_ray.metrics.uncertainty import (
    auroc,
    decompose,
    decompose_dirichlet,
    entropy,
    separation,
    total_variation,
)

# Oracle F of the multi-head system, [sample][head][class].
HEADS = [
    [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1]],
    [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05]],
    [[1 / 3] * 3, [1 / 3] * 3],
]


def members(classes: int, count: int = 4, samples: int = 50, seed: int = 0) -> FloatArray:
    return np.asarray(
        log_softmax(np.random.default_rng(seed).normal(0, 2, (count, samples, classes)), axis=-1)
    )


def test_multi_head_decomposition_oracle() -> None:
    found = decompose(np.log(np.transpose(HEADS, (1, 0, 2))))
    assert_allclose(found.total, [0.8568409950, 0.8570050649, 1.0986122887], atol=1e-10)
    assert_allclose(found.aleatoric, [0.8498821387, 0.3943976914, 1.0986122887], atol=1e-10)
    heads = np.asarray(HEADS)
    # As published
    smoothed = [-(each * np.log(each + 1e-8)).sum(-1) for each in (heads.mean(1), heads)]
    assert_allclose(smoothed[0], [0.8568409650, 0.8570050349, 1.0986122587], atol=1e-10)
    assert_allclose(smoothed[1].mean(1), [0.8498821087, 0.3943976614, 1.0986122587], atol=1e-10)
    # Printed with 1e-8 in the logarithms
    assert_allclose(found.epistemic, [0.0069588563, 0.4626073734, 0], atol=1.01e-10)


def test_dirichlet_oracle() -> None:
    """Oracle E: alpha = exp(z_S)."""
    found = decompose_dirichlet(np.exp([[1, 0, -0.5], [0.2, 0.3, 1]]))
    assert_allclose(found.total, [0.9059592565, 1.0290947411], atol=1e-10)
    assert_allclose(found.aleatoric, [0.7221835912, 0.8661519192], atol=1e-10)
    assert_allclose(found.epistemic, [0.1837756653, 0.1629428219], atol=1.01e-10)


def test_good_augmentation_pick_entropies() -> None:
    teacher = [[4, 0, 0], [1, 0.9, 0.8], [2, 1, 0], [0, 3, 2.5], [0.5, 0.4, 0], [3, 2.9, -1]]
    student = [
        [1.5, 0, 0.2],
        [2, 0.1, 0],
        [0.3, 0.2, 0.1],
        [0, 4, 1],
        [1, 1.2, 0.9],
        [0.4, 2, -0.5],
    ]
    expected_teacher = [0.17732368, 1.09528727, 0.83239558, 0.77786967, 1.07761434, 0.73911076]
    expected_student = [0.86322550, 0.68250684, 1.09528727, 0.27431307, 1.09063561, 0.66137900]
    assert_allclose(entropy(log_softmax(teacher, axis=1)), expected_teacher, atol=5.01e-9)
    assert_allclose(entropy(log_softmax(student, axis=1)), expected_student, atol=5.01e-9)


def test_multi_head_total_variation_oracle() -> None:
    """Oracle K, with the published sum of density differences beside the true distance."""
    found = total_variation([0.01, 0.02, 0.5, 1], [0.01, 0.5, 0.5, 2], np.log(10))
    assert_allclose(found, 0.5, atol=1e-12)
    assert_allclose(found * 2 * 50 / np.log(10), 21.7147240952, atol=1e-10)


@pytest.mark.parametrize("classes", [1, 2, 3, 100])
def test_the_parts_are_not_negative_and_add_up(classes: int) -> None:
    found = decompose(members(classes))
    assert found.total.shape == found.aleatoric.shape == found.epistemic.shape == (50,)
    assert (found.epistemic >= 0).all() and (found.total <= np.log(classes) + 1e-12).all()
    assert_allclose(found.aleatoric + found.epistemic, found.total, atol=1e-12)


def test_members_that_agree_are_not_uncertain_of_the_model() -> None:
    same = np.repeat(members(5, count=1), 6, axis=0)
    assert_allclose(decompose(same).epistemic, 0, atol=1e-12)
    assert (decompose(same).epistemic >= 0).all()


def test_members_that_are_certain_of_different_classes_are_wholly_epistemic() -> None:
    with np.errstate(divide="ignore"):
        found = decompose(np.log(np.eye(3))[:, None, :])
    assert_allclose(
        [found.total[0], found.aleatoric[0], found.epistemic[0]],
        [np.log(3), 0, np.log(3)],
        atol=1e-12,
    )


def test_entropy_agrees_with_scipy_even_where_probabilities_vanish() -> None:
    probabilities = np.array([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0], [0.3, 0.3, 0.4]])
    with np.errstate(divide="ignore"):
        assert_allclose(
            entropy(np.log(probabilities)), stats.entropy(probabilities, axis=1), atol=1e-15
        )
    assert entropy(np.array([0.0, -2000.0])) == 0


def test_the_dirichlet_forms_agree_with_samples() -> None:
    alpha = np.array([0.7, 3.0, 1.5])
    draws = np.random.default_rng(0).dirichlet(alpha, 100_000)
    sampled, exact = decompose(np.log(draws)[:, None, :]), decompose_dirichlet(alpha[None])
    for part in ("total", "aleatoric", "epistemic"):
        assert_allclose(getattr(sampled, part), getattr(exact, part), rtol=0.01)


def test_auroc_agrees_with_scikit_learn_ties_included() -> None:
    generator = np.random.default_rng(0)
    familiar, foreign = generator.integers(0, 20, 300) / 10, generator.integers(5, 25, 200) / 10
    expected = roc_auc_score(np.repeat([0, 1], [300, 200]), np.concatenate([familiar, foreign]))
    assert_allclose(auroc(familiar, foreign), expected, rtol=1e-12)
    assert_allclose(auroc(foreign, familiar), 1 - expected, rtol=1e-12)


def test_auroc_of_the_extremes() -> None:
    assert auroc([0, 1, 2], [3, 4]) == 1
    assert auroc([3, 4], [0, 1, 2]) == 0
    assert auroc([1, 1], [1, 1, 1]) == 0.5


def test_separation_agrees_with_scikit_learn_ties_included() -> None:
    generator = np.random.default_rng(0)
    familiar, foreign = generator.integers(0, 9, 300) / 8, generator.integers(2, 12, 200) / 8
    is_foreign, scores = np.repeat([0, 1], [300, 200]), np.concatenate([familiar, foreign])
    found = separation(familiar, foreign)
    assert found["auroc"] == pytest.approx(roc_auc_score(is_foreign, scores))
    assert found["aupr-foreign"] == pytest.approx(average_precision_score(is_foreign, scores))
    assert found["aupr-test"] == pytest.approx(average_precision_score(1 - is_foreign, -scores))
    false, true, _ = roc_curve(1 - is_foreign, -scores, drop_intermediate=False)
    assert found["fpr95"] == pytest.approx(false[np.argmax(true >= 0.95)])


def test_a_set_against_itself_is_not_told_apart() -> None:
    scores = np.random.default_rng(1).normal(size=200)
    found = separation(scores, scores)
    assert found == {
        "auroc": 0.5,
        "aupr-foreign": pytest.approx(0.5, abs=0.02),
        "aupr-test": pytest.approx(0.5, abs=0.02),
        "fpr95": pytest.approx(0.95),
    }
    # By hand: 1 of 2 foreign ones is the most uncertain, then a familiar one, then the other
    assert separation([2.0, 0.0], [3.0, 1.0])["aupr-foreign"] == pytest.approx((1 + 2 / 3) / 2)


def test_total_variation_of_the_extremes() -> None:
    values = np.linspace(0, 1, 40)
    assert total_variation(values, values[::-1], 1) == 0
    assert total_variation([0.1, 0.2], [0.8], 1) == 1
    assert total_variation([-1e-9, 1 + 1e-9], [0, 1], 1) == 0, (
        "rounding past the ends must not lose samples"
    )


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: auroc([], [1]), "familiar"),
        (lambda: auroc([1], [np.nan]), "foreign"),
        (lambda: total_variation([[1]], [1], 1), "first"),
        (lambda: total_variation([1], [], 1), "second"),
        (lambda: decompose(np.zeros((2, 3))), "members"),
        (lambda: decompose_dirichlet([[1, 0]]), "concentrations"),
        (lambda: decompose_dirichlet([[1, np.nan]]), "concentrations"),
        (lambda: decompose_dirichlet([1, 2]), "concentrations"),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], object], argument: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: "):
        call()
