"""A student in int8, through ONNX Runtime, on real images."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.torch import save

from distill_ray.cli import main
from distill_ray.errors import RunError
from distill_ray.export import champion as exporting
from distill_ray.export import open_model
from distill_ray.export.formats import WRITERS
from distill_ray.export.int8 import changes_table, measure
from distill_ray.job import Job, Recipe
from distill_ray.methods import METHODS
from distill_ray.resolve import data_of
from distill_ray.study import load_study
from distill_ray.tracking.champion import StudentModel
from distill_ray.training.dataset import load_dataset, load_split
from distill_ray.training.loop import make_network

TINY = str(Path(__file__).parents[1] / "tiny.yaml")


@pytest.fixture(scope="module")
def champion() -> StudentModel:
    """A student that was never trained, with predictions as sharp as after training."""
    job = Job(
        recipe=Recipe(model="lenet-4-8-mlp-16", method=METHODS["supervised"]()),
        data=data_of(load_study(TINY)),
        seed=1,
    )
    network = make_network(job, load_dataset(job.data))
    images = load_split(job.data, "test")
    return StudentModel(
        job, save(network.state_dict()), images.class_names, np.array(images.images[:4]), 0.05
    )


def test_what_int8_changes_is_measured_on_the_test_split(
    champion: StudentModel, tmp_path: Path
) -> None:
    before, after = tmp_path / "float32", tmp_path / "int8"
    for folder, format in ((before, "onnx"), (after, "onnx-int8")):
        folder.mkdir()
        WRITERS[format](champion, folder)
    graph = onnx.load(after / "model.onnx").graph
    assert {node.op_type for node in graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
    int8 = [each for each in graph.initializer if each.data_type == onnx.TensorProto.INT8]
    per_channel = [each for each in graph.initializer if list(each.dims) == [8]]
    assert len(int8) >= 4 and per_channel, "no weights in int8 with a scale for each channel"
    metadata = onnxruntime.InferenceSession(after / "model.onnx").get_modelmeta()
    assert json.loads(metadata.custom_metadata_map["class_names"]) == list(champion.class_names)
    images = np.array(load_split(champion.job.data, "test").images[:50])
    expected, found = (open_model(folder).predict(images) for folder in (before, after))
    assert 1e-4 < np.abs(found - expected).max() < 0.3
    measured = measure(replace(champion, thresholds={"lac": 0.5}), before, after)
    told = measured.changes
    assert [each.name for each in told] == ["accuracy", "nll", "ece", "size", "latency"]
    assert told[3].after < told[3].before
    assert all(np.isfinite([each.before, each.after]).all() for each in told)
    assert changes_table(told)[0][0] == "accuracy, %"
    # LAC by hand: the ceil(0.9 (n + 1))-th smallest of 1 - p, of what the graph in int8 predicts
    dataset = load_dataset(champion.job.data)
    rows = dataset.validation
    of_all = open_model(after).predict(dataset.images[rows])
    conforming = np.sort(1 - of_all[np.arange(len(rows)), dataset.labels[rows]].astype(np.float64))
    threshold = conforming[math.ceil(0.9 * (len(rows) + 1)) - 1]
    assert measured.thresholds["lac"] == pytest.approx(threshold, abs=1e-5)
    assert np.exp(measured.test.log_probabilities[:50]) == pytest.approx(found, abs=1e-6)
    with pytest.raises(RunError, match="points of accuracy on the test split"):
        exporting._quantised(champion, after, tmp_path / "again", -101.0)


@pytest.mark.slow
def test_the_card_has_what_was_measured_in_int8(finished_study: Any, tmp_path: Path) -> None:
    """Metrics and sets of classes of the very model that is exported, not of the trained one."""
    out = tmp_path / "int8"
    command = ["export", str(finished_study.file), "--store", finished_study.store.uri]
    assert main([*command, "--format", "onnx-int8", "--out", str(out)]) == 0
    card = (out / "README.md").read_text()
    assert "measured in int8" in card and "over seeds, float32" in card
    data = data_of(load_study(finished_study.file))
    test, dataset = load_split(data, "test"), load_dataset(data)
    model, rows = open_model(out), dataset.validation
    nll = -np.log(model.predict(np.array(test.images[:]))[np.arange(len(test.labels)), test.labels])
    (line,) = [line for line in card.splitlines() if line.startswith("| NLL |")]
    assert float(line.split("|")[2]) == pytest.approx(nll.mean(), abs=6e-4)
    # LAC by hand: the ceil(0.9 (n + 1))-th smallest of 1 - p
    conforming = model.predict(dataset.images[rows])[np.arange(len(rows)), dataset.labels[rows]]
    threshold = np.sort(1 - conforming)[math.ceil(0.9 * (len(rows) + 1)) - 1]
    description = json.loads((out / "champion.json").read_text())
    assert description["conformal"]["thresholds"]["lac"] == pytest.approx(threshold, abs=1e-5)
    assert f"| LAC | {threshold:.6g}"[:13] in card


def test_the_bound_is_for_int8_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", TINY, "--out", "x", "--most-lost", "1"]) == 2
    assert "--most-lost is for --format onnx-int8" in capsys.readouterr().err
