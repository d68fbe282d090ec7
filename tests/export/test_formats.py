"""Every shape of a deployed student, written as a graph and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save

from distill_ray.export import open_model
from distill_ray.export.formats import WRITERS
from distill_ray.job import Data, Job, Recipe, Split
from distill_ray.methods import METHODS
from distill_ray.models import build_model
from distill_ray.tracking.champion import StudentModel
from distill_ray.tracking.champion_model import load_student

DATA = Data(
    name="tiny", digest="d" * 64, location="nowhere", label="label", split=Split(validation=10)
)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
STUDENTS = [(method, "resnet8") for method in ("latent-be", "hydra", "drop", "gauss")]
STUDENTS += [
    ("kd", model) for model in ("wrn-10-1", "vgg8", "shuffle-v1", "shuffle-v2", "mobilenet-v2")
]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torch-export", "onnx"])
@pytest.mark.parametrize(("method", "model"), STUDENTS)
def test_graphs_say_what_the_network_says(
    method: str, model: str, format: str, tmp_path: Path
) -> None:
    job = Job(recipe=Recipe(model=model, method=METHODS[method]()), data=DATA, seed=3)
    plain = build_model(
        model,
        num_classes=4,
        image_shape=(3, 32, 32),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.2),
        seed=3,
    )
    weights = job.recipe.method.deployed_like(plain).state_dict()
    champion = StudentModel(
        job,
        save({name: tensor.contiguous() for name, tensor in weights.items()}),
        tuple("abcd"),
        IMAGES[:2],
        1.7,
    )
    (tmp_path / "graph").mkdir()
    WRITERS["safetensors"](champion, tmp_path / "plain")
    WRITERS[format](champion, tmp_path / "graph")
    expected = load_student(tmp_path / "plain", "cpu").predict(IMAGES)
    found = open_model(tmp_path / "graph")
    np.testing.assert_allclose(found.predict(IMAGES), expected, atol=1e-5)
    np.testing.assert_allclose(found.predict(IMAGES[:1]), expected[:1], atol=1e-5)
