"""Settings: what a field of a study file means and which values it takes, declared once.

A recipe, a method, an augmentation or a section of the study file is a frozen, keyword-only
dataclass. Its fields have limits from `annotated_types` and a `Doc`::

    temperature: Annotated[float, Gt(0), Doc("softens teachers and student alike")] = 4.0

Messages, JSON Schema, the limits of a search space and the reference pages are all made from that
declaration, by pydantic in `distill_ray.study`. This module does without pydantic, since training
imports it; its `check` enforces the limits for instances made in Python.
"""

import dataclasses
import math
import operator
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt


@dataclasses.dataclass(frozen=True)
class Doc:
    """What a field means, on one line without a full stop."""

    text: str

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        """Puts the text into the JSON Schema that pydantic makes."""
        schema: dict[str, Any] = handler(core_schema)
        return schema | {"description": self.text}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field of a settings class. `type` is its annotation, limits included."""

    name: str
    type: Any
    default: Any = dataclasses.MISSING

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def help(self) -> str:
        """The text of its `Doc`, if it has one."""
        docs = [item for item in getattr(self.type, "__metadata__", ()) if isinstance(item, Doc)]
        return docs[0].text if docs else ""


_declared: dict[type, dict[str, Setting]] = {}


def setting_fields(cls: type) -> dict[str, Setting]:
    """The settings that dataclass `cls` declares, by name, in the order of their declaration."""
    if cls not in _declared:
        hints = get_type_hints(cls, include_extras=True)
        settings = {}
        for field in dataclasses.fields(cls):
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            name = field.name.removesuffix("_")  # `from_` stands for a word of Python
            settings[name] = Setting(name, hints[field.name], default)
        _declared[cls] = settings
    return _declared[cls]


def check(instance: object) -> None:
    """Raise `ValueError`, naming the field, when dataclass `instance` has a setting that its
    declaration does not allow.
    """
    for setting in setting_fields(type(instance)).values():
        value = getattr(instance, setting.name)
        rule = _broken_rule(setting.type, value)
        if rule:
            raise ValueError(f"{setting.name} must be {rule}, found {value!r}")


def plain_type(declared: Any) -> Any:
    """A type without limits and without `None`: `float` for `Annotated[float | None, Gt(0)]`."""
    return _unwrapped(declared)[0]


def limited(plain: type, declared: Any) -> Any:
    """Type `plain` with the limits of another declared type."""
    return Annotated[plain, Doc(""), *_unwrapped(declared)[1]]


def admits(declared: Any, value: float) -> bool:
    """Whether a number is finite and within the limits of the declared type."""
    return not _broken_rule(declared, value)


def limits(declared: Any) -> str:
    """The limits of a type in words, `"above 0, at most 1"`; empty if there are none."""
    return ", ".join(f"{word} {bound:.15g}" for word, bound, _ in _bounds(declared))


def requirement(declared: Any) -> str:
    """What a type takes, in words: `"a number or null, above 0, at most 1"`."""
    plain, _, optional = _unwrapped(declared)
    null = " or null" if optional else ""
    if get_origin(plain) is Literal:
        kind = f"one of {', '.join(map(str, get_args(plain)))}{null}"
    elif get_origin(plain) is tuple:
        kind = f"a list{null}, each item {requirement(get_args(plain)[0])}"
    elif isinstance(plain, type) and dataclasses.is_dataclass(plain):
        kind = f"a section with fields {', '.join(setting_fields(plain))}"
    else:
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        kind = names.get(plain, str(plain)) + null
    return f"{kind}, {limits(declared)}" if limits(declared) else kind


def _unwrapped(declared: Any) -> tuple[Any, list[Any], bool]:
    """A type without annotations and without None, its annotations, and whether it takes None."""
    annotations: list[Any] = []
    optional = False
    while True:
        if hasattr(declared, "__metadata__"):
            annotations += declared.__metadata__
            declared = declared.__origin__
        elif get_origin(declared) in (Union, types.UnionType):
            (declared,) = (option for option in get_args(declared) if option is not type(None))
            optional = True
        else:
            return declared, annotations, optional


def _broken_rule(declared: Any, value: Any) -> str:
    """What `value` must be where `declared` does not allow it; empty where it does."""
    plain = plain_type(declared)
    if get_origin(plain) is tuple and isinstance(value, tuple):
        item = get_args(plain)[0]
        return next((rule for part in value if (rule := _broken_rule(item, part))), "")
    if get_origin(plain) is Literal and value not in get_args(plain):
        return f"one of {', '.join(map(repr, get_args(plain)))}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if not math.isfinite(value):
        return "a finite number"
    within = all(holds(value, bound) for _, bound, holds in _bounds(declared))
    return "" if within else limits(declared)


def _bounds(declared: Any) -> list[tuple[str, float, Callable[[Any, Any], bool]]]:
    """The limits of a type: word, number, and whether a value keeps to it."""
    return [
        (word, getattr(annotation, name), holds)
        for annotation in _unwrapped(declared)[1]
        for limit, name, word, holds in _LIMITS
        if isinstance(annotation, limit)
    ]


_LIMITS: tuple[tuple[type, str, str, Callable[[Any, Any], bool]], ...] = (
    (Gt, "gt", "above", operator.gt),
    (Ge, "ge", "at least", operator.ge),
    (Lt, "lt", "below", operator.lt),
    (Le, "le", "at most", operator.le),
)
