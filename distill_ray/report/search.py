"""What the trials say: the best one, the Pareto front, which settings were searched and how much
each matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill_ray.metrics.pareto import on_pareto_front
from distill_ray.report.format import counted, listed
from distill_ray.report.results import StudyResults, TrialRow, Value

FEWEST_TRIALS = 6
"""Fewer complete trials than this say nothing about the influence of a setting."""

PERMUTATIONS = 1000


@dataclass(frozen=True)
class Influence:
    """The share of the variation of the first objective's ranks that one setting explains by
    itself.

    `by_chance` is the share that a setting without effect exceeds in one case of twenty.
    """

    name: str
    explained: float
    by_chance: float


def searched(results: StudyResults) -> list[str]:
    """The searched settings that took more than one value, in order of first appearance."""
    names = dict.fromkeys(name for trial in results.trials for name in trial.params)
    return [
        name
        for name in names
        if len({trial.params[name] for trial in results.trials if name in trial.params}) > 1
    ]


def finished(results: StudyResults) -> list[TrialRow]:
    """The trials with a finite value of every objective."""
    return [
        trial
        for trial in results.trials
        if all(math.isfinite(trial.values.get(name, math.nan)) for name in results.objectives)
    ]


def best_trial(results: StudyResults) -> TrialRow | None:
    """The complete trial with the best value of the first objective, or None."""
    objective, direction = next(iter(results.objectives.items()))
    sign = 1 if direction == "min" else -1
    return min(finished(results), key=lambda trial: sign * trial.values[objective], default=None)


def warm_start_text(results: StudyResults) -> str:
    """Which earlier trials the search began with, in a sentence; empty when there were none."""
    sources = [
        f"{counted(trials, 'trial')} of {name}" for name, trials in results.warm_start.items()
    ]
    if not sources:
        return ""
    return f"The search was warm-started with {listed(sources)}, not counted among its own trials."


def last_value(trial: TrialRow, objective: str) -> float | None:
    """The value of a trial: its result, or the last one that it reported before it ended."""
    points = curve(trial, objective)
    value = trial.values.get(objective, points[-1][1] if points else math.nan)
    return value if math.isfinite(value) else None


def curve(trial: TrialRow, metric: str) -> list[tuple[float, float]]:
    """The finite values of `metric` that a trial reported, as (epoch, value)."""
    reported = ((record["epoch"], record.get(metric)) for record in trial.epochs)
    return [
        (epoch, value) for epoch, value in reported if value is not None and math.isfinite(value)
    ]


def pareto_front(results: StudyResults) -> list[TrialRow]:
    """The complete trials that no other one beats in every objective (ties kept), in the order of
    the first objective.
    """
    names = list(results.objectives)
    complete = finished(results)
    if not complete:
        return []
    signs = [1 if results.objectives[name] == "min" else -1 for name in names]
    costs = np.array(
        [
            [sign * trial.values[name] for name, sign in zip(names, signs, strict=True)]
            for trial in complete
        ]
    )
    front = [trial for trial, kept in zip(complete, on_pareto_front(costs), strict=True) if kept]
    return sorted(front, key=lambda trial: signs[0] * trial.values[names[0]])


def epoch_metrics(results: StudyResults) -> list[str]:
    """What to draw over epochs: the objectives, then validation accuracy and training loss, as far
    as trials reported them.
    """
    wanted = dict.fromkeys([*results.objectives, "val/accuracy", "train/loss"])
    return [name for name in wanted if any(curve(trial, name) for trial in results.trials)][:4]


def influence(results: StudyResults) -> list[Influence]:
    """How much each searched setting matters, judged by the complete trials; empty when there are
    too few.

    Ranks of the first objective are regressed on the setting alone: a polynomial of second degree
    for numbers, the group means for categories; trials without a conditional setting form a group
    of their own. `by_chance` comes from permuted ranks.
    """
    objective = next(iter(results.objectives))
    complete = finished(results)
    if len(complete) < FEWEST_TRIALS:
        return []
    values = np.array([trial.values[objective] for trial in complete])
    ranks = (values[:, None] > values[None]).sum(axis=1) + (
        (values[:, None] == values[None]).sum(axis=1) - 1
    ) / 2
    ranks = ranks - ranks.mean()
    if not ranks.any():
        return []
    shuffled = np.random.default_rng(0).permuted(np.tile(ranks, (PERMUTATIONS, 1)), axis=1)
    influences = []
    for name in searched(results):
        basis = _basis([trial.params.get(name) for trial in complete], name in results.log_scale)
        if basis.shape[1]:
            explained = ((ranks @ basis) ** 2).sum() / (ranks @ ranks)
            chance = ((shuffled @ basis) ** 2).sum(axis=1) / (ranks @ ranks)
            influences.append(
                Influence(
                    name, float(min(explained, 1.0)), float(min(np.quantile(chance, 0.95), 1.0))
                )
            )
    return influences


def _basis(values: Sequence[Value | None], logarithmic: bool) -> NDArray[np.float64]:
    """Orthonormal columns, centred, that span what one setting can explain: (trials, degrees of
    freedom).
    """
    numbers = [
        float(value)
        for value in values
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    present = np.array([value is not None for value in values])
    if len(numbers) == present.sum():
        line = np.zeros(len(values))
        line[present] = np.log(numbers) if logarithmic else numbers
        line[present] -= line[present].mean()
        line /= np.abs(line).max() or 1.0
        columns = np.stack([present.astype(float), line, line**2], axis=1)
    else:
        choices = sorted({str(value) for value in values})
        columns = np.array(
            [[str(value) == choice for choice in choices] for value in values], dtype=float
        )
    left, sizes, _ = np.linalg.svd(columns - columns.mean(axis=0), full_matrices=False)
    basis: NDArray[np.float64] = left[:, sizes > 1e-9 * max(sizes.max(), 1e-9)]
    return basis if np.abs(columns - columns.mean(axis=0)).max() > 1e-12 else basis[:, :0]
