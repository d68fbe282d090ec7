"""A study small enough to be run whole, with everything real."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from distill_ray.study import Study, load_study


@pytest.fixture
def tiny_study() -> Callable[..., Study]:
    """Makes the study of `tiny.yaml` with overrides, `tiny_study("search.trials=2")`."""
    return lambda *overrides: load_study(Path(__file__).with_name("tiny.yaml"), overrides)
