"""The students of a study, or of several, ranked against each other: one table, which of them
differ beyond chance, and whether a method or its settings make the difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from distill_ray.events import JobState
from distill_ray.metric import METRICS, title_of
from distill_ray.metrics.ranking import Ranking, explained, rank
from distill_ray.report.format import counted, listed, metric_text, objective_title
from distill_ray.report.results import StudyResults, TrialRow
from distill_ray.report.table import Row

FEWEST = 4
"""With fewer students the comparisons in pairs say all there is to say."""

RANKED = ("accuracy", "nll")
"""The metrics that students are ranked by."""


@dataclass(frozen=True)
class Ranks:
    """Students ranked by one metric; `labels` are what people read for the names in the ranking,
    `means` their mean scores, with the 95 % interval over blocks. A block is a seed, or a seed of a
    study.
    """

    metric: str
    ranking: Ranking
    labels: Mapping[str, str]
    means: Mapping[str, tuple[float, float, float]]

    @property
    def sentence(self) -> str:
        """Whether the students differ, and which cannot be told apart from the first."""
        first, *others = self.ranking.ranks
        about = f"In {title_of(self.metric)}, over {counted(self.ranking.blocks, 'seed')},"
        limit = self.ranking.ranks[first] + self.ranking.critical
        level = [self.labels[name] for name in others if self.ranking.ranks[name] <= limit]
        if self.ranking.p > 0.05:
            return f"{about} students do not differ beyond chance (Friedman {self._p})."
        apart = f"not told apart from {self.labels[first]}, the first, are {listed(level)}"
        if not level:
            apart = f"{self.labels[first]} is ahead of all others by more than chance"
        elif len(level) == len(others):
            apart = f"but none can be told apart from {self.labels[first]}, the first"
        return (
            f"{about} students differ (Friedman {self._p}); {apart} (critical difference "
            f"{self.ranking.critical:.2f}, Nemenyi)."
        )

    @property
    def _p(self) -> str:
        return f"p {self.ranking.p:.2g}"


def ranks_of(studies: Mapping[str, Sequence[Row]]) -> list[Ranks]:
    """The students that all of these studies have, trained with as many seeds, by accuracy and NLL;
    nothing where they are fewer than four or have one seed.
    """
    tables = [_students(rows) for rows in studies.values()]
    names = [name for name in tables[0] if all(name in table for table in tables)] if tables else []
    runs = [min((len(table[name].runs) for name in names), default=0) for table in tables]
    if len(names) < FEWEST or sum(runs) < 2:
        return []
    ranked = []
    for metric in RANKED:
        scores: dict[str, list[float]] = {name: [] for name in names}
        for table, count in zip(tables, runs, strict=True):
            for name in names:
                scores[name] += [run[metric] for run in table[name].runs[:count]]
        if np.isfinite(list(scores.values())).all():
            ranking = rank(scores, METRICS[metric].better)
            labels = {name: tables[0][name].contender.label for name in names}
            means = {name: _interval(scores[name]) for name in ranking.ranks}
            ranked.append(Ranks(metric, ranking, labels, means))
    return ranked


def _students(rows: Sequence[Row]) -> dict[str, Row]:
    """The students that were confirmed, by what tells them apart in every study: a searched method
    by its label, since its place among the best differs.
    """
    return {
        row.contender.label if row.contender.found else row.contender.name: row
        for row in rows
        if row.runs
        and row.split == "test"
        and row.task == "classification"
        and not row.contender.is_teacher
        and not row.contender.averaged
    }


def _interval(scores: Sequence[float]) -> tuple[float, float, float]:
    from scipy.special import stdtrit

    mean, error = float(np.mean(scores)), float(np.std(scores, ddof=1)) / len(scores) ** 0.5
    half = error * float(stdtrit(len(scores) - 1, 0.975))
    return mean, mean - half, mean + half


def loss_or_weight(results: StudyResults, rows: Sequence[Row]) -> list[str]:
    """Whether the method, or another choice that had searches of its own, or its settings make the
    difference: over the trials, and after the search on the test split.
    """
    name = results.for_each or "method"
    groups: dict[str, list[float]] = {}
    objective = next(iter(results.objectives))
    for trial in results.trials:
        if trial.state == JobState.FINISHED and name in trial.params:
            groups.setdefault(str(trial.params[name]), []).append(_value(trial, objective))
    sentences = []
    share = explained(groups) if len(groups) > 1 else None
    if share is not None:
        trials = sum(map(len, groups.values()))
        sentences.append(
            f"Over {counted(trials, 'trial')} the {name} explains {100 * share:.0f} % of the "
            f"variation of {objective_title(objective)} (in ranks, less what chance explains), its "
            "settings and chance the rest."
        )
    return [*sentences, *_after_the_search(results, rows, name)]


def _value(trial: TrialRow, objective: str) -> float:
    return trial.values[objective]


def _after_the_search(results: StudyResults, rows: Sequence[Row], name: str) -> list[str]:
    """How far the best settings of the methods are apart, and how far those of each are from its
    defaults.
    """
    if results.for_each is None:
        return []
    students = [row for row in rows if row.runs and row.split == "test" and "nll" in row.cells]
    searched = {row.contender.params.get(name): row for row in students if row.contender.found}
    defaults = {
        row.contender.params.get(name): row
        for row in reversed(students)
        if not row.contender.found and not row.contender.is_teacher and not row.contender.averaged
    }
    if len(searched) < 2:
        return []
    ordered = sorted(searched.values(), key=lambda row: row.cells["nll"].mean)
    low, high = ordered[0], ordered[-1]
    between = high.cells["nll"].mean - low.cells["nll"].mean
    texts = [
        f"Between the best settings of each {name} test NLL differs by up to "
        f"{metric_text('nll', between)}, from {low.contender.label} to {high.contender.label}."
    ]
    gains = [
        defaults[choice].cells["nll"].mean - row.cells["nll"].mean
        for choice, row in searched.items()
        if choice in defaults
    ]
    if gains:
        middle = median(gains)
        changed = "lowered" if middle >= 0 else "raised"
        larger = "more" if abs(middle) > between else "less"
        better = sum(gain > 0 for gain in gains)
        texts.append(
            f"Searching its settings {changed} test NLL by {metric_text('nll', abs(middle))} "
            f"against the defaults of the same {name} (median of {len(gains)}, lower for {better} "
            f"of them), {larger} than that."
        )
    return texts


def table(ranked: Sequence[Ranks]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the one table: every student with its mean, interval and mean rank by
    each metric, in the order of the last.
    """
    header = [""]
    for ranks in ranked:
        unit = " %" if METRICS[ranks.metric].percent else ""
        header += [f"{title_of(ranks.metric)}{unit}", "95 % interval", "mean rank"]
    lines = []
    for name in ranked[-1].ranking.ranks if ranked else ():
        line = [ranked[0].labels[name]]
        for ranks in ranked:
            mean, low, high = (metric_text(ranks.metric, value) for value in ranks.means[name])
            line += [mean, f"{low} to {high}", f"{ranks.ranking.ranks[name]:.2f}"]
        lines.append(line)
    return header, lines


def as_json(ranked: Sequence[Ranks]) -> dict[str, Any]:
    """The rankings by metric, as values that JSON has."""
    return {
        ranks.metric: {
            "blocks": ranks.ranking.blocks,
            "friedman_p": ranks.ranking.p,
            "critical_difference": ranks.ranking.critical,
            "not_told_apart": [list(group) for group in ranks.ranking.ties],
            "students": [
                {
                    "name": name,
                    "label": ranks.labels[name],
                    "mean_rank": mean_rank,
                    "mean": ranks.means[name][0],
                    "interval": list(ranks.means[name][1:]),
                }
                for name, mean_rank in ranks.ranking.ranks.items()
            ],
        }
        for ranks in ranked
    }
