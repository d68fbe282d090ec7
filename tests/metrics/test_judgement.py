"""What networks say of images: against scikit-learn, and against members taken all together."""

from __future__ import annotations

import numpy as np
import pytest

from distill_ray.metrics.judgement import Judgement, judge, pooled, separations
from oracles import doubts as oracles


def logits(members: int, samples: int, scale: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (members, samples, 5))


def test_separations_are_those_of_scikit_learn() -> None:
    """Of every doubt every measure."""
    raw = logits(3, 300, 3, 0), logits(3, 200, 2, 1)
    found = separations(judge(raw[0], "classification"), judge(raw[1], "classification"))
    is_foreign = np.repeat([0, 1], [300, 200])
    assert len(found) == 4 * 4
    for name, doubt in oracles.doubts(np.concatenate(raw, axis=1)).items():
        for measure, value in oracles.separations(is_foreign, doubt).items():
            assert found[name + measure] == pytest.approx(value), name + measure


@pytest.mark.parametrize("members", [1, 4])
def test_a_set_against_itself_is_chance(members: int) -> None:
    one = judge(logits(members, 100, 2, 0), "classification")
    found = separations(one, one)
    assert {found[name] for name in found if name.endswith("auroc")} == {0.5}
    assert ("epistemic-auroc" in found) == (members > 1)
    assert found["fpr95"] == 0.95


def test_the_mean_of_networks_is_that_of_all_their_members() -> None:
    """Also of networks that have members themselves, and with a share of nothing for one."""
    raw = logits(6, 50, 2, 0)
    alone = [judge(raw[[member]], "classification") for member in range(6)]
    groups = [judge(raw[:3], "classification"), judge(raw[3:], "classification")]
    whole = judge(raw, "classification")
    for found in (pooled(alone), pooled(groups)):
        np.testing.assert_allclose(found.prediction, whole.prediction)
        np.testing.assert_allclose(found.epistemic, whole.epistemic, atol=1e-12)
        np.testing.assert_allclose(found.energy, whole.energy)
    first = pooled(groups, [1, 0])
    np.testing.assert_allclose(first.prediction, groups[0].prediction)
    np.testing.assert_allclose(first.epistemic, groups[0].epistemic, atol=1e-12)


def test_regression_has_deviations() -> None:
    raw = np.random.default_rng(0).normal(0, 1, (4, 30, 2))
    whole = judge(raw, "regression")
    means, variances = raw[..., 0], np.exp(raw[..., 1])
    total = np.sqrt(variances.mean(axis=0) + means.var(axis=0, ddof=1))
    np.testing.assert_allclose(whole.uncertainty.total, total)
    np.testing.assert_allclose(whole.uncertainty.aleatoric, np.sqrt(variances.mean(axis=0)))
    of_all = pooled([judge(raw[[member]], "regression") for member in range(4)])
    np.testing.assert_allclose(of_all.uncertainty.total, total)
    np.testing.assert_allclose(of_all.epistemic, means.std(axis=0, ddof=1))
    assert set(whole.doubts) == {"total", "epistemic"}
    assert set(Judgement(raw[0], np.zeros(30), None).doubts) == {"total"}
