"""The data sets that have a name in the tests that `distill_ray.testing` has for data sets."""

from distill_ray.testing import DataConformance


class TestData(DataConformance):
    sources = ("digits", "toy-spiral", "toy-regression")
