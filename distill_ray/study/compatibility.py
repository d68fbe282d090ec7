"""Whether every method fits the models, augmentations and teachers that it can meet in a study."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from distill_ray.augmentation.versions import check_versions
from distill_ray.job import Recipe
from distill_ray.settings import setting_fields
from distill_ray.study.absent_teachers import check_learnable
from distill_ray.study.problems import Path, Problems
from distill_ray.study.recipes import COMMON
from distill_ray.study.sections import Resources, TeacherGroup
from distill_ray.study.space import Choice, Dimension, Label, SearchSpace

MAX_COMBINATIONS = 1000
NEUTRAL = tuple(name for name in COMMON if name not in ("model", "versions"))
"""Fields that no method minds."""


def check_teachers_fit(groups: Mapping[Path, TeacherGroup], problems: Problems) -> None:
    """The methods that the teachers are trained with."""
    for path, group in groups.items():
        try:
            _check_fit(group.recipe, [])
        except ValueError as error:
            problems.add((*path, "method"), str(error), about=[path])
        if group.recipe.versions is not None:
            rule = "but teachers answer for versions and learn from labels; it is for the student"
            problems.refuse((*path, "versions"), group.recipe.versions, rule)


def check_students_fit(
    student: Recipe, space: SearchSpace, teachers: Sequence[str], problems: Problems
) -> None:
    """The method of every trial, which learns from teachers of these models, in all combinations of
    the choices that it might mind, as far as they can be counted.
    """
    met: dict[str, list[str]] = {}
    every = list(combinations(space))
    for drawn in every:
        try:
            _check_fit(space.recipe(student, drawn), teachers)
        except ValueError as error:
            met.setdefault(str(error), []).append(
                ", ".join(f"{name} {label}" for name, label in drawn.items())
            )
    searched = {dimension.name for dimension in space.dimensions}
    for reason, (of, *others) in met.items():
        named = named_setting(
            reason, [*setting_fields(type(student.method)), *space.fixed, *searched]
        )
        always = not of or len(every) == 1 + len(others) > 1
        if always and not named & searched:  # it is the student itself, whatever is drawn
            problems.add(("student", *named), reason, about=[("teachers",), ("student",)])
        else:
            more = f" and {len(others)} more" if others else ""
            message = f"{reason} (met with {of}{more}; use 'when', or search less)"
            problems.add(
                ("search", "space", *(named & searched)),
                message,
                about=[("teachers",), ("student",)],
            )


def named_setting(reason: str, settings: Collection[str]) -> set[str]:
    """The setting of a method that a reason begins with, if it is one of `settings`."""
    return {reason.partition(" ")[0].rstrip(",")} & (
        set(settings) - {*COMMON, "method", "augmentation"}
    )


def check_baselines_fit(
    baselines: Mapping[str, Recipe], teachers: Mapping[str, Sequence[str]], problems: Problems
) -> None:
    """The methods of the baselines, each of which learns from teachers of these models."""
    for name, recipe in baselines.items():
        try:
            _check_fit(recipe, teachers[name])
        except ValueError as error:
            example = f"{{{name}: {{augmentation: crop-flip}}}}"
            message = f"{error}; give it settings of its own, such as {example}, or leave it out"
            others: list[Path] = [("teachers",), ("student",)]
            problems.add(("confirm", "baselines", name), message, about=others)


def check_top_k_fits(
    resources: Resources,
    student: Recipe,
    space: SearchSpace,
    baselines: Iterable[Recipe],
    problems: Problems,
) -> None:
    """That no method needs more of cached logits than `teacher_logits.top_k` keeps."""
    top_k = resources.teacher_logits.top_k
    if top_k is None or resources.teacher_logits.mode == "live":
        return
    recipes = [*(space.recipe(student, drawn) for drawn in combinations(space)), *baselines]
    for recipe in recipes:
        method, augmentation = recipe.method, recipe.augmentation
        why = method.needs_all_classes(augmentation)
        if why and method.needs_teachers and not method.live_teachers(augmentation):
            problems.add(
                ("resources", "teacher_logits", "top_k"),
                f"found {top_k}, but {why} needs the logits of all classes; leave it out",
                about=[("student",), ("search", "space"), ("confirm",)],
            )
            return


def _check_fit(recipe: Recipe, teachers: Sequence[str]) -> None:
    method = recipe.method
    if recipe.versions is not None:
        check_versions(recipe.augmentation)
    method.check_fit(model=recipe.model, augmentation=recipe.augmentation, teachers=len(teachers))
    check_learnable(recipe, teachers)
    method.check_teachers(teachers)


def combinations(space: SearchSpace) -> Iterator[dict[str, Label]]:
    """What a trial can draw of the choices and whole numbers that a method, model or augmentation
    might mind, as far as can be counted.

    Of whole numbers these are the lowest and the highest.
    """
    relevant = [
        dimension
        for dimension in space.dimensions
        if dimension.name not in NEUTRAL and (isinstance(dimension, Choice) or dimension.whole)
    ]
    return itertools.islice(_combinations(space, relevant, {}), MAX_COMBINATIONS)


def _combinations(
    space: SearchSpace, relevant: Sequence[Dimension], drawn: dict[str, Label]
) -> Iterator[dict[str, Label]]:
    if not relevant:
        yield drawn
    elif not space.is_active(relevant[0], drawn):
        yield from _combinations(space, relevant[1:], drawn)
    else:
        for label in relevant[0].labels if isinstance(relevant[0], Choice) else relevant[0].limits:
            yield from _combinations(space, relevant[1:], drawn | {relevant[0].name: label})
