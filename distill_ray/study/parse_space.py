"""Reads `search.space`: every dimension against the settings it draws for, and the conditions
against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from distill_ray.augmentation import AUGMENTATIONS
from distill_ray.job import FOR_WEIGHTS
from distill_ray.settings import (
    Setting,
    admits,
    limited,
    limits,
    plain_type,
    requirement,
    setting_fields,
)
from distill_ray.study.conditions import ordered, read_when
from distill_ray.study.fields import INVALID, check_value, section
from distill_ray.study.problems import Path, Problems, quoted, unknown_field
from distill_ray.study.recipes import (
    read_augmentation,
    read_method,
    read_model,
    setting_owners,
    unknown_setting,
)
from distill_ray.study.space import Choice, Dimension, Range

MAX_CHOICES = 1000
KINDS = ("uniform", "log", "int", "choice")


@dataclass(frozen=True)
class Reach:
    """Which methods and augmentations trials can have; `None` where that cannot be known because
    the file is wrong there.
    """

    methods: tuple[str, ...] | None
    augmentations: tuple[str, ...] | None

    def within(self, when: Any) -> Reach:
        """What a line of the space with condition `when`, as it is written, can meet: fewer methods
        where it names them.
        """
        named = when.get("method") if isinstance(when, dict) else None
        listed = named if isinstance(named, list) else [named]
        kept = tuple(method for method in self.methods or () if method in listed)
        return replace(self, methods=kept) if kept else self

    def owners(self, name: str) -> list[Setting]:
        """What setting `name` takes, for each method or augmentation in reach that has it."""
        if not name.startswith("augmentation."):
            return setting_owners(name, self.methods)
        setting = name.removeprefix("augmentation.")
        in_reach = AUGMENTATIONS if self.augmentations is None else self.augmentations
        fields = [setting_fields(AUGMENTATIONS[augmentation]) for augmentation in in_reach]
        return [of_one[setting] for of_one in fields if setting in of_one]


def read_space(values: Any, path: Path, problems: Problems, reach: Reach) -> tuple[Dimension, ...]:
    """The valid dimensions of the space, each after those that its conditions ask for."""
    dimensions: dict[str, Dimension] = {}
    written = section(values, path, problems)
    for name, content in written.items():
        dimension = _dimension(name, content, (*path, name), problems, reach)
        if dimension is not None:
            dimensions[name] = dimension
    conditioned = {}
    for name, dimension in dimensions.items():
        here = (*path, name, "when")
        when = read_when(name, written[name].get("when"), here, problems, dimensions, written)
        conditioned[name] = replace(dimension, when=when)
    return ordered(conditioned, path, problems)


def choice_of(values: Any, name: str) -> list[Any] | None:
    """What the space in the file lists for choice `name`, as it is written; `None` when `name` is
    not searched.
    """
    content = values.get(name) if isinstance(values, dict) else None
    if content is None:
        return None
    listed = content.get("choice") if isinstance(content, dict) else None
    return listed if isinstance(listed, list) else []


def _dimension(
    name: str, content: Any, path: Path, problems: Problems, reach: Reach
) -> Dimension | None:
    if name in FOR_WEIGHTS and name != "layer_decay":
        problems.add(path, "not searched; it goes into the student section")
        return None
    when = content.get("when") if isinstance(content, dict) else None
    owners = reach.within(when).owners(name) or reach.owners(name)
    if name not in ("method", "augmentation") and not owners:
        problems.add(path, _not_a_field(name, reach))
        return None
    kinds = [kind for kind in KINDS if isinstance(content, dict) and kind in content]
    if "int" in kinds and content.get("log") is True:
        kinds.remove("log")
    if len(kinds) != 1:
        examples = "{uniform: [0, 1]}, {log: [0.001, 1]}, {int: [1, 8]} or {choice: [a, b]}"
        rule = f"must be one of {examples}; a fixed value goes into the student section"
        problems.refuse(path, content, rule)
        return None
    kind = kinds[0]
    extras = {"choice": ["when"], "int": ["log", "step", "when"]}.get(kind, ["step", "when"])
    unknown = [extra for extra in content if extra not in (kind, *extras)]
    for extra in unknown:
        problems.add_unknown((*path, extra), [kind, *extras])
    read = _choice if kind == "choice" else _range
    dimension = read(name, kind, content, path, problems, owners)
    return None if unknown else dimension


def _not_a_field(name: str, reach: Reach) -> str:
    if not name.startswith("augmentation."):
        return unknown_setting(name, reach.methods)
    known: list[str] = []
    for augmentation in AUGMENTATIONS.values():
        known += [f"augmentation.{setting}" for setting in setting_fields(augmentation)]
    if name not in known:
        return unknown_field(name, known)
    augmentations = f" {', '.join(reach.augmentations)}" if reach.augmentations else ""
    return f"no setting {name.removeprefix('augmentation.')!r} of augmentation{augmentations}"


def _range(
    name: str,
    kind: str,
    content: Mapping[str, Any],
    path: Path,
    problems: Problems,
    owners: list[Setting],
) -> Range | None:
    number = plain_type(owners[0].type) if owners else None
    if number not in (int, float):
        takes = requirement(owners[0].type) if owners else "a name"
        problems.add(path, f"{name} takes {takes}, not a range; use choice")
        return None
    if number is int and kind != "int":
        hint = "{int: [1, 8], log: true}" if kind == "log" else "{int: [1, 8]}"
        problems.add(path, f"{name} takes whole numbers; use {hint} instead of {kind}")
        return None
    # The numbers by themselves
    pair, here = content[kind], (*path, kind)
    if not isinstance(pair, list) or len(pair) != 2:
        problems.refuse(here, pair, "must be the lower and the upper limit: [1, 8]")
        return None
    whole = kind == "int"
    low, high = (
        _limit(limit, whole, owners, (*here, place), problems) for place, limit in enumerate(pair)
    )
    step = None
    if "step" in content:
        step = _limit(content["step"], whole, [], (*path, "step"), problems)
    if kind == "int" and content.get("log") not in (None, True):
        problems.refuse((*path, "log"), content["log"], "must be true or left out")
        return None
    if INVALID in (low, high, step):
        return None
    # The numbers together
    log = kind == "log" or content.get("log") is True
    if low >= high:
        problems.refuse(here, pair, "the lower limit must be below the upper one")
    elif log and low <= 0:
        problems.refuse(here, pair, "the limits of a logarithmic range must be above 0")
    elif step is not None and log:
        problems.add((*path, "step"), "a logarithmic range has no steps")
    elif step is not None and (step <= 0 or not _divides(step, high - low)):
        rule = f"whole steps must lead from {low:g} to {high:g}"
        problems.refuse((*path, "step"), step, rule)
    else:
        return Range(name=name, low=low, high=high, whole=whole, log=log, step=step)
    return None


def _limit(value: Any, whole: bool, owners: list[Setting], path: Path, problems: Problems) -> Any:
    """A limit of a range, or `INVALID`: a finite number that every owner of the setting takes."""
    number = int if whole else float
    read = check_value(limited(number, owners[0].type if owners else number), value, path, problems)
    for owner in owners[1:]:
        if read is not INVALID and not admits(owner.type, read):
            problems.refuse(path, value, f"must be {limits(owner.type)}")
            read = INVALID
    return read


def _divides(step: float, length: float) -> bool:
    steps = length / step
    return steps >= 1 and abs(steps - round(steps)) < 1e-8


def _choice(
    name: str,
    kind: str,
    content: Mapping[str, Any],
    path: Path,
    problems: Problems,
    owners: list[Setting],
) -> Choice | None:
    listed = content[kind]
    path = (*path, kind)
    if not isinstance(listed, list) or not listed:
        problems.refuse(path, listed, "must be a list of at least one value")
        return None
    if len(listed) > MAX_CHOICES:
        problems.add(path, f"found {len(listed)} values, must be at most {MAX_CHOICES}")
        return None
    read = [
        read_setting(name, value, (*path, place), problems, owners)
        for place, value in enumerate(listed)
    ]
    if INVALID in read:
        return None
    distinct = set()
    for place, value in enumerate(read):
        if value in distinct:
            problems.add((*path, place), f"found {quoted(listed[place])} a second time")
        distinct.add(value)
    return Choice(name=name, values=tuple(read)) if len(distinct) == len(read) else None


def read_setting(
    name: str, value: Any, path: Path, problems: Problems, owners: list[Setting]
) -> Any:
    """The value of one setting of a recipe, or `INVALID`."""
    if name == "method":
        return read_method(value, path, problems) or INVALID
    if name == "augmentation":
        return read_augmentation(value, path, problems) or INVALID
    read = [check_value(owner.type, value, path, problems) for owner in owners]
    if INVALID in read:
        return INVALID
    return read_model(read[0], path, problems) if name == "model" else read[0]
