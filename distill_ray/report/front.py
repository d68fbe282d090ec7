"""Quality against cost: the students of the search beside teachers, ensemble and baselines, on the
validation split, and which of them no other one beats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from distill_ray.metric import COSTS, title_of
from distill_ray.metrics import validation_score
from distill_ray.metrics.pareto import on_pareto_front
from distill_ray.report.format import listed, objective_title, parameter_count
from distill_ray.report.per_sample import sample_scores
from distill_ray.report.results import Contender, StudyResults, TrialRow
from distill_ray.report.search import best_trial, finished


@dataclass(frozen=True)
class FrontPoint:
    """A network or an ensemble: its quality, the mean over its runs, and its cost. `trial` is the
    number of a trial, None for a contender.
    """

    label: str
    quality: float
    cost: float
    trial: int | None = None
    on_front: bool = False


@dataclass(frozen=True)
class Front:
    """All points for one quality, `val/<metric>`, and one cost, `cost/<name>`; by rising cost."""

    quality: str
    cost: str
    points: tuple[FrontPoint, ...]


def fronts(results: StudyResults) -> list[Front]:
    """A front for each quality that the search optimised and each cost that is known and differs
    between its students.
    """
    fronts_of_costs = []
    for quality in [name for name in results.objectives if name.startswith("val/")]:
        for cost in [f"cost/{name}" for name in COSTS]:
            points = [*_students(results, quality, cost), *_contenders(results, quality, cost)]
            if len({point.cost for point in points if point.trial is not None}) > 1:
                fronts_of_costs.append(
                    Front(quality, cost, _marked(points, results.objectives[quality]))
                )
    return fronts_of_costs


def front_sentences(results: StudyResults) -> list[str]:
    """What to take from it: the smallest student that is as good as the best one, as far as the
    validation split can tell, and the best within the limits.
    """
    trial, error = best_trial(results), standard_error(results)
    if trial is None:
        return []
    sentences: list[str] = []
    quality = next(iter(results.objectives))
    if results.limits:
        limits = listed(
            [f"{title_of(name)} {cost_text(name, at)}" for name, at in results.limits.items()]
        )
        sentences.append(
            f"Within the limits ({limits}) the best student is trial {trial.number}, with a "
            f"{objective_title(quality)} of {trial.values[quality]:.4g}."
        )
    if error is not None:
        of_quality = [front for front in fronts(results) if front.quality == quality]
        sentences += _smallest(results, of_quality, trial, error)
    return sentences


def _smallest(
    results: StudyResults, of_quality: Sequence[Front], best: TrialRow, error: float
) -> Iterator[str]:
    """A sentence for each trial that is the smallest in some cost and not the best itself; one if
    there is none.
    """
    gains: dict[tuple[int, float], list[str]] = {}
    for front in of_quality:
        sign = 1 if results.objectives[front.quality] == "min" else -1
        students = [point for point in front.points if point.trial is not None]
        bound = sign * best.values[front.quality] + error
        smallest = next(point for point in students if sign * point.quality <= bound)
        name = front.cost.removeprefix("cost/")
        if smallest.trial is not None and smallest.trial != best.number:
            counted = f" {title_of(name)}" if COSTS[name].whole else ""
            texts = cost_text(name, smallest.cost), cost_text(name, best.costs[front.cost])
            gain = f"{texts[0]}{counted} instead of {texts[1]}"
            gains.setdefault((smallest.trial, smallest.quality), []).append(gain)
    quality = next(iter(results.objectives))
    if of_quality and not gains:
        yield (
            f"It is also the smallest student within one standard error ({error:.2g}) of the best."
            if results.limits
            else f"The best student, trial {best.number}, is also the smallest within one standard "
            f"error ({error:.2g})."
        )
    for (number, value), of_trial in gains.items():
        yield (
            f"The smallest student within one standard error ({error:.2g}) of the best is trial "
            f"{number}: {listed(of_trial)}; {objective_title(quality)} {value:.4g} instead of "
            f"{best.values[quality]:.4g}."
        )


def standard_error(results: StudyResults) -> float | None:
    """How far the first objective of a student may be off because the validation split has only so
    many samples, from the confirmed best; None where it is no mean over samples.
    """
    quality = next(iter(results.objectives)).removeprefix("val/")
    if results.best is None or not results.best.validation:
        return None
    scores = sample_scores(results.best.validation[0]).get(quality)
    return None if scores is None else float(scores.std(ddof=1) / math.sqrt(len(scores)))


def cost_text(name: str, value: float) -> str:
    """A cost as people read it: `77.9k`, `0.31 MB`, `1.2 ms`."""
    if COSTS[name].whole:
        return parameter_count(round(value))
    return f"{value:.3g} {COSTS[name].unit}"


def _students(results: StudyResults, quality: str, cost: str) -> Iterator[FrontPoint]:
    for trial in finished(results):
        if cost in trial.costs:
            yield FrontPoint(
                f"trial {trial.number}", trial.values[quality], trial.costs[cost], trial.number
            )


def _contenders(results: StudyResults, quality: str, cost: str) -> Iterator[FrontPoint]:
    for contender in results.contenders:
        value = _validated(contender, quality.removeprefix("val/"))
        if value is not None and cost in contender.costs:
            yield FrontPoint(contender.label, value, contender.costs[cost])


def _validated(contender: Contender, metric: str) -> float | None:
    """The mean of a metric on the validation split over the runs."""
    values = [
        validation_score(run.log_probabilities, run.labels)[metric] for run in contender.validation
    ]
    return float(np.mean(values)) if values else None


def _marked(points: list[FrontPoint], better: str) -> tuple[FrontPoint, ...]:
    sign = 1 if better == "min" else -1
    kept = on_pareto_front(np.array([[point.cost, sign * point.quality] for point in points]))
    marked = [
        FrontPoint(point.label, point.quality, point.cost, point.trial, bool(stays))
        for point, stays in zip(points, kept, strict=True)
    ]
    return tuple(sorted(marked, key=lambda point: (point.cost, sign * point.quality)))
