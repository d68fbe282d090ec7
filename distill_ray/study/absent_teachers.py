"""Teachers whose networks are not here, known by a folder of their answers: how a group names them,
and what a study can do with such teachers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

from distill_ray.errors import RequestError, first_line
from distill_ray.job import ANSWERS, Recipe
from distill_ray.settings import setting_fields
from distill_ray.study.fields import read_fields, section
from distill_ray.study.problems import Path, Problems
from distill_ray.study.recipes import setting_owners
from distill_ray.study.sections import (
    Confirm,
    GroupFields,
    Resources,
    Screen,
    Search,
    TeacherGroup,
    is_name,
)
from distill_ray.study.space import Choice
from distill_ray.study.study import members
from distill_ray.study.weights import ANSWERED, PINNED

FIELDS = ("name", "members", "calibrate", "answers")
"""What a group of them has; everything else is about networks."""


def answering_group(
    content: Any, path: Path, problems: Problems, *, is_asking: bool
) -> TeacherGroup:
    """The group that names a folder of answers. Who `is_asking` for them has none yet."""
    written = section(content, path, problems)
    for name in written:
        if name in FIELDS:
            continue
        if name in ("method", "augmentation", *setting_fields(GroupFields)) or setting_owners(
            name, None
        ):
            message = "is about networks, and those of `answers` are not here; leave it out"
            problems.add((*path, name), message)
        else:
            problems.add_unknown((*path, name), FIELDS)
    own = {name: written[name] for name in FIELDS[1:] if name in written}
    read = read_fields(GroupFields, own, path, problems)
    name = written.get("name", "")
    if name != "" and not is_name(name, (*path, "name"), problems):
        name = ""
    place, count = (*path, "answers"), read.get("members")
    folder = read.get("answers") or ""
    if PINNED.fullmatch(folder):
        if count is None:
            problems.add((*path, "members"), "missing; says how many teachers were pinned so")
    elif is_asking and folder:
        folder = f"{FilePath(folder).absolute().name.replace('@', '-')}@{'0' * 16}"
    elif folder:
        try:
            there = members_in(FilePath(folder).expanduser())
        except RequestError as error:
            problems.add(place, str(error))
        else:
            if count not in (None, there):
                problems.refuse((*path, "members"), count, f"and {folder} has answers of {there}")
            count = there
    elif "answers" in read:
        problems.refuse(place, written["answers"], "must be a folder")
    recipe = Recipe(model=ANSWERS, weights=folder or "-", epochs=0, precision="fp32")
    calibrate = read.get("calibrate", False)
    return TeacherGroup(
        recipe=recipe, seeds=tuple(range(count or 1)), calibrate=calibrate, name=name
    )


def members_in(folder: FilePath) -> int:
    """How many teachers have answered in `folder`. Raises `RequestError` where none have."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    file = folder / ANSWERED
    if not file.is_file():
        raise RequestError(
            f"found {str(folder)!r}, and there is no {ANSWERED}; `distill-ray teacher-logits ask "
            f"STUDY {folder}` writes what teachers elsewhere are asked"
        )
    try:
        # Read as a file, without pyarrow's data sets, a second to import
        with pq.ParquetFile(file) as opened:
            last: int | None = pc.max(opened.read(["member"])["member"].cast(pa.int64())).as_py()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise RequestError(f"{file}: cannot be read ({first_line(error)})") from None
    if last is None:
        raise RequestError(f"{file}: it has no rows")
    if not 0 <= last < 100:
        raise RequestError(f"{file}: member {last}, expected numbers from 0 to at most 99")
    return int(last) + 1


def check_absent_teachers(
    groups: Mapping[Path, TeacherGroup],
    learns_from: Sequence[str],
    search: Search,
    screen: Screen | None,
    confirm: Confirm,
    resources: Resources,
    problems: Problems,
) -> None:
    """Note what asks such teachers for more than the answers that they can give beforehand."""
    absent = [path for path, group in groups.items() if group.recipe.answers_alone]
    if not absent:
        return
    why = "and teachers are known by their answers alone"
    ensemble = list(groups.values())
    recipes = [group.recipe for group in ensemble for _ in group.seeds]
    learned = [recipes[place] for place in members(ensemble, learns_from)]
    asked = any(recipe.answers_alone for recipe in learned)
    if screen is not None and asked:
        problems.add(
            ("screen",), f"asks teachers about new images, {why}; leave it out", about=absent
        )
    if confirm.foreign is not None:
        message = f"asks teachers about other images, {why}; leave it out"
        problems.add(("confirm", "foreign"), message, about=absent)
    if resources.teacher_logits.mode == "live":
        message = f"found 'live', {why}; leave it out"
        problems.add(("resources", "teacher_logits", "mode"), message, about=absent)
    for dimension in search.space.dimensions:
        counted = isinstance(dimension, Choice)
        if asked and not counted and dimension.name.startswith("augmentation."):
            message = f"draws from a range, so that nobody can be asked beforehand, {why}; list "
            problems.add(("search", "space", dimension.name), f"{message}its choices", about=absent)


def check_learnable(recipe: Recipe, teachers: Sequence[str]) -> None:
    """Raise `ValueError` when a recipe needs more of teachers of these models than the answers of
    those that are known by them alone.
    """
    method = recipe.method
    if ANSWERS not in teachers or not method.needs_teachers:
        return
    if set(teachers) != {ANSWERS}:
        raise ValueError(
            "teachers that are known by their answers alone cannot be mixed with networks; name "
            "groups of one kind in student.teachers"
        )
    if method.live_teachers(recipe.augmentation):
        raise ValueError(
            f"method {method.name!r} takes more from teachers than answers, and its teachers are "
            "known by these alone"
        )
    if recipe.versions is None:
        raise ValueError(
            "versions must be set, since teachers that are known by their answers alone cannot "
            "answer for new images in every epoch"
        )
