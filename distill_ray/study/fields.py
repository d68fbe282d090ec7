"""Checks the fields of a section against its dataclass, by pydantic, and says what is wrong in our
words; the same declarations as JSON Schema, and as the study file writes them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Collection, Mapping
from typing import Any, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from distill_ray.augmentation import Augmentation
from distill_ray.settings import limits, plain_type, requirement, setting_fields
from distill_ray.study.problems import Path, Problems, nearest

INVALID: Any = object()
"""What `check_value` answers when the value is not valid; the problem is noted."""

_BEYOND_LIMITS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
# Scalars are taken as they are written: "3" is no number, `true` no 1, and no number is infinite.
_CONFIG = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")


def read_fields(
    cls: type, values: Any, path: Path, problems: Problems, *, elsewhere: Collection[str] = ()
) -> dict[str, Any]:
    """The valid ones of the fields of section `values`, converted to the types that dataclass `cls`
    declares.

    Fields named in `elsewhere` are known but left out: they have a reader of their own.
    """
    fields = {name: field for name, field in setting_fields(cls).items() if field.help}
    read = {}
    for name, content in section(values, path, problems).items():
        if name in elsewhere:
            continue
        if name not in fields:
            problems.add_unknown((*path, name), [*fields, *elsewhere])
            continue
        value = check_value(fields[name].type, content, (*path, name), problems)
        if value is not INVALID:
            read[name] = value
    return read


def section(values: Any, path: Path, problems: Problems) -> Mapping[str, Any]:
    """`values` if it is a mapping; nothing at all counts as an empty one."""
    if values is None:
        return {}
    if not isinstance(values, dict):
        problems.refuse(path, values, "must be a section with fields")
        return {}
    return values


def check_value(declared: Any, value: Any, path: Path, problems: Problems) -> Any:
    """`value` as the declared type takes it, or `INVALID`."""
    try:
        return _adapter(declared).validate_json(json.dumps(value))
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
    for detail in details:
        where, kind, wrong = detail["loc"], detail["type"], detail["input"]
        if kind == "unexpected_keyword_argument":
            fields = setting_fields(plain_type(_part(declared, where[:-1])))
            problems.add_unknown((*path, *where), fields)
            continue
        if kind == "value_error":
            problems.add((*path, *where), detail["msg"].removeprefix("Value error, "))
            continue
        part = _part(declared, where)
        rule = limits(part) if kind in _BEYOND_LIMITS else requirement(part)
        if kind == "finite_number":
            rule = "finite"
        elif kind == "literal_error":
            rule += nearest(wrong, map(str, get_args(plain_type(part))))
        problems.refuse((*path, *where), wrong, f"must be {rule}")
    return INVALID


def json_schema(declared: Any) -> dict[str, Any]:
    """What a declared type takes, as JSON Schema; a nested section stands where it is used."""
    schema = _adapter(declared).json_schema()
    definitions = schema.pop("$defs", {})
    named = {f"#/$defs/{name}": part for name, part in definitions.items()}
    inlined: dict[str, Any] = _inlined(schema, named)
    return inlined


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """`schema` with the definitions that it refers to in the place of the references, untitled."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    whole = definitions.get(schema.get("$ref", ""), {}) | schema
    return {
        name: _inlined(part, definitions)
        for name, part in whole.items()
        if name not in ("$ref", "title")
    }


def to_file(value: Any) -> Any:
    """A part of a study as the study file writes it, in JSON values."""
    if hasattr(value, "to_file"):
        return value.to_file()
    if isinstance(value, Augmentation):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: to_file(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {name: to_file(item) for name, item in value.items()}
    return [to_file(item) for item in value] if isinstance(value, tuple | list) else value


def _part(declared: Any, where: tuple[int | str, ...]) -> Any:
    """The declared type of a field, or of an item of a list, within `declared`."""
    for step in where:
        plain = plain_type(declared)
        declared = get_args(plain)[0] if isinstance(step, int) else setting_fields(plain)[step].type
    return declared


@functools.cache
def _adapter(declared: Any) -> TypeAdapter[Any]:
    # A dataclass brings its own `__pydantic_config__`.
    of_section = dataclasses.is_dataclass(plain_type(declared))
    return TypeAdapter(declared, config=None if of_section else _CONFIG)
