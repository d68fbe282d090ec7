"""The answer in words: how good the best student is, against what, how sure that is, and what it
costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from distill_ray.metric import is_percent, title_of
from distill_ray.report.comparison import Comparison
from distill_ray.report.format import counted, listed, objective_title, settings
from distill_ray.report.results import ENSEMBLE, SCRATCH, StudyResults
from distill_ray.report.search import best_trial
from distill_ray.report.table import Row, figure_of, parameter_count

JUDGED = ("accuracy", "nll", "rmse")
"""The metrics that a verdict is about."""


@dataclass(frozen=True)
class Fact:
    """A number that stands out, what it is, and a remark on it."""

    value: str
    name: str
    spread: str = ""
    remark: str = ""


@dataclass(frozen=True)
class Verdict:
    """What can be said of the best student against one other contender."""

    words: str
    tone: Literal["good", "bad", "neutral"]


def lead(results: StudyResults, rows: Sequence[Row]) -> str:
    """The first sentences of the report."""
    best = next(
        (row for row in rows if row.contender.found and row.runs and row.split == "test"), None
    )
    if best is not None:
        figures = {metric: _with_spread(best, metric) for metric in JUDGED if metric in best.cells}
        said = (
            f"gets {figures['accuracy']} of the test split right"
            if "accuracy" in figures
            else _errs(figures)
        )
        return f"The best student found {said}, with an NLL of {figures['nll']} ({counted(len(best.runs), 'training run')})."
    trial = best_trial(results)
    if trial is None:
        return "No student has been found yet."
    objective = next(iter(results.objectives))
    return (
        f"Nothing is confirmed on the test split yet. The best of {counted(len(results.trials), 'trial')} so far is "
        f"trial {trial.number} with a {objective_title(objective)} of {trial.values[objective]:.4g}: {settings(trial.params)}."
    )


def _errs(figures: Mapping[str, str]) -> str:
    return f"has an RMSE of {figures['rmse']} on the test split"


def found_settings(results: StudyResults) -> str:
    """The searched settings of the best student, as words; empty when there is none."""
    if results.best is None:
        return ""
    searched = {name for trial in results.trials for name in trial.params}
    return settings(
        {name: value for name, value in results.best.params.items() if name in searched}
    )


def facts(rows: Sequence[Row]) -> list[Fact]:
    """What stands out of the best student: its metrics, how much of the ensemble's lead it keeps,
    what it costs.
    """
    by_name = {row.contender.name: row for row in rows if row.runs and row.split == "test"}
    best = next((row for row in by_name.values() if row.contender.found), None)
    if best is None:
        return []
    found = [
        Fact(*_parts(best, metric), _after(best, f"c{metric}"))
        for metric in ("accuracy", "nll", "ece", "rmse", "mae")
        if metric in best.cells
    ]
    ensemble, scratch = by_name.get(ENSEMBLE), by_name.get(SCRATCH)
    if ensemble is not None and scratch is not None and best.task == "classification":
        whole = ensemble.cells["accuracy"].mean - scratch.cells["accuracy"].mean
        kept = best.cells["accuracy"].mean - scratch.cells["accuracy"].mean
        if whole > 0 and kept > 0:
            share = f"{100 * kept / whole:.0f} %"
            found.append(
                Fact(
                    share,
                    "of the ensemble's lead",
                    remark="in accuracy over the student from scratch",
                )
            )
    cost = parameter_count(best.contender.parameters)
    smaller = (
        ensemble.contender.parameters / best.contender.parameters if ensemble is not None else 0
    )
    found.append(
        Fact(
            cost,
            "parameters",
            remark=f"the ensemble has {smaller:.3g} times as many" if smaller else "",
        )
    )
    return found


def verdict(comparison: Comparison) -> Verdict:
    """Better or worse, in what, and whether beyond the spread of seeds and of test samples."""
    gains = [comparison.gains[metric] for metric in JUDGED if metric in comparison.gains]

    def metrics(better: bool, evidence: str) -> list[str]:
        return [
            title_of(gain.metric)
            for gain in gains
            if gain.improves is better and gain.evidence == evidence
        ]

    better, worse = metrics(True, "clear"), metrics(False, "clear")
    maybe_better, maybe_worse = metrics(True, "partial"), metrics(False, "partial")
    said = [
        f"{word} in {listed(names)}"
        for word, names in (
            ("better", better),
            ("worse", worse),
            ("perhaps better", maybe_better),
            ("perhaps worse", maybe_worse),
        )
        if names
    ]
    tone: Literal["good", "bad", "neutral"] = "neutral"
    if bool(better) != bool(worse):
        tone = "good" if better else "bad"
    return Verdict(", ".join(said) or "no clear difference", tone)


def _parts(row: Row, metric: str) -> tuple[str, str, str]:
    cell, unit = row.cells[metric], " %" if is_percent(metric) else ""
    return (
        figure_of(metric, cell.mean) + unit,
        title_of(metric),
        "" if cell.std is None else f"± {figure_of(metric, cell.std)}",
    )


def _with_spread(row: Row, metric: str) -> str:
    cell = row.cells[metric]
    spread = "" if cell.std is None else f" ± {figure_of(metric, cell.std)}"
    return f"{figure_of(metric, cell.mean)}{spread}{' %' if is_percent(metric) else ''}"


def _after(row: Row, metric: str) -> str:
    return f"{_with_spread(row, metric)} after temperature scaling" if metric in row.cells else ""
