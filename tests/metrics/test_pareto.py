from __future__ import annotations

import numpy as np
import pytest

from distill_ray.metrics.pareto import on_pareto_front


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_the_front_is_what_no_other_point_beats(objectives: int) -> None:
    numbers = np.random.default_rng(objectives)
    for _ in range(20):
        costs = numbers.integers(0, 6, (30, objectives)).astype(float)
        beaten = [
            any((other <= one).all() and (other < one).any() for other in costs) for one in costs
        ]
        assert on_pareto_front(costs).tolist() == [not each for each in beaten]
