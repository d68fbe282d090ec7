from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_ray.data import load_images, open_source


@pytest.mark.parametrize(
    ("name", "rows", "shape", "classes"),
    [
        ("cifar10-mini", (10_000, 2_000), (32, 32, 3), 10),
        ("cifar100-mini", (10_000, 2_000), (32, 32, 3), 100),
        ("tiny-imagenet-mini", (10_000, 2_000), (64, 64, 3), 200),
        ("notmnist", (0, 10_000), (28, 28, 1), 10),
    ],
)
def test_every_class_has_its_share(
    shared_data: Path, name: Any, rows: Any, shape: Any, classes: Any
) -> None:
    source = open_source(str(shared_data / name))
    assert (source.rows("train"), source.rows("test"), source.num_classes) == (*rows, classes)
    test = load_images(source, "test")
    assert test.images.shape == (rows[1], *shape)
    assert np.bincount(test.labels).tolist() == [rows[1] // classes] * classes


def test_cifar100_has_the_known_means_and_order(shared_data: Path) -> None:
    """Means and deviations of the training split as the literature prints them; first labels of the
    official test file.
    """
    source = open_source(str(shared_data / "cifar100"))
    assert (source.label, source.label_columns) == ("fine_label", ("fine_label", "coarse_label"))
    test = load_images(source, "test")
    assert test.labels[:10].tolist() == [49, 33, 72, 51, 71, 92, 15, 14, 23, 0]
    assert test.mean == pytest.approx((0.5088, 0.4874, 0.4419), abs=5e-5)
