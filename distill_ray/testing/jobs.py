"""Jobs so small that a test trains them to their end."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill_ray.augmentation import Augmentation, Batch
from distill_ray.augmentation.epoch import epoch_batches
from distill_ray.job import Data, Job, Recipe, Split
from distill_ray.methods import Method
from distill_ray.training import Dataset, EpochTeachers, LiveTeachers, Outcome, Worker, train
from distill_ray.training.device import AUTO_PRECISION
from distill_ray.training.loop import make_network

CPU = Worker(torch.device("cpu"))
PRECISION = os.environ.get(AUTO_PRECISION, "fp32")
"""What jobs are trained in, unless a test says otherwise."""
MODEL = "lenet-4-mlp-6"
"""Without batch normalisation, whose statistics are each worker's own, so that several workers and
one agree but for rounding.
"""
DATA = Data(
    name="small", digest="0" * 32, location="small", label="label", split=Split(validation=9)
)


def small_dataset(channels: int = 3, num_classes: int = 3) -> Dataset:
    """Twenty-three random images to train on and nine for validation, 8 by 8."""
    images = np.random.default_rng(1).integers(0, 256, (32, 8, 8, channels), dtype=np.uint8)
    rows = np.random.default_rng(2).permutation(32)
    return Dataset(
        images=images,
        labels=np.arange(32) % num_classes,
        train=np.sort(rows[:23]),
        validation=np.sort(rows[23:]),
        class_names=tuple(str(label) for label in range(num_classes)),
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )


def small_job(method: Method, augmentation: Augmentation, **settings: Any) -> Job:
    """Two epochs of three batches; `settings` are fields of the recipe. A method that needs
    teachers has two.
    """
    recipe = Recipe(
        model=MODEL,
        method=method,
        augmentation=augmentation,
        epochs=2,
        batch_size=9,
        lr=0.02,
        keep="best-nll",
        precision=PRECISION,  # type: ignore[arg-type]
    )
    teachers = ("a", "b") if method.needs_teachers else ()
    return Job(recipe=dataclasses.replace(recipe, **settings), data=DATA, seed=3, teachers=teachers)


def untrained_teachers(job: Job, dataset: Dataset) -> LiveTeachers:
    """Networks that disagree with each other and are sure of it."""
    networks = []
    for seed, _ in enumerate(job.teachers, start=10):
        network = make_network(dataclasses.replace(job, seed=seed), dataset)
        network.get_parameter("classifier.weight").data.mul_(8)
        networks.append(network)
    return LiveTeachers(networks, CPU.device, "fp32")


def first_batch(augmentation: Augmentation, dataset: Dataset) -> Batch:
    """A batch of nine images of the training split."""
    batches: Iterator[Batch] = epoch_batches(
        augmentation,
        dataset.images,
        dataset.labels,
        rows=dataset.train,
        mean=dataset.mean,
        seed=0,
        epoch=1,
        batch_size=9,
        device="cpu",
    )
    return next(batches)


def train_to_end(
    job: Job,
    dataset: Dataset,
    teachers: LiveTeachers | EpochTeachers | None = None,
    *,
    worker: Worker = CPU,
    **arguments: Any,
) -> tuple[list[dict[str, float]], Outcome]:
    """The record of each epoch of a job, and its outcome; `arguments` are those of `train`."""
    records = []
    epochs = train(job, dataset, teachers, worker=worker, **arguments)
    while True:
        try:
            records.append(next(epochs))
        except StopIteration as end:
            return records, end.value


def without_times(record: dict[str, float]) -> dict[str, float]:
    """What of an epoch's record must be the same each time."""
    return {name: value for name, value in record.items() if name not in ("time", "seconds")}


def result_of(job: Job, worker: Worker = CPU) -> dict[str, Tensor]:
    """Losses, predictions and weights of a small job with untrained teachers, as tensors."""
    dataset = small_dataset()
    teachers = untrained_teachers(job, dataset) if job.teachers else None
    records, outcome = train_to_end(job, dataset, teachers, worker=worker)
    losses = [
        [value for name, value in record.items() if name.startswith("train/")] for record in records
    ]
    result = {
        "losses": torch.tensor(losses),
        "predictions": torch.from_numpy(outcome.log_probabilities),
    }
    return result | {f"weights/{name}": weight.clone() for name, weight in outcome.weights.items()}
