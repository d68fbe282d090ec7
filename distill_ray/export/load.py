"""A model folder, opened for predictions, whatever its format."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from distill_ray.errors import RequestError
from distill_ray.tracking import redacted
from distill_ray.tracking.environment import prepare

WEIGHTS, PROGRAM, GRAPH = "weights.safetensors", "model.pt2", "model.onnx"
"""The file that makes a folder one in the format safetensors, torch-export or onnx."""

IMAGES_PER_BATCH = 256

Runner = Callable[[np.ndarray], np.ndarray]
"""What a model says of one batch of images."""


@dataclass(frozen=True)
class Model:
    """An exported student: its class names, the (H, W, C) of its images, and `predict`."""

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    run: Runner
    dtype: str = "uint8"

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities, float32 (N, K), of images (N, H, W, C) of its `dtype`: uint8, or float32
        for real numbers.

        Raises `ValueError` for any other kind of array.
        """
        if images.dtype != self.dtype or images.ndim != 4 or images.shape[1:] != self.image_shape:
            wanted = ", ".join(map(str, self.image_shape))
            raise ValueError(
                f"images must be {self.dtype} of shape (N, {wanted}), found {images.dtype} of shape {images.shape}"
            )
        batches = [
            self.run(np.ascontiguousarray(images[start : start + IMAGES_PER_BATCH]))
            for start in range(0, len(images), IMAGES_PER_BATCH)
        ]
        return (
            np.concatenate(batches) if batches else np.empty((0, len(self.class_names)), np.float32)
        )


def open_model(
    location: str | Path, *, tracking_uri: str | None = None, device: str | None = None
) -> Model:
    """The model in a folder that `distill-ray export` or MLflow wrote, or under
    `models:/name@champion` in the MLflow at `tracking_uri`.

    In the formats safetensors and mlflow it runs on `device`, by default on a GPU if there is one,
    in the others on the CPU. Raises `RequestError` when no model is there, or when a package that
    its format needs is missing.
    """
    folder = Path(location)
    if str(location).startswith("models:/") or (folder / "MLmodel").is_file():
        return _open_mlflow(str(location), tracking_uri, device)
    runners: dict[str, Callable[[Path], Runner]] = {
        WEIGHTS: functools.partial(_student, device=device),
        PROGRAM: _program,
        GRAPH: _graph,
    }
    file = next((name for name in runners if (folder / name).is_file()), None)
    if file is None or not (folder / "champion.json").is_file():
        raise RequestError(
            f"{location}: no model in this folder; name one that `distill-ray export` or MLflow wrote"
        )
    card = json.loads((folder / "champion.json").read_text(encoding="utf-8"))
    height, width, channels = card["image_shape"]
    return Model(
        tuple(card["class_names"]),
        (height, width, channels),
        runners[file](folder),
        card.get("dtype", "uint8"),
    )


def check_installed(*packages: str) -> None:
    """Raise `RequestError` when a package for ONNX is missing."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise RequestError(
            f"format onnx needs {' and '.join(missing)}, not installed here; pip install 'distill-ray[onnx]'"
        )


def _student(folder: Path, device: str | None) -> Runner:
    from distill_ray.tracking.champion_model import load_student

    return load_student(folder, device).predict


def _program(folder: Path) -> Runner:
    import torch

    module = torch.export.load(folder / PROGRAM).module()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            probabilities: np.ndarray = module(torch.from_numpy(images)).numpy()
        return probabilities

    return run


def _graph(folder: Path) -> Runner:
    check_installed("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / GRAPH), providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> np.ndarray:
        (probabilities,) = session.run(["probabilities"], {"images": images})
        return np.asarray(probabilities)

    return run


def _open_mlflow(location: str, tracking_uri: str | None, device: str | None) -> Model:
    prepare()
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException

    if tracking_uri is not None:
        mlflow.set_tracking_uri(tracking_uri)
    try:
        model: Any = mlflow.pyfunc.load_model(
            location, model_config={"device": device} if device else None
        )
    except (MlflowException, OSError) as error:
        reason = redacted(" ".join(str(error).split()), mlflow.get_tracking_uri())
        raise RequestError(f"{location}: MLflow cannot load this model ({reason[:300]})") from None
    about, inputs = model.metadata.metadata or {}, model.metadata.get_input_schema()
    shape = (
        tuple(inputs.inputs[0].shape[1:]) if inputs is not None and inputs.is_tensor_spec() else ()
    )
    if "class_names" not in about or len(shape) != 3:
        raise RequestError(
            f"{location}: this MLflow model is not one of ours: it does not name its classes and image size"
        )
    return Model(tuple(about["class_names"]), shape, model.predict, inputs.inputs[0].type.name)
