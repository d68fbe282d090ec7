"""Reads the section `screen`: what is measured of augmentations before any student is trained."""

from __future__ import annotations

from typing import Any

from distill_ray.augmentation import Augmentation
from distill_ray.job import Recipe
from distill_ray.study.fields import read_fields, section
from distill_ray.study.problems import Path, Problems, shown
from distill_ray.study.recipes import read_augmentation
from distill_ray.study.sections import Screen
from distill_ray.study.space import Choice, SearchSpace

PATH: Path = ("screen",)


def read_screen(
    values: Any, problems: Problems, student: Recipe, space: SearchSpace
) -> Screen | None:
    """The screen section; `None` when there is none."""
    if values is None:
        return None
    given = section(values, PATH, problems)
    read = read_fields(Screen, values, PATH, problems, elsewhere=("candidates",))
    choices = next(
        (
            each.values
            for each in space.dimensions
            if isinstance(each, Choice) and each.name == "augmentation"
        ),
        (student.augmentation,),
    )
    candidates = tuple(augmentation for augmentation in choices if not augmentation.asks_student)
    if "candidates" in given:
        candidates = _candidates(given["candidates"], problems)
    elif not candidates:
        message = "no augmentation of the search can be measured with the teachers alone: all pick images by the student"
        problems.add((*PATH, "candidates"), message)
    screen = Screen(**read, candidates=candidates)
    measured = [augmentation for augmentation in choices if augmentation in candidates]
    if screen.keep is not None and screen.keep >= len(measured):
        message = (
            f"found {screen.keep}, must be below the number of choices of augmentation that are measured ({len(measured)}), "
            "or be left out"
        )
        problems.add(
            (*PATH, "keep"),
            message,
            about=[(*PATH, "candidates"), ("search", "space", "augmentation")],
        )
    return screen


def _candidates(given: Any, problems: Problems) -> tuple[Augmentation, ...]:
    path = (*PATH, "candidates")
    if not isinstance(given, list) or not given:
        problems.add(path, f"found {shown(given)}, must be a list of at least one augmentation")
        return ()
    augmentations: list[Augmentation] = []
    for place, content in enumerate(given):
        augmentation = read_augmentation(content, (*path, place), problems)
        if augmentation is None:
            continue
        if augmentation in augmentations:
            problems.add((*path, place), f"found {shown(content)} a second time")
        elif augmentation.asks_student:
            message = f"augmentation {augmentation.name!r} picks images by the student, and there is none yet; pick by teacher-entropy"
            problems.add((*path, place), message)
        else:
            augmentations.append(augmentation)
    return tuple(augmentations)
