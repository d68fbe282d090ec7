"""A student in whole numbers of 8 bits: static quantisation by onnxruntime, and what it changes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from distill_ray.cost.timing import time_runs
from distill_ray.data import Pixels
from distill_ray.export.load import GRAPH, Model, open_model, quietly
from distill_ray.metrics import score
from distill_ray.records import Predictions
from distill_ray.report.conformal import thresholds
from distill_ray.tracking.champion import StudentModel
from distill_ray.training.dataset import load_dataset, load_split

CALIBRATION_IMAGES, CALIBRATION_BATCH = 512, 64
"""Training images from which the ranges of activations are taken."""


@dataclass(frozen=True)
class Change:
    """What became of a student: each quantity in float32, and in int8."""

    name: str
    unit: str
    before: float
    after: float


def quantise(champion: StudentModel, folder: Path) -> None:
    """Replace the graph in `folder` by one in int8, with ranges of activations from training
    images.
    """
    dataset = load_dataset(champion.job.data)
    rows = dataset.train[:CALIBRATION_IMAGES]
    quantise_graph(
        folder / GRAPH,
        (
            np.array(dataset.images[rows[start : start + CALIBRATION_BATCH]])
            for start in range(0, len(rows), CALIBRATION_BATCH)
        ),
    )


def quantise_graph(file: Path, batches: Iterable[np.ndarray]) -> None:
    """Replace a graph by one with weights and activations in int8: static, with QuantizeLinear and
    DequantizeLinear around each operator, a scale for each channel of weights, and ranges of
    activations from `batches` of images.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(batches)

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"images": batch}

    with quietly(), tempfile.TemporaryDirectory() as staging:
        bare, prepared = Path(staging, "bare.onnx"), Path(staging, GRAPH)
        graph = onnx.load(file)
        del graph.graph.value_info[:]  # shapes from before the exporter optimised
        onnx.save(graph, bare)
        quant_pre_process(bare, prepared, skip_symbolic_shape=True)
        quantize(
            prepared,
            file,
            Images(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


@dataclass(frozen=True, eq=False)
class Quantised:
    """A student in int8 as it was measured: what has changed, what it predicts on the test split,
    and the thresholds of its sets of classes, from its own predictions on the validation split.
    """

    changes: tuple[Change, ...]
    test: Predictions
    thresholds: Mapping[str, float]


def measure(champion: StudentModel, before: Path, after: Path) -> Quantised:
    """Accuracy, NLL, ECE on the test split, size, and latency of one image, of the model in folder
    `before` and of the quantised one in `after`; and the thresholds of the latter if the former has
    some.
    """
    test = load_split(champion.job.data, "test")
    models = open_model(before, device="cpu"), open_model(after, device="cpu")
    predictions = [_predictions(model, test.images, test.labels) for model in models]
    scores = [score(of_split.log_probabilities, of_split.labels) for of_split in predictions]
    sizes = [(folder / GRAPH).stat().st_size / 1e6 for folder in (before, after)]
    one = np.array(test.images[:1])
    times = [time_runs(partial(model.run, one)).median for model in models]
    percent = {"accuracy": "%", "ece": "%"}
    rows = [
        Change(name, percent.get(name, ""), *(_shown(name, of_split[name]) for of_split in scores))
        for name in ("accuracy", "nll", "ece")
    ]
    changes = (*rows, Change("size", "MB", *sizes), Change("latency", "ms", *times))
    own = _thresholds(champion, models[1]) if champion.thresholds else {}
    return Quantised(changes, predictions[1], own)


def _predictions(model: Model, images: Pixels, labels: np.ndarray) -> Predictions:
    probabilities = model.predict(np.array(images[:]))
    logs = np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float32).tiny))
    return Predictions(logs, labels)


def _thresholds(champion: StudentModel, model: Model) -> dict[str, float]:
    dataset = load_dataset(champion.job.data)
    rows = dataset.validation
    validation = _predictions(model, dataset.images[rows], dataset.labels[rows])
    own = thresholds(validation, 1.0, champion.coverage)
    return {str(name): threshold for name, threshold in own.items()}


def _shown(name: str, value: float) -> float:
    return 100 * value if name in ("accuracy", "ece") else value


def changes_table(changes: Sequence[Change]) -> list[tuple[str, str, str]]:
    """The changes as lines of a table: what, in float32, in int8."""
    return [
        (
            f"{change.name}{f', {change.unit}' if change.unit else ''}",
            f"{change.before:.4g}",
            f"{change.after:.4g}",
        )
        for change in changes
    ]
