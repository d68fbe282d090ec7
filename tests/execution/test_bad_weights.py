"""Weights that no network can compute with, in records with right checksums: one clear line."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

import pytest
import torch
from safetensors.torch import load, save

from distill_ray.data import open_source
from distill_ray.errors import DamagedError, RunError
from distill_ray.execution.cluster import WorkerResources
from distill_ray.execution.run_job import evaluate_on_test, run_job
from distill_ray.execution.sharing import LIVE, STORED, Sharing
from distill_ray.execution.train_job import cached_dataset
from distill_ray.job import Data, Job, Recipe, Split
from distill_ray.methods import EnsembleKD
from distill_ray.records import WEIGHTS, find_job
from distill_ray.store import MANIFEST, Store, _seal
from distill_ray.training import load_network

CPU = torch.device("cpu")
RECIPE = Recipe(model="mlp-4", epochs=1, batch_size=100)


def data_of(source: str, **changes: int) -> Data:
    opened = open_source(source)
    return Data(
        name=source,
        digest=opened.digest,
        location=source,
        label=opened.label,
        split=Split(validation=100, rule="last"),
        **changes,
    )


@dataclass(frozen=True)
class Finished:
    """A store with a finished job on digits, its weights and its manifest."""

    store: Store
    job: Job
    weights: bytes
    manifest: bytes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    store = Store.open(str(tmp_path_factory.mktemp("store")))
    job = Job(recipe=RECIPE, data=data_of("digits"), seed=0)
    for _ in run_job(store, job, WorkerResources()):
        pass
    record = find_job(store, job.id)
    assert record is not None
    manifest = store.read(f"jobs/{job.id}/{MANIFEST}")
    assert manifest is not None
    return Finished(store, job, record.record.read(WEIGHTS), manifest)


def put(finished: Finished, weights: bytes) -> None:
    """Let the record have these weights, under a manifest that fits them."""
    store, manifest = finished.store, json.loads(finished.manifest)
    del manifest["sha256"]
    entry = manifest["files"][WEIGHTS]
    store.write(entry["path"], weights)
    entry |= {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    content = json.dumps(manifest | {"sha256": _seal(manifest)}).encode()
    store.write(f"jobs/{finished.job.id}/{MANIFEST}", content)


def not_a_number(weights: bytes, name: str, value: float) -> bytes:
    tensors = load(weights)
    tensors[name].view(-1)[-1] = value
    return save(tensors)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda weights: weights[:-100], "is no safetensors file"),
        (lambda weights: weights[:5], "is no safetensors file"),
        (lambda weights: b"", "is no safetensors file"),
        (lambda weights: b"PK" + weights, "is no safetensors file"),
        (
            lambda weights: not_a_number(weights, "classifier.bias", float("nan")),
            "has values in classifier.bias that are not finite",
        ),
        (
            lambda weights: not_a_number(weights, "features.1.0.weight", float("inf")),
            "has values in features.1.0.weight that are not finite",
        ),
    ],
    ids=["truncated", "header", "empty", "zip", "nan", "inf"],
)
def test_weights_that_cannot_be_used_make_a_record_void(
    changed: object, message: str, finished: Finished
) -> None:
    store, job = finished.store, finished.job
    put(finished, changed(finished.weights))  # type: ignore[operator]
    with pytest.raises(DamagedError, match=f"{WEIGHTS} {message}.*; its record was set aside"):
        evaluate_on_test(store, job, CPU)
    assert find_job(store, job.id) is None
    put(finished, finished.weights)
    evaluate_on_test(store, job, CPU)
    store.delete(f"jobs/{job.id}/evaluations")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "mlp-5"}, r"mlp-5 for 10 classes: classifier.weight is \(10, 4\), expected"),
        ({"model": "mlp-4-4"}, "is missing, expected"),
        ({"model": "lenet-4-mlp-4"}, "lenet-4-mlp-4 for 10 classes"),
    ],
)
def test_weights_of_another_network_are_named(
    settings: dict[str, str], message: str, finished: Finished
) -> None:
    job = finished.job
    other = replace(job, recipe=replace(job.recipe, **settings))  # type: ignore[arg-type]
    with pytest.raises(RunError, match=message) as raised:
        load_network(other, load(finished.weights), cached_dataset(job.data))
    assert len(str(raised.value).splitlines()) == 1
    assert other.id in str(raised.value)


@pytest.mark.parametrize("sharing", [LIVE, STORED], ids=["live", "cached"])
def test_a_teacher_of_other_classes_is_refused(sharing: Sharing, finished: Finished) -> None:
    """Before it is asked anything, whether it would answer live or from cached logits."""
    put(finished, finished.weights)
    store, teacher = finished.store, finished.job
    recipe = replace(RECIPE, method=EnsembleKD())
    job = Job(recipe=recipe, data=data_of("toy-spiral"), seed=0, teachers=(teacher.id,))
    with pytest.raises(RunError, match=r"predicts the 10 classes of digits, and toy-spiral has 3"):
        for _ in run_job(store, job, WorkerResources(sharing=sharing)):
            pass
