"""A study small enough to be run whole, with everything real."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from distill_ray.study import Study, load_study

STUDY = """
name: tiny
data: {source: digits, train: 96, validation: 100}
teachers: {members: 2, model: wrn-10-1, epochs: 1, batch_size: 32, augment: identity}
student: {model: wrn-10-1, method: kd, epochs: 2, batch_size: 32, augment: identity}
search:
  trials: 4
  objectives: {val/nll: min}
  scheduler: {name: asha, grace_epochs: 1, reduction: 2}
  try_first: [{temperature: 4, alpha: 0.9, augment: identity}]
  space:
    temperature: {log: [1, 20]}
    alpha: {uniform: [0.1, 1.0]}
    augment: {choice: [identity, crop]}
confirm: {seeds: 2, baselines: [scratch]}
"""


@pytest.fixture
def tiny_study(tmp_path: Path) -> Callable[..., Study]:
    """Makes the study above with overrides, `tiny_study("search.trials=2")`."""

    def make(*overrides: str) -> Study:
        path = tmp_path / "tiny.yaml"
        path.write_text(STUDY)
        return load_study(path, overrides)

    return make
