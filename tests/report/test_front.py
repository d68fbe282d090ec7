"""Quality against cost, and the checks of a study's health, on a made-up study."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from distill_ray.events import JobState
from distill_ray.records import Predictions
from distill_ray.report.comparison import comparisons
from distill_ray.report.front import front_sentences, fronts, standard_error
from distill_ray.report.health import HealthFinding, findings
from distill_ray.report.page import Report
from distill_ray.report.plots.front import front_panel
from distill_ray.report.plots.trials import search_panels
from distill_ray.report.results import StudyResults, TrialRow
from distill_ray.report.to_json import as_json

SIZES = {"small": 1000.0, "middle": 10_000.0, "large": 100_000.0}


def trial(number: int, model: str, value: float, **params: float) -> TrialRow:
    costs = {"cost/parameters": SIZES[model]}
    epochs = tuple({"epoch": e, "val/nll": value + 1 / e} for e in range(1, 5))
    return TrialRow(
        number,
        JobState.FINISHED,
        {"model": model, **params},
        {"val/nll": value},
        epochs,
        costs=costs,
    )


def findings_of(results: StudyResults) -> list[HealthFinding]:
    return findings(results, results.rows, comparisons(results.rows))


def checks(results: StudyResults) -> dict[str, str]:
    return {each.check: each.sentence for each in findings_of(results)}


@pytest.fixture
def sized(study: StudyResults) -> StudyResults:
    """The made-up study with networks of three sizes; the middle one is nearly as good as the large
    one.
    """
    error = standard_error(study)
    assert error is not None
    values = {"small": 0.5 + 3 * error, "middle": 0.5 + 0.5 * error, "large": 0.5}
    rows = [trial(n, model, value) for n, (model, value) in enumerate(values.items())]
    rows.append(trial(3, "large", 0.6))
    contenders = tuple(
        replace(each, costs={"cost/parameters": float(each.parameters)})
        for each in study.contenders
    )
    return replace(study, trials=tuple(rows), contenders=contenders, limits={"parameters": 2e5})


def test_the_front_has_students_and_what_they_compete_with(sized: StudyResults) -> None:
    (front,) = fronts(sized)
    assert (front.quality, front.cost) == ("val/nll", "cost/parameters")
    on_front = {point.trial for point in front.points if point.on_front and point.trial is not None}
    assert {point.label for point in front.points} >= {each.label for each in sized.contenders}
    assert 3 not in on_front and 0 in on_front
    assert [point.cost for point in front.points] == sorted(point.cost for point in front.points)


def test_the_smallest_within_one_standard_error(sized: StudyResults) -> None:
    limits, smallest = front_sentences(sized)
    assert limits.startswith("Within the limits (parameters 200k) the best student is trial 2")
    assert "is trial 1: 10k parameters instead of 100k" in smallest
    html, data = Report.of(sized).html(), as_json(sized)
    assert smallest in html and "Quality against cost" in html
    assert "mathdefault" not in html, "the scale is written in what the page shows as it is"
    assert data["fronts"][0]["points"][0]["label"] == "trial 0"


def test_names_in_the_picture_touch_nothing_and_are_whole(sized: StudyResults) -> None:
    """The ensemble is the largest, at the right edge, and contenders are close to trials."""
    panel = front_panel(sized)
    assert panel is not None
    canvas = panel.plots[0].figure
    (axes,) = canvas.axes
    names = [text for text in axes.texts if text.get_text()]
    assert {text.get_text() for text in names} >= {each.label for each in sized.contenders}
    boxes = [text.get_window_extent() for text in names]
    assert all(box.x0 >= 0 and box.x1 <= canvas.bbox.x1 for box in boxes)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_the_best_may_be_the_smallest(sized: StudyResults) -> None:
    error = standard_error(sized)
    assert error is not None
    rows = (trial(0, "small", 0.5), trial(1, "large", 0.5 + error))
    _, smallest = front_sentences(replace(sized, trials=rows))
    assert smallest.startswith("It is also the smallest student within one standard error")
    (alone,) = front_sentences(replace(sized, trials=rows, limits={}))
    assert alone.startswith("The best student, trial 0, is also the smallest within one")


def test_trials_beyond_a_limit_are_in_the_pictures(sized: StudyResults) -> None:
    """And costs are never cut off, however far apart they are."""
    beyond = TrialRow(4, JobState.INFEASIBLE, {"model": "huge"}, {}, ())
    costs = [
        replace(t, values={**t.values, "cost/parameters": t.costs["cost/parameters"]})
        for t in (*sized.trials, *(trial(n, "small", 0.5) for n in range(5, 12)))
    ]
    objectives = {"val/nll": "min", "cost/parameters": "min"}
    results = replace(sized, trials=(*costs[:4], beyond, *costs[4:]), objectives=objectives)
    history, *_ = search_panels(results)
    assert "grey ones those beyond a limit" in history.caption
    for plot in history.plots:
        labels = plot.figure.axes[0].get_legend_handles_labels()[1]
        assert "infeasible" in labels
    assert history.plots[1].figure.axes[0].get_ylim()[1] > SIZES["large"]


def test_without_costs_there_is_no_front(study: StudyResults) -> None:
    assert fronts(study) == [] and front_sentences(study) == []


def by_temperature(values: Callable[[int], float], count: int = 24) -> tuple[TrialRow, ...]:
    """Trials in the order of their temperatures, from 1 to 20, and a setting that does nothing."""
    return tuple(
        trial(n, "small", values(n), temperature=20 ** (n / (count - 1)), alpha=(7 * n % 11) / 11)
        for n in range(count)
    )


def test_a_search_that_has_nothing_to_doubt_has_no_findings(study: StudyResults) -> None:
    healthy = replace(
        study,
        trials=by_temperature(lambda n: 0.5 + 0.01 * abs(n - 11)),
        ranges={"temperature": (1.0, 20.0)},
        log_scale=frozenset({"temperature"}),
    )
    assert checks(healthy).keys().isdisjoint({"edge", "not-converged", "limits"})


def test_findings_about_the_search(study: StudyResults) -> None:
    rows = by_temperature(lambda n: 1 - 0.01 * n)
    doubtful = replace(
        study,
        trials=rows,
        ranges={"temperature": (1.0, 20.0), "alpha": (0.0, 1.0)},
        log_scale=frozenset({"temperature"}),
    )
    found = checks(doubtful)
    assert "temperature is 20, on the edge of its range (1 to 20)" in found["edge"]
    assert "Widen the range beyond 20" in found["edge"]
    assert "The last 6 of 24 complete trials still improved" in found["not-converged"]
    assert "alpha" in found["without-effect"] and "temperature" not in found["without-effect"]


def test_findings_about_limits_and_pruning(study: StudyResults) -> None:
    kept = [trial(0, "small", 0.5), trial(1, "small", 0.6)]
    too_large = [
        TrialRow(n, JobState.INFEASIBLE, {"model": "large"}, reason="parameters") for n in (2, 3, 4)
    ]
    ahead = tuple({"epoch": e, "val/nll": 0.4 + 1 / e} for e in range(1, 3))
    pruned = [TrialRow(n, JobState.PRUNED, {"model": "small"}, {}, ahead) for n in (5, 6)]
    found = checks(replace(study, trials=(*kept, *too_large, *pruned)))
    assert "2 of 2 pruned trials were ahead of the best trial" in found["pruned-while-improving"]
    found = checks(replace(study, trials=(*kept, *too_large)))
    assert found["limits"].startswith("3 configurations exceeded the limits, and 2 did not.")
    assert "Leave large out of the space." in found["limits"]


@pytest.mark.parametrize(
    ("shifts", "advice"),
    [((0.06, -0.05, 0.01), "Take it for none."), ((0.06, -0.005, 0.035), "Set confirm.seeds: {}.")],
)
def test_too_few_seeds_for_the_difference(
    study: StudyResults, shifts: tuple[float, ...], advice: str
) -> None:
    """The best student answers as the baseline does, and is surer of the right class by `shifts`,
    seed by seed, which is then the difference in NLL.
    """
    best, baseline = study.best, study.contender("default-kd")
    assert best is not None and baseline is not None

    def surer(shifts: tuple[float, ...]) -> tuple[Predictions, ...]:
        return tuple(
            replace(
                run,
                log_probabilities=run.log_probabilities + (shift - 0.1) * np.eye(10)[run.labels],
            )
            for run, shift in zip(baseline.test, shifts, strict=True)
        )

    close = (replace(baseline, test=surer((0, 0, 0))), replace(best, test=surer(shifts)))
    findings = findings_of(replace(study, contenders=close))
    (found,) = (each for each in findings if each.check == "few-seeds" and "NLL" in each.evidence)
    variance, mean = np.var(shifts, ddof=1), np.mean(shifts)
    needed = math.ceil((1.96 + 0.84) ** 2 * variance / mean**2)
    assert needed > 3 and found.advice == advice.format(needed)
    assert f"varies by {variance**0.5:.3f} from seed to seed; 3 seeds cannot" in found.evidence
