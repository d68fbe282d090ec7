"""Reads the sections `search` and `screen`: caps, objectives, scheduler, the space, the
configurations to try first, and which augmentations are measured before any student is trained.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from distill_ray.augmentation import Augmentation
from distill_ray.job import Recipe
from distill_ray.metric import COSTS, METRICS
from distill_ray.metric import objectives as optimised
from distill_ray.registry import unknown_name
from distill_ray.study.fields import INVALID, read_fields, section
from distill_ray.study.parse_space import Reach, read_setting, read_space
from distill_ray.study.problems import Path, Problems, quoted
from distill_ray.study.recipes import read_augmentation
from distill_ray.study.sections import NAME, Budget, EarlyStopping, SchedulerName, Screen, Search
from distill_ray.study.space import Choice, Dimension, Label, SearchSpace

SEARCH: Path = ("search",)
SCREEN: Path = ("screen",)
DEFAULT_SPACE = {"temperature": {"log": [1.0, 20.0]}, "alpha": {"uniform": [0.1, 1.0]}}
DURATION = r"(\d+(\.\d+)?[smhd])+"
DURATION_FORM = "a length of time with its unit: 90s, 45m, 2h, 1h30m"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
COUNT = r"(\d+(\.\d+)?)([kMG]?)"
_COUNTS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


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
    times = ("time_limit", "study_time_limit")
    special = ("objectives", "limits", "scheduler", *times, "prior", "try_first", "space")
    read = read_fields(Search, values, SEARCH, problems, elsewhere=special)
    space = SearchSpace(dimensions=_dimensions(fields, problems, reach), fixed=fixed)
    objectives = _objectives(fields, problems)
    size = _check_sampler(read.get("sampler", "auto"), space, objectives, problems)
    trials = read.setdefault("trials", 20 if size is None else size)
    if size is not None and trials > size:
        rule = f"but the grid has only {size} configurations; leave it out to try each of them"
        problems.refuse((*SEARCH, "trials"), trials, rule, about=[(*SEARCH, "space")])
    for index, source in enumerate(read.get("warm_start", ())):
        name, at, place = source.partition("@")
        if not NAME.fullmatch(name) or (at and not place):
            path = (*SEARCH, "warm_start", index)
            problems.refuse(path, source, "must be the name of a study, or NAME@STORE")
    search = Search(
        **{"seed": study_seed, "max_failed_trials": max(3, trials // 4)} | read,
        objectives=objectives,
        limits=_limits(fields, problems),
        scheduler=_scheduler(
            {"scheduler": "none", **fields} if "for_each" in fields else fields,
            problems,
            student,
            space,
            len(objectives),
        ),
        time_limit=_time_limit("time_limit", fields, problems),
        study_time_limit=_time_limit("study_time_limit", fields, problems),
        space=space,
        prior=_configuration(fields.get("prior"), (*SEARCH, "prior"), problems, space, reach),
        try_first=_try_first(fields, problems, space, reach, trials),
    )
    if search.budget == Budget():
        problems.refuse((*SEARCH, "budget"), {}, "must have epochs, gpu_hours or kwh")
    _check_latency(search, "latency" in fields, problems)
    return _with_equal_shares(search, problems)


def _with_equal_shares(search: Search, problems: Problems) -> Search:
    """A search for each choice of a setting: that it can be one, and a fair one."""
    name, path = search.for_each, (*SEARCH, "for_each")
    if name is None:
        return search
    choices = {
        dimension.name: dimension.labels
        for dimension in search.space.dimensions
        if isinstance(dimension, Choice) and not dimension.when
    }
    about: list[Path] = [(*SEARCH, "space")]
    if name not in choices:
        named = ", ".join(choices) or "none"
        rule = f"must be a setting of search.space with choices and without `when`: {named}"
        problems.refuse(path, name, rule, about=about)
        return replace(search, for_each=None)
    shares = len(choices[name])
    if search.trials % shares:
        rule = f"must be a multiple of {shares}, an equal share for each {name}"
        problems.refuse((*SEARCH, "trials"), search.trials, rule, about=[path])
    if search.scheduler is not None:
        message = (
            f"found {search.scheduler.name}, which compares the trials of every {name}; "
            "with for_each, use scheduler: none"
        )
        problems.add((*SEARCH, "scheduler"), message, about=[path])
    if search.chosen_sampler not in ("tpe", "random", "gp", "cmaes", "nsga2", "nsga3"):
        message = f"found {search.sampler}, which goes through one space; with for_each, use tpe"
        problems.add((*SEARCH, "sampler"), message, about=[path])
    return search


def _objectives(fields: Mapping[str, Any], problems: Problems) -> dict[str, str]:
    path = (*SEARCH, "objectives")
    objectives = fields.get("objectives", {"val/nll": "min"})
    if not isinstance(objectives, dict) or not objectives:
        rule = "must be metrics with their direction, such as {val/nll: min}"
        problems.refuse(path, objectives, rule)
        return {"val/nll": "min"}
    for place, (metric, direction) in enumerate(objectives.items()):
        split, _, name = metric.partition("/")
        if split == "cost" and name in COSTS:
            if place == 0:
                message = "is a cost, and the first objective ranks; name a metric before it"
                problems.add((*path, metric), message)
            elif direction != "min":
                problems.refuse((*path, metric), direction, "must be min: fewer is better")
        elif split != "val" or name not in METRICS or not METRICS[name].objective:
            problems.add((*path, metric), unknown_name("metric", metric, optimised()))
        elif direction != (better := METRICS[name].better):
            rule = f"must be {better}: that is where {metric} is better"
            problems.refuse((*path, metric), direction, rule)
    return objectives


def _limits(fields: Mapping[str, Any], problems: Problems) -> dict[str, float]:
    path = (*SEARCH, "limits")
    limits: dict[str, float] = {}
    for name, written in section(fields.get("limits"), path, problems).items():
        if name not in COSTS:
            problems.add((*path, name), unknown_name("cost", name, COSTS))
            continue
        value = written
        if isinstance(written, str) and COSTS[name].whole:
            parts = re.fullmatch(COUNT, written)
            value = float(parts[1]) * _COUNTS[parts[3]] if parts else None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and 0 < value < math.inf:
            limits[name] = float(value)
            continue
        unit = f", in {COSTS[name].unit}" if COSTS[name].unit else ", or such as 500k, 2M or 1.5G"
        problems.refuse((*path, name), written, f"must be a number above 0{unit}")
    return limits


def _check_latency(search: Search, written: bool, problems: Problems) -> None:
    """That the engine is there, and that the section is for something."""
    path = (*SEARCH, "latency")
    if written and not search.asks_for_latency:
        message = "nothing asks for it; limit latency-ms, or make cost/latency-ms an objective"
        problems.add(path, message)
    if search.latency.precision == "int8" and search.latency.engine == "torch":
        message = "int8 runs in onnxruntime, and the engine is torch; set engine: onnxruntime"
        problems.add((*path, "precision"), message, about=[(*path, "engine")])
    if search.latency.precision == "bf16" and search.latency.engine == "onnxruntime":
        message = "onnxruntime computes nothing in bf16 on processors; set engine: torch, or int8"
        problems.add((*path, "precision"), message, about=[(*path, "engine")])
    if search.asks_for_latency and search.latency.engine == "onnxruntime":
        missing = [
            package
            for package in ("onnx", "onnxscript", "onnxruntime")
            if importlib.util.find_spec(package) is None
        ]
        if missing:
            message = (
                f"found onnxruntime, which needs {' and '.join(missing)}, not installed here; "
                "pip install 'distill-ray[onnx]'"
            )
            problems.add((*path, "engine"), message)


def _scheduler(
    fields: Mapping[str, Any],
    problems: Problems,
    student: Recipe,
    space: SearchSpace,
    objectives: int,
) -> EarlyStopping | None:
    path = (*SEARCH, "scheduler")
    content = fields.get("scheduler", "asha" if objectives == 1 else "none")
    name = content.get("name") if isinstance(content, dict) else content
    names = get_args(SchedulerName)
    if name not in (*names, "none") or (name == "none" and isinstance(content, dict)):
        rule = f"must be {', '.join(names)}, none, or {{name: asha, grace_epochs: 3, reduction: 3}}"
        problems.refuse(path, content, rule)
        return None
    if name == "none":
        return None
    if objectives > 1:
        message = (
            f"{name} compares trials by one objective, and there are {objectives}; "
            "use scheduler: none"
        )
        problems.add(path, message, about=[(*SEARCH, "objectives")])
    settings = content if isinstance(content, dict) else {}
    read = read_fields(EarlyStopping, {"name": name, **settings}, path, problems)
    if name in ("asha", "hyperband"):
        read.setdefault("reduction", 3)
    elif "reduction" in settings:
        problems.add((*path, "reduction"), f"{name} has no rungs; it is for asha and hyperband")
    if name == "paired" and any(dimension.name == "epochs" for dimension in space.dimensions):
        message = (
            "paired compares trials epoch by epoch, and they have different numbers of epochs; "
            "use asha"
        )
        problems.add(path, message, about=[(*SEARCH, "space", "epochs")])
    epochs = space.most_epochs(student)
    grace = read.setdefault("grace_epochs", max(1, epochs // 4))
    if grace >= epochs > 1:
        rule = f"must be below the student's {epochs} epochs, or no trial is ever stopped"
        others = [("student", "epochs"), (*SEARCH, "space", "epochs")]
        problems.refuse((*path, "grace_epochs"), grace, rule, about=others)
    return EarlyStopping(**read)


MOST_CONFIGURATIONS = 100_000
"""Of a grid; they are counted one by one."""


def _check_sampler(
    sampler: str, space: SearchSpace, objectives: Mapping[str, str], problems: Problems
) -> int | None:
    """That the sampler can search the space; the number of configurations of a grid."""
    path = (*SEARCH, "sampler")
    about: list[Path] = [(*SEARCH, "space")]
    conditional = [dimension.name for dimension in space.dimensions if dimension.when]
    choices = [dimension.name for dimension in space.dimensions if isinstance(dimension, Choice)]
    endless = [dimension.name for dimension in space.dimensions if _values(dimension) is None]
    if sampler in ("gp", "cmaes", "qmc") and conditional:
        message = (
            f"{sampler} cannot draw what depends on another choice ({', '.join(conditional)}); "
            "use tpe"
        )
        problems.add(path, message, about=about)
    elif sampler == "cmaes" and choices:
        message = f"cmaes searches numbers, not choices ({', '.join(choices)}); use tpe or gp"
        problems.add(path, message, about=about)
    if sampler == "cmaes" and len(space.dimensions) < 2:
        problems.add(path, "cmaes needs two settings or more; use tpe or gp", about=about)
    if sampler == "cmaes" and len(objectives) > 1:
        message = f"cmaes has one objective, and there are {len(objectives)}; use tpe or nsga2"
        problems.add(path, message, about=[(*SEARCH, "objectives")])
    if sampler == "nsga3" and len(objectives) == 1:
        message = "nsga3 is for several objectives, and there is one; use tpe"
        problems.add(path, message, about=[(*SEARCH, "objectives")])
    if sampler != "grid":
        return None
    if endless:
        message = (
            "a grid needs choices, or numbers in steps, and of these it has neither: "
            f"{', '.join(endless)}; add a step"
        )
        problems.add(path, message, about=about)
        return None
    size = sum(1 for _ in itertools.islice(_grid(space, space.dimensions, {}), MOST_CONFIGURATIONS))
    return size or None


def _values(dimension: Dimension) -> list[Label] | None:
    """All values of a dimension; None when they cannot be counted."""
    if isinstance(dimension, Choice):
        return list(dimension.labels)
    step = dimension.step or (1 if dimension.whole else None)
    if step is None or dimension.log:
        return None
    count = int((dimension.high - dimension.low) / step + 1e-9) + 1
    return [dimension.low + place * step for place in range(min(count, MOST_CONFIGURATIONS))]


def _grid(
    space: SearchSpace, left: Sequence[Dimension], drawn: Mapping[str, Label]
) -> Iterator[Mapping[str, Label]]:
    """Every configuration of a space that has only so many."""
    if not left:
        yield drawn
    elif not space.is_active(left[0], drawn):
        yield from _grid(space, left[1:], drawn)
    else:
        for value in _values(left[0]) or []:
            yield from _grid(space, left[1:], {**drawn, left[0].name: value})


def _time_limit(name: str, fields: Mapping[str, Any], problems: Problems) -> float | None:
    text = fields.get(name)
    if text is None:
        return None
    seconds = seconds_of(text)
    if seconds is None:
        problems.refuse((*SEARCH, name), text, f"must be {DURATION_FORM}")
    return seconds


def seconds_of(text: Any) -> float | None:
    """The seconds that `90s`, `45m` or `1h30m` are; None for anything else."""
    seconds = 0.0
    if isinstance(text, str) and re.fullmatch(DURATION, text):
        for number, _, unit in re.findall(r"(\d+(\.\d+)?)([smhd])", text):
            seconds += float(number) * _SECONDS[unit]
    return seconds if 0 < seconds < math.inf else None


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
        message = f"found {len(listed)} configurations, but the number of trials is {trials}"
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
