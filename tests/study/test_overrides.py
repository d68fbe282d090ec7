"""`--set`: any field, in YAML, with its own place in messages."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from distill_ray.augmentation import CropFlip, Flip, Identity
from distill_ray.study import StudyDefinition

Load = Callable[..., StudyDefinition]
Refusal = Callable[..., list[str]]


def test_any_field_can_be_set(load: Load, smallest: str) -> None:
    overrides = (
        "search.trials=4",
        "student.lr=1e-2",
        "student.augmentation={name: crop-flip, padding: 2}",
        "name = other",
    )
    study = load(smallest, *overrides)
    assert (study.search.trials, study.student.lr, study.student.augmentation, study.name) == (
        4,
        0.01,
        CropFlip(padding=2),
        "other",
    )
    assert study.overrides == overrides
    assert study.source_text == smallest


def test_a_later_override_wins(load: Load, smallest: str) -> None:
    assert load(smallest, "seed=1", "seed=2").seed == 2


def test_items_of_lists_by_their_position(load: Load) -> None:
    text = "name: x\nteachers: [{model: wrn-10-1}, {model: wrn-16-1}]\nstudent: {model: wrn-10-1}\n"
    study = load(text, "teachers.1.members=1", "teachers.0.augmentation=flip")
    assert [len(group.seeds) for group in study.teachers] == [3, 1]
    assert study.teachers[0].recipe.augmentation == Flip()


def test_settings_of_the_augmentation_in_the_search_space(load: Load, smallest: str) -> None:
    space = load(
        smallest,
        "search.space.augmentation.choice=[identity, crop-flip]",
        "search.space.augmentation.padding.int=[0, 4]",
    ).search.space
    assert space["augmentation"].values == (Identity(), CropFlip())
    assert space["augmentation.padding"].limits == (0, 4)


def test_a_study_can_be_given_by_overrides_alone(load: Load) -> None:
    assert load("", "name=x", "teachers.model=wrn-10-1", "student.model=wrn-10-1").name == "x"


def test_the_empty_value_is_null(load: Load, smallest: str) -> None:
    assert load(smallest + "data: {validation: 10}\n", "data.validation=").data.validation is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "search.trials",
            "--set search.trials: write it as field=value, such as --set search.trials=4",
        ),
        ("=3", "--set =3: write it as field=value, such as --set search.trials=4"),
        ("a..b=3", "--set a..b=3: write it as field=value, such as --set search.trials=4"),
        (
            "search=[",
            "--set search: not valid YAML: while parsing a flow node, expected the node content, "
            "but found '<stream end>'",
        ),
        (
            "student.model.x=3",
            "--set student.model.x: student.model is 'wrn-10-1', which has no 'x'; set it as a "
            "whole",
        ),
        ("search.trials=0", "--set: search.trials: found 0, must be at least 1"),
        ("serach.trials=4", "--set: serach: unknown field; did you mean 'search'?"),
        ("trials=4", "--set: trials: unknown field; did you mean 'search.trials'?"),
        ("members=4", "--set: members: unknown field; did you mean 'teachers.members'?"),
        ("temperature=4", "--set: temperature: unknown field; did you mean 'student.temperature'?"),
        (
            "search.space={lr: {log: [0, 1]}}",
            "--set: search.space.lr.log.0: found 0, must be above 0",
        ),
    ],
)
def test_wrong_overrides_name_the_option(
    refusal: Refusal, smallest: str, override: str, message: str
) -> None:
    assert refusal(smallest, override) == [message]


@pytest.mark.parametrize("place", ["99999999999", "9" * 5000, "2", "-1", "²"])
def test_places_that_a_list_does_not_have(refusal: Refusal, smallest: str, place: str) -> None:
    text = smallest.replace("teachers: {model: wrn-10-1}", "teachers: [{model: wrn-10-1}]")
    (line,) = refusal(text, f"teachers.{place}.members=3")
    assert line.startswith("--set teachers.") and "set it as a whole" in line
    assert len(line) < 1500


def test_problems_of_file_and_overrides_are_reported_together(
    refusal: Refusal, smallest: str
) -> None:
    assert refusal(smallest + "confirm: {seeds: 0}\n", "search.trials=0") == [
        "study.yaml:4: confirm.seeds: found 0, must be at least 1, at most 100",
        "--set: search.trials: found 0, must be at least 1",
    ]


def test_what_an_override_replaces_leaves_no_lines_behind(refusal: Refusal, smallest: str) -> None:
    assert refusal(smallest + "data:\n  seed: 3\n", "data={seed: -1}")[0].startswith(
        "--set: data.seed: found -1, must be"
    )
    expected = ["--set: data: found 'digits', must be a section with fields"]
    assert refusal(smallest + "data:\n  seed: 3\n", "data=digits") == expected


def test_an_override_mends_the_file(load: Load, smallest: str) -> None:
    assert load(smallest + "seed: -1\n", "seed=1").seed == 1
