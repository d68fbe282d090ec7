"""Reads `search.space`: every dimension against the settings it draws for, and the conditions against each other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from distill_ray.augment import VIEWS, View
from distill_ray.methods import METHODS
from distill_ray.settings import Setting, SettingField, setting_fields
from distill_ray.study.fields import INVALID, check_value, number_type, requirement, section
from distill_ray.study.problems import Path, Problems, shown, unknown_field
from distill_ray.study.recipes import COMMON, is_model, read_method, read_view, setting_owners, unknown_setting
from distill_ray.study.space import Choice, Condition, Dimension, Label, Range

KINDS = ("uniform", "log", "int", "choice")


@dataclass(frozen=True)
class Reach:
    """Which methods and views trials can have; `None` where that cannot be known because the file is wrong there."""

    methods: tuple[str, ...] | None
    views: tuple[str, ...] | None

    def owners(self, name: str) -> list[SettingField]:
        """What setting `name` takes, once for each method or view within reach that has it."""
        if name.startswith("augment."):
            fields = (setting_fields(VIEWS[view]) for view in (VIEWS if self.views is None else self.views))
            return [owned[name.removeprefix("augment.")] for owned in fields if name.removeprefix("augment.") in owned]
        return setting_owners(name, self.methods)


def read_space(values: Any, path: Path, problems: Problems, reach: Reach) -> tuple[Dimension, ...]:
    """The valid dimensions of the space, ordered so that a condition is decided before it is asked."""
    dimensions: dict[str, Dimension] = {}
    given = section(values, path, problems)
    for name, content in given.items():
        dimension = _dimension(name, content, (*path, name), problems, reach)
        if dimension is not None:
            dimensions[name] = dimension
    for name, dimension in dimensions.items():
        explicit = given[name].get("when")
        conditions = _conditions(name, explicit, (*path, name, "when"), problems, dimensions, given)
        when = (*conditions, *_implied(name, {condition.field for condition in conditions}, dimensions))
        _check_owned(name, when, (*path, name, "when"), problems, dimensions)
        dimensions[name] = replace(dimension, when=when)
    return _ordered(dimensions, path, problems)


def choice_of(values: Any, name: str) -> list[Any] | None:
    """What the space in the file lists for choice `name`, as it is written; `None` when `name` is not searched."""
    content = values.get(name) if isinstance(values, dict) else None
    if content is None:
        return None
    listed = content.get("choice") if isinstance(content, dict) else None
    return listed if isinstance(listed, list) else []


def _dimension(name: str, content: Any, path: Path, problems: Problems, reach: Reach) -> Dimension | None:
    owners = reach.owners(name)
    if name not in ("method", "augment") and not owners:
        problems.add(path, _not_a_field(name, reach))
        return None
    kinds = [kind for kind in KINDS if isinstance(content, dict) and kind in content]
    if "int" in kinds and content.get("log") is True:
        kinds.remove("log")
    if len(kinds) != 1:
        examples = "{uniform: [0, 1]}, {log: [0.001, 1]}, {int: [1, 8]} or {choice: [a, b]}"
        problems.add(path, f"found {shown(content)}, must be one of {examples}; a fixed value goes into the student section")
        return None
    kind = kinds[0]
    extras = {"choice": ["when"], "int": ["log", "step", "when"]}.get(kind, ["step", "when"])
    unknown = [extra for extra in content if extra not in (kind, *extras)]
    for extra in unknown:
        problems.add((*path, extra), unknown_field(extra, [kind, *extras]))
    read = _choice if kind == "choice" else _range
    dimension = read(name, kind, content, path, problems, owners)
    return None if unknown else dimension


def _not_a_field(name: str, reach: Reach) -> str:
    if name.startswith("augment."):
        setting = name.removeprefix("augment.")
        known = [f"augment.{known}" for view in VIEWS for known in setting_fields(VIEWS[view])]
        views = f" {', '.join(reach.views)}" if reach.views else ""
        return f"no setting {setting!r} of view{views}" if name in known else unknown_field(name, known)
    return unknown_setting(name, reach.methods)


def _range(
    name: str, kind: str, content: Mapping[str, Any], path: Path, problems: Problems, owners: list[SettingField]
) -> Range | None:
    number = number_type(owners[0]) if owners else None
    if number is None:
        problems.add(path, f"{name} takes {requirement(owners[0]) if owners else 'a name'}, not a range; use choice")
        return None
    if number is int and kind != "int":
        hint = "{int: [1, 8], log: true}" if kind == "log" else "{int: [1, 8]}"
        problems.add(path, f"{name} takes whole numbers; use {hint} instead of {kind}")
        return None
    limits = content[kind]
    if not isinstance(limits, list) or len(limits) != 2:
        problems.add((*path, kind), f"found {shown(limits)}, must be the lower and the upper limit: [1, 8]")
        return None
    whole = kind == "int"
    read = [_limit(limit, whole, owners, (*path, kind, place), problems) for place, limit in enumerate(limits)]
    step = _limit(content["step"], whole, [], (*path, "step"), problems) if "step" in content else None
    log = kind == "log" or content.get("log") is True
    if content.get("log") not in (None, True) and kind == "int":
        problems.add((*path, "log"), f"found {shown(content['log'])}, must be true or left out")
        return None
    if INVALID in read or step is INVALID:
        return None
    low, high = read
    if low >= high:
        problems.add((*path, kind), f"found {shown(limits)}, the lower limit must be below the upper one")
    elif log and low <= 0:
        problems.add((*path, kind), f"found {shown(limits)}, the limits of a logarithmic range must be above 0")
    elif step is not None and log:
        problems.add((*path, "step"), "a logarithmic range has no steps")
    elif step is not None and (step <= 0 or not _divides(step, high - low)):
        problems.add((*path, "step"), f"found {shown(step)}, whole steps must lead from {low:g} to {high:g}")
    else:
        return Range(name=name, low=low, high=high, whole=whole, log=log, step=step)
    return None


def _limit(value: Any, whole: bool, owners: list[SettingField], path: Path, problems: Problems) -> Any:
    """A limit of a range, or `INVALID`: a finite number that every owner of the setting takes."""
    number = SettingField("", int if whole else float, owners[0].setting if owners else _ANY, None)
    read = check_value(number, value, path, problems)
    for owner in owners[1:]:
        if read is not INVALID and not owner.setting.admits(read):
            problems.add(path, f"found {shown(value)}, must be {owner.setting.allowed()}")
            read = INVALID
    return read


_ANY = Setting("")


def _divides(step: float, length: float) -> bool:
    steps = length / step
    return steps >= 1 and abs(steps - round(steps)) < 1e-8


def _choice(
    name: str, kind: str, content: Mapping[str, Any], path: Path, problems: Problems, owners: list[SettingField]
) -> Choice | None:
    listed = content[kind]
    path = (*path, kind)
    if not isinstance(listed, list) or not listed:
        problems.add(path, f"found {shown(listed)}, must be a list of at least one value")
        return None
    read = [read_setting(name, value, (*path, place), problems, owners) for place, value in enumerate(listed)]
    if INVALID in read:
        return None
    repeated = [place for place, value in enumerate(read) if value in read[:place]]
    for place in repeated:
        problems.add((*path, place), f"found {shown(listed[place])} a second time")
    return None if repeated else Choice(name=name, values=tuple(read))


def read_setting(name: str, value: Any, path: Path, problems: Problems, owners: list[SettingField]) -> Any:
    """The value of one setting of a recipe, or `INVALID`."""
    if name == "method":
        return read_method(value, path, problems) or INVALID
    if name == "augment":
        return read_view(value, path, problems) or INVALID
    read = [check_value(owner, value, path, problems) for owner in owners]
    if INVALID in read or (name == "model" and not is_model(read[0], path, problems)):
        return INVALID
    return read[0]


def _conditions(
    name: str, when: Any, path: Path, problems: Problems, dimensions: Mapping[str, Dimension], given: Mapping[str, Any]
) -> list[Condition]:
    conditions = []
    for field, wanted in section(when, path, problems).items():
        here = (*path, field)
        parent = dimensions.get(field)
        if not isinstance(parent, Choice):
            if parent is not None or field not in given:
                choices = [other for other, dimension in dimensions.items() if isinstance(dimension, Choice) and other != name]
                problems.add(here, f"{field} is not a choice in this space (choices: {', '.join(choices) or 'none'})")
            continue
        labels: list[Label] = []
        for value in wanted if isinstance(wanted, list) else [wanted]:
            matching = _matching(parent, value)
            labels += [label for label in matching if label not in labels]
            if not matching:
                problems.add(here, f"found {shown(value)}, must be one of {parent.described()}")
        if wanted == []:
            problems.add(here, f"found [], must be one or more of {parent.described()}")
        conditions.append(Condition(field=field, labels=tuple(labels)))
    return conditions


def _matching(choice: Choice, value: Any) -> list[Label]:
    """The labels that a condition's value means: the value itself, or every choice of the view that it names."""
    if isinstance(value, dict):
        view = read_view(value, (), Problems("", {}))
        return [] if view is None or choice.label(view) is None else [choice.label(view) or ""]
    if isinstance(value, list):
        value = str(value)
    views = [(label, view) for label, view in zip(choice.labels, choice.values, strict=True) if isinstance(view, View)]
    named = [label for label, view in views if view.name == value]
    exact = [label for label in choice.labels if label == value and isinstance(label, bool) == isinstance(value, bool)]
    return exact or named


