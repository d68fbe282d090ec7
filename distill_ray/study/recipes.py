"""Between the flat settings of the study file and a `Recipe`: the one place that converts in either
direction.

Flat settings have the common fields of a recipe, `method` as a name with the method's settings
beside it, and `augmentation` as a `Augmentation`. `augmentation.<setting>` changes one setting of
that augmentation.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from distill_ray.augmentation import AUGMENTATIONS, Augmentation
from distill_ray.job import Recipe
from distill_ray.methods import METHODS
from distill_ray.models import check_model_name
from distill_ray.models.own_modules import pinned_model
from distill_ray.registry import Registry, unknown_name
from distill_ray.settings import Setting, plain_type, setting_fields
from distill_ray.study.fields import INVALID, check_value, section
from distill_ray.study.problems import Path, Problems, unknown_field
from distill_ray.study.weights import check_weights_file

COMMON = tuple(name for name in setting_fields(Recipe) if name not in ("method", "augmentation"))
"""The fields that every recipe has, apart from the two that bring settings of their own."""


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Every setting of `recipe`, flat."""
    return (
        {name: getattr(recipe, name) for name in COMMON}
        | {"method": recipe.method.name, "augmentation": recipe.augmentation}
        | {
            field.name: getattr(recipe.method, field.name)
            for field in dataclasses.fields(recipe.method)
        }
    )


def assemble(settings: Mapping[str, Any]) -> Recipe:
    """The recipe with these flat settings; those of methods and augmentations other than its own
    are left out.

    Raises `ValueError`, naming the field, when settings do not fit each other.
    """
    method_class = METHODS[settings["method"]]
    method = method_class(**_typed(setting_fields(method_class), settings))
    augmentation: Augmentation = settings["augmentation"]
    changes = {
        name.removeprefix("augmentation."): value
        for name, value in settings.items()
        if name.startswith("augmentation.")
    }
    augmentation = dataclasses.replace(
        augmentation, **_typed(setting_fields(type(augmentation)), changes)
    )
    return Recipe(
        **_typed({name: setting_fields(Recipe)[name] for name in COMMON}, settings),
        method=method,
        augmentation=augmentation,
    )


