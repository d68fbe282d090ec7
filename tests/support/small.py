"""Sixty images that a small network can learn, and jobs on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from distill_ray.augmentation import Additional, CropFlip
from distill_ray.job import Data, Job, Recipe, Split
from distill_ray.methods import CRD, METHODS, FitNet
from distill_ray.testing.jobs import CPU, train_to_end
from distill_ray.training import Dataset, LiveTeachers, Outcome
from distill_ray.training.loop import make_network

DATA = Data(
    name="small", digest="0" * 32, location="small", label="label", split=Split(validation=16)
)
"""How a job names `small_dataset`."""

SUITABLE: dict[str, dict[str, Any]] = {
    "augmented-kd": {"augmentation": Additional()},
    "crd": {"method": CRD(negatives=50)},
    "endd": {"lr": 0.01},
    "dist": {"lr": 0.002},
    "fitnet": {"method": FitNet(hint=1.0), "lr": 0.01},
    "mlkd": {"augmentation": Additional()},
}
"""What a method needs to learn from sixty images."""


def small_dataset() -> Dataset:
    """Sixty images, 8 by 8, of three classes that a small network can tell apart."""
    generator = np.random.default_rng(0)
    labels = np.arange(60, dtype=np.int64) % 3
    images = generator.integers(0, 120, (60, 8, 8, 1)).astype(np.uint8)
    for row, label in enumerate(labels):
        images[row, :, 2 * label : 2 * label + 2] += 120
    return Dataset(
        images=images,
        labels=labels,
        train=np.arange(0, 44),
        validation=np.arange(44, 60),
        class_names=("left", "middle", "right"),
        mean=(0.33,),
        std=(0.25,),
    )


def tiny_job(data: Data, method: str = "supervised", **settings: Any) -> Job:
    """Three epochs of a method; `settings` are fields of the recipe."""
    made = METHODS[method]()
    recipe = Recipe(
        model="wrn-10-1",
        method=made,
        augmentation=CropFlip(),
        epochs=3,
        batch_size=16,
        lr=0.05,
    )
    settings = SUITABLE.get(method, {}) | settings
    teachers = ("a", "b") if made.needs_teachers else ()
    return Job(recipe=replace(recipe, **settings), data=data, seed=3, teachers=teachers)


def teachers_for(job: Job, dataset: Dataset) -> LiveTeachers | None:
    """Untrained teachers of the job's own model, if it has any."""
    networks = [make_network(replace(job, seed=seed), dataset) for seed in range(len(job.teachers))]
    return LiveTeachers(networks, CPU.device, "fp32") if networks else None


def finish(job: Job, dataset: Dataset, **arguments: Any) -> tuple[list[dict[str, float]], Outcome]:
    """The records of a job that learns from `teachers_for` it, and its outcome."""
    return train_to_end(job, dataset, teachers_for(job, dataset), **arguments)


def losses(compile: str, model: str = "mlp-16", **arguments: Any) -> list[float]:
    """The training losses of two epochs of kd, in batches of 16, 16 and 12."""
    dataset = small_dataset()
    recipe = Recipe(
        model=model,
        method=METHODS["kd"](),
        epochs=2,
        batch_size=16,
        precision="fp32",
    )
    job = Job(recipe=recipe, data=DATA, seed=3, teachers=("a",))
    teachers = LiveTeachers([make_network(job, dataset)], CPU.device, "fp32")
    records, _ = train_to_end(job, dataset, teachers, compile=compile, **arguments)
    return [record["train/loss"] for record in records]
