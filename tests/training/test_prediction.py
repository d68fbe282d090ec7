"""How many images are predicted at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from distill_ray.models import build_model
from distill_ray.models.preprocessing import Preprocessing
from distill_ray.testing.jobs import CPU
from distill_ray.training import predict
from distill_ray.training.prediction import PIXELS

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "largest"), [(None, 40), (200, PIXELS // 200**2), (2000, 1), (4, 40)]
)
def test_a_network_that_resizes_gets_as_many_as_its_own_size_allows(
    size: int | None, largest: int
) -> None:
    network = build_model(
        "mlp-2",
        num_classes=3,
        image_shape=(3, 8, 8),
        preprocessing=Preprocessing(size=size),
        seed=0,
    )
    asked: list[int] = []

    def logits(images: Tensor) -> Tensor:
        asked.append(len(images))
        return torch.zeros(len(images), 3)

    network.forward = logits  # type: ignore[method-assign]
    assert predict(network, IMAGES, np.arange(40), worker=CPU).shape == (40, 3)
    assert max(asked) == largest and sum(asked) == 40
