"""Pictures of diversity: how often networks that were trained alike disagree, and which teachers
are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from distill_ray.metrics import diversity
from distill_ray.metrics.uncertainty import disagreement
from distill_ray.report.format import cut
from distill_ray.report.plots.drawing import (
    NARROW,
    WIDE,
    Panel,
    Plot,
    axes_in,
    color,
    contender_colors,
    figure,
)
from distill_ray.report.results import TEACHER
from distill_ray.report.table import Row

MOST_TEACHERS = 24
"""More teachers than this make a matrix that cannot be read."""


@dataclass(frozen=True)
class Spread:
    """How much several networks, or the heads of one, disagree: in shares of samples, and as mutual
    information in nats.
    """

    contender: str
    label: str
    inside: bool
    disagreement: float
    information: float


def diversity_panels(rows: Sequence[Row]) -> list[Panel]:
    """How diverse every contender's networks are, and the heads inside one network; and the
    teachers pair by pair.
    """
    evaluated = [row for row in rows if row.runs]
    networks = spreads(evaluated)
    if not networks:
        return []
    colors = contender_colors(tuple(row.contender for row in rows))
    inside = any(network.inside for network in networks)
    heads = (
        " Diamonds are the members or heads inside one network on the validation split, before "
        "they are made one; near zero they have become copies of each other."
        if inside
        else ""
    )
    panels = [
        Panel(
            "How often networks of one kind disagree",
            f"Dots are the networks of one contender, {evaluated[0].split} split. Left: how often "
            "two of them name different classes. Right: mutual information, which also sees "
            "different probabilities for the same class. Teachers that never disagree make an "
            "ensemble no better than one of them; distilled students usually agree more with each "
            f"other than students from scratch, since they were told the same.{heads}",
            (
                _dots(networks, "disagreement", "% of samples on which two disagree", 100, colors),
                _dots(networks, "information", "mutual information in nats", 1, colors),
            ),
        )
    ]
    teachers = _all_teachers(evaluated)
    if teachers is not None and 2 < len(teachers.runs) <= MOST_TEACHERS:
        panels.append(_matrix(teachers, _names(teachers, evaluated)))
    return panels


def spreads(rows: Sequence[Row]) -> list[Spread]:
    """Of every contender with several runs, and of every one with several members or heads inside
    its networks.
    """
    result = []
    for row in rows:
        contender = row.contender
        if len(row.runs) > 1 and not contender.averaged:
            between = diversity(_stacked(row))
            result.append(
                Spread(
                    contender.name,
                    contender.label,
                    False,
                    between["disagreement"],
                    between["information"],
                )
            )
        if contender.diversity:
            average = {
                name: mean(run[name] for run in contender.diversity)
                for name in ("disagreement", "information")
            }
            result.append(
                Spread(
                    contender.name,
                    f"inside {contender.label}",
                    True,
                    average["disagreement"],
                    average["information"],
                )
            )
    return result


def _stacked(row: Row) -> NDArray[np.float64]:
    return np.stack([np.asarray(run.log_probabilities, np.float64) for run in row.predictions])


def _dots(
    networks: Sequence[Spread], measure: str, title: str, unit: float, colors: dict[str, str]
) -> Plot:
    values = [unit * getattr(network, measure) for network in networks]
    with figure((NARROW[0], 84 + 26 * len(networks))) as canvas:
        axes = axes_in(canvas, left=168, top=10)
        for place, (network, value) in enumerate(
            zip(reversed(networks), reversed(values), strict=True)
        ):
            axes.hlines(place, 0, value, color=color("grid"), lw=4)
            axes.plot(
                value,
                place,
                "D" if network.inside else "o",
                ms=7 if network.inside else 9,
                color=colors[network.contender],
            )
        axes.set_yticks(
            range(len(networks)), [cut(network.label, 22) for network in reversed(networks)]
        )
        axes.set(xlim=(0, 1.08 * max(values) or 1), ylim=(-0.6, len(networks) - 0.4), xlabel=title)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(False, axis="y")
    words = "; ".join(
        f"{network.label} {value:.3g}" for network, value in zip(networks, values, strict=True)
    )
    return Plot(f"diversity-{measure}", title, words, canvas)


def _matrix(teachers: Row, names: Sequence[str]) -> Panel:
    shares = 100 * disagreement(_stacked(teachers))
    count = len(shares)
    pairs = [(float(shares[i, j]), j, i) for i in range(count) for j in range(i)]
    (least, *alike), (most, *apart) = min(pairs), max(pairs)
    cell, left, bottom = min(56, 640 // count), 20 + 8 * max(map(len, names)), 34
    with figure((WIDE[0], cell * count + bottom + 8)) as canvas:
        axes = axes_in(canvas, left=left, right=WIDE[0] - left - cell * count, bottom=bottom, top=8)
        for i, j in np.argwhere(~np.eye(count, dtype=bool)):
            shade = {
                "color": color("teacher"),
                "alpha": 0.08 + 0.72 * shares[i, j] / (most or 1),
                "lw": 0,
            }
            axes.fill(
                [j - 0.48, j + 0.48, j + 0.48, j - 0.48],
                [i - 0.48, i - 0.48, i + 0.48, i + 0.48],
                **shade,
            )
            if cell >= 34:
                axes.text(j, i, f"{shares[i, j]:.1f}", ha="center", va="center", fontsize=11.5)
        axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5))
        axes.set_xticks(range(count))
        axes.set_yticks(range(count), names)
        axes.grid(False)
        for side in axes.spines.values():
            side.set_visible(False)
    least_words = f"{names[alike[0]]} and {names[alike[1]]} disagree least ({least:.1f} %)"
    words = f"{least_words}, {names[apart[0]]} and {names[apart[1]]} most ({most:.1f} %)."
    return Panel(
        "Which teachers are alike",
        "In percent, how often two teachers name different classes. A pair that stands out by a "
        "low number adds little to the ensemble; a row that stands out by high ones is a teacher "
        f"of its own kind, or a bad one. {words}",
        (Plot("teachers-alike", "Disagreement of pairs of teachers", words, canvas),),
    )


def _all_teachers(rows: Sequence[Row]) -> Row | None:
    """All teachers as the runs of one row, each once, whatever architectures they have."""
    rows = [row for row in rows if row.contender.is_teacher]
    whole = next((row for row in rows if row.contender.name == TEACHER), None)
    if whole is not None or not rows:
        return whole
    places: dict[str, tuple[Row, int]] = {}
    for row in rows:
        for index, job in enumerate(row.contender.job_ids):
            places.setdefault(job, (row, index))
    predictions = tuple(row.predictions[index] for row, index in places.values())
    contender = replace(
        rows[0].contender,
        name=TEACHER,
        seeds=tuple(row.contender.seeds[index] for row, index in places.values()),
        job_ids=tuple(places),
        validation=predictions,
        test=predictions if rows[0].split == "test" else (),
    )
    runs = tuple(row.runs[index] for row, index in places.values())
    return Row(contender, rows[0].split, runs, ())


def _names(teachers: Row, rows: Sequence[Row]) -> list[str]:
    """`teacher 2`, or with the name of its group, where groups have names."""
    named = [row.contender for row in rows if row is not teachers and row.contender.is_teacher]
    groups = {job: contender.label for contender in named for job in contender.job_ids}
    return [
        f"{groups.get(job, TEACHER)} {number}"
        for number, job in enumerate(teachers.contender.job_ids)
    ]
