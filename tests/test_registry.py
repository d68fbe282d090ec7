"""Registries: members by name, from this package and from others."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from distill_ray import registry
from distill_ray.registry import Registry, unknown_name


@pytest.fixture
def ovens() -> Registry[type]:
    """A family of two, with no members from other packages."""
    family: Registry[type] = Registry("oven")
    family.register("fan")(int)
    family.register("grill")(str)
    return family


def offer(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> list[str]:
    """Let installed packages offer these members; the groups that were asked for."""
    asked = []

    def entry_points(*, group: str) -> EntryPoints:
        asked.append(group)
        return EntryPoints(
            EntryPoint(name=name, value=value, group=group) for name, value in points
        )

    monkeypatch.setattr(registry, "entry_points", entry_points)
    return asked


def test_members_by_name_in_the_order_of_registration(ovens: Registry[type]) -> None:
    assert ovens["fan"] is int
    assert list(ovens) == ["fan", "grill"]
    assert len(ovens) == 2
    assert "grill" in ovens
    assert "steam" not in ovens
    assert ovens.get("steam") is None
    assert dict(ovens) == {"fan": int, "grill": str}


def test_registering_gives_the_member_back(ovens: Registry[type]) -> None:
    @ovens.register("steam")
    class Steam:
        pass

    assert ovens["steam"] is Steam
    assert Steam.__name__ == "Steam"


def test_a_name_is_taken_once(ovens: Registry[type]) -> None:
    with pytest.raises(ValueError, match="oven 'fan' is registered twice"):
        ovens.register("fan")(float)
    assert ovens["fan"] is int


def test_an_unknown_name_says_what_is_known(ovens: Registry[type]) -> None:
    with pytest.raises(KeyError) as caught:
        ovens["gril"]
    assert caught.value.args == ("unknown oven 'gril'; did you mean 'grill'? (known: fan, grill)",)
    assert unknown_name("oven", "xyz", ["fan", "grill"]) == "unknown oven 'xyz' (known: fan, grill)"


def test_members_of_other_packages(ovens: Registry[type], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = offer(monkeypatch, ("steam", "fractions:Fraction"), ("fan", "decimal:Decimal"))
    assert ovens["fan"] is int
    assert asked == []
    assert ovens["steam"].__name__ == "Fraction"
    assert asked == ["distill_ray.oven"]
    assert list(ovens) == ["fan", "grill", "steam"]
    assert ovens["fan"] is int
    assert "microwave" not in ovens
    assert asked == ["distill_ray.oven"]


def test_listing_includes_members_of_other_packages(
    ovens: Registry[type], monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, ("steam", "fractions:Fraction"))
    assert len(ovens) == 3
    assert set(ovens) == {"fan", "grill", "steam"}


def test_families_do_not_mix() -> None:
    first: Registry[type] = Registry("oven")
    second: Registry[type] = Registry("oven")
    first.register("fan")(int)
    assert "fan" not in second


def test_a_broken_package_is_named(ovens: Registry[type], monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, ("steam", "no_such_package_here:Steam"))
    with pytest.raises(
        registry.RequestError, match=r"oven 'steam' \(no_such_package_here:Steam\) cannot be loaded"
    ):
        list(ovens)
    assert ovens["fan"] is int


def test_own_names_come_first_and_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[int] = Registry("nothing")
    registry.register("b")(2)
    registry.register("a")(1)

    def search(group: str) -> list[object]:
        raise AssertionError("searched")

    monkeypatch.setattr("distill_ray.registry.entry_points", search)
    names = iter(registry)
    assert [next(names), next(names)] == ["b", "a"]
    with pytest.raises(AssertionError, match="searched"):
        next(names)
