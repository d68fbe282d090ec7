"""What tests of several packages share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from distill_ray.job import Data, Split
from distill_ray.training import Dataset


@pytest.fixture(autouse=True)
def environment_without_mlflow() -> None:
    """Setting MLflow's tracking address, or loading a model, leaves variables behind that later tests would obey."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images beside the checkout; tests that need it are skipped where there is none."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("../shared/data, real images beside the checkout, is not there")
    return folder


@pytest.fixture(scope="session")
def small_dataset() -> Dataset:
    """Sixty images, 8 by 8, of three classes that a small network can tell apart."""
    generator = np.random.default_rng(0)
    labels = np.arange(60, dtype=np.int64) % 3
    images = generator.integers(0, 120, (60, 8, 8, 1)).astype(np.uint8)
    for row, label in enumerate(labels):
        images[row, :, 2 * label : 2 * label + 2] += 120
    return Dataset(
        images=images,
        labels=labels,
        train=np.arange(0, 44),
        validation=np.arange(44, 60),
        class_names=("left", "middle", "right"),
        mean=(0.33,),
        std=(0.25,),
    )


@pytest.fixture(scope="session")
def small_data() -> Data:
    """How a job names `small_dataset`."""
    return Data(name="small", digest="0" * 32, location="small", label="label", split=Split(validation=16))
