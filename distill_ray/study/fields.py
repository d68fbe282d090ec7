"""Checks the fields of a section, one by one and with pydantic, against the settings that its
dataclass declares.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Strict, TypeAdapter, ValidationError
from pydantic.types import AllowInfNan

from distill_ray.settings import SettingField, setting_fields
from distill_ray.study.problems import Path, Problems, nearest, shown, unknown_field


def read_fields(
    cls: type, values: Any, path: Path, problems: Problems, *, elsewhere: Collection[str] = ()
) -> dict[str, Any]:
    """The valid ones of the fields of section `values`, converted to the types that dataclass `cls`
    declares.

    Fields named in `elsewhere` are known but left out: they have a reader of their own.
    """
    fields = setting_fields(cls)
    read = {}
    for name, value in section(values, path, problems).items():
        if name in elsewhere:
            continue
        if name not in fields:
            problems.add(
                (*path, name),
                unknown_field(
                    name, [*fields, *(other for other in elsewhere if other not in fields)]
                ),
            )
        else:
            found = check_value(fields[name], value, (*path, name), problems)
            if found is not INVALID:
                read[name] = found
    return read


def section(values: Any, path: Path, problems: Problems) -> Mapping[str, Any]:
    """`values` if it is a mapping; nothing at all counts as an empty one."""
    if values is None:
        return {}
    if not isinstance(values, dict):
        problems.add(path, f"found {shown(values)}, must be a section with fields")
        return {}
    return values


INVALID: Any = object()
"""What `check_value` answers when the value is not valid; the problem is noted."""


def check_value(field: SettingField, value: Any, path: Path, problems: Problems) -> Any:
    """`value` as `field` takes it, or `INVALID`."""
    try:
        found = _adapter(field.type).validate_python(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_context=False):
            place = tuple(part for part in detail["loc"] if isinstance(part, int))
            rule = (
                "finite" if detail["type"] == "finite_number" else requirement(field, bool(place))
            )
            near = (
                nearest(value, map(str, get_args(field.type)))
                if detail["type"] == "literal_error"
                else ""
            )
            problems.add((*path, *place), f"found {shown(detail['input'])}, must be {rule}{near}")
        return INVALID
    items = enumerate(found) if isinstance(found, tuple) else [(None, found)]
    wrong = [
        (index, item)
        for index, item in items
        if isinstance(item, int | float) and not field.setting.admits(item)
    ]
    for index, _ in wrong:
        where = path if index is None else (*path, index)
        written = value if index is None else value[index]
        problems.add(where, f"found {shown(written)}, must be {field.setting.allowed()}")
    return INVALID if wrong else found


def requirement(field: SettingField, item: bool = False) -> str:
    """In words, what `field` takes (or an item of its list): `"a number, above 0, at most 1"`."""
    declared = get_args(field.type)[0] if item else field.type
    limits = field.setting.allowed()
    return f"{_kind(declared)}, {limits}" if limits else _kind(declared)


def json_schema(field: SettingField) -> dict[str, Any]:
    """What `field` takes as JSON Schema, by the same types and limits that `check_value` goes by."""
    setting = field.setting
    limits = {
        "exclusiveMinimum": setting.above,
        "minimum": setting.at_least,
        "exclusiveMaximum": setting.below,
        "maximum": setting.at_most,
    }
    given = {name: limit for name, limit in limits.items() if limit is not None}

    def limited(schema: dict[str, Any]) -> dict[str, Any]:
        nested = {"anyOf": [limited(each) for each in schema["anyOf"]]} if "anyOf" in schema else {}
        items = {"items": limited(schema["items"])} if "items" in schema else {}
        return (
            schema | nested | items | (given if schema.get("type") in ("number", "integer") else {})
        )

    return limited(_adapter(field.type).json_schema())


def number_type(field: SettingField) -> type[int] | type[float] | None:
    """`int` or `float` when the field holds one number, which can then be searched in a range."""
    declared = _without_none(field.type)
    return declared if declared in (int, float) else None


def _without_none(declared: Any) -> Any:
    if get_origin(declared) in (Union, types.UnionType):
        return next(option for option in get_args(declared) if option is not type(None))
    return declared


def _kind(declared: Any) -> str:
    if get_origin(declared) in (Union, types.UnionType):
        return f"{_kind(_without_none(declared))} or null"
    if get_origin(declared) is Literal:
        return f"one of {', '.join(map(str, get_args(declared)))}"
    if get_origin(declared) is tuple:
        return f"a list, each item {_kind(get_args(declared)[0])}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(
        declared, str(declared)
    )


@functools.cache
def _adapter(declared: Any) -> TypeAdapter[Any]:
    return TypeAdapter(_strict(declared))


def _strict(declared: Any) -> Any:
    """The type with scalars taken as they are written: `"3"` is no number, `true` no `1`, and no
    number is infinite.
    """
    if get_origin(declared) in (Union, types.UnionType):
        return _strict(_without_none(declared)) | None
    if get_origin(declared) is tuple:
        return types.GenericAlias(
            tuple, tuple(item if item is Ellipsis else _strict(item) for item in get_args(declared))
        )
    if declared is float:
        return Annotated[float, Strict(), AllowInfNan(False)]
    return Annotated[declared, Strict()] if declared in (int, bool, str) else declared