def _owner(name: str) -> str | None:
    """The choice whose value brings setting `name`: the view or the method; `None` for a field that every recipe has."""
    if name in (*COMMON, "method", "augment"):
        return None
    return "augment" if name.startswith("augment.") else "method"


def _has(owner: str | View, name: str) -> bool:
    if isinstance(owner, View):
        return name.removeprefix("augment.") in setting_fields(type(owner))
    return name in setting_fields(METHODS[owner])


def _implied(name: str, decided: Collection[str], dimensions: Mapping[str, Dimension]) -> Iterable[Condition]:
    """A setting of a method, or of a view, is drawn only where the method, or the view, that was drawn has it."""
    owner = dimensions.get(_owner(name) or "")
    if isinstance(owner, Choice) and owner.name not in decided:
        labels = tuple(label for label in owner.labels if _has(owner.value(label), name))
        if labels != owner.labels:
            yield Condition(field=owner.name, labels=labels)


def _check_owned(
    name: str, when: Iterable[Condition], path: Path, problems: Problems, dimensions: Mapping[str, Dimension]
) -> None:
    for condition in when:
        owner = dimensions[condition.field]
        if condition.field == _owner(name) and isinstance(owner, Choice):
            for label in condition.labels:
                if not _has(owner.value(label), name):
                    problems.add((*path, owner.name), f"{owner.name} {label!r} has no setting {name.removeprefix('augment.')!r}")


def _ordered(dimensions: Mapping[str, Dimension], path: Path, problems: Problems) -> tuple[Dimension, ...]:
    """The dimensions, each after those that its conditions ask for; otherwise in the order of the file."""
    ordered: list[str] = []
    waiting = dict(dimensions)
    while waiting:
        ready = [name for name, dimension in waiting.items() if waiting.keys().isdisjoint(c.field for c in dimension.when)]
        if not ready:
            problems.add((*path, next(iter(waiting)), "when"), f"the conditions of {', '.join(waiting)} depend on each other")
            return ()
        ordered.append(ready[0])
        del waiting[ready[0]]
    return tuple(dimensions[name] for name in ordered)
