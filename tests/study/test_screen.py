"""The sections `screen` and `published`, groups of teachers, ensembles of students."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from distill_ray.augmentation import Additional, Crop, CutMix, Cutout
from distill_ray.study import MeanOf, PublishedRow, StudyDefinition
from distill_ray.study.recipes import short_texts

Load = Callable[..., StudyDefinition]
Refusal = Callable[..., list[str]]

SCREENED = """\
name: screened
teachers:
  - {name: plain, members: 2, model: wrn-10-1}
  - {name: mixed, members: 1, model: wrn-10-1, augmentation: mixup}
student: {model: wrn-10-1, augmentation: crop}
screen: {keep: 2}
search:
  space:
    augmentation: {choice: [crop, cutout, cutmix, {name: additional, pick: kl}]}
    augmentation.size: {int: [2, 6], when: {augmentation: cutout}}
    augmentation.padding: {int: [0, 2], when: {augmentation: [cutout, cutmix]}}
    temperature: {log: [1, 20]}
"""


def test_candidates_are_the_choices_that_teachers_can_judge(load: Load) -> None:
    screen = load(SCREENED).screen
    assert screen is not None
    assert screen.candidates == (Crop(), Cutout(), CutMix())
    assert (screen.keep, screen.epochs, screen.images, screen.batch_size) == (2, 10, None, 64)


def test_without_a_section_nothing_is_screened(load: Load, smallest: str) -> None:
    assert load(smallest).screen is None
    assert "screen" not in load(smallest).to_dict()


def test_the_section_changes_what_is_asked_for(load: Load) -> None:
    assert load(SCREENED).digest != load(SCREENED, "screen.keep=1").digest


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "screen={keep: 3}",
            "screen.keep: found 3, must be below the number of choices of augmentation that are "
            "measured (3)",
        ),
        ("screen={keep: 0}", "screen.keep: found 0, must be at least 1"),
        (
            "screen={candidates: []}",
            "screen.candidates: found [], must be a list of at least one augmentation",
        ),
        ("screen={candidates: [crop, crop]}", "screen.candidates.1: found 'crop' a second time"),
        (
            "screen={candidates: [crop, {name: additional, pick: kl}]}",
            "screen.candidates.1: augmentation 'additional' picks images",
        ),
        ("screen={kep: 3}", "screen.kep: unknown field; did you mean 'keep'?"),
        (
            "student.teachers=[plan]",
            "student.teachers.0: unknown group of teachers 'plan'; did you mean 'plain'?",
        ),
        ("teachers.1.name=plain", "teachers.0.name: found 'plain' more than once"),
        (
            "confirm={baselines: {x: {ensemble: [best, scratch]}}}",
            "confirm.baselines.x.ensemble: unknown contender 'scratch'",
        ),
        (
            "confirm={seeds: 1, baselines: [student-ensemble]}",
            "confirm.baselines.student-ensemble: must be made of at least 2",
        ),
        (
            "confirm={baselines: {x: {ensemble: [best], shares: [1, 2]}}}",
            "confirm.baselines.x.shares: found [1.0, 2.0], must",
        ),
        (
            "confirm={baselines: {teacher-x: {}}}",
            "confirm.baselines.teacher-x: not a name for a baseline",
        ),
        ("published={source: a}", "published.difference: missing"),
        (
            "published={source: a, difference: b, rows: {KD: {}}}",
            "published.rows.KD: found {}, must be metrics",
        ),
        (
            "published={source: a, difference: b, rows: {KD: {measured: kd, nll: 1}}}",
            "published.rows.KD.measured: unknown",
        ),
        (
            "published={source: a, difference: b, rows: {KD: {nll: low}}}",
            "published.rows.KD.nll: found 'low', must be a number",
        ),
    ],
)
def test_what_is_refused(refusal: Refusal, override: str, message: str) -> None:
    lines = refusal(SCREENED, override)
    assert any(line.partition(": ")[2].startswith(message) for line in lines), lines


def test_a_space_without_some_choices_has_no_dimension_that_only_they_had(load: Load) -> None:
    space = load(SCREENED).search.space
    without = space.without("augmentation", [Cutout()])
    assert [dimension.name for dimension in without.dimensions] == [
        "augmentation",
        "augmentation.padding",
        "temperature",
    ]
    assert without["augmentation"].limits == (Crop(), CutMix(), Additional(pick="kl"))
    assert [condition.labels for condition in without["augmentation.padding"].when] == [("cutmix",)]
    assert space.without("augmentation", []) == space


def test_students_learn_from_the_groups_that_are_named(load: Load) -> None:
    study = load(
        SCREENED,
        "student.teachers=[mixed]",
        "confirm={baselines: {all: {teachers: [plain, mixed]}}}",
    )
    assert study.learns_from == ("mixed",)
    assert study.confirm.learns_from == {"all": ("plain", "mixed")}


def test_weights_are_counted_against_the_teachers_that_a_student_has(
    load: Load, refusal: Refusal
) -> None:
    only = (
        "screen=null",
        "search.space={temperature: {log: [1, 20]}}",
        "student.teacher_weights=[1, 2]",
    )
    load(SCREENED, *only, "student.teachers=[plain]")
    line = refusal(SCREENED, *only)[0]
    assert "teacher_weights must be one for each of 3 teachers, found 2" in line


def test_ensembles_are_listed_or_written(load: Load) -> None:
    assert load(SCREENED, "confirm.baselines=[student-ensemble]").confirm.ensembles == {
        "student-ensemble": MeanOf(of=("best",))
    }
    written = load(
        SCREENED, "confirm={baselines: {a: {}, two: {ensemble: [a, best], shares: [1, 3]}}}"
    ).confirm
    assert list(written.baselines) == ["a"]
    assert written.ensembles == {"two": MeanOf(of=("a", "best"), shares=(1.0, 3.0))}


def test_a_published_table(load: Load) -> None:
    table = load(
        SCREENED,
        "published={source: a, difference: b, rows: {KD: {measured: best, nll: 1, t-stddev: 0.5}}}",
    ).published
    assert table is not None
    assert table.rows == (
        PublishedRow(name="KD", values={"nll": 1.0, "t-stddev": 0.5}, measured="best"),
    )


def test_the_file_of_a_study_with_all_of_it_says_the_same(load: Load) -> None:
    import yaml

    study = load(
        SCREENED,
        "student.teachers=[mixed]",
        "confirm={baselines: {a: {teachers: [plain]}, two: {ensemble: [a, best], shares: [1, 3]}}}",
        "published={source: a, difference: b, rows: {KD: {measured: two, nll: 1}}}",
    )
    assert load(yaml.safe_dump(study.to_dict())).digest == study.digest


def test_a_augmentation_is_called_by_what_tells_it_from_the_others(load: Load) -> None:
    augmentations = [
        Cutout(flip=False),
        CutMix(padding=2),
        CutMix(padding=2, alpha=0.5),
        Additional(padding=2, scheme="flip"),
        Additional(padding=2),
        Additional(padding=2, pick="kl"),
    ]
    texts = short_texts(augmentations)
    assert list(texts.values()) == [
        "cutout",
        "cutmix(alpha=1.0)",
        "cutmix(alpha=0.5)",
        "additional(flip)",
        "additional(cutmix)",
        "additional(cutmix, kl)",
    ]
    assert list(texts) == augmentations


def test_people_read_short_names_and_the_search_keeps_the_whole_ones(load: Load) -> None:
    study = load(
        SCREENED,
        "search.space={augmentation: {choice: [{name: crop, padding: 1}, {name: cutout, flip: "
        "false}, mixup]}}",
    )
    drawn = {"augmentation": "cutout(flip=false)"}
    assert study.shown(drawn) == {"augmentation": "cutout"}
    assert study.search.space.recipe(study.student, drawn).augmentation == Cutout(flip=False)
    assert study.augmentation_texts[Cutout(flip=False)] == "cutout"
    measured = load(
        SCREENED, "screen={candidates: [crop, {name: cutout, size: 4}]}"
    ).augmentation_texts
    assert [measured[augmentation] for augmentation in (Crop(), Cutout(), Cutout(size=4))] == [
        "crop",
        "cutout",
        "cutout(size=4)",
    ]
