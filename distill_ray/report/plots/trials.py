"""Pictures of the search: how it went from trial to trial, and what each setting did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from distill_ray.events import JobState
from distill_ray.report.format import axis_title, counted, cut, file_name, objective_title, setting
from distill_ray.report.plots.curves import curve_panel
from distill_ray.report.plots.drawing import (
    Panel,
    Plot,
    axes_in,
    color,
    figure,
    size_of,
    whole_numbers,
)
from distill_ray.report.plots.front import front_panel
from distill_ray.report.plots.influence import influence_panel
from distill_ray.report.plots.pareto import pareto_panel
from distill_ray.report.results import StudyResults, TrialRow, Value
from distill_ray.report.search import best_trial, last_value, searched

EDGE = "what lies beyond the picture is put on its edge."


def search_panels(results: StudyResults) -> list[Panel]:
    """Every picture of the search that the trials so far allow."""
    if not any(trial.values or trial.epochs for trial in results.trials):
        return []
    panels = (
        _history(results),
        _slices(results),
        influence_panel(results),
        pareto_panel(results),
        front_panel(results),
        curve_panel(results),
    )
    return [panel for panel in panels if panel is not None]


def _history(results: StudyResults) -> Panel:
    best = best_trial(results)
    objective = next(iter(results.objectives))
    if best is None:
        outcome = "No trial is complete yet."
    else:
        later = sum(
            trial.number > best.number and trial.state != JobState.RUNNING
            for trial in results.trials
        )
        after = (
            f"{counted(later, 'trial')} after it found nothing better."
            if later
            else "No trial came after it: more may do better."
        )
        outcome = f"The best, trial {best.number}, reached {best.values[objective]:.4g}. {after}"
    infeasible = any(trial.state == JobState.INFEASIBLE for trial in results.trials)
    untrained = ", grey ones those beyond a limit, which were not trained" if infeasible else ""
    return Panel(
        "Search history",
        "Every trial in the order in which it was started, and the best value so far as a line: "
        "where it has long been flat, the search had settled. Crosses are pruned trials at their "
        f"last value, red marks failed ones{untrained}; {EDGE} {outcome}",
        tuple(_history_of(results, objective) for objective in results.objectives),
    )


def _history_of(results: StudyResults, objective: str) -> Plot:
    minimise = results.objectives[objective] == "min"
    complete = [
        trial for trial in results.trials if math.isfinite(trial.values.get(objective, math.nan))
    ]
    name, title = f"history-{file_name(objective)}", objective_title(objective)
    with figure(size_of(len(results.objectives))) as canvas:
        axes = axes_in(canvas, top=26)
        _draw_trials(
            axes,
            results,
            results.trials,
            [float(trial.number) for trial in results.trials],
            objective,
        )
        if complete:
            best = (np.minimum if minimise else np.maximum).accumulate(
                [trial.values[objective] for trial in complete]
            )
            numbers = [trial.number for trial in complete] + [results.trials[-1].number]
            axes.step(
                numbers,
                [*best, best[-1]],
                where="post",
                color=color("ink"),
                lw=1.4,
                label="best so far",
            )
        better = "lower" if minimise else "higher"
        axes.set(xlabel="trial", ylabel=f"{axis_title(objective)} ({better} is better)")
        whole_numbers(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(
                loc="lower left",
                bbox_to_anchor=(-0.01, 1),
                ncols=6,
                borderaxespad=0.2,
                handletextpad=0.4,
                columnspacing=1.2,
            )
    return Plot(
        name,
        f"{title} of every trial",
        f"{title} of {counted(len(results.trials), 'trial')} in order.",
        canvas,
    )


def _draw_trials(
    axes: Axes,
    results: StudyResults,
    trials: Sequence[TrialRow],
    places: Sequence[float],
    objective: str,
) -> None:
    """Trials at `places` along x, by state: dots when complete, crosses when pruned, those that
    failed and those that were infeasible on the lower edge.

    The vertical axis covers what the complete trials of the study reached; what lies beyond is put
    on its edge.
    """
    low, high = _range(results, objective)
    axes.set_ylim(low, high)
    groups: dict[str, list[tuple[float, float]]] = {
        JobState.FINISHED: [],
        JobState.PRUNED: [],
        JobState.FAILED: [],
        JobState.INFEASIBLE: [],
        JobState.RUNNING: [],
    }
    for trial, place in zip(trials, places, strict=True):
        without = trial.state in (JobState.FAILED, JobState.INFEASIBLE)
        value = low if without else last_value(trial, objective)
        if value is not None and trial.state in groups:
            groups[trial.state].append((place, min(max(value, low), high)))
    looks: dict[str, Any] = {
        JobState.FINISHED: {
            "marker": "o",
            "s": 42,
            "color": color("best"),
            "linewidths": 0,
            "alpha": 0.9,
            "label": "complete",
        },
        JobState.PRUNED: {
            "marker": "x",
            "s": 30,
            "color": color("muted"),
            "linewidths": 1.4,
            "label": "pruned",
        },
        JobState.FAILED: {
            "marker": "|",
            "s": 160,
            "color": color("bad"),
            "linewidths": 2.4,
            "label": "failed",
        },
        JobState.INFEASIBLE: {
            "marker": "|",
            "s": 160,
            "color": color("muted"),
            "linewidths": 2.4,
            "label": "infeasible",
        },
        JobState.RUNNING: {
            "marker": "o",
            "s": 42,
            "facecolors": "none",
            "edgecolors": color("best"),
            "label": "running",
        },
    }
    for state, points in groups.items():
        if points:
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, clip_on=False, zorder=3, **looks[state])


def _range(results: StudyResults, objective: str) -> tuple[float, float]:
    values = [trial.values.get(objective, math.nan) for trial in results.trials]
    complete = np.array([value for value in values if math.isfinite(value)])
    if not len(complete):
        complete = np.array(
            [
                value
                for trial in results.trials
                if (value := last_value(trial, objective)) is not None
            ]
            or [0.0]
        )
    first, third = np.quantile(complete, [0.25, 0.75])
    reach = max(2.5 * (third - first), 0.1 * np.ptp(complete))
    if objective.startswith("cost/"):
        reach = math.inf  # costs are few, and none is an outlier
    low, high = max(complete.min(), first - reach), min(complete.max(), third + reach)
    pad = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    return float(low - pad), float(high + pad)


def _slices(results: StudyResults) -> Panel | None:
    names = searched(results)
    objective = next(iter(results.objectives))
    if not names or not any(trial.values for trial in results.trials):
        return None
    title, better = (
        objective_title(objective),
        "low" if results.objectives[objective] == "min" else "high",
    )
    return Panel(
        f"{title[0].upper()}{title[1:]} against each searched setting",
        f"One picture per setting, the same trials in each; {better} is good. Look for a valley "
        "or a slope: a good region at an edge says that the range should be widened, a cloud "
        "without shape that the setting matters little. The ringed point is the best trial, "
        f"crosses are pruned trials at their last value; {EDGE} Lines are the medians of "
        "categories. A setting that only some trials have is shown for those.",
        tuple(
            _slice(results, name, objective, index, size_of(len(names)))
            for index, name in enumerate(names)
        ),
    )


def _slice(
    results: StudyResults, name: str, objective: str, index: int, size: tuple[int, int]
) -> Plot:
    trials = [trial for trial in results.trials if name in trial.params]
    best = best_trial(results)
    values = [trial.params[name] for trial in trials]
    with figure(size) as canvas:
        axes = axes_in(canvas, bottom=58)
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            positions = [float(value) for value in values]
            if name in results.log_scale:
                _logarithmic(axes, positions)
            elif all(isinstance(value, int) for value in values):
                whole_numbers(axes)
        else:
            positions = _categories(axes, values, trials, objective)
        _draw_trials(axes, results, trials, positions, objective)
        for trial, position in zip(trials, positions, strict=True):
            if best is not None and trial.number == best.number:
                axes.scatter(
                    position,
                    trial.values[objective],
                    s=150,
                    facecolors="none",
                    edgecolors=color("ink"),
                    linewidths=1.6,
                    zorder=4,
                )
        axes.set_title(cut(name, 30))
        axes.set_xlabel(
            ""
            if len(trials) == len(results.trials)
            else f"in {len(trials)} of {counted(len(results.trials), 'trial')}"
        )
    words = f"{objective_title(objective)} of {counted(len(trials), 'trial')} against {name}."
    return Plot(
        f"slice-{index + 1}-{file_name(name)}",
        f"{objective_title(objective)} against {name}",
        words,
        canvas,
    )


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    axes.set_xscale("log")
    decades = np.log10(max(values) / min(values))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 1.5 else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _categories(
    axes: Axes, values: Sequence[Value], trials: Sequence[TrialRow], objective: str
) -> list[float]:
    """Puts categories along x, with the median of their complete trials; gives each trial its place
    beside its neighbours.
    """
    choices = sorted({setting(value) for value in values})
    counts = dict.fromkeys(choices, 0)
    positions = []
    for value in values:
        place = choices.index(setting(value))
        positions.append(place + 0.14 * ((counts[setting(value)] % 5) - 2))
        counts[setting(value)] += 1
    for place, choice in enumerate(choices):
        mine = [
            t.values[objective]
            for t, value in zip(trials, values, strict=True)
            if setting(value) == choice and objective in t.values
        ]
        if mine:
            axes.plot(
                [place - 0.36, place + 0.36], [np.median(mine)] * 2, color=color("ink"), lw=1.4
            )
    many = len(choices) > 3 or sum(map(len, choices)) > 30
    labels = [cut(choice, 12 if many else 14) for choice in choices]
    axes.set_xticks(
        range(len(choices)),
        labels,
        rotation=28 if many else 0,
        ha="right" if many else "center",
        rotation_mode="anchor",
    )
    axes.set_xlim(-0.6, len(choices) - 0.4)
    axes.grid(False, axis="x")
    return positions
