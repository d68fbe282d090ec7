"""Ranks and critical differences, against the example of Demsar 2006 and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from distill_ray.metrics.ranking import explained, rank

# Demsar 2006, table 6: AUC of C4.5, with m, with cf and with both, on 14 data sets
C45 = {
    "C4.5": [0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1.000, 0.940, 0.619,
             0.972, 0.957],
    "m": [0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1.000, 0.962, 0.666,
          0.981, 0.978],
    "cf": [0.771, 0.590, 0.968, 0.654, 0.886, 0.916, 0.609, 0.563, 0.866, 1.000, 0.965, 0.614,
           0.9751, 0.946],
    "m+cf": [0.798, 0.569, 0.967, 0.657, 0.898, 0.931, 0.685, 0.625, 0.875, 1.000, 0.962, 0.669,
             0.975, 0.970],
}  # fmt: skip


def test_the_example_of_the_paper() -> None:
    """Mean ranks 3.143, 2.000, 2.893 and 1.964; the critical difference for 4 classifiers and 14
    data sets, q 2.569, is 1.25.
    """
    found = rank(C45, "max")
    assert found.ranks == pytest.approx(
        {"m+cf": 1.964, "m": 2.000, "cf": 2.893, "C4.5": 3.143}, abs=0.001
    )
    assert list(found.ranks) == ["m+cf", "m", "cf", "C4.5"]
    assert found.critical == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=0.001)
    # Friedman's statistic is 9.28 there without its correction for ties, with 3 degrees: p 0.026
    assert 0.01 < found.p < 0.03
    assert found.ties == [("m+cf", "m", "cf", "C4.5")]


def test_ranks_by_hand() -> None:
    scores = {"a": [1.0, 1.0, 2.0], "b": [2.0, 1.0, 1.0], "c": [3.0, 3.0, 3.0]}
    found = rank(scores, "min")
    assert found.ranks == {"a": pytest.approx(4.5 / 3), "b": pytest.approx(4.5 / 3), "c": 3}
    assert rank({"a": [1, 1], "b": [1, 1], "c": [1, 1]}, "min").p == 1
    with pytest.raises(ValueError, match="at least 3 contenders"):
        rank({"a": [1, 2], "b": [2, 1]}, "min")


def test_groups_that_cannot_be_told_apart_overlap() -> None:
    """Ten contenders that keep their order in twelve blocks: neighbours within the critical
    difference of 3.9 ranks.
    """
    found = rank({str(place): [float(place)] * 12 for place in range(10)}, "min")
    assert found.critical == pytest.approx(3.164 * np.sqrt(10 * 11 / 72), abs=0.01)
    assert found.ties[0] == ("0", "1", "2", "3")
    assert found.ties[-1] == ("6", "7", "8", "9")


def test_what_groups_explain() -> None:
    assert explained({"a": [1, 2], "b": [10, 11]}) == pytest.approx(1 - (0.5 * 2 / 2) * 3 / 5)
    assert explained({"a": [1, 1], "b": [1, 1]}) is None
    assert explained({"a": [1], "b": [2]}) is None
    generator = np.random.default_rng(0)
    chance = [explained({n: generator.normal(size=8) for n in "abcd"}) for _ in range(100)]
    assert np.mean([share for share in chance if share is not None]) < 0.1
