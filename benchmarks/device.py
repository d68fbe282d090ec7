"""What this machine's fastest device trains in a second, without Ray, MLflow, Optuna or pydantic:

    python benchmarks/device.py --data data/cifar100 --batches 128 256 512 --peak-tflops 989

Without --data the images are random, 50,000 of 32 by 32 and 100 classes. Each line is a student of
one batch size: alone, with teacher logits and with live teachers, in images/s, medians of the
epochs after the first; and what its own multiplications are of the device's peak. --peak-tflops is
dense bfloat16 (989 for an H100 SXM).
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics

import numpy as np
import torch

from distill_ray.augmentation import CropFlip
from distill_ray.data import open_source
from distill_ray.job import Data, Job, Recipe, Split
from distill_ray.methods import EnsembleKD, Supervised
from distill_ray.models.cost import count_operations
from distill_ray.training import (
    Dataset,
    EpochTeachers,
    LiveTeachers,
    StoredTeachers,
    TeacherLogitsKey,
    Worker,
    compute_teacher_logits,
    load_dataset,
    make_network,
    precision_of,
    train,
)
from distill_ray.training.compiling import Compile


class InMemory:
    """Teacher logits of every epoch, computed beforehand."""

    networks = ()

    def __init__(
        self, job: Job, live: LiveTeachers, dataset: Dataset, device: torch.device
    ) -> None:
        key = TeacherLogitsKey.of(job, precision_of(job.recipe, dataset.image_shape, device))
        self._device = device
        self._teacher_logits = {
            epoch: compute_teacher_logits(key, epoch, live, dataset, device)
            for epoch in range(1, job.recipe.epochs + 1)
        }

    def of_epoch(self, epoch: int) -> StoredTeachers:
        return StoredTeachers(self._teacher_logits[epoch], self._device)


def images_per_second(
    job: Job, dataset: Dataset, teachers: EpochTeachers | None, worker: Worker, compile: Compile
) -> float:
    """Of the median epoch after the first, which warms up and compiles; validation is a single
    image.
    """
    few = dataclasses.replace(dataset, validation=dataset.validation[:1])
    seconds = [
        record["seconds"] for record in train(job, few, teachers, worker=worker, compile=compile)
    ]
    return len(dataset.train) / statistics.median(seconds[1:])


def random_images(images: int) -> tuple[Data, Dataset]:
    """Images of no meaning, of CIFAR's form."""
    numbers = np.random.default_rng(0)
    data = Data(
        name="random", digest="0" * 32, location="random", label="label", split=Split(validation=8)
    )
    pixels = numbers.integers(0, 256, (images + 8, 32, 32, 3), dtype=np.uint8)
    rows, names = np.arange(images + 8), tuple(map(str, range(100)))
    return data, Dataset(
        pixels,
        numbers.integers(0, 100, images + 8),
        rows[8:],
        rows[:8],
        names,
        (0.5,) * 3,
        (0.25,) * 3,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="Parquet or a folder of images, as a study file names it")
    parser.add_argument("--label", help="the column of the labels, where the data set has several")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--student", default="wrn-16-2")
    parser.add_argument("--teacher", default="wrn-40-2")
    parser.add_argument("--teachers", type=int, default=4)
    parser.add_argument("--compile", choices=["always", "never"], default="never")
    parser.add_argument("--peak-tflops", type=float)
    chosen = parser.parse_args()
    worker = Worker.here()
    data, dataset = random_images(chosen.images)
    if chosen.data:
        source = open_source(chosen.data, label=chosen.label)
        data = Data(
            name=source.name,
            digest=source.digest,
            location=source.location,
            label=source.label,
            split=Split(validation=8),
        )
        dataset = load_dataset(data)
        dataset = dataclasses.replace(dataset, train=dataset.train[: chosen.images])
    recipe = Recipe(
        model=chosen.student,
        method=EnsembleKD(),
        augmentation=CropFlip(),
        epochs=chosen.epochs,
        lr=0.05,
    )
    names = tuple(f"teacher {number}" for number in range(chosen.teachers))
    networks = [
        make_network(
            Job(
                recipe=dataclasses.replace(recipe, model=chosen.teacher, method=Supervised()),
                data=data,
                seed=seed,
            ),
            dataset,
        )
        for seed in range(chosen.teachers)
    ]
    precision = precision_of(recipe, dataset.image_shape, worker.device)
    live = LiveTeachers(networks, worker.device, precision)
    student = make_network(Job(recipe=recipe, data=data, seed=0), dataset)
    operations = 3 * 2 * count_operations(student, dataset.image_shape).multiply_adds
    device = torch.cuda.get_device_name() if worker.device.type == "cuda" else "CPU"
    print(f"{device}, torch {torch.__version__}, {precision}, compile {chosen.compile}")
    print(
        f"{chosen.student}, {operations / 1e9:.3f} GFLOP a training image; {chosen.teachers} "
        f"x {chosen.teacher} teach"
    )
    print(
        f"{'batch':>6} {'alone':>10} {'teacher_logits':>10} {'live':>10}   images/s"
        + "   share of peak" * bool(chosen.peak_tflops)
    )
    for size in chosen.batches:
        alone = Job(
            recipe=dataclasses.replace(recipe, batch_size=size, method=Supervised()),
            data=data,
            seed=0,
        )
        taught = Job(
            recipe=dataclasses.replace(recipe, batch_size=size), data=data, seed=0, teachers=names
        )
        stored = InMemory(taught, live, dataset, worker.device)
        speeds = [
            images_per_second(job, dataset, teachers, worker, chosen.compile)
            for job, teachers in ((alone, None), (taught, stored), (taught, live))
        ]
        shares = (
            [f"{speed * operations / chosen.peak_tflops / 1e12:.1%}" for speed in speeds]
            if chosen.peak_tflops
            else []
        )
        print(
            f"{size:>6} "
            + " ".join(f"{speed:>10,.0f}" for speed in speeds)
            + "   "
            + " ".join(shares),
            flush=True,
        )
    if worker.device.type == "cuda":
        print(f"at most {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of its memory")


if __name__ == "__main__":
    main()
