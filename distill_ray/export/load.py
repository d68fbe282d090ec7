"""A model folder, opened for predictions, whatever its format."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from distill_ray.addresses import masked_text
from distill_ray.errors import RequestError, first_line
from distill_ray.escaping import for_terminal
from distill_ray.tracking.champion import DESCRIPTION, WEIGHTS
from distill_ray.tracking.description import read_description
from distill_ray.tracking.environment import prepare, registry_uri
from distill_ray.tracking.preprocessing import ImagePreparation

PROGRAM, GRAPH = "model.pt2", "model.onnx"
"""The model's file in the formats torch-export and onnx."""

IMAGES_PER_BATCH = 256

Runner = Callable[[np.ndarray], np.ndarray]
"""What a model says of one batch of images."""


@dataclass(frozen=True)
class Model:
    """An exported student: its class names, what its images must go through, and `predict`."""

    class_names: tuple[str, ...]
    preprocessing: ImagePreparation
    run: Runner

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The (H, W, C) of its images."""
        return self.preprocessing.height, self.preprocessing.width, self.preprocessing.channels

    @property
    def dtype(self) -> str:
        """`uint8`, or `float32` where inputs are real numbers."""
        return "float32" if self.preprocessing.real_valued else "uint8"

    def read_image(self, path: str | Path, *, resize: bool | None = None) -> np.ndarray:
        """The pixels of an image file, uint8 (H, W, C), prepared as the images of training were.

        `resize` overrides whether another size is cropped and resized. Raises `RequestError` for a
        file that is no image which this model takes.
        """
        from distill_ray.export.images import read_image

        return read_image(Path(path), self.preprocessing, resize=resize)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities, float32 (N, K), of images (N, H, W, C) of its `dtype`: uint8, or float32
        for real numbers.

        Raises `ValueError` for any other kind of array, and `RequestError` when the model returns
        anything but probabilities.
        """
        if images.dtype != self.dtype or images.ndim != 4 or images.shape[1:] != self.image_shape:
            shape = ", ".join(map(str, self.image_shape))
            raise ValueError(
                f"images must be {self.dtype} of shape (N, {shape}), "
                f"found {images.dtype} of shape {images.shape}"
            )
        batches = [np.empty((0, len(self.class_names)), np.float32)]
        for start in range(0, len(images), IMAGES_PER_BATCH):
            batch = np.array(images[start : start + IMAGES_PER_BATCH])
            batches.append(self._checked(self.run(batch), len(batch)))
        return np.concatenate(batches)

    def _checked(self, probabilities: np.ndarray, count: int) -> np.ndarray:
        valid = (
            isinstance(probabilities, np.ndarray)
            and probabilities.shape == (count, len(self.class_names))
            and probabilities.dtype == np.float32
            and bool((probabilities >= 0).all())
            and np.allclose(probabilities.sum(axis=1), 1, atol=1e-3)
        )
        if not valid:
            raise RequestError(
                f"the model does not return probabilities of {len(self.class_names)} classes; "
                "its files are damaged or not ours, so export it again"
            )
        return probabilities


def open_model(
    location: str | Path, *, tracking_uri: str | None = None, device: str | None = None
) -> Model:
    """The model in a folder that `distill-ray export` or MLflow wrote, or under
    `models:/name@champion` in the MLflow at `tracking_uri`.

    In the formats safetensors and mlflow it runs on `device`, by default on a GPU if there is one,
    in the others on the CPU. Raises `RequestError` when no model is there, when its files were
    changed, or when a package that its format needs is missing.
    """
    folder = Path(location)
    if str(location).startswith("models:/") or (folder / "MLmodel").is_file():
        return _open_mlflow(str(location), tracking_uri, device)
    if not (folder / DESCRIPTION).is_file():
        raise RequestError(
            f"{for_terminal(str(location))}: no model in this folder; name one that "
            "`distill-ray export` or MLflow wrote"
        )
    description = read_description(folder)
    runners: dict[str, Callable[[], Runner]] = {
        WEIGHTS: lambda: _student(folder, device),
        PROGRAM: lambda: _program(folder),
        GRAPH: lambda: _graph(folder),
    }
    if description.file not in runners:
        raise RequestError(
            f"{for_terminal(str(location))}: {for_terminal(description.file)} is of no format "
            "that is known; export the model again"
        )
    return Model(description.class_names, description.preprocessing, runners[description.file]())


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what torch logs and prints while it writes or reads a graph."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def check_installed(*packages: str) -> None:
    """Raise `RequestError` when a package for ONNX is missing."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise RequestError(
            f"format onnx needs {' and '.join(missing)}, not installed here; "
            "pip install 'distill-ray[onnx]'"
        )


def _student(folder: Path, device: str | None) -> Runner:
    from distill_ray.tracking.champion_model import load_student

    return load_student(folder, device).predict


def _program(folder: Path) -> Runner:
    import torch

    try:
        with quietly():
            module = torch.export.load(folder / PROGRAM).module()
    except Exception as error:  # of whatever kind the archive's content leads to
        raise _unreadable(folder / PROGRAM, error) from None

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            probabilities: np.ndarray = module(torch.from_numpy(images)).numpy()
        return probabilities

    return run


def graph_session(file: Path, *, threads: int = 0) -> Any:
    """The graph in an ONNX file, as onnxruntime runs it on so many threads; 0: as many as it likes.

    Raises `RequestError` when onnxruntime is not installed or cannot load the file.
    """
    check_installed("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong with the file is in the exception
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's are not derived from each other
        raise _unreadable(file, error) from None


def _graph(folder: Path) -> Runner:
    session = graph_session(folder / GRAPH)

    def run(images: np.ndarray) -> np.ndarray:
        (probabilities,) = session.run(["probabilities"], {"images": images})
        return np.asarray(probabilities)

    return run


def _unreadable(file: Path, error: Exception) -> RequestError:
    reason = for_terminal(first_line(error))
    return RequestError(f"{for_terminal(str(file))}: cannot be loaded ({reason}); export it again")


def _open_mlflow(location: str, tracking_uri: str | None, device: str | None) -> Model:
    prepare()
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException

    if tracking_uri is not None:
        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_registry_uri(registry_uri(tracking_uri))
    place = for_terminal(location)
    config = {"device": device} if device else None
    try:
        model: Any = mlflow.pyfunc.load_model(location, model_config=config)
    except RequestError:
        raise
    except (MlflowException, OSError, ValueError, ImportError) as error:
        reason = masked_text(" ".join(str(error).split()), mlflow.get_tracking_uri())
        raise RequestError(
            f"{place}: MLflow cannot load this model ({for_terminal(reason[:300])})"
        ) from None
    metadata = model.metadata.metadata or {}
    try:
        preprocessing = ImagePreparation.from_dict(metadata["preprocessing"])
        class_names = tuple(map(str, metadata["class_names"]))
    except (KeyError, TypeError, ValueError):
        raise RequestError(
            f"{place}: this MLflow model is not one of ours: it does not name its classes and "
            "image size"
        ) from None
    return Model(class_names, preprocessing, model.predict)
