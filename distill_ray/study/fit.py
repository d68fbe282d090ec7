"""Whether every method fits the models, views and teachers that it can meet in a study."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from distill_ray.job import Recipe
from distill_ray.study.problems import Path, Problems
from distill_ray.study.recipes import COMMON
from distill_ray.study.sections import TeacherGroup
from distill_ray.study.space import Choice, Label, SearchSpace

MAX_COMBINATIONS = 1000
NEUTRAL = tuple(name for name in COMMON if name != "model")
"""Fields that no method minds."""


def check_teachers_fit(groups: Mapping[Path, TeacherGroup], problems: Problems) -> None:
    """The methods that the teachers are trained with."""
    for path, group in groups.items():
        try:
            _check_fit(group.recipe, 0)
        except ValueError as error:
            problems.add((*path, "method"), str(error), about=[path])


def check_students_fit(student: Recipe, space: SearchSpace, teachers: int, problems: Problems) -> None:
    """The method of every trial, in all combinations of the choices that it might mind, as far as they can be counted."""
    choices = [dimension for dimension in space.dimensions if isinstance(dimension, Choice) and dimension.name not in NEUTRAL]
    where: Path = ("search", "space") if choices else ("student",)
    for drawn in itertools.islice(_combinations(space, choices, {}), MAX_COMBINATIONS):
        try:
            _check_fit(space.recipe(student, drawn), teachers)
        except ValueError as error:
            of = ", ".join(f"{name} {label}" for name, label in drawn.items())
            message = f"{error} (met with {of}; use 'when', or search less)" if of else str(error)
            problems.add(where, message, about=[("teachers",), ("student",)])


def check_baselines_fit(baselines: Mapping[str, Recipe], teachers: Mapping[str, int], problems: Problems) -> None:
    """The methods of the baselines, each of which learns from so many teachers."""
    for name, recipe in baselines.items():
        try:
            _check_fit(recipe, teachers[name])
        except ValueError as error:
            problems.add(("confirm", "baselines", name), str(error), about=[("teachers",), ("student",)])


def _check_fit(recipe: Recipe, teachers: int) -> None:
    recipe.method.check_fit(model=recipe.model, view=recipe.augment, teachers=teachers)


def _combinations(space: SearchSpace, choices: Sequence[Choice], drawn: dict[str, Label]) -> Iterator[dict[str, Label]]:
    if not choices:
        yield drawn
    elif not space.is_active(choices[0], drawn):
        yield from _combinations(space, choices[1:], drawn)
    else:
        for label in choices[0].labels:
            yield from _combinations(space, choices[1:], drawn | {choices[0].name: label})