def change(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """`recipe` with some flat settings replaced.

    Another method keeps the settings that both have and that `recipe` moved away from the default
    of its method. Raises `ValueError` as `assemble` does.
    """
    kept = flatten(recipe)
    if settings.get("method", recipe.method.name) != recipe.method.name:
        for name, field in setting_fields(type(recipe.method)).items():
            if kept[name] == field.default:
                del kept[name]
    return assemble(kept | dict(settings))


def augmentation_text(augmentation: Augmentation) -> str:
    """An augmentation on one line, with the settings that are not the default: `cutout(size=8)`."""
    changed = []
    for name, field in setting_fields(type(augmentation)).items():
        value = getattr(augmentation, name)
        if value != field.default:
            changed.append(f"{name}={json.dumps(value)}")
    return f"{augmentation.name}({', '.join(changed)})" if changed else augmentation.name


def short_texts(augmentations: Iterable[Augmentation]) -> dict[Augmentation, str]:
    """Each of several augmentations on one line, as people read it: its name, and those of its
    settings that distinguish it from the others.

    `cutmix(flip=false)` is `cutmix` where it is the only cutmix. Where there are two, each has the
    settings in which they differ, words by their value alone: `additional(cutmix, kl)`.
    """
    groups: dict[str, list[Augmentation]] = {}
    for augmentation in augmentations:
        groups.setdefault(augmentation.name, []).append(augmentation)
    texts: dict[Augmentation, str] = {}
    for name, group in groups.items():
        differing = [
            field
            for field in setting_fields(type(group[0]))
            if len({getattr(augmentation, field) for augmentation in group}) > 1
        ]
        for augmentation in group:
            values = {field: getattr(augmentation, field) for field in differing}
            settings = ", ".join(
                value if isinstance(value, str) else f"{field}={json.dumps(value)}"
                for field, value in values.items()
                if value not in (None, "none")
            )
            texts[augmentation] = f"{name}({settings})" if settings else name
    if len(set(texts.values())) < len(texts):
        return {augmentation: augmentation_text(augmentation) for augmentation in texts}
    return texts


def read_settings(
    values: Any,
    path: Path,
    problems: Problems,
    *,
    methods: Collection[str] | None,
    elsewhere: Collection[str] = (),
) -> dict[str, Any]:
    """The valid flat settings of section `values`.

    `methods` are those that the section is for, `None` when they cannot be known; a setting that
    none of them has is a problem. Fields named in `elsewhere` belong to the section but are no
    settings of a recipe.
    """
    read: dict[str, Any] = {}
    for name, value in section(values, path, problems).items():
        if name in elsewhere:
            continue
        here = (*path, name)
        owners = setting_owners(name, methods)
        if name == "weights" and isinstance(value, list):
            problems.add(here, "names a file; the relative weights of teachers are teacher_weights")
            continue
        if name == "method":
            if (method := read_method(value, here, problems)) is not None:
                read[name] = method
        elif name == "augmentation":
            if (augmentation := read_augmentation(value, here, problems)) is not None:
                read[name] = augmentation
        elif not owners:
            problems.add(here, unknown_setting(name, methods, elsewhere))
        else:
            checked = [check_value(owner.type, value, here, problems) for owner in owners]
            if name == "model" and INVALID not in checked:
                checked = [read_model(checked[0], here, problems)]
            if INVALID in checked:
                continue
            if name == "weights" and checked[0] is not None:
                check_weights_file(checked[0], here, problems)
            read[name] = checked[0]
    return read


def setting_owners(name: str, methods: Collection[str] | None) -> list[Setting]:
    """What field `name` takes: once for a common field, else once for each of `methods` (of all,
    when `None`) that has it.
    """
    if name in COMMON:
        return [setting_fields(Recipe)[name]]
    in_reach = METHODS if methods is None else methods
    fields = [setting_fields(METHODS[method]) for method in in_reach]
    return [of_one[name] for of_one in fields if name in of_one]


def unknown_setting(
    name: str, methods: Collection[str] | None, elsewhere: Iterable[str] = ()
) -> str:
    """The message for a setting that no recipe of these methods has."""
    others = [method for method in sorted(METHODS) if name in setting_fields(METHODS[method])]
    if others and methods:
        have = "has" if len(others) == 1 else "have"
        return f"no setting of method {', '.join(methods)} ({', '.join(others)} {have} it)"
    known = dict.fromkeys([*elsewhere, *setting_fields(Recipe)])
    for method in METHODS if methods is None else methods:
        known |= dict.fromkeys(setting_fields(METHODS[method]))
    return unknown_field(name, known)


def read_method(value: Any, path: Path, problems: Problems) -> str | None:
    """`value` if it is the name of a method."""
    return value if _is_member(METHODS, value, path, problems) else None


def read_augmentation(value: Any, path: Path, problems: Problems) -> Augmentation | None:
    """The augmentation that a name, or a mapping with a name and settings, stands for."""
    settings = dict(value) if isinstance(value, dict) else {"name": value}
    if "name" not in settings:
        rule = "must be the name of an augmentation, or name and settings: {name: crop-flip, ...}"
        problems.refuse(path, value, rule)
        return None
    name = settings.pop("name")
    if not _is_member(AUGMENTATIONS, name, path, problems):
        return None
    fields = setting_fields(AUGMENTATIONS[name])
    read = {}
    for setting, given in settings.items():
        here = (*path, setting)
        if not fields:
            problems.add(here, f"augmentation {name!r} has no settings")
        elif setting not in fields:
            problems.add_unknown(here, fields)
        else:
            read[setting] = check_value(fields[setting].type, given, here, problems)
    if len(read) < len(settings) or INVALID in read.values():
        return None
    try:
        return AUGMENTATIONS[name](**read)
    except ValueError as error:
        problems.add(path, str(error))
        return None


def own_method(content: Any, default: str) -> str | None:
    """The method that a section names, `default` when it names none, `None` when it names none that
    exists.
    """
    name = content.get("method", default) if isinstance(content, dict) else default
    return name if isinstance(name, str) and name in METHODS else None


def read_model(value: str, path: Path, problems: Problems) -> Any:
    """The model called `value` as recipes hold it, or `INVALID`."""
    try:
        name = pinned_model(value)
        check_model_name(name)
    except ValueError as error:
        problems.add(path, str(error))
        return INVALID
    return name


def _is_member(registry: Registry[Any], value: Any, path: Path, problems: Problems) -> bool:
    if not isinstance(value, str):
        article = "an" if registry.family[0] in "aeiou" else "a"
        rule = f"must be the name of {article} {registry.family}: {', '.join(sorted(registry))}"
        problems.refuse(path, value, rule)
    elif value not in registry:
        problems.add(path, unknown_name(registry.family, value, registry))
    else:
        return True
    return False


def _typed(fields: Mapping[str, Setting], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among `fields`; a whole number that was drawn for a field with fractions becomes
    one.
    """
    typed = {}
    for name, field in fields.items():
        if name in settings:
            value = settings[name]
            fractional = plain_type(field.type) is float and isinstance(value, int)
            typed[name] = float(value) if fractional else value
    return typed
