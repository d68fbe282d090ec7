"""Tests that every method, augmentation, model, metric and data set must pass, for authors of
extensions. They need pytest, and are this package's own.

A test module derives from the class of its family and names what to test::

    from distill_ray.testing import MethodConformance
    from my_lab.agreeing import Agreeing

    class TestAgreeing(MethodConformance):
        methods = (Agreeing(), Agreeing(temperature=1.0))

pytest collects the tests that the class inherits, once for each case.
"""

import pytest

_MODULES = ("augmentations", "data", "jobs", "methods", "metrics", "models")
# Before they are imported: a failing assertion then shows the values that it compared.
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _MODULES))

from distill_ray.testing.augmentations import AugmentationConformance  # noqa: E402
from distill_ray.testing.data import DataConformance  # noqa: E402
from distill_ray.testing.methods import MethodConformance  # noqa: E402
from distill_ray.testing.metrics import MetricConformance  # noqa: E402
from distill_ray.testing.models import ModelConformance  # noqa: E402

__all__ = [
    "AugmentationConformance",
    "DataConformance",
    "MethodConformance",
    "MetricConformance",
    "ModelConformance",
]
