"""Reads the sections `search` and `screen`: caps, objectives, scheduler, the space, the
configurations to try first, and which augmentations are measured before any student is trained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from distill_ray.augmentation import Augmentation
from distill_ray.job import Recipe
from distill_ray.metric import METRICS
from distill_ray.metric import objectives as optimised
from distill_ray.registry import unknown_name
from distill_ray.study.fields import INVALID, read_fields, section
from distill_ray.study.parse_space import Reach, read_setting, read_space
from distill_ray.study.problems import Path, Problems, quoted
from distill_ray.study.recipes import read_augmentation
from distill_ray.study.sections import NAME, Asha, Screen, Search
from distill_ray.study.space import Choice, Label, SearchSpace

SEARCH: Path = ("search",)
SCREEN: Path = ("screen",)
DEFAULT_SPACE = {"temperature": {"log": [1.0, 20.0]}, "alpha": {"uniform": [0.1, 1.0]}}
DURATION = r"(\d+(\.\d+)?[smhd])+"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def read_search(
    values: Any,
    problems: Problems,
    student: Recipe,
    fixed: Mapping[str, Any],
    reach: Reach,
    study_seed: int,
) -> Search:
    """The search section, with a default for all that it leaves out.

    Args:
        values: the section as the file has it.
        problems: where mistakes are noted.
        student: the recipe that trials start from.
        fixed: the settings of methods that the student section names.
        reach: the methods and augmentations that trials can have.
        study_seed: the default of the sampler's seed.
    """
    fields = section(values, SEARCH, problems)
    special = ("objectives", "scheduler", "time_limit", "try_first", "space")
    read = read_fields(Search, values, SEARCH, problems, elsewhere=special)
    trials = read.setdefault("trials", 20)
    for index, source in enumerate(read.get("warm_start", ())):
        name, at, place = source.partition("@")
        if not NAME.fullmatch(name) or (at and not place):
            path = (*SEARCH, "warm_start", index)
            problems.refuse(path, source, "must be the name of a study, or NAME@STORE")
    objectives = _objectives(fields, problems)
    space = SearchSpace(dimensions=_dimensions(fields, problems, reach), fixed=fixed)
    return Search(
        **{"seed": study_seed, "max_failed_trials": max(3, trials // 4)} | read,
        objectives=objectives,
        scheduler=_scheduler(fields, problems, student, space, len(objectives)),
        time_limit=_time_limit(fields, problems),
        space=space,
        try_first=_try_first(fields, problems, space, reach, trials),
    )


def _objectives(fields: Mapping[str, Any], problems: Problems) -> dict[str, str]:
    path = (*SEARCH, "objectives")
    objectives = fields.get("objectives", {"val/nll": "min"})
    if not isinstance(objectives, dict) or not objectives:
        rule = "must be metrics with their direction, such as {val/nll: min}"
        problems.refuse(path, objectives, rule)
        return {"val/nll": "min"}
    for metric, direction in objectives.items():
        split, _, name = metric.partition("/")
        if split != "val" or name not in METRICS or not METRICS[name].objective:
            problems.add((*path, metric), unknown_name("metric", metric, optimised()))
        elif direction != (better := METRICS[name].better):
            rule = f"must be {better}: that is where {metric} is better"
            problems.refuse((*path, metric), direction, rule)
    return objectives


def _scheduler(
    fields: Mapping[str, Any],
    problems: Problems,
    student: Recipe,
    space: SearchSpace,
    objectives: int,
) -> Asha | None:
    path = (*SEARCH, "scheduler")
    content = fields.get("scheduler", "asha" if objectives == 1 else "none")
    name = content.get("name") if isinstance(content, dict) else content
    if name not in ("asha", "none") or (name == "none" and isinstance(content, dict)):
        rule = "must be asha, none, or {name: asha, grace_epochs: 3, reduction: 3}"
        problems.refuse(path, content, rule)
        return None
    if name == "none":
        return None
    if objectives > 1:
        message = (
            f"asha compares trials by one objective, and there are {objectives}; "
            "use scheduler: none"
        )
        problems.add(path, message, about=[(*SEARCH, "objectives")])
    asha = read_fields(Asha, content if isinstance(content, dict) else {}, path, problems)
    epochs = space.most_epochs(student)
    grace = asha.setdefault("grace_epochs", max(1, epochs // 4))
    if grace >= epochs > 1:
        rule = f"must be below the student's {epochs} epochs, or no trial is ever stopped"
        others = [("student", "epochs"), (*SEARCH, "space", "epochs")]
        problems.refuse((*path, "grace_epochs"), grace, rule, about=others)
    return Asha(**asha)


def _time_limit(fields: Mapping[str, Any], problems: Problems) -> float | None:
    text = fields.get("time_limit")
    if text is None:
        return None
    seconds = 0.0
    if isinstance(text, str) and re.fullmatch(DURATION, text):
        for number, _, unit in re.findall(r"(\d+(\.\d+)?)([smhd])", text):
            seconds += float(number) * _SECONDS[unit]
    if not 0 < seconds < math.inf:
        rule = "must be a length of time with its unit: 90s, 45m, 2h, 1h30m"
        problems.refuse((*SEARCH, "time_limit"), text, rule)
    return seconds


def _dimensions(fields: Mapping[str, Any], problems: Problems, reach: Reach) -> tuple[Any, ...]:
    path = (*SEARCH, "space")
    default = {name: content for name, content in DEFAULT_SPACE.items() if reach.owners(name)}
    content = fields.get("space", default)
    if not content:
        example = "{lr: {log: [0.01, 0.3]}}"
        problems.add(
            path, f"nothing to search; name a field of the student and its range: {example}"
        )
    return read_space(content, path, problems, reach)


def _try_first(
    fields: Mapping[str, Any], problems: Problems, space: SearchSpace, reach: Reach, trials: int
) -> tuple[Mapping[str, Label], ...]:
    path = (*SEARCH, "try_first")
    listed = fields.get("try_first", [])
    if not isinstance(listed, list):
        rule = "must be a list of configurations, such as [{temperature: 4}]"
        problems.refuse(path, listed, rule)
        return ()
    if len(listed) > trials:
        message = f"found {len(listed)} configurations, but there are only {trials} trials"
        problems.add(path, message, about=[(*SEARCH, "trials")])
    return tuple(
        _configuration(content, (*path, index), problems, space, reach)
        for index, content in enumerate(listed)
    )


def _configuration(
    content: Any, path: Path, problems: Problems, space: SearchSpace, reach: Reach
) -> dict[str, Label]:
    labels: dict[str, Label] = {}
    dimensions = {dimension.name: dimension for dimension in space.dimensions}
    for name, written in section(content, path, problems).items():
        here = (*path, name)
        if name not in dimensions:
            message = f"not in the search space, which has {', '.join(dimensions) or 'no field'}"
            problems.add(here, message, about=[(*SEARCH, "space")])
            continue
        value = read_setting(name, written, here, problems, reach.owners(name))
        if value is INVALID:
            continue
        label = dimensions[name].label(value)
        if label is None:
            rule = f"which is outside the search space: {dimensions[name].described()}"
            problems.refuse(here, written, rule)
        else:
            labels[name] = label
    for name in labels:
        for condition in dimensions[name].when:
            if labels.get(condition.field) not in condition.labels:
                values = " or ".join(map(str, condition.labels))
                message = f"searched only when {condition.field} is {values}; say so here"
                problems.add((*path, name), message, about=[(*path, condition.field)])
    return labels


def read_screen(
    values: Any, problems: Problems, student: Recipe, space: SearchSpace
) -> Screen | None:
    """The screen section; `None` when there is none."""
    if values is None:
        return None
    fields = section(values, SCREEN, problems)
    read = read_fields(Screen, values, SCREEN, problems, elsewhere=("candidates",))
    choices: tuple[Augmentation, ...] = (student.augmentation,)
    for dimension in space.dimensions:
        if isinstance(dimension, Choice) and dimension.name == "augmentation":
            choices = dimension.values
    candidates = tuple(augmentation for augmentation in choices if not augmentation.asks_student)
    path = (*SCREEN, "candidates")
    if "candidates" in fields:
        candidates = _candidates(fields["candidates"], path, problems)
    elif not candidates:
        message = (
            "no augmentation of the search can be measured with the teachers alone: "
            "all pick images by the student"
        )
        problems.add(path, message)
    screen = Screen(**read, candidates=candidates)
    measured = [augmentation for augmentation in choices if augmentation in candidates]
    if screen.keep is not None and screen.keep >= len(measured):
        rule = (
            "must be below the number of choices of augmentation that are measured "
            f"({len(measured)}), or be left out"
        )
        others = [path, ("search", "space", "augmentation")]
        problems.refuse((*SCREEN, "keep"), screen.keep, rule, about=others)
    return screen


def _candidates(listed: Any, path: Path, problems: Problems) -> tuple[Augmentation, ...]:
    if not isinstance(listed, list) or not listed:
        problems.refuse(path, listed, "must be a list of at least one augmentation")
        return ()
    augmentations: dict[Augmentation, None] = {}
    for place, content in enumerate(listed):
        augmentation = read_augmentation(content, (*path, place), problems)
        if augmentation is None:
            continue
        if augmentation in augmentations:
            problems.add((*path, place), f"found {quoted(content)} a second time")
        elif augmentation.asks_student:
            message = (
                f"augmentation {augmentation.name!r} picks images by the student, and there is "
                "none yet; pick by teacher-entropy"
            )
            problems.add((*path, place), message)
        else:
            augmentations[augmentation] = None
    return tuple(augmentations)
