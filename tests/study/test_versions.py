"""Versions in a study file: searchable, for students alone, refused for draws per batch."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from distill_ray.errors import RequestError
from distill_ray.study import StudyDefinition


def test_versions_are_searched_and_leave_the_student_without_teachers_alone(
    tiny_study: Callable[..., StudyDefinition],
) -> None:
    study = tiny_study(
        "student.versions=4",
        "search.space={versions: {choice: [2, 8]}}",
        "search.try_first=[]",
        "confirm.baselines=[scratch, default-kd]",
    )
    recipe = study.search.space.recipe(study.student, {"versions": 8})
    assert (study.student.versions, recipe.versions) == (4, 8)
    baselines = study.confirm.baselines
    assert (baselines["scratch"].versions, baselines["default-kd"].versions) == (None, 4)
    assert "versions" not in tiny_study().student.to_dict()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["student.versions=4", "search.space={augmentation: {choice: [crop, mixup]}}"],
            "versions: augmentation mixup draws once per batch",
        ),
        (
            ["search.space={versions: {choice: [4]}}", "student.augmentation=mixup"],
            "versions: augmentation mixup draws once per batch",
        ),
        (["teachers.versions=4"], "found 4, but teachers answer for versions"),
        (["student.versions=0"], "found 0, must be at least 1"),
    ],
    ids=["student", "search", "teachers", "none"],
)
def test_versions_are_refused_where_there_are_none(
    overrides: list[str], message: str, tiny_study: Callable[..., StudyDefinition]
) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        tiny_study("search.try_first=[]", *overrides)
