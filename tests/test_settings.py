"""Settings: declared once, enforced wherever an instance is made."""

import dataclasses
import math
from typing import Annotated, ClassVar, Literal

import pytest

from distill_ray.augmentation import AUGMENTATIONS
from distill_ray.job import Recipe
from distill_ray.methods import METHODS
from distill_ray.settings import Setting, check, setting_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Oven:
    name: ClassVar[str] = "oven"

    heat: Annotated[float, Setting("how hot", above=0, at_most=300)]
    shelf: Annotated[int, Setting("counted from below", at_least=1)] = 2
    mode: Annotated[Literal["fan", "grill"], Setting("where the heat comes from")] = "fan"
    timers: Annotated[tuple[float, ...], Setting("minutes", at_least=0, below=60)] = ()
    light: Annotated[bool, Setting("lamp", at_least=5)] = True
    tray: Annotated[int | None, Setting("depth in mm", at_least=10)] = None
    label: str = "unnamed"
    offset: Annotated[float, Setting("of the scale")] = 0.0

    def __post_init__(self) -> None:
        check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallOven(Oven):
    shelf: Annotated[int, Setting("the only one", at_least=1, at_most=1)] = 1
    pans: Annotated[tuple[str, ...], Setting("what is in it")] = dataclasses.field(
        default_factory=tuple
    )


def test_fields_in_order_with_their_types_and_defaults() -> None:
    fields = setting_fields(Oven)
    assert list(fields) == ["heat", "shelf", "mode", "timers", "light", "tray", "label", "offset"]
    assert fields["heat"].required
    assert not fields["shelf"].required
    assert fields["shelf"].type is int
    assert fields["shelf"].default == 2
    assert fields["shelf"].setting.help == "counted from below"
    assert fields["mode"].type == Literal["fan", "grill"]
    assert fields["timers"].type == tuple[float, ...]
    assert fields["tray"].type == int | None
    assert fields["label"].type is str
    assert fields["label"].setting == Setting("")


def test_a_subclass_declares_anew() -> None:
    fields = setting_fields(SmallOven)
    assert fields["shelf"].setting.help == "the only one"
    assert fields["shelf"].default == 1
    assert fields["pans"].default == ()
    assert not fields["pans"].required
    assert setting_fields(Oven)["shelf"].default == 2
    with pytest.raises(ValueError, match="shelf must be at least 1, at most 1, found 2"):
        SmallOven(heat=100.0, shelf=2)


def test_limits_in_words() -> None:
    assert setting_fields(Oven)["heat"].setting.allowed() == "above 0, at most 300"
    assert setting_fields(Oven)["timers"].setting.allowed() == "at least 0, below 60"
    assert Setting("any").allowed() == ""
    assert Setting("small", above=1e-6).allowed() == "above 1e-06"
    assert Setting("large", at_most=2**31 - 1).allowed() == "at most 2147483647"


@pytest.mark.parametrize(
    ("setting", "inside", "outside"),
    [
        (Setting("", above=0), [1e-300, 1e300], [0, -1]),
        (Setting("", at_least=0), [0, 5], [-1e-300]),
        (Setting("", below=1), [-9, 0.999], [1, 2]),
        (Setting("", at_most=1), [1, -9], [1.0000001]),
        (Setting("", above=0, below=1), [0.5], [0, 1]),
        (Setting(""), [0, -1e300], []),
    ],
)
def test_limits(setting: Setting, inside: list[float], outside: list[float]) -> None:
    assert all(setting.admits(value) for value in inside)
    assert not any(setting.admits(value) for value in [*outside, math.nan, math.inf, -math.inf])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heat": 0.0}, "heat must be above 0, at most 300, found 0.0"),
        ({"heat": 300.5}, "heat must be above 0, at most 300, found 300.5"),
        ({"heat": math.nan}, "heat must be a finite number, found nan"),
        ({"offset": math.inf}, "offset must be a finite number, found inf"),
        ({"shelf": 0}, "shelf must be at least 1, found 0"),
        ({"mode": "steam"}, "mode must be one of 'fan', 'grill', found 'steam'"),
        ({"timers": (5.0, 60.0)}, r"timers must be at least 0, below 60, found \(5.0, 60.0\)"),
        ({"tray": 3}, "tray must be at least 10, found 3"),
    ],
)
def test_values_that_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Oven(**{"heat": 180.0} | settings)


def test_values_that_are_taken() -> None:
    Oven(heat=300, shelf=1, mode="grill", timers=(0.0, 59.9), light=False, tray=10)
    Oven(heat=1e-9, tray=None, timers=())


EVERY_SETTINGS_CLASS = [
    Recipe,
    *(METHODS[name] for name in METHODS),
    *(AUGMENTATIONS[name] for name in AUGMENTATIONS),
]


@pytest.mark.parametrize("cls", EVERY_SETTINGS_CLASS, ids=lambda cls: cls.__name__)
def test_everything_that_is_offered_is_explained(cls: type) -> None:
    """What the reference page and the errors of `validate` are made from."""
    for field in setting_fields(cls).values():
        assert field.setting.help, f"{cls.__name__}.{field.name} has no explanation"
        if (
            not field.required
            and isinstance(field.default, int | float)
            and not isinstance(field.default, bool)
        ):
            assert field.setting.admits(field.default), (
                f"{cls.__name__}.{field.name}: the default is outside its limits"
            )
