"""What to doubt about a study, and what to do about it: checks of the search and of its claims,
each with its evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from distill_ray.events import JobState
from distill_ray.metric import is_percent, title_of
from distill_ray.report.comparison import Comparison
from distill_ray.report.format import counted, listed, metric_text, objective_title, setting
from distill_ray.report.results import StudyResults, TrialRow
from distill_ray.report.search import best_trial, curve, finished, influence, searched
from distill_ray.report.selection import luck, selection
from distill_ray.report.summary import differences_text, judged_gains, verdict
from distill_ray.report.table import Row

FEW, MANY = 8, 20
"""Finished trials below which the search is not judged, and its settings are not."""

EDGE = 0.1
"""The outer share of a range that counts as its edge."""

POWER = (1.96 + 0.84) ** 2
"""Of a paired test at the level of 5 % that finds a difference in four of five cases: the number of
pairs times (difference / standard deviation) squared.
"""

MOST_SEEDS = 100


@dataclass(frozen=True)
class HealthFinding:
    """Something to doubt: which check found it, on what evidence, and what to do."""

    check: str
    evidence: str
    advice: str

    @property
    def sentence(self) -> str:
        """Evidence and advice."""
        return f"{self.evidence} {self.advice}"


def findings(
    results: StudyResults, rows: Sequence[Row], compared: Sequence[Comparison]
) -> list[HealthFinding]:
    """All findings about a study, those about its limits and its search first."""
    checks: list[Callable[[StudyResults], Iterator[HealthFinding]]] = [
        _limits,
        _on_the_edge,
        _not_converged,
        _stopped_too_early,
        _without_effect,
    ]
    from_checks = [finding for check in checks for finding in check(results)]
    return [
        *from_checks,
        *_baselines(compared, results.baselines),
        *_few_seeds(rows, compared, results.baselines),
        *_luck(results),
    ]


def _limits(results: StudyResults) -> Iterator[HealthFinding]:
    infeasible = [trial for trial in results.trials if trial.state == JobState.INFEASIBLE]
    others = [trial for trial in results.trials if trial.state != JobState.INFEASIBLE]
    if not infeasible or len(infeasible) <= len(others):
        return
    models = {trial.params.get("model") for trial in infeasible}
    never = sorted(str(m) for m in models - {trial.params.get("model") for trial in others} if m)
    only = f" No trial with {listed(never)} kept within them." if never else ""
    yield HealthFinding(
        "limits",
        f"{counted(len(infeasible), 'configuration')} exceeded the limits, and "
        f"{len(others)} did not.{only}",
        f"Leave {listed(never)} out of the space." if never else "Raise the limits.",
    )


def _on_the_edge(results: StudyResults) -> Iterator[HealthFinding]:
    objective, better = next(iter(results.objectives.items()))
    sign = 1 if better == "min" else -1
    ranked = sorted(finished(results), key=lambda trial: sign * trial.values[objective])
    if len(ranked) < FEW:
        return
    leaders = ranked[: max(3, len(ranked) // 5)]
    for name, (low, high) in results.ranges.items():
        places = [
            _place(float(trial.params[name]), low, high, name in results.log_scale)
            for trial in leaders
            if name in trial.params
        ]
        if len(places) < len(leaders) or name not in ranked[0].params:
            continue
        for end, at_end in (
            (low, [p for p in places if p < EDGE]),
            (high, [p for p in places if p > 1 - EDGE]),
        ):
            if places[0] in at_end and 2 * len(at_end) > len(places):
                value = setting(ranked[0].params[name])
                yield HealthFinding(
                    "edge",
                    f"The best {name} is {value}, on the edge of its range ({setting(low)} to "
                    f"{setting(high)}), as in {len(at_end)} of the {len(places)} best trials.",
                    f"Widen the range beyond {setting(end)}, unless that is all it can be.",
                )


def _place(value: float, low: float, high: float, logarithmic: bool) -> float:
    scale = math.log if logarithmic else float
    return (scale(value) - scale(low)) / (scale(high) - scale(low)) if high > low else 0.5


def _not_converged(results: StudyResults) -> Iterator[HealthFinding]:
    objective, better = next(iter(results.objectives.items()))
    sign = 1 if better == "min" else -1
    values = [sign * trial.values[objective] for trial in finished(results)]
    if len(values) < FEW or results.status != "finished":
        return
    late = max(2, len(values) // 4)
    before, after = min(values[:-late]), min(values)
    spread = float(np.std(sorted(values)[: len(values) // 2]))
    if before - after > 0.25 * spread > 0:
        yield HealthFinding(
            "not-converged",
            f"The last {late} of {len(values)} complete trials still improved the best "
            f"{objective_title(objective)}, from {sign * before:.4g} to {sign * after:.4g}.",
            "Raise search.trials: the search goes on from where it is.",
        )


def _stopped_too_early(results: StudyResults) -> Iterator[HealthFinding]:
    objective, better = next(iter(results.objectives.items()))
    sign = 1 if better == "min" else -1
    best = best_trial(results)
    pruned = [trial for trial in results.trials if trial.state == JobState.PRUNED]
    if best is None or not pruned:
        return
    of_best = dict(curve(best, objective))
    ahead = [trial for trial in pruned if _is_ahead(trial, of_best, objective, sign)]
    if len(ahead) > max(1, len(pruned) // 10):
        epochs = sorted({len(trial.epochs) for trial in ahead})
        yield HealthFinding(
            "pruned-while-improving",
            f"{len(ahead)} of {counted(len(pruned), 'pruned trial')} were ahead of the best trial "
            f"at the epoch after which they were stopped ({listed([str(e) for e in epochs])}), and "
            "still improving.",
            "Raise scheduler.grace_epochs.",
        )


def _is_ahead(trial: TrialRow, of_best: dict[float, float], objective: str, sign: int) -> bool:
    points = curve(trial, objective)
    if len(points) < 2 or points[-1][0] not in of_best:
        return False
    improving = sign * points[-1][1] < sign * points[-2][1]
    return improving and sign * points[-1][1] < sign * of_best[points[-1][0]]


def _without_effect(results: StudyResults) -> Iterator[HealthFinding]:
    if len(finished(results)) < MANY:
        return
    idle = [setting for setting in influence(results) if setting.explained <= setting.by_chance / 2]
    if idle and len(idle) < len(searched(results)):
        shares = [f"{setting.name} {setting.explained:.0%}" for setting in idle]
        yield HealthFinding(
            "without-effect",
            f"Settings that explain less of the ranks of trials than chance does: "
            f"{listed(shares)}.".replace("%", " %"),
            "Fix them, and search what matters with the trials that this saves.",
        )


def _baselines(compared: Sequence[Comparison], baselines: Sequence[str]) -> Iterator[HealthFinding]:
    for comparison in compared:
        if comparison.other.name in baselines and not verdict(comparison).better:
            label = comparison.other.label
            yield HealthFinding(
                "baseline-not-beaten",
                f"The search chose the settings of {label}, so the two are the same training runs."
                if comparison.same
                else f"The best student is not clearly better than {label}: "
                f"{differences_text(comparison)}.",
                "Search other settings or methods, better teachers, or more trials; until then "
                "the baseline is the simpler choice.",
            )


def _few_seeds(
    rows: Sequence[Row], compared: Sequence[Comparison], baselines: Sequence[str]
) -> Iterator[HealthFinding]:
    by_name = {row.contender.name: row for row in rows}
    best = next((row for row in rows if row.contender.found and row.runs), None)
    for comparison in compared:
        other = by_name[comparison.other.name]
        if comparison.other.name not in baselines or best is None or len(best.runs) < 2:
            continue
        if len(other.runs) != len(best.runs):
            continue
        for gain in judged_gains(comparison):
            pairs = zip(best.runs, other.runs, strict=True)
            differences = [mine[gain.metric] - theirs[gain.metric] for mine, theirs in pairs]
            deviation = float(np.std(differences, ddof=1))
            if gain.evidence == "clear" or not gain.improves or not deviation:
                continue
            needed = math.ceil(POWER * (deviation / gain.difference) ** 2)
            if needed <= len(best.runs):
                continue
            enough = f"about {needed} seeds" if needed <= MOST_SEEDS else "more than 100 seeds"
            unit = " points" if is_percent(gain.metric) else ""
            difference = metric_text(gain.metric, gain.difference, sign=True)
            yield HealthFinding(
                "few-seeds",
                f"Against {comparison.other.label} the difference in {title_of(gain.metric)} is "
                f"{difference}{unit}, and varies by {metric_text(gain.metric, deviation)} from "
                f"seed to seed; {len(best.runs)} seeds cannot tell it from chance, {enough} could.",
                f"Set confirm.seeds: {needed}." if needed <= MOST_SEEDS else "Take it for none.",
            )


def _luck(results: StudyResults) -> Iterator[HealthFinding]:
    """The winner's curse: the best of many trials is also a lucky one."""
    selected = selection(results)
    if not selected or not selected[0].std:
        return
    first, title = selected[0], objective_title(next(iter(results.objectives)))
    if luck(results, first) > 2 * selected[0].std:
        yield HealthFinding(
            "lucky-winner",
            f"The best of {counted(len(finished(results)), 'complete trial')} has a {title} of "
            f"{first.in_search:.4g}; trained again it has {first.again_text}.",
            "Set confirm.top: 3, so that the choice is made among trials that were trained again."
            if len(selected) == 1
            else "Go by what was trained again.",
        )
