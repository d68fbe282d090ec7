"""What the search chose, against the same configurations trained again: the best of many trials is
also a lucky one (the winner's curse).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from distill_ray.report.format import counted, objective_title
from distill_ray.report.results import StudyResults
from distill_ray.report.search import finished


@dataclass(frozen=True)
class Selected:
    """A configuration that the search found: the first objective of its trial, and the mean over
    the `seeds` of confirm, with their standard deviation (None for one seed). Both are of the
    validation split, on which it was chosen.
    """

    contender: str
    trial: int
    in_search: float
    again: float
    std: float | None
    seeds: int

    @property
    def again_text(self) -> str:
        """`0.1310 ± 0.0042`, both to the second figure of the deviation."""
        if not self.std:
            return f"{self.again:.4g}"
        decimals = max(0, 1 - math.floor(math.log10(self.std)))
        return f"{self.again:.{decimals}f} ± {self.std:.{decimals}f}"


def selection(results: StudyResults) -> list[Selected]:
    """The configurations that were trained again, in the order that the search had them in."""
    from distill_ray.metrics import validation_score

    objective = next(iter(results.objectives))
    values = {trial.number: trial.values[objective] for trial in finished(results)}
    selected = []
    for contender in results.contenders:
        if not contender.found or contender.trial not in values or not contender.validation:
            continue
        again = [
            validation_score(run.log_probabilities, run.labels)[objective.removeprefix("val/")]
            for run in contender.validation
        ]
        std = float(np.std(again, ddof=1)) if len(again) > 1 else None
        trial, mean = contender.trial, float(np.mean(again))
        selected.append(Selected(contender.name, trial, values[trial], mean, std, seeds=len(again)))
    return sorted(selected, key=lambda candidate: int(candidate.contender.partition("-")[2] or 1))


def luck(results: StudyResults, selected: Selected) -> float:
    """How much worse the configuration is trained again than it was in the search."""
    better = next(iter(results.objectives.values()))
    return (1 if better == "min" else -1) * (selected.again - selected.in_search)


def selection_sentences(results: StudyResults) -> list[str]:
    """The luck of the best trial in numbers, and which of several configurations stayed ahead."""
    selected = selection(results)
    if not selected:
        return []
    first, title = selected[0], objective_title(next(iter(results.objectives)))
    change = luck(results, first)
    sentences = [
        f"The best of {counted(len(finished(results)), 'complete trial')}, trial {first.trial}, "
        f"has a {title} of {first.in_search:.4g}; trained again over "
        f"{counted(first.seeds, 'seed')} it has {first.again_text}, "
        f"{abs(change):.2g} {'worse' if change > 0 else 'better'}."
    ]
    if len(selected) > 1 and results.for_each is None:
        champion = results.best.name if results.best else first.contender
        best = next((candidate for candidate in selected if candidate.contender == champion), first)
        order = f"the first of the {len(selected)} that were trained again"
        sentences.append(
            f"It stays {order}."
            if best is first
            else f"Trial {best.trial} is {order}, with {best.again_text}."
        )
    return sentences
