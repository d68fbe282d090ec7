"""Typed settings: what a field of a recipe means and which values it takes, said once, where the
field is declared.

A recipe, a method or an augmentation is a frozen, keyword-only dataclass. Each of its fields is
annotated with a `Setting`::

    temperature: Annotated[float, Setting("softens teachers and student alike", above=0)] = 4.0

The study file's schema, its error messages, the limits of a search space and the reference page are
all made from that annotation, and `check` enforces it for instances made in Python.
"""

import dataclasses
import math
from typing import Any, Literal, get_args, get_origin, get_type_hints


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a field means and the values it takes. `above` and `below` exclude the limit, `at_least`
    and `at_most` include it.
    """

    help: str
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None

    def allowed(self) -> str:
        """The limits in words, `"above 0, at most 1"`; empty when there are none."""
        limits = (
            ("above", self.above),
            ("at least", self.at_least),
            ("below", self.below),
            ("at most", self.at_most),
        )
        return ", ".join(f"{word} {limit:.15g}" for word, limit in limits if limit is not None)

    def admits(self, value: float) -> bool:
        """Whether `value` is a finite number within the limits."""
        return (
            math.isfinite(value)
            and (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )


@dataclasses.dataclass(frozen=True)
class SettingField:
    """One field of a settings class: its name, its type without the annotation, its `Setting` and
    its default.
    """

    name: str
    type: Any
    setting: Setting
    default: Any

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING


_declared: dict[type, dict[str, SettingField]] = {}


def setting_fields(cls: type) -> dict[str, SettingField]:
    """The settings that dataclass `cls` declares, by name, in the order they are declared."""
    if cls not in _declared:
        hints = get_type_hints(cls, include_extras=True)
        _declared[cls] = {
            field.name: _setting_field(field, hints[field.name])
            for field in dataclasses.fields(cls)
        }
    return _declared[cls]


def _setting_field(field: dataclasses.Field[Any], hint: Any) -> SettingField:
    declared, *extras = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
    setting = next((extra for extra in extras if isinstance(extra, Setting)), Setting(""))
    default = (
        field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    )
    return SettingField(field.name, declared, setting, default)


def check(instance: object) -> None:
    """Raise `ValueError`, naming the field, when a setting of dataclass `instance` is outside what
    it takes.
    """
    for field in setting_fields(type(instance)).values():
        value = getattr(instance, field.name)
        for choice in value if isinstance(value, tuple) else (value,):
            if (
                isinstance(choice, int | float)
                and not isinstance(choice, bool)
                and not field.setting.admits(choice)
            ):
                allowed = field.setting.allowed() if math.isfinite(choice) else "a finite number"
                raise ValueError(f"{field.name} must be {allowed}, found {value!r}")
        if get_origin(field.type) is Literal and value not in get_args(field.type):
            raise ValueError(
                f"{field.name} must be one of {', '.join(map(repr, get_args(field.type)))}, found {value!r}"
            )
