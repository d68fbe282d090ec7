"""The answer in words: how good the best student is, against what, how sure that is, and what it
costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from distill_ray.metric import is_percent, title_of
from distill_ray.report.comparison import Comparison, Gain
from distill_ray.report.format import (
    counted,
    listed,
    metric_text,
    objective_title,
    parameter_count,
    settings,
)
from distill_ray.report.results import (
    ENSEMBLE,
    FINE_TUNED,
    SCRATCH,
    CalibratedTeacher,
    StudyResults,
)
from distill_ray.report.search import best_trial
from distill_ray.report.table import Row

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
    """What can be said of the best student against one other contender: the metrics in which it is
    surely better or worse, and the others in words (`perhaps worse in NLL`).
    """

    better: tuple[str, ...]
    worse: tuple[str, ...]
    perhaps: str

    @property
    def words(self) -> str:
        """The whole verdict."""
        sure = [f"better in {listed(self.better)}"] if self.better else []
        return ", ".join(filter(None, [*sure, self.rest])) or "no clear difference"

    @property
    def rest(self) -> str:
        """The verdict without what is better."""
        sure = [f"worse in {listed(self.worse)}"] if self.worse else []
        return ", ".join(filter(None, [*sure, self.perhaps]))

    @property
    def tone(self) -> Literal["good", "bad", "neutral"]:
        """Good or bad where all that is sure points one way."""
        if bool(self.better) == bool(self.worse):
            return "neutral"
        return "good" if self.better else "bad"


def headline(
    results: StudyResults, rows: Sequence[Row], compared: Sequence[Comparison]
) -> list[str]:
    """The answer of the study, in a few sentences: whether the search found anything better than
    the usual settings, how good its best student is, and how far from the ensemble.
    """
    best = next(
        (row for row in rows if row.contender.found and row.runs and row.split == "test"), None
    )
    if best is None:
        return [_so_far(results)]
    by_name = {comparison.other.name: comparison for comparison in compared}
    baseline = next((by_name[name] for name in results.baselines if name in by_name), None)
    ensemble = by_name.get(ENSEMBLE)
    return [
        *([] if baseline is None else [_against_baseline(baseline)]),
        _scores(best),
        *([] if ensemble is None else [_against_ensemble(ensemble)]),
    ]


def _against_baseline(comparison: Comparison) -> str:
    """Whether the search was worth it, with the intervals that decide."""
    label = comparison.other.label
    if comparison.same:
        return (
            f"The search found nothing better than {label}: it chose the same settings, so the two "
            "are the same training runs."
        )
    differences = f"best student minus {label}: {differences_text(comparison)}"
    judged = verdict(comparison)
    if judged.better:
        other = f", but {judged.rest}" if judged.rest else ""
        return (
            f"The search found a student that is better than {label} in {listed(judged.better)}"
            f"{other} ({differences})."
        )
    if judged.worse:
        return (
            f"The search found nothing better than {label}, which is better in "
            f"{listed(judged.worse)} ({differences})."
        )
    return f"The search found nothing clearly better than {label} ({differences})."


def _scores(best: Row) -> str:
    nll = f"an NLL of {_with_unit(best, 'nll')} ({counted(len(best.runs), 'training run')})"
    if "accuracy" in best.cells:
        correct = f"classifies {_with_unit(best, 'accuracy')} of the test split correctly"
        return f"The best student {correct}, with {nll}."
    return (
        f"The best student has an RMSE of {_with_unit(best, 'rmse')} on the test split and {nll}."
    )


def _against_ensemble(comparison: Comparison) -> str:
    """How much of the ensemble was lost on the way, metric by metric."""
    behind: list[str] = []
    ahead: list[str] = []
    for gain in judged_gains(comparison):
        unit = " points" if is_percent(gain.metric) else ""
        amount = f"{metric_text(gain.metric, abs(gain.difference))}{unit}"
        (ahead if gain.improves else behind).append(f"{amount} in {title_of(gain.metric)}")
    if not ahead:
        return f"It is behind the {comparison.other.label} by {listed(behind)}."
    if not behind:
        return f"It is ahead of the {comparison.other.label} by {listed(ahead)}."
    return (
        f"It is behind the {comparison.other.label} by {listed(behind)}, and ahead of it by "
        f"{listed(ahead)}."
    )


def calibrated_sentence(results: StudyResults) -> str:
    """By what temperatures the logits of which teachers are divided; empty where none are."""
    groups: dict[str, list[CalibratedTeacher]] = {}
    for teacher in results.calibrated:
        groups.setdefault(teacher.group, []).append(teacher)
    if not groups:
        return ""
    texts = []
    for name, teachers in groups.items():
        temperatures = [f"{teacher.temperature:.3g}" for teacher in teachers]
        texts.append(f"{name} (T {listed(temperatures)})")
    prior = [
        f"{undetermined.group} of seed {undetermined.seed}"
        for undetermined in results.calibrated
        if undetermined.from_prior
    ]
    kept = (
        f" Validation predictions of {listed(prior)} determine none; a prior keeps it near 1."
        if prior
        else ""
    )
    return (
        "Students learn from calibrated teachers, with logits divided by temperatures that were "
        f"fitted on the validation split: {listed(texts)}.{kept}"
    )


def _so_far(results: StudyResults) -> str:
    trial = best_trial(results)
    if trial is None:
        return "No trial has finished yet."
    objective = next(iter(results.objectives))
    return (
        "Nothing is confirmed on the test split yet. The best of "
        f"{counted(len(results.trials), 'trial')} so far is trial {trial.number} with a "
        f"{objective_title(objective)} of {trial.values[objective]:.4g}: {settings(trial.params)}."
    )


def judged_gains(comparison: Comparison) -> list[Gain]:
    """The gains in the metrics that a verdict is about."""
    return [comparison.gains[metric] for metric in JUDGED if metric in comparison.gains]


def differences_text(comparison: Comparison) -> str:
    """`accuracy +0.12 points (seeds -0.30 to +0.54, test samples -0.10 to +0.34), NLL ...`: the
    differences with their intervals.
    """
    texts = []
    for gain in judged_gains(comparison):
        unit = " points" if is_percent(gain.metric) else ""
        intervals = [
            f"{name} {metric_text(gain.metric, interval.low, sign=True)} to "
            f"{metric_text(gain.metric, interval.high, sign=True)}"
            for name, interval in (
                ("seeds", gain.over_seeds),
                ("test samples", gain.over_samples),
            )
            if interval is not None
        ]
        difference = metric_text(gain.metric, gain.difference, sign=True)
        spread = f" ({', '.join(intervals)})" if intervals else ""
        texts.append(f"{title_of(gain.metric)} {difference}{unit}{spread}")
    return ", ".join(texts)


def best_settings(results: StudyResults) -> str:
    """The searched settings of the best student, as words; empty when there is none."""
    if results.best is None:
        return ""
    searched = {name for trial in results.trials for name in trial.params}
    return settings(
        {name: value for name, value in results.best.params.items() if name in searched}
    )


def facts(rows: Sequence[Row]) -> list[Fact]:
    """The numbers of the best student that stand out: its metrics, how much of the ensemble's lead
    it keeps, what it costs.
    """
    by_name = {row.contender.name: row for row in rows if row.runs and row.split == "test"}
    best = next((row for row in by_name.values() if row.contender.found), None)
    if best is None:
        return []
    numbers = [
        Fact(*_parts(best, metric), _calibrated(best, f"c{metric}"))
        for metric in ("accuracy", "nll", "ece", "rmse", "mae")
        if metric in best.cells
    ]
    ensemble = by_name.get(ENSEMBLE)
    alone = next((by_name[name] for name in (FINE_TUNED, SCRATCH) if name in by_name), None)
    if ensemble is not None and alone is not None and best.task == "classification":
        numbers += _share_of_lead(best, ensemble, alone)
    remark = ""
    weights = None if ensemble is None else ensemble.contender.parameters
    if weights and best.contender.parameters:
        times = weights / best.contender.parameters
        remark = f"the ensemble has {times:.3g} times as many"
    return [*numbers, Fact(parameter_count(best.contender.parameters), "parameters", "", remark)]


def _share_of_lead(best: Row, ensemble: Row, alone: Row) -> list[Fact]:
    """How much of the ensemble's lead over the student without teachers the best student has, if
    both are ahead of it.
    """
    student, teachers, least = (row.cells["accuracy"].mean for row in (best, ensemble, alone))
    whole, kept = teachers - least, student - least
    if not (whole > 0 and kept > 0):
        return []
    remark = f"in accuracy over the {alone.contender.label}"
    return [Fact(f"{100 * kept / whole:.0f} %", "of the ensemble's lead", remark=remark)]


def verdict(comparison: Comparison) -> Verdict:
    """Better or worse, in what, and whether beyond the spread of seeds and of test samples."""
    if comparison.same:
        return Verdict((), (), "the same training runs")
    titles: dict[tuple[str, bool], list[str]] = {}
    for gain in judged_gains(comparison):
        titles.setdefault((gain.evidence, gain.improves), []).append(title_of(gain.metric))
    perhaps = [
        f"perhaps {word} in {listed(names)}"
        for word, improves in (("better", True), ("worse", False))
        if (names := titles.get(("partial", improves)))
    ]
    return Verdict(
        tuple(titles.get(("clear", True), ())),
        tuple(titles.get(("clear", False), ())),
        ", ".join(perhaps),
    )


def _parts(row: Row, metric: str) -> tuple[str, str, str]:
    cell, unit = row.cells[metric], " %" if is_percent(metric) else ""
    return (
        metric_text(metric, cell.mean) + unit,
        title_of(metric),
        "" if cell.std is None else f"± {metric_text(metric, cell.std)}",
    )


def _with_unit(row: Row, metric: str) -> str:
    return f"{row.cells[metric].text(metric)}{' %' if is_percent(metric) else ''}"


def _calibrated(row: Row, metric: str) -> str:
    return f"{_with_unit(row, metric)} after temperature scaling" if metric in row.cells else ""
