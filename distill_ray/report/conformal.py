"""Sets of classes by split conformal prediction: every contender's coverage and set size, with
thresholds calibrated on the validation split.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill_ray.metrics.calibration import with_temperature
from distill_ray.metrics.conformal import (
    SCORES,
    Conformal,
    Score,
    conformal,
    fewest_images,
    quantile,
)
from distill_ray.records import Predictions
from distill_ray.report.format import counted
from distill_ray.report.table import Cell, Row

TITLES: dict[Score, str] = {"lac": "LAC", "aps": "APS", "raps": "RAPS"}


@dataclass(frozen=True)
class ConformalRow:
    """The sets of one contender, run by run, for each score. Probabilities are those after
    temperature scaling, as an exported student gives them.
    """

    row: Row
    sets: Mapping[Score, tuple[Conformal, ...]]

    def coverage(self, score: Score) -> Cell:
        """The share of the samples whose set holds their label, over runs."""
        return Cell.of(run.coverage for run in self.sets[score])

    def size(self, score: Score) -> Cell:
        """The mean number of classes of a set, over runs."""
        return Cell.of(run.size for run in self.sets[score])

    def interval(self, score: Score) -> tuple[float, float]:
        """The interval of one run's coverage over test samples; the mean of the runs' bounds."""
        runs = self.sets[score]
        return float(np.mean([run.low for run in runs])), float(np.mean([run.high for run in runs]))

    def by_class(self, score: Score) -> np.ndarray:
        """Coverage and mean set size of each class (K, 2), averaged over the runs."""
        return np.asarray(np.mean([run.by_class for run in self.sets[score]], axis=0))

    def texts(self, score: Score) -> list[str]:
        """Coverage, its interval, and the lowest of a class, in percent; and the set size."""
        low, high = self.interval(score)
        classes = self.by_class(score)[:, 0]
        return [
            f"{100 * self.coverage(score).mean:.1f}",
            f"{100 * low:.1f} to {100 * high:.1f}",
            f"{100 * np.nanmin(classes):.1f}",
            f"{self.size(score).mean:.2f}",
        ]

    def metrics(self, run: int) -> dict[str, float]:
        """What tracking records of a run: `conformal-lac-coverage`, `conformal-lac-size`, ..."""
        metrics = {}
        for score, runs in self.sets.items():
            metrics[f"conformal-{score}-coverage"] = runs[run].coverage
            metrics[f"conformal-{score}-size"] = runs[run].size
        return metrics


def thresholds(validation: Predictions, temperature: float, coverage: float) -> dict[Score, float]:
    """The thresholds of all scores for a network of that temperature; infinite where the
    validation split is too small.
    """
    scaled = with_temperature(validation.log_probabilities, temperature)
    return {score: quantile(scaled, validation.labels, score, coverage) for score in SCORES}


def conformal_rows(rows: Sequence[Row], coverage: float) -> list[ConformalRow]:
    """The contenders that classify and were evaluated on the test split."""
    return [
        _conformal_row(row, coverage)
        for row in rows
        if row.runs and row.split == "test" and row.task == "classification"
    ]


def _conformal_row(row: Row, coverage: float) -> ConformalRow:
    sets: dict[Score, list[Conformal]] = {score: [] for score in SCORES}
    contender = row.contender
    runs = zip(contender.validation, contender.test, row.temperatures, strict=True)
    for validation, test, temperature in runs:
        scaled = with_temperature(test.log_probabilities, temperature)
        for score, threshold in thresholds(validation, temperature, coverage).items():
            sets[score].append(conformal(scaled, test.labels, score, threshold))
    return ConformalRow(row, {score: tuple(of_score) for score, of_score in sets.items()})


def note(rows: Sequence[ConformalRow], coverage: float) -> str:
    """What the numbers are, and whether the validation split suffices for them; empty without
    rows.
    """
    if not rows:
        return ""
    images = len(rows[0].row.contender.validation[0].labels)
    if images < fewest_images(coverage):
        return (
            f"A coverage of {100 * coverage:g} % takes at least {fewest_images(coverage)} "
            f"validation images; there are {counted(images, 'image')}, so every set holds all "
            "classes."
        )
    spread = math.sqrt(coverage * (1 - coverage) / (images + 2))
    return (
        f"Thresholds for a coverage of {100 * coverage:g} % from {images} validation images, after "
        f"temperature scaling. Another validation split of this size would move the coverage by "
        f"{100 * spread:.1f} points (standard deviation). LAC: the smallest sets, empty for images "
        "that look like none; APS and RAPS: at least one class each, and more for difficult "
        "images. They cover more than was asked where the most probable class alone does."
    )


def as_json(sets: ConformalRow) -> dict[str, Any]:
    """The sets as values that JSON has, means over the runs; thresholds run by run."""
    return {
        score: {
            "coverage": sets.coverage(score).mean,
            "interval": list(sets.interval(score)),
            "size": sets.size(score).mean,
            "empty": float(np.mean([run.empty for run in runs])),
            "thresholds": [run.quantile for run in runs],
            "by_class": [
                {"coverage": share, "size": size} for share, size in sets.by_class(score).tolist()
            ],
        }
        for score, runs in sets.sets.items()
    }
