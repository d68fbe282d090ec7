"""When a dimension of the search space is drawn: the conditions in the file, and those that go
without saying.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from distill_ray.augmentation import Augmentation
from distill_ray.methods import METHODS
from distill_ray.settings import setting_fields
from distill_ray.study.fields import section
from distill_ray.study.problems import Path, Problems
from distill_ray.study.recipes import COMMON, read_augmentation
from distill_ray.study.space import Choice, Condition, Dimension, Label


def read_when(
    name: str,
    when: Any,
    path: Path,
    problems: Problems,
    dimensions: Mapping[str, Dimension],
    written: Mapping[str, Any],
) -> tuple[Condition, ...]:
    """The conditions of dimension `name`: those of its `when`, and that the method or augmentation
    that is drawn has the setting at all.

    `written` is the space as the file has it, `dimensions` what of it is valid.
    """
    conditions = _written(name, when, path, problems, dimensions, written)
    conditions += _implied(name, {condition.field for condition in conditions}, dimensions)
    _check_owned(name, conditions, path, problems, dimensions)
    return tuple(conditions)


def _written(
    name: str,
    when: Any,
    path: Path,
    problems: Problems,
    dimensions: Mapping[str, Dimension],
    written: Mapping[str, Any],
) -> list[Condition]:
    conditions = []
    for field, values in section(when, path, problems).items():
        here = (*path, field)
        parent = dimensions.get(field)
        if not isinstance(parent, Choice):
            if parent is not None or field not in written:
                choices = [
                    other
                    for other, dimension in dimensions.items()
                    if isinstance(dimension, Choice) and other != name
                ]
                known = ", ".join(choices) or "none"
                problems.add(here, f"{field} is not a choice in this space (choices: {known})")
            continue
        labels: list[Label] = []
        for value in values if isinstance(values, list) else [values]:
            matching = _matching(parent, value)
            labels += [label for label in matching if label not in labels]
            if not matching:
                problems.refuse(here, value, f"must be one of {parent.described()}")
        if values == []:
            problems.refuse(here, values, f"must be one or more of {parent.described()}")
        conditions.append(Condition(field=field, labels=tuple(labels)))
    return conditions


def _matching(choice: Choice, value: Any) -> list[Label]:
    """The labels that a condition's value means: the value itself, or every choice of the
    augmentation that it names.
    """
    if isinstance(value, dict):
        augmentation = read_augmentation(value, (), Problems("", {}))
        label = None if augmentation is None else choice.label(augmentation)
        return [] if label is None else [label]
    if isinstance(value, list):
        value = str(value)
    augmentations = [
        (label, augmentation)
        for label, augmentation in zip(choice.labels, choice.values, strict=True)
        if isinstance(augmentation, Augmentation)
    ]
    named = [label for label, augmentation in augmentations if augmentation.name == value]
    exact = [
        label
        for label in choice.labels
        if label == value and isinstance(label, bool) == isinstance(value, bool)
    ]
    return exact or named


def _owner(name: str) -> str | None:
    """The choice whose value brings setting `name`, augmentation or method; `None` for a field that
    every recipe has.
    """
    if name in (*COMMON, "method", "augmentation"):
        return None
    return "augmentation" if name.startswith("augmentation.") else "method"


def _has(owner: str | Augmentation, name: str) -> bool:
    if isinstance(owner, Augmentation):
        return name.removeprefix("augmentation.") in setting_fields(type(owner))
    return name in setting_fields(METHODS[owner])


def _implied(
    name: str, decided: Collection[str], dimensions: Mapping[str, Dimension]
) -> Iterable[Condition]:
    """A setting of a method, or of an augmentation, is drawn only where the method, or the
    augmentation, that was drawn has it.
    """
    choice = _owner(name)
    owner = None if choice is None else dimensions.get(choice)
    if isinstance(owner, Choice) and owner.name not in decided:
        labels = tuple(label for label in owner.labels if _has(owner.value(label), name))
        if labels != owner.labels:
            yield Condition(field=owner.name, labels=labels)


def _check_owned(
    name: str,
    when: Iterable[Condition],
    path: Path,
    problems: Problems,
    dimensions: Mapping[str, Dimension],
) -> None:
    for condition in when:
        owner = dimensions[condition.field]
        if condition.field == _owner(name) and isinstance(owner, Choice):
            for label in condition.labels:
                if not _has(owner.value(label), name):
                    setting = name.removeprefix("augmentation.")
                    message = f"{owner.name} {label!r} has no setting {setting!r}"
                    problems.add((*path, owner.name), message)


def ordered(
    dimensions: Mapping[str, Dimension], path: Path, problems: Problems
) -> tuple[Dimension, ...]:
    """The dimensions, each after those that its conditions ask for; otherwise in the order of the
    file.
    """
    ordered: list[str] = []
    waiting = dict(dimensions)
    while waiting:
        ready = [
            name
            for name, dimension in waiting.items()
            if waiting.keys().isdisjoint(c.field for c in dimension.when)
        ]
        if not ready:
            problems.add(
                (*path, next(iter(waiting)), "when"),
                f"the conditions of {', '.join(waiting)} depend on each other",
            )
            return ()
        ordered.append(ready[0])
        del waiting[ready[0]]
    return tuple(dimensions[name] for name in ordered)
