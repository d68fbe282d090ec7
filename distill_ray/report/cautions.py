"""What makes a study's results doubtful: teachers that know nothing, ensembles that do harm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from distill_ray.metric import is_percent, title_of
from distill_ray.records import Predictions
from distill_ray.report.format import listed, metric_text
from distill_ray.report.per_sample import bootstrap, sample_scores
from distill_ray.report.results import ENSEMBLE
from distill_ray.report.table import Row

DEVIATIONS = 2.33
"""Standard errors above guessing that count as learned: chance exceeds them once in a hundred."""


def cautions(rows: Sequence[Row]) -> list[str]:
    """Sentences about networks that are at chance and ensembles that are worse than their best
    member; empty when there is nothing to doubt.
    """
    classifiers = [row for row in rows if row.task == "classification" and row.runs]
    return [*_at_chance(classifiers), *_harmful_ensemble(classifiers)]


def _at_chance(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row.contender.name == ENSEMBLE:
            continue
        places = [place for place, run in enumerate(row.predictions) if _guesses(run)]
        if places:
            values = [metric_text("accuracy", row.runs[place]["accuracy"]) for place in places]
            share = metric_text("accuracy", _guessing(row.predictions[places[0]].labels))
            count = "" if len(row.runs) == 1 else f"{len(places)} of {len(row.runs)} runs: "
            yield (
                f"No better than guessing: {row.contender.label} ({count}accuracy "
                f"{listed(values)} %; always naming the most frequent class gives {share} %)."
            )


def _guessing(labels: np.ndarray) -> float:
    """The accuracy of always naming the most frequent class."""
    return float(np.bincount(labels).max() / len(labels))


def _guesses(predictions: Predictions) -> bool:
    accuracy = float(sample_scores(predictions)["accuracy"].mean())
    chance = _guessing(predictions.labels)
    error = (chance * (1 - chance) / len(predictions.labels)) ** 0.5
    return chance < 1 and accuracy <= chance + DEVIATIONS * error


def _harmful_ensemble(rows: Sequence[Row]) -> Iterator[str]:
    """Judged member by member, beyond what the choice of samples explains."""
    ensemble = next((row for row in rows if row.contender.name == ENSEMBLE), None)
    if ensemble is None:
        return
    pooled = sample_scores(ensemble.predictions[0])
    for metric in ("accuracy", "nll"):
        sign = 1 if metric == "accuracy" else -1
        members = [
            sign * sample_scores(run)[metric]
            for row in rows
            if row.contender.is_teacher
            for run in row.predictions
        ]
        if not members:
            return
        best = max(members, key=np.mean)
        lead = best - sign * pooled[metric]
        interval = bootstrap({metric: lead}).get(metric)
        if interval is not None and interval.low > 0:
            unit = " points" if is_percent(metric) else ""
            yield (
                f"The ensemble is worse than its best member in {title_of(metric)}, by "
                f"{metric_text(metric, float(lead.mean()))}{unit}: leave weak teachers out."
            )
