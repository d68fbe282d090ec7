"""Every shape of a deployed student, written as a graph and read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
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


def champion_of(method: str, model: str, sharpness: float = 1.0) -> StudentModel:
    """A student that was never trained; its temperature makes its predictions as sharp as training
    would.
    """
    job = Job(recipe=Recipe(model=model, method=METHODS[method]()), data=DATA, seed=3)
    plain = build_model(
        model,
        num_classes=4,
        image_shape=(3, 32, 32),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.2),
        seed=3,
    )
    network = job.recipe.method.deployed_like(plain)
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    return StudentModel(job, save(weights), tuple("abcd"), IMAGES[:2], 1.7 / sharpness)


class Calibration(CalibrationDataReader):
    """The images that static quantisation takes its ranges from."""

    def __init__(self) -> None:
        self.batches = iter([{"images": IMAGES}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


@pytest.mark.parametrize(("method", "model"), [("kd", "wrn-10-1"), ("hydra", "resnet8")])
def test_graphs_in_onnx_can_be_quantised(method: str, model: str, tmp_path: Path) -> None:
    """No probability becomes 0, whose logarithm would be infinite."""
    champion = champion_of(method, model, sharpness=30.0)
    WRITERS["onnx"](champion, tmp_path)
    graph = tmp_path / "model.onnx"
    expected = open_model(tmp_path).predict(IMAGES)
    assert expected.min() < 1 / 255 / 2, "too even to show the fault"
    quantize_dynamic(graph, tmp_path / "dynamic.onnx")
    quantize_static(graph, tmp_path / "static.onnx", Calibration())
    for name in ("dynamic.onnx", "static.onnx"):
        session = onnxruntime.InferenceSession(tmp_path / name)
        (probabilities,) = session.run(None, {"images": IMAGES})
        assert (probabilities > 0).all()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(probabilities, expected, atol=0.1)


def test_a_graph_in_onnx_says_what_its_users_must_know(tmp_path: Path) -> None:
    champion = champion_of("kd", "wrn-10-1")
    WRITERS["onnx"](champion, tmp_path)
    metadata = onnxruntime.InferenceSession(tmp_path / "model.onnx").get_modelmeta()
    properties = metadata.custom_metadata_map
    assert json.loads(properties["class_names"]) == list("abcd")
    assert json.loads(properties["preprocessing"])["steps"] == champion.preprocessing.steps()
    assert (properties["temperature"], properties["job_id"]) == ("1.7", champion.job.id)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torch-export", "onnx"])
@pytest.mark.parametrize(("method", "model"), STUDENTS)
def test_graphs_say_what_the_network_says(
    method: str, model: str, format: str, tmp_path: Path
) -> None:
    champion = champion_of(method, model)
    (tmp_path / "graph").mkdir()
    WRITERS["safetensors"](champion, tmp_path / "plain")
    WRITERS[format](champion, tmp_path / "graph")
    expected = load_student(tmp_path / "plain", "cpu").predict(IMAGES)
    found = open_model(tmp_path / "graph")
    np.testing.assert_allclose(found.predict(IMAGES), expected, atol=1e-5)
    np.testing.assert_allclose(found.predict(IMAGES[:1]), expected[:1], atol=1e-5)
