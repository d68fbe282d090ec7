"""The metrics, their display names and which direction is better. NumPy is imported only when one is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from distill_ray.registry import Registry
from distill_ray.task import Task

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score of predictions.

    `function` takes the per-sample predictions and the labels (N,), and returns the score. Predictions are log-probabilities,
    float64 (N, K), for classification, and mean and log-variance, (N, 2), for regression. It is None for the metrics of this
    package, which `distill_ray.metrics` computes together. `percent` says that the score is shown in percent, `objective` that
    a search can optimise its value on the validation split, as `val/<name>`.

    Another package adds a metric by an entry point of group `distill_ray.metric` that loads an instance of this class.
    """

    title: str
    meaning: str
    better: Literal["min", "max"]
    percent: bool = False
    tasks: tuple[Task, ...] = ("classification",)
    objective: bool = True
    function: Callable[[np.ndarray, np.ndarray], float] | None = None


METRICS: Registry[Metric] = Registry("metric")
"""Every metric by name, in the order of a table's columns."""


def objectives(task: Task | None = None) -> dict[str, str]:
    """What a search can optimise (with that task), and the direction in which it is better: `{"val/nll": "min", ...}`."""
    return {
        f"val/{name}": metric.better
        for name, metric in METRICS.items()
        if metric.objective and (task is None or task in metric.tasks)
    }


def title_of(name: str) -> str:
    """The display name of metric `name`; the name itself when there is no such metric."""
    return METRICS[name].title if name in METRICS else name


def is_percent(name: str) -> bool:
    """Whether `name` is shown in percent."""
    return name in METRICS and METRICS[name].percent


_BOTH: tuple[Task, ...] = ("classification", "regression")

for _name, _metric in {
    "accuracy": Metric(
        title="accuracy", meaning="share of the samples that are classified correctly", better="max", percent=True
    ),
    "nll": Metric(
        title="NLL",
        meaning="negative log-likelihood of the true class, in nats; punishes confident errors",
        better="min",
        tasks=_BOTH,
    ),
    "ece": Metric(
        title="ECE", meaning="expected calibration error: how far confidence is from accuracy", better="min", percent=True
    ),
    "brier": Metric(
        title="Brier", meaning="squared distance between the predicted probabilities and the truth, 0 to 2", better="min"
    ),
    "oe": Metric(
        title="OE",
        meaning="overconfidence error: calibration error where confidence exceeds accuracy, weighted by confidence",
        better="min",
        percent=True,
    ),
    "cnll": Metric(title="cNLL", meaning="NLL after temperature scaling fitted on the validation split", better="min"),
    "cece": Metric(
        title="cECE",
        meaning="ECE after temperature scaling fitted on the validation split",
        better="min",
        percent=True,
        objective=False,
    ),
    "rmse": Metric(
        title="RMSE", meaning="root of the mean squared error of the predicted mean", better="min", tasks=("regression",)
    ),
    "mae": Metric(title="MAE", meaning="mean absolute error of the predicted mean", better="min", tasks=("regression",)),
}.items():
    METRICS.register(_name)(_metric)
