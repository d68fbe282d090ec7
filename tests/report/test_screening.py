"""The screening and the published table in the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from distill_ray.events import JobState
from distill_ray.report.markdown import markdown
from distill_ray.report.published import side_by_side
from distill_ray.report.results import ScreenRow, StudyResults, TrialRow
from distill_ray.report.screening import relation_sentence, relations, tie_sentence
from distill_ray.report.to_json import as_json
from distill_ray.report.write import write_report
from distill_ray.study import Published, PublishedRow

# T. stddev and test loss of nine schemes, WRN-40-2 into WRN-16-2 on CIFAR-100 (Wang et al. 2022)
SCHEMES = {
    "identity": (0.005473, 1.0976),
    "flip": (0.005471, 1.0774),
    "crop-flip": (0.005410, 1.0837),
    "cutout": (0.005255, 1.0564),
    "autoaugment": (0.005110, 1.0305),
    "mixup": (0.004988, 1.0486),
    "cutmix": (0.004719, 1.0275),
    "pick-s": (0.004400, 1.0054),
    "pick-t": (0.004154, 0.9746),
}


def trial(
    number: int,
    augmentation: str,
    deviation: float | None,
    loss: float,
    state: JobState = JobState.FINISHED,
) -> TrialRow:
    epochs = ({"epoch": 1.0, "val/nll": 9.0}, {"epoch": 2.0, "val/nll": loss})
    values = {"val/nll": loss} if state == JobState.FINISHED else {}
    return TrialRow(
        number, state, {"augmentation": augmentation}, values, epochs, t_stddev=deviation
    )  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def screened(study: StudyResults) -> StudyResults:
    trials = [
        trial(number, augmentation, *values)
        for number, (augmentation, values) in enumerate(SCHEMES.items())
    ]
    trials += [trial(9, "crop-flip", None, 0.1), trial(10, "flip", 0.005471, 0.1, JobState.PRUNED)]
    rows = [
        ScreenRow(augmentation, deviation, 1.0, deviation < 0.005)
        for augmentation, (deviation, _) in SCHEMES.items()
    ]
    rows.append(ScreenRow("pick-kl", None, None, True, "picks images by the student"))
    published = Published(
        "Somebody 2022",
        "another size",
        (
            PublishedRow("KD", {"accuracy": 74.92, "t-stddev": 0.005}, "default-kd"),
            PublishedRow("CRD", {"accuracy": 75.64}),
            PublishedRow("Best", {"nll": 1.0}, "best-7"),
        ),
    )
    contenders = tuple(
        replace(each, t_stddev=0.0051) if each.name == "default-kd" else each
        for each in study.contenders
    )
    return replace(
        study,
        trials=tuple(trials),
        screening=tuple(rows),
        published=published,
        contenders=contenders,
    )


def test_the_published_correlations_come_out(screened: StudyResults) -> None:
    of_trials, of_augmentations = relations(screened, screened.rows)
    assert (of_trials.of, len(of_trials.points)) == ("trials", 9)
    assert (of_augmentations.of, len(of_augmentations.points)) == ("augmentations", 9)
    found = of_augmentations.correlation
    assert found is not None
    assert (found.pearson.value, found.pearson.p_value) == (
        pytest.approx(0.95810435),
        pytest.approx(4.75668661e-5),
    )
    assert (found.spearman.value, found.spearman.p_value) == (
        pytest.approx(0.96666667),
        pytest.approx(2.15503127e-5),
    )
    assert (found.kendall.value, found.kendall.p_value) == (
        pytest.approx(0.88888889),
        pytest.approx(2.42504409e-4),
    )
    assert "Pearson 0.958 (0.81 to 0.99, p 4.8e-05)" in relation_sentence(of_augmentations)


def test_trials_with_an_augmentation_count_once_by_their_mean(screened: StudyResults) -> None:
    twice = replace(
        screened, trials=(trial(0, "a", 0.1, 1.0), trial(1, "a", 0.1, 2.0), trial(2, "b", 0.2, 5.0))
    )
    of_trials, of_augmentations = relations(twice, [])
    assert len(of_trials.points) == 3
    assert [(point.label, point.loss) for point in of_augmentations.points] == [
        ("a", 1.5),
        ("b", 5.0),
    ]
    assert of_augmentations.correlation is None
    assert "too few" in relation_sentence(of_augmentations)


def test_students_that_differ_by_their_augmentation_alone_are_set_against_their_test_loss(
    screened: StudyResults,
) -> None:
    _, _, scratch, default, best = screened.contenders
    contenders = (
        replace(scratch, t_stddev=0.1),
        replace(
            default,
            name="a",
            t_stddev=0.2,
            params={"method": "kd", "augmentation": "cutout", "augmentation.size": 3},
        ),
        replace(default, name="b", t_stddev=0.3, params={"method": "kd", "augmentation": "crop"}),
        replace(best, t_stddev=0.4, params={"method": "kd", "augmentation": "flip"}),
    )
    *_, students = relations(screened, replace(screened, contenders=contenders).rows)
    assert students.of == "students"
    assert [point.t_stddev for point in students.points] == [0.2, 0.3]


def test_published_rows_stand_above_what_was_measured(screened: StudyResults) -> None:
    assert screened.published is not None
    rows = screened.rows
    shown = side_by_side(screened.published, rows)
    assert shown.header == ("accuracy %", "T. stddev", "NLL")
    measured = (
        next(row for row in rows if row.contender.name == "default-kd").cells["accuracy"].mean
    )
    (kd, here, crd, not_run, best, missing) = shown.lines
    assert kd.cells == ("74.92", "0.005000", "-")
    assert here.label == "here: default KD"
    assert here.cells[0].startswith(f"{100 * measured:.2f} ± ")
    assert here.cells[1] == "0.005100"
    assert (crd.cells[0], not_run.label, not_run.cells) == (
        "75.64",
        "here: not run",
        ("-", "-", "-"),
    )
    assert (best.cells[2], missing.label) == ("1", "here: not run yet")
    assert "another size." in shown.note and "not measured by this study" in shown.note


def test_every_form_of_the_report_has_both(screened: StudyResults, tmp_path: Path) -> None:
    write_report(screened, tmp_path)
    page = (tmp_path / "report.html").read_text()
    rows = screened.rows
    for text in (page, markdown(screened, rows, [])):
        for words in (
            "Somebody 2022",
            "another size",
            "74.92",
            "0.005473",
            "left out",
            "picks images by the student",
            "Kendall",
        ):
            assert words in text
    assert (tmp_path / "plots" / "screen-trials.svg").exists()
    report = json.loads(json.dumps(as_json(screened), allow_nan=False))
    assert report["screening"]["augmentations"][0]["augmentation"] == "identity"
    assert report["screening"]["correlations"][0]["pearson"]["value"] == pytest.approx(0.95810435)
    assert report["published"]["rows"][0]["measured"] == "default-kd"


def test_a_study_without_them_has_neither(study: StudyResults) -> None:
    report = as_json(study)
    assert report["screening"] is None
    assert report["published"] is None
    assert "Screening" not in markdown(study, study.rows, [])


def test_what_cannot_be_told_apart_is_said(screened: StudyResults) -> None:
    def row(name: str, value: float, behind: bool, teachers: float | None = 0.001) -> ScreenRow:
        interval = (value - 0.002, value + 0.002)
        return ScreenRow(name, value, 1.0, True, "", interval, 0.001, teachers, behind)

    rows = [row("crop", 0.004, False), row("cutout", 0.0041, False), row("flip", 0.009, True)]
    assert tie_sentence(rows) == (
        "Not told apart from crop, the lowest: cutout (95 % for all together, over images and "
        "teachers)."
    )
    alone = [row("crop", 0.004, False, None), row("flip", 0.009, True, None)]
    assert tie_sentence(alone).startswith("crop has a lower T. stddev than all others (95 % for")
    assert tie_sentence(alone).endswith("over images, with one teacher).")
    assert tie_sentence(rows[:2]).startswith("No augmentation can be told apart from crop")
    assert tie_sentence(screened.screening) == ""
    shown = replace(screened, screening=tuple(rows))
    assert "0.002000 to 0.006000" in markdown(shown, shown.rows, [])
    assert "Not told apart from crop" in markdown(shown, shown.rows, [])
    assert as_json(shown)["screening"]["augmentations"][2]["behind"] is True
