"""What explains a poor teacher: each mistake is made on purpose, and must be what is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from distill_ray.job import Recipe
from distill_ray.models import build_model
from distill_ray.models.network import Network, Normalise
from distill_ray.models.own_modules import ModuleFile, load_module_files, pinned_model
from distill_ray.models.preprocessing import Preprocessing
from distill_ray.stages.diagnosis import diagnose
from distill_ray.training import Worker, predict
from distill_ray.training.dataset import Dataset

NETS = """
import torch
from torch import nn

class Colour(nn.Module):
    # Tells which of four colours images in [0, 1] have, and nothing in other ranges or sizes
    def forward(self, images):
        colours = images.mean((2, 3))
        fits = (images.amax() <= 1.0) & (images.amin() >= 0.0) & (images.shape[-1] == 32)
        targets = torch.eye(4, 3, device=images.device) + torch.tensor([[0.0], [0.0], [0.0], [0.5]])
        near = -(colours[:, None] - targets).square().sum(-1)
        return torch.where(fits, 50 * near, torch.zeros_like(near))
"""
CLASSES = ("red", "green", "blue", "grey")
RIGHT = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3, size=32)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Images of 16x16 pixels in four colours, with some noise."""
    labels = np.arange(120) % 4
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128]])[labels]
    noise = np.random.default_rng(0).integers(-40, 40, (120, 16, 16, 3))
    images = np.clip(colours[:, None, None] + noise, 0, 255).astype(np.uint8)
    rows = np.arange(120)
    return Dataset(images, labels, rows, rows, CLASSES, (0.4,) * 3, (0.4,) * 3)


def poor(wanted: Preprocessing) -> tuple[Network, Recipe]:
    load_module_files([ModuleFile("colours", NETS)])
    recipe = Recipe(
        model=pinned_model("colours/Colour"),
        weights="colours.pt@0123456789abcdef",
        epochs=0,
        preprocessing=wanted,
    )
    network = build_model(
        recipe.model,
        num_classes=4,
        image_shape=(3, 16, 16),
        mean=wanted.mean,
        std=wanted.std,
        preprocessing=wanted,
        seed=0,
    )
    return network, recipe


@pytest.mark.parametrize(
    ("mistake", "remedy"),
    [
        ({"channels": "bgr"}, "with channels: rgb 100.0 %"),
        ({"value_range": 255.0}, "with value_range: 1 100.0 %"),
        ({"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}, "(pixels as they are) 100"),
        ({"size": 24}, "with size: 32 100.0 %"),
    ],
    ids=str,
)
def test_a_mistake_is_named_with_its_measurement(
    dataset: Dataset, mistake: Mapping[str, Any], remedy: str
) -> None:
    network, recipe = poor(Preprocessing(**{**vars(RIGHT), **mistake}))
    answers = predict(network, dataset.images, dataset.validation, worker=Worker.here())
    assert np.mean(answers.argmax(1) == dataset.labels) < 0.6
    assert remedy in diagnose(network, recipe, dataset, answers)[0]
    assert isinstance(network.normalise, Normalise)
    again = predict(network, dataset.images, dataset.validation, worker=Worker.here())
    assert np.array_equal(again, answers)


def test_classes_in_another_order_are_put_in_order(dataset: Dataset) -> None:
    network, recipe = poor(RIGHT)
    answers = predict(network, dataset.images, dataset.validation, worker=Worker.here())
    shuffled = answers[:, [2, 0, 3, 1]]
    *_, order = diagnose(network, recipe, dataset, shuffled)
    assert "100.0 % of 60" in order and "classes: [blue, red, grey, green]" in order


def test_what_none_of_them_explains_is_said(dataset: Dataset) -> None:
    network, recipe = poor(RIGHT)
    with torch.random.fork_rng(devices=[]):
        noise = np.random.default_rng(1).normal(size=(120, 4))
    network.classifier = torch.nn.Linear(4, 4)
    network.classifier.weight.data.zero_()
    (sentence,) = diagnose(network, recipe, dataset, noise)
    assert "were the weights trained for these classes?" in sentence
