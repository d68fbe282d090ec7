"""The mean prediction of an ensemble."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import ArrayLike
from scipy.special import log_softmax

from distill_ray.metrics import mean_log_probabilities, score


def test_latent_batchensemble_oracle() -> None:
    """Oracle 8.12: probabilities are averaged, not logits."""
    logits = np.array([[[2, 0.5, -1], [0, 1, 3]], [[1, 1.5, -0.5], [-1, 2, 2.5]]])
    mean = mean_log_probabilities(log_softmax(logits, axis=-1))
    expected = [
        [0.5669022312, 0.3746936926, 0.0584040762],
        [0.0302299570, 0.2423851501, 0.7273848929],
    ]
    assert_allclose(np.exp(mean), expected, atol=1e-10)
    labels = np.array([0, 2])
    of_mean_logits = log_softmax(logits.mean(0), axis=-1)
    # Which the mean is not
    assert_allclose(score(of_mean_logits, labels)["nll"], 0.4096221641, atol=3e-8)
    assert_allclose(-np.log(np.exp(mean[[0, 1], labels]) + 1e-8).mean(), 0.4429339529, atol=1e-10)
    # The system adds 1e-8 to p
    assert_allclose(score(mean, labels)["nll"], 0.4429339529, atol=3e-8)


def test_calibrated_ensemble_oracle() -> None:
    """Order none, cutmix, cutout, mixup, augmix; weights 5:1:5:1:1."""
    members = np.log(
        [
            [[0.9, 0.05, 0.05]],
            [[0.4, 0.35, 0.25]],
            [[0.7, 0.2, 0.1]],
            [[0.3, 0.5, 0.2]],
            [[0.6, 0.3, 0.1]],
        ]
    )
    assert_allclose(np.exp(mean_log_probabilities(members)), [[0.58, 0.28, 0.14]], atol=1e-12)
    weighted = mean_log_probabilities(members, [5, 1, 5, 1, 1])
    assert_allclose(np.exp(weighted), [[0.71538462, 0.18461538, 0.10]], atol=5e-9)


def test_one_member_is_itself_and_a_weight_of_0_leaves_a_member_out() -> None:
    members = log_softmax(np.random.default_rng(0).normal(0, 3, (3, 5, 4)), axis=-1)
    assert_allclose(mean_log_probabilities(members[:1]), members[0], rtol=1e-12)
    assert_allclose(
        mean_log_probabilities(members, [0.5, 0, 0.5]),
        mean_log_probabilities(members[[0, 2]]),
        rtol=1e-12,
    )


def test_probabilities_below_the_range_of_floats_survive() -> None:
    members = np.array([[[-2000.0, 0.0]], [[-2001.0, 0.0]]])
    assert_allclose(
        mean_log_probabilities(members)[0, 0], -2000 + np.log((1 + np.exp(-1)) / 2), rtol=1e-14
    )


def test_impossible_for_all_members_stays_impossible() -> None:
    members = np.array([[[-np.inf, 0.0]], [[-np.inf, 0.0]]])
    assert mean_log_probabilities(members).tolist() == [[-np.inf, 0.0]]
    assert_allclose(
        mean_log_probabilities(np.array([[[-np.inf, 0.0]], [[0.0, -np.inf]]])), np.log([[0.5, 0.5]])
    )


@pytest.mark.parametrize(
    ("members", "weights", "argument"),
    [
        (np.zeros((2, 3)), None, "members"),
        (np.zeros((0, 2, 3)), None, "members"),
        (np.full((2, 2, 3), np.nan), None, "members"),
        (np.zeros((2, 2, 3)), [1, 1, 1], "weights"),
        (np.zeros((2, 2, 3)), [1, -1], "weights"),
        (np.zeros((2, 2, 3)), [0, 0], "weights"),
        (np.zeros((2, 2, 3)), [1, np.nan], "weights"),
    ],
)
def test_wrong_arguments_are_named(
    members: ArrayLike, weights: ArrayLike | None, argument: str
) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: "):
        mean_log_probabilities(members, weights)
