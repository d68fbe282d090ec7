"""Every metric of the package in the tests that `distill_ray.testing` has for metrics."""

from distill_ray.metric import METRICS
from distill_ray.testing import MetricConformance


class TestMetrics(MetricConformance):
    metrics = tuple(METRICS)
