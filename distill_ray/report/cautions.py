"""What makes a study's results doubtful: teachers that know nothing, ensembles that do harm, seeds
that share what they should vary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from distill_ray.metric import is_percent, title_of
from distill_ray.report.format import listed, metric_text
from distill_ray.report.per_sample import bootstrap, sample_scores
from distill_ray.report.results import ENSEMBLE, TEACHER
from distill_ray.report.table import Row

DEVIATIONS = 2.33
"""Standard errors above guessing that count as learned: chance exceeds them once in a hundred."""


def cautions(rows: Sequence[Row]) -> list[str]:
    """Sentences about networks that are at chance, ensembles that are worse than their best member,
    and seeds that share augmented images; empty when there is nothing to doubt.
    """
    classifiers = [row for row in rows if row.task == "classification" and row.runs]
    return [
        *_at_chance(classifiers),
        *_harmful_ensemble(classifiers),
        *_given(classifiers),
        *_shared_versions(rows),
    ]


def _shared_versions(rows: Sequence[Row]) -> Iterator[str]:
    sharing = []
    for row in rows:
        several = len(row.contender.seeds) > 1 and not row.contender.averaged
        if several and row.contender.params.get("versions") is not None:
            sharing.append(row.contender.label)
    if sharing:
        yield (
            f"The seeds of {listed(sharing)} share the versions of the images, so the spread over "
            "seeds leaves out what other augmented images would change (docs/versions.md)."
        )


def _given(rows: Sequence[Row]) -> Iterator[str]:
    given = [
        row.contender
        for row in rows
        if row.contender.is_teacher
        and row.contender.params.get("weights")
        and row.contender.params.get("epochs") == 0
    ]
    named = {job for teacher in given if teacher.name != TEACHER for job in teacher.job_ids}
    # All teachers together are no further one
    given = [
        teacher
        for teacher in given
        if teacher.name != TEACHER or not named.issuperset(teacher.job_ids)
    ]
    if earlier := [teacher for teacher in given if teacher.source]:
        from_studies = listed([f"{teacher.label} (from {teacher.source})" for teacher in earlier])
        yield (
            f"Trained by earlier studies: {from_studies}. Unless those held out the same images, "
            "accuracies of such teachers, and of the ensemble, are too high; students compare "
            "fairly either way."
        )
    if elsewhere := [teacher.label for teacher in given if not teacher.source]:
        yield (
            f"Trained elsewhere: {listed(elsewhere)}, perhaps with images that this study holds "
            "out. Nothing in a file tells, and accuracies of such teachers, and of the "
            "ensemble, may then be too high; students compare fairly either way."
        )


def _at_chance(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row.contender.name == ENSEMBLE:
            continue
        places = [
            place
            for place, run in enumerate(row.predictions)
            if guesses(run.log_probabilities, run.labels)
        ]
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


def guesses(log_probabilities: np.ndarray, labels: np.ndarray) -> bool:
    """Whether predictions (N, K) are no better than always naming the most frequent class."""
    accuracy = float((log_probabilities.argmax(axis=1) == labels).mean())
    chance = _guessing(labels)
    error = (chance * (1 - chance) / len(labels)) ** 0.5
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
