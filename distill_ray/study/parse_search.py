"""Reads the section `search`: caps, objectives, scheduler, the space and the configurations to try
first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from distill_ray.job import Recipe
from distill_ray.metric import METRICS
from distill_ray.metric import objectives as optimised
from distill_ray.registry import unknown_name
from distill_ray.study.fields import INVALID, read_fields, section
from distill_ray.study.parse_space import Reach, read_setting, read_space
from distill_ray.study.problems import Path, Problems, shown
from distill_ray.study.sections import NAME, Asha, Search
from distill_ray.study.space import Label, SearchSpace

PATH: Path = ("search",)
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
    """The search section, with a default for all that it leaves out."""
    given = section(values, PATH, problems)
    elsewhere = ("objectives", "scheduler", "time_limit", "try_first", "space")
    read = read_fields(Search, values, PATH, problems, elsewhere=elsewhere)
    trials = read.setdefault("trials", 20)
    for index, source in enumerate(read.get("warm_start", ())):
        name, at, place = source.partition("@")
        if not NAME.fullmatch(name) or (at and not place):
            problems.add(
                (*PATH, "warm_start", index),
                f"found {shown(source)}, must be the name of a study, or NAME@STORE",
            )
    objectives = _objectives(given, problems)
    space = SearchSpace(dimensions=_dimensions(given, problems, reach), fixed=fixed)
    return Search(
        **{"seed": study_seed, "max_failed_trials": max(3, trials // 4)} | read,
        objectives=objectives,
        scheduler=_scheduler(given, problems, student, space, len(objectives)),
        time_limit=_time_limit(given, problems),
        space=space,
        try_first=_try_first(given, problems, space, reach, trials),
    )


def _objectives(given: Mapping[str, Any], problems: Problems) -> dict[str, str]:
    path = (*PATH, "objectives")
    objectives = given.get("objectives", {"val/nll": "min"})
    if not isinstance(objectives, dict) or not objectives:
        problems.add(
            path,
            f"found {shown(objectives)}, must be metrics with their direction, such as {{val/nll: min}}",
        )
        return {"val/nll": "min"}
    for metric, direction in objectives.items():
        split, _, name = str(metric).partition("/")
        if split != "val" or name not in METRICS or not METRICS[name].objective:
            problems.add((*path, metric), unknown_name("metric", metric, optimised()))
        elif direction != (better := METRICS[name].better):
            problems.add(
                (*path, metric),
                f"found {shown(direction)}, must be {better}: that is where {metric} is better",
            )
    return objectives


def _scheduler(
    given: Mapping[str, Any],
    problems: Problems,
    student: Recipe,
    space: SearchSpace,
    objectives: int,
) -> Asha | None:
    path = (*PATH, "scheduler")
    content = given.get("scheduler", "asha" if objectives == 1 else "none")
    name = content.get("name") if isinstance(content, dict) else content
    if name not in ("asha", "none") or (name == "none" and isinstance(content, dict)):
        problems.add(
            path,
            f"found {shown(content)}, must be asha, none, or {{name: asha, grace_epochs: 3, reduction: 3}}",
        )
        return None
    if name == "none":
        return None
    if objectives > 1:
        message = f"asha compares trials by one objective, and there are {objectives}; use scheduler: none"
        problems.add(path, message, about=[(*PATH, "objectives")])
    asha = read_fields(Asha, content if isinstance(content, dict) else {}, path, problems)
    epochs = space.most_epochs(student)
    if asha.setdefault("grace_epochs", max(1, epochs // 4)) >= epochs > 1:
        message = f"found {asha['grace_epochs']}, must be below the student's {epochs} epochs, or no trial is ever stopped"
        problems.add(
            (*path, "grace_epochs"),
            message,
            about=[("student", "epochs"), (*PATH, "space", "epochs")],
        )
    return Asha(**asha)


def _time_limit(given: Mapping[str, Any], problems: Problems) -> float | None:
    text = given.get("time_limit")
    if text is None:
        return None
    seconds = 0.0
    if isinstance(text, str) and re.fullmatch(DURATION, text):
        seconds = sum(
            float(number) * _SECONDS[unit]
            for number, _, unit in re.findall(r"(\d+(\.\d+)?)([smhd])", text)
        )
    if not 0 < seconds < math.inf:
        problems.add(
            (*PATH, "time_limit"),
            f"found {shown(text)}, must be a length of time with its unit: 90s, 45m, 2h, 1h30m",
        )
    return seconds


def _dimensions(given: Mapping[str, Any], problems: Problems, reach: Reach) -> tuple[Any, ...]:
    path = (*PATH, "space")
    default = {name: content for name, content in DEFAULT_SPACE.items() if reach.owners(name)}
    content = given.get("space", default)
    if not content:
        problems.add(
            path,
            "nothing to search; name a field of the student and its range: {lr: {log: [0.01, 0.3]}}",
        )
    return read_space(content, path, problems, reach)


def _try_first(
    given: Mapping[str, Any], problems: Problems, space: SearchSpace, reach: Reach, trials: int
) -> tuple[Mapping[str, Label], ...]:
    path = (*PATH, "try_first")
    listed = given.get("try_first", [])
    if not isinstance(listed, list):
        problems.add(
            path,
            f"found {shown(listed)}, must be a list of configurations, such as [{{temperature: 4}}]",
        )
        return ()
    if len(listed) > trials:
        problems.add(
            path,
            f"found {len(listed)} configurations, but there are only {trials} trials",
            about=[(*PATH, "trials")],
        )
    return tuple(
        _configuration(content, (*path, index), problems, space, reach)
        for index, content in enumerate(listed)
    )


def _configuration(
    content: Any, path: Path, problems: Problems, space: SearchSpace, reach: Reach
) -> dict[str, Label]:
    labels: dict[str, Label] = {}
    dimensions = {dimension.name: dimension for dimension in space.dimensions}
    for name, given in section(content, path, problems).items():
        here = (*path, name)
        if name not in dimensions:
            message = f"not in the search space, which has {', '.join(dimensions) or 'no field'}"
            problems.add(here, message, about=[(*PATH, "space")])
            continue
        value = read_setting(name, given, here, problems, reach.owners(name))
        if value is INVALID:
            continue
        label = dimensions[name].label(value)
        if label is None:
            problems.add(
                here,
                f"found {shown(given)}, which is outside the search space: {dimensions[name].described()}",
            )
        else:
            labels[name] = label
    for name in labels:
        for condition in dimensions[name].when:
            if labels.get(condition.field) not in condition.labels:
                wanted = " or ".join(map(str, condition.labels))
                message = f"searched only when {condition.field} is {wanted}; say so here"
                problems.add((*path, name), message, about=[(*path, condition.field)])
    return labels
