"""How a conformance class hands its cases to its tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest


class Conformance:
    """Tests that take an argument called `argument` run once for each of `cases()`."""

    argument: ClassVar[str]

    def cases(self) -> Sequence[Any]:
        """What is tested."""
        raise NotImplementedError

    def label(self, case: Any) -> str:
        """How a case is called in the name of a test."""
        return str(case)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Called by pytest for each test of the class."""
        if self.argument in metafunc.fixturenames:
            metafunc.parametrize(self.argument, self.cases(), ids=self.label)


def settings_label(value: Any) -> str:
    """Name and changed settings of a method or augmentation: `kd,temperature=2.0`."""
    settings: dict[str, Any] = value.to_dict()
    usual = type(value)().to_dict()
    changed = [f"{name}={value}" for name, value in settings.items() if value != usual[name]]
    return ",".join([value.name, *changed])


def is_accepted(check: Callable[..., None], *arguments: Any, **named: Any) -> bool:
    """Whether a check of the study file lets these arguments pass."""
    try:
        check(*arguments, **named)
    except ValueError:
        return False
    return True
