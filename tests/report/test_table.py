"""The table: means and spreads over runs, and how it is shown."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from distill_ray.records import Predictions
from distill_ray.report.results import Contender, StudyResults
from distill_ray.report.table import Cell, Row, as_markdown, as_text, columns, details, legend


def certain(accuracy: float, confidence: float) -> Predictions:
    """100 samples of two classes, all predicted as class 0 with `confidence`; `accuracy` of them
    are.
    """
    labels = np.array([0] * round(100 * accuracy) + [1] * round(100 * (1 - accuracy)))
    return Predictions(np.log(np.tile([confidence, 1 - confidence], (100, 1))), labels)


def is_cell(cell: Cell, mean: float, std: float, n: int) -> bool:
    return cell.mean == pytest.approx(mean) and cell.std == pytest.approx(std) and cell.n == n


def test_cell_is_mean_and_sample_deviation() -> None:
    assert is_cell(Cell.of([1.0, 2.0, 4.0]), 7 / 3, 1.5275252316519468, 3)
    assert Cell.of([0.25]) == Cell(0.25, None, 1)


def test_metrics_of_known_predictions(study: StudyResults) -> None:
    contender = Contender(
        "best",
        "best",
        {},
        10,
        (0, 1),
        (certain(0.5, 0.8), certain(0.5, 0.8)),
        (certain(0.6, 0.8), certain(0.7, 0.8)),
        ("a", "b"),
    )
    (row,) = replace(study, contenders=(contender,)).rows
    assert is_cell(row.cells["accuracy"], 0.65, 0.005**0.5, 2)
    assert row.cells["ece"].mean == pytest.approx(0.15)
    assert row.cells["oe"].mean == pytest.approx(0.8 * 0.15)
    assert row.cells["nll"].mean == pytest.approx(-0.65 * np.log(0.8) - 0.35 * np.log(0.2))
    # On validation half are right, so the fitted temperature makes every prediction uniform, as far
    # as the prior lets it after a hundred samples.
    assert row.cells["cnll"].mean == pytest.approx(np.log(2), abs=5e-2)
    assert row.cells["cece"].mean == pytest.approx(0.15, abs=0.1)
    sharp = 1 / (1 + 0.25 ** (1 / row.temperatures[0]))
    assert row.cells["cnll"].mean == pytest.approx(
        -0.65 * np.log(sharp) - 0.35 * np.log(1 - sharp), rel=1e-9
    )


def test_a_temperature_without_evidence_is_reported(study: StudyResults) -> None:
    """Where all validation images are right, or all are wrong; not where one is."""

    def row_of(*validation: Predictions) -> Row:
        runs = len(validation)
        test = (certain(0.9, 0.8),) * runs
        contender = Contender(
            "best", "the best", {}, 10, tuple(range(runs)), validation, test, ("a",) * runs
        )
        (row,) = replace(study, contenders=(contender,)).rows
        return row

    for accuracy, doubtful in ((1.0, True), (0.0, True), (0.99, False), (0.6, False)):
        row = row_of(certain(accuracy, 0.8), certain(0.9, 0.7))
        assert row.without_evidence == (doubtful, False)
        assert ("determine no temperature" in legend([row])) == doubtful
    assert row_of(certain(1.0, 0.8)).temperatures[0] > 0.3


def test_temperature_is_fitted_on_the_same_run(study: StudyResults) -> None:
    """Golden numbers, by scipy's `minimize_scalar` over ln T of the summed validation NLL and the
    prior, 4 * (1 / T - 1 + ln T).
    """
    golden = {
        "ensemble": ((0.7153,), 0.10959),
        "teacher": ((1.0628, 1.0768, 1.1335), 0.21138),
        "best": ((0.6873, 0.6714, 0.5861), 0.12136),
    }
    rows = {row.contender.name: row for row in study.rows}
    for name, (temperatures, cnll) in golden.items():
        assert rows[name].temperatures == pytest.approx(temperatures, rel=1e-3)
        assert rows[name].cells["cnll"].mean == pytest.approx(cnll, rel=1e-3)
        assert tuple(rows[name].cells) == columns([rows[name]]) + details([rows[name]])


def test_single_teacher_is_the_mean_over_members_and_ensemble_one_run(study: StudyResults) -> None:
    ensemble, teacher, *_ = study.rows
    assert {cell.n for cell in ensemble.cells.values()} == {1}
    assert all(cell.std is None for cell in ensemble.cells.values())
    accuracies = [
        float(np.mean(run.log_probabilities.argmax(axis=1) == run.labels))
        for run in teacher.contender.test
    ]
    assert is_cell(
        teacher.cells["accuracy"], sum(accuracies) / 3, float(np.std(accuracies, ddof=1)), 3
    )


def test_before_confirmation_the_table_is_of_validation_without_calibrated_metrics(
    young_study: StudyResults,
) -> None:
    rows = young_study.rows
    assert {row.split for row in rows} == {"validation"}
    assert set(rows[0].cells) - set(details(rows)) == set(columns(rows)) - {"cnll", "cece"}
    assert as_text(rows).count(" - ") + as_text(rows).count(" -\n") >= 2


def test_contender_without_test_predictions_is_shown_empty_beside_others(
    study: StudyResults,
) -> None:
    rows = replace(
        study, contenders=(*study.contenders[:4], replace(study.contenders[4], test=()))
    ).rows
    assert rows[4].split == "test"
    assert not rows[4].cells
    assert rows[3].cells


def test_text_fits_and_lines_up(study: StudyResults) -> None:
    lines = as_text(study.rows).splitlines()
    body = lines[: lines.index("")]
    assert max(map(len, lines)) <= 100
    positions = [line.index("±") for line in body if "±" in line]
    assert len(positions) == 4
    assert len(set(positions)) == 1
    decimals = {line.index(".", body[0].index("accuracy")) for line in body[2:]}
    assert len(decimals) == 1


def test_long_labels_are_cut_to_keep_the_width(study: StudyResults) -> None:
    contenders = (
        *study.contenders[:4],
        replace(study.contenders[4], label="a configuration with\na very, very long name"),
    )
    text = as_text(replace(study, contenders=contenders).rows)
    assert "a configuration" in text
    assert "... 95.82" in text
    assert max(map(len, text.splitlines())) <= 100


def test_markdown_has_one_cell_per_metric_and_escapes_bars(study: StudyResults) -> None:
    contenders = (replace(study.contenders[0], label="a|b"), *study.contenders[1:])
    lines = as_markdown(replace(study, contenders=contenders).rows).splitlines()
    cells = [line.replace("\\|", "").count("|") for line in lines[: lines.index("")]]
    assert all(a == b == len(columns(study.rows)) + 3 for a, b in pairwise(cells))
    assert "a\\|b" in lines[2]


def test_labels_cannot_steer_the_terminal(study: StudyResults) -> None:
    label = "\x1b[2Jbest\nx"
    named = (*study.contenders[:4], replace(study.contenders[4], label=label))
    text = as_text(replace(study, contenders=named).rows)
    assert "\x1b" not in text
    assert r"\x1b[2Jbest\nx" in text


def test_no_contender_yet(study: StudyResults) -> None:
    assert "nothing evaluated yet" in as_text(replace(study, contenders=()).rows)
