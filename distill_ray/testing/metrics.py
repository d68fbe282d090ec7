"""What every metric must keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest

from distill_ray.metric import METRICS
from distill_ray.metrics import final_score
from distill_ray.testing.cases import Conformance

SAMPLES = 200


def predictions_for(
    name: str, num_classes: int = 4, good: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Random predictions, the better the larger `good` is, with their labels."""
    rng = np.random.default_rng(0)
    if METRICS[name].tasks == ("regression",):
        targets = rng.normal(size=SAMPLES)
        mean = targets + rng.normal(size=SAMPLES) / (0.1 + good)
        return np.stack([mean, np.full(SAMPLES, -2 * np.log(0.1 + good))], axis=1), targets
    labels = np.arange(SAMPLES) % num_classes
    logits = 2 * rng.normal(size=(SAMPLES, num_classes))
    logits[np.arange(SAMPLES), labels] += 8 * good
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), labels


def value_of(metric: str, predictions: np.ndarray, labels: np.ndarray) -> float:
    """The score of predictions, at a temperature of 1.5 where the metric is a calibrated one."""
    return final_score(predictions, labels, temperature=1.5)[metric]


class MetricConformance(Conformance):
    """A metric is a finite number that does not depend on the order of the samples, and says how it
    is shown. `metrics` are names of the registry.
    """

    metrics: ClassVar[Sequence[str]]
    argument = "metric"

    def cases(self) -> Sequence[str]:
        return self.metrics

    def test_it_is_described(self, metric: str) -> None:
        about = METRICS[metric]
        assert about.title
        assert about.meaning
        assert about.better in ("min", "max")
        assert about.tasks

    @pytest.mark.parametrize("num_classes", [2, 7])
    def test_it_is_a_finite_number(self, metric: str, num_classes: int) -> None:
        predictions, labels = predictions_for(metric, num_classes)
        value = value_of(metric, predictions, labels)
        assert isinstance(value, float)
        assert np.isfinite(value)
        if METRICS[metric].percent:
            assert 0 <= value <= 1

    def test_one_sample_is_enough(self, metric: str) -> None:
        predictions, labels = predictions_for(metric)
        assert np.isfinite(value_of(metric, predictions[:1], labels[:1]))

    def test_it_does_not_depend_on_the_order_of_the_samples(self, metric: str) -> None:
        predictions, labels = predictions_for(metric)
        order = np.random.default_rng(1).permutation(SAMPLES)
        shuffled = value_of(metric, predictions[order], labels[order])
        assert shuffled == pytest.approx(value_of(metric, predictions, labels), rel=1e-9)

    def test_it_leaves_its_arguments_alone(self, metric: str) -> None:
        """Predictions are memory-mapped, and other metrics read them too."""
        predictions, labels = predictions_for(metric)
        predictions.flags.writeable = labels.flags.writeable = False
        assert value_of(metric, predictions, labels) == value_of(metric, predictions, labels)

    def test_an_objective_prefers_good_predictions(self, metric: str) -> None:
        if not METRICS[metric].objective:
            pytest.skip("no objective")
        poor = value_of(metric, *predictions_for(metric, good=0.0))
        good = value_of(metric, *predictions_for(metric, good=2.0))
        better, worse = (good, poor) if METRICS[metric].better == "max" else (poor, good)
        assert better >= worse
