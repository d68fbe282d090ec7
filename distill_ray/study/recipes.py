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
from distill_ray.registry import Registry, unknown_name
from distill_ray.settings import Setting, plain_type, setting_fields
from distill_ray.study.fields import INVALID, check_value, section
from distill_ray.study.problems import Path, Problems, shown, unknown_field

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
    fields = setting_fields(type(augmentation))
    changed = {
        name: getattr(augmentation, name)
        for name, field in fields.items()
        if getattr(augmentation, name) != field.default
    }
    return (
        f"{augmentation.name}({', '.join(f'{name}={json.dumps(value)}' for name, value in changed.items())})"
        if changed
        else augmentation.name
    )


def short_texts(augmentations: Iterable[Augmentation]) -> dict[Augmentation, str]:
    """Each of several augmentations on one line, as people read it: its name, and of its settings
    those that tell it from the others.

    `cutmix(flip=false)` is `cutmix` where no other choice is a cutmix. Where two are, what they
    differ in is said of both, by its value alone where that is a word: `additional(cutmix, kl)`.
    """
    alike: dict[str, list[Augmentation]] = {}
    for augmentation in augmentations:
        alike.setdefault(augmentation.name, []).append(augmentation)
    texts: dict[Augmentation, str] = {}
    for name, group in alike.items():
        fields = setting_fields(type(group[0]))
        telling = [
            field
            for field in fields
            if any(
                getattr(augmentation, field) != getattr(group[0], field) for augmentation in group
            )
        ]
        for augmentation in group:
            said = [
                _said(field, getattr(augmentation, field))
                for field in telling
                if getattr(augmentation, field) not in (None, "none")
            ]
            texts[augmentation] = f"{name}({', '.join(said)})" if said else name
    return (
        texts
        if len(set(texts.values())) == len(texts)
        else {augmentation: augmentation_text(augmentation) for augmentation in texts}
    )


def _said(field: str, value: object) -> str:
    return value if isinstance(value, str) else f"{field}={json.dumps(value)}"


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
        if name == "method":
            if isinstance(found := read_method(value, here, problems), str):
                read[name] = found
        elif name == "augmentation":
            if (augmentation := read_augmentation(value, here, problems)) is not None:
                read[name] = augmentation
        elif not owners:
            problems.add(here, unknown_setting(name, methods, elsewhere))
        else:
            checked = [check_value(owner.type, value, here, problems) for owner in owners]
            if INVALID not in checked and (name != "model" or is_model(checked[0], here, problems)):
                read[name] = checked[0]
    return read


def setting_owners(name: str, methods: Collection[str] | None) -> list[Setting]:
    """What field `name` takes: once for a common field, else once for each of `methods` (of all,
    when `None`) that has it.
    """
    if name in COMMON:
        return [setting_fields(Recipe)[name]]
    fields = (
        setting_fields(METHODS[method]) for method in (METHODS if methods is None else methods)
    )
    return [owned[name] for owned in fields if name in owned]


def unknown_setting(
    name: str, methods: Collection[str] | None, elsewhere: Iterable[str] = ()
) -> str:
    """The message for a setting that no recipe of these methods has."""
    having = [method for method in sorted(METHODS) if name in setting_fields(METHODS[method])]
    if having and methods:
        return f"no setting of method {', '.join(methods)} ({', '.join(having)} {'has' if len(having) == 1 else 'have'} it)"
    known = [*elsewhere, *setting_fields(Recipe)]
    for method in METHODS if methods is None else methods:
        known += [setting for setting in setting_fields(METHODS[method]) if setting not in known]
    return unknown_field(name, known)


def read_method(value: Any, path: Path, problems: Problems) -> str | None:
    """`value` if it is the name of a method."""
    return value if _is_member(METHODS, value, path, problems) else None


def read_augmentation(value: Any, path: Path, problems: Problems) -> Augmentation | None:
    """The augmentation that a name, or a mapping with a name and settings, stands for."""
    settings = dict(value) if isinstance(value, dict) else {"name": value}
    if "name" not in settings:
        problems.add(
            path,
            f"found {shown(value)}, must be the name of an augmentation, or name and settings: {{name: crop-flip, ...}}",
        )
        return None
    name = settings.pop("name")
    if not _is_member(AUGMENTATIONS, name, path, problems):
        return None
    fields = setting_fields(AUGMENTATIONS[name])
    read = {}
    for setting, given in settings.items():
        if setting not in fields:
            known = (
                unknown_field(setting, fields)
                if fields
                else f"augmentation {name!r} has no settings"
            )
            problems.add((*path, setting), known)
        elif (
            found := check_value(fields[setting].type, given, (*path, setting), problems)
        ) is not INVALID:
            read[setting] = found
    try:
        return AUGMENTATIONS[name](**read) if len(read) == len(settings) else None
    except ValueError as error:
        problems.add(path, str(error))
        return None


def own_method(content: Any, default: str) -> str | None:
    """The method that a section names, `default` when it names none, `None` when it names none that
    exists.
    """
    name = content.get("method", default) if isinstance(content, dict) else default
    return name if isinstance(name, str) and name in METHODS else None


def is_model(name: str, path: Path, problems: Problems) -> bool:
    """Whether there is a model of that name; a problem when not."""
    try:
        check_model_name(name)
    except ValueError as error:
        problems.add(path, str(error))
        return False
    return True


def _is_member(registry: Registry[Any], value: Any, path: Path, problems: Problems) -> bool:
    if not isinstance(value, str):
        problems.add(
            path,
            f"found {shown(value)}, must be the name of a {registry.family}: {', '.join(sorted(registry))}",
        )
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
