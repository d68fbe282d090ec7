"""Settings: declared once, enforced wherever an instance is made."""

import dataclasses
import math
from typing import Annotated, ClassVar, Literal, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt

from distill_ray.augmentation import AUGMENTATIONS
from distill_ray.job import Recipe
from distill_ray.methods import METHODS
from distill_ray.settings import Doc, admits, check, limits, plain_type, requirement, setting_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Oven:
    name: ClassVar[str] = "oven"

    heat: Annotated[float, Gt(0), Le(300), Doc("how hot")]
    shelf: Annotated[int, Ge(1), Doc("counted from below")] = 2
    mode: Annotated[Literal["fan", "grill"], Doc("where the heat comes from")] = "fan"
    timers: Annotated[tuple[Annotated[float, Ge(0), Lt(60)], ...], Doc("minutes")] = ()
    light: Annotated[bool, Ge(5), Doc("lamp")] = True
    tray: Annotated[int | None, Ge(10), Doc("depth in mm")] = None
    label: str = "unnamed"
    offset: Annotated[float, Doc("of the scale")] = 0.0

    def __post_init__(self) -> None:
        check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallOven(Oven):
    shelf: Annotated[int, Ge(1), Le(1), Doc("the only one")] = 1
    pans: Annotated[tuple[str, ...], Doc("what is in it")] = dataclasses.field(
        default_factory=tuple
    )


def test_fields_in_order_with_their_types_and_defaults() -> None:
    fields = setting_fields(Oven)
    assert list(fields) == ["heat", "shelf", "mode", "timers", "light", "tray", "label", "offset"]
    assert fields["heat"].required
    assert not fields["shelf"].required
    assert fields["shelf"].default == 2
    assert fields["shelf"].help == "counted from below"
    plain = {name: plain_type(field.type) for name, field in fields.items()}
    assert plain["shelf"] is int
    assert plain["mode"] == Literal["fan", "grill"]
    assert get_origin(plain["timers"]) is tuple
    assert plain["tray"] is int
    assert plain["label"] is str
    assert fields["label"].help == ""


def test_a_subclass_declares_anew() -> None:
    fields = setting_fields(SmallOven)
    assert fields["shelf"].help == "the only one"
    assert fields["shelf"].default == 1
    assert fields["pans"].default == ()
    assert not fields["pans"].required
    assert setting_fields(Oven)["shelf"].default == 2
    with pytest.raises(ValueError, match="shelf must be at least 1, at most 1, found 2"):
        SmallOven(heat=100.0, shelf=2)


def test_limits_in_words() -> None:
    assert limits(setting_fields(Oven)["heat"].type) == "above 0, at most 300"
    assert limits(Annotated[float, Doc("any")]) == ""
    assert limits(Annotated[float, Gt(1e-6)]) == "above 1e-06"
    assert limits(Annotated[int, Le(2**31 - 1)]) == "at most 2147483647"


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        (Annotated[float, Gt(0), Doc("")], "a number, above 0"),
        (Annotated[int | None, Ge(1)], "a whole number or null, at least 1"),
        (Annotated[Literal["a", "b"], Doc("")], "one of a, b"),
        (tuple[Annotated[int, Ge(1)], ...], "a list, each item a whole number, at least 1"),
        (tuple[str, ...] | None, "a list or null, each item text"),
        (bool, "true or false"),
    ],
)
def test_what_a_type_takes_in_words(declared: object, words: str) -> None:
    assert requirement(declared) == words


@pytest.mark.parametrize(
    ("declared", "inside", "outside"),
    [
        (Annotated[float, Gt(0)], [1e-300, 1e300], [0, -1]),
        (Annotated[float, Ge(0)], [0, 5], [-1e-300]),
        (Annotated[float, Lt(1)], [-9, 0.999], [1, 2]),
        (Annotated[float | None, Le(1)], [1, -9], [1.0000001]),
        (Annotated[float, Gt(0), Lt(1)], [0.5], [0, 1]),
        (float, [0, -1e300], []),
    ],
)
def test_limits(declared: object, inside: list[float], outside: list[float]) -> None:
    assert all(admits(declared, value) for value in inside)
    assert not any(admits(declared, value) for value in [*outside, math.nan, math.inf, -math.inf])


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
        assert field.help, f"{cls.__name__}.{field.name} has no explanation"
        if (
            not field.required
            and isinstance(field.default, int | float)
            and not isinstance(field.default, bool)
        ):
            assert admits(field.type, field.default), (
                f"{cls.__name__}.{field.name}: the default is outside its limits"
            )
