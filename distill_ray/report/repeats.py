"""A study repeated over its own randomness: what its search gained over the defaults, with an
interval over the repeats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill_ray.escaping import for_terminal
from distill_ray.metric import METRICS, is_percent, title_of
from distill_ray.report.format import counted, metric_text
from distill_ray.report.per_sample import LEVEL, Interval
from distill_ray.report.ranks import Ranks, ranks_of
from distill_ray.report.ranks import as_json as ranks_as_json
from distill_ray.report.ranks import table as ranks_table
from distill_ray.report.results import StudyResults
from distill_ray.report.summary import JUDGED
from distill_ray.report.table import Row
from distill_ray.report.text_table import text_table


@dataclass(frozen=True)
class RepeatedGain:
    """Best student minus `against` in one metric, repeat by repeat, each the mean over the seeds
    that were confirmed; the interval is by Student's t over the repeats, None for a single one.
    """

    metric: str
    against: str
    differences: tuple[float, ...]
    interval: Interval | None

    @property
    def ahead(self) -> int:
        """In how many repeats the best student had the better mean."""
        sign = 1 if METRICS[self.metric].better == "max" else -1
        return sum(sign * difference > 0 for difference in self.differences)

    @property
    def sentence(self) -> str:
        """The gain in words: mean, interval, and how often it was one."""
        mean = metric_text(self.metric, float(np.mean(self.differences)), sign=True)
        unit = " points" if is_percent(self.metric) else ""
        spread = ""
        if self.interval is not None:
            low = metric_text(self.metric, self.interval.low, sign=True)
            high = metric_text(self.metric, self.interval.high, sign=True)
            spread = f" ({LEVEL:.0%} {low} to {high})".replace("%", " %")
        return (
            f"{title_of(self.metric)} {mean}{unit}{spread} against {self.against}, better in "
            f"{self.ahead} of {counted(len(self.differences), 'repeat')}"
        )


@dataclass(frozen=True)
class Repeats:
    """What several repeats of a study say together. They `share_teachers` where these do not depend
    on the study's seed, such as those that somebody trained.
    """

    repeats: int
    gains: tuple[RepeatedGain, ...]
    ranks: tuple[Ranks, ...]
    share_teachers: bool = False


def repeats_of(repeats: Mapping[str, StudyResults]) -> Repeats:
    """The gain of the search in each repeat that is confirmed, and the students of all ranked."""
    tables = [results.rows for results in repeats.values()]
    both = map(_best_and_baseline, repeats.values())
    pairs = [pair for pair in both if pair is not None]
    gains = []
    for metric in JUDGED:
        if pairs and all(metric in row.cells for pair in pairs for row in pair):
            differences = [
                best.cells[metric].mean - baseline.cells[metric].mean for best, baseline in pairs
            ]
            label = " or ".join(dict.fromkeys(baseline.contender.label for _, baseline in pairs))
            gains.append(RepeatedGain(metric, label, tuple(differences), _interval(differences)))
    ranks = ranks_of(dict(zip(repeats, tables, strict=True)))
    shared = len(set(map(_teachers, tables))) == 1
    return Repeats(len(pairs), tuple(gains), tuple(ranks), shared)


def _teachers(rows: Sequence[Row]) -> frozenset[str]:
    """The jobs that trained the teachers."""
    return frozenset(
        job for row in rows if row.contender.is_teacher for job in row.contender.job_ids
    )


def _best_and_baseline(results: StudyResults) -> tuple[Row, Row] | None:
    """The best student found, and what the search began from: the first of its baselines."""
    students = {row.contender.name: row for row in results.rows if row.runs and row.split == "test"}
    best = next((row for row in students.values() if row.contender.found), None)
    baseline = next((students[name] for name in results.baselines if name in students), None)
    return None if best is None or baseline is None else (best, baseline)


def _interval(differences: Sequence[float]) -> Interval | None:
    from scipy.special import stdtrit

    count = len(differences)
    if count < 2 or not np.isfinite(differences).all():
        return None
    error = float(np.std(differences, ddof=1)) / count**0.5
    half = error * float(stdtrit(count - 1, (1 + LEVEL) / 2))
    mean = float(np.mean(differences))
    return Interval(mean - half, mean + half)


def as_text(repeats: Repeats) -> str:
    """The gains and the ranks as plain text."""
    if not repeats.gains:
        return "No repeat has a confirmed best student beside a baseline yet.\n"
    teachers = "the same teachers" if repeats.share_teachers else "other teachers"
    lines = [
        f"What the search gained in {counted(repeats.repeats, 'repeat')}, each with {teachers} "
        "and another search:",
        *(f"  {for_terminal(gain.sentence)}" for gain in repeats.gains),
    ]
    if repeats.repeats < 3:
        lines.append("Fewer than three repeats bear no claim.")
    if repeats.ranks:
        lines += ["", *text_table(*ranks_table(repeats.ranks)), ""]
        lines += [for_terminal(ranks.sentence) for ranks in repeats.ranks]
        lines.append(
            "Seeds of one repeat share its teachers and what its search found, so that they say "
            "less than as many seeds that share nothing."
        )
    return "\n".join([*lines, ""])


def as_json(repeats: Repeats) -> dict[str, Any]:
    """The gains and the ranks as values that JSON has."""
    return {
        "repeats": repeats.repeats,
        "gains": [
            {
                "metric": gain.metric,
                "against": gain.against,
                "differences": list(gain.differences),
                "mean": float(np.mean(gain.differences)),
                "interval": None
                if gain.interval is None
                else [gain.interval.low, gain.interval.high],
                "ahead": gain.ahead,
            }
            for gain in repeats.gains
        ],
        "ranks": ranks_as_json(repeats.ranks),
    }
