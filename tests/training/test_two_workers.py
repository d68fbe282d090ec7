"""Two workers against one on the same global batch. Run as a script, this file measures what two
are worth in images/s:

python tests/training/test_two_workers.py --model wrn-16-2 --images 384
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill_ray.augmentation import Batch, CropFlip
from distill_ray.data import open_source
from distill_ray.job import Data, Job, Recipe, Split
from distill_ray.methods import EnsembleKD, Supervised
from distill_ray.methods.method import Student, Teachers
from distill_ray.training import Dataset, LiveTeachers, Worker, load_dataset, train
from distill_ray.training.loop import make_network

STEPS: list[float] = []


@dataclass(frozen=True, kw_only=True)
class RecordedKD(EnsembleKD):
    """Ensemble KD that keeps the loss of every step, as this worker's part of the whole batch's."""

    def loss(self, student: Student, batch: Batch, teachers: Teachers) -> Mapping[str, Tensor]:
        terms = super().loss(student, batch, teachers)
        assert student.gather(batch.positions).diff().eq(1).all()
        assert len(student.gather(batch.positions.repeat(2))) == 2 * sum(batch.shares)
        STEPS.append(terms["loss"].item() * batch.weight)
        return terms


def learn(model: str, worker: Worker) -> list[float]:
    """The losses of all steps of an epoch on digits, 1,297 images in batches of 64, learning from
    two teachers.
    """
    data = Data(
        name="digits",
        digest=open_source("digits").digest,
        location="digits",
        label="label",
        split=Split(validation=140),
    )
    dataset = load_dataset(data)
    recipe = Recipe(
        model=model, method=RecordedKD(alpha=0.3), epochs=1, batch_size=64, lr=0.1, precision="fp32"
    )
    job = Job(recipe=recipe, data=data, seed=0, teachers=("a", "b"))
    networks = [make_network(Job(recipe=recipe, data=data, seed=seed), dataset) for seed in (1, 2)]
    STEPS.clear()
    for _ in train(job, dataset, LiveTeachers(networks, worker.device, "fp32"), worker=worker):
        pass
    return list(STEPS)


def epoch_seconds(model: str, images: int, worker: Worker) -> list[tuple[float, float]]:
    """Seconds of three epochs, by the clock and of this processor, on random images, 32 by 32, in
    batches of 64.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (images + 2, 32, 32, 3), dtype=np.uint8)
    names, moments = tuple(map(str, range(100))), (0.5,) * 3
    rows = np.arange(images + 2)
    dataset = Dataset(pixels, rows % 100, rows[:images], rows[images:], names, moments, moments)
    recipe = Recipe(
        model=model,
        method=Supervised(),
        augmentation=CropFlip(),
        epochs=3,
        batch_size=64,
        precision="fp32",
    )
    data = Data(
        name="random", digest="0" * 32, location="random", label="label", split=Split(validation=2)
    )
    spent, times = time.process_time(), []
    for record in train(Job(recipe=recipe, data=data, seed=0), dataset, worker=worker):
        times.append((record["seconds"], time.process_time() - spent))
        spent = time.process_time()
    return times


def workers(count: int, folder: Path, *arguments: str) -> list[list[Any]]:
    """What each of so many processes says, with one thread each."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    place = folder / f"rendezvous-{count}-{os.urandom(4).hex()}"
    command = [sys.executable, __file__, *arguments, "--world", str(count), "--place", str(place)]
    processes = [
        subprocess.Popen(
            [*command, "--rank", str(rank)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for rank in range(count)
    ]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * count
    return [json.loads(text) for text in said]


@pytest.mark.slow
def test_the_same_losses(tmp_path: Path) -> None:
    """Every step of an epoch, in float32, for a network without batch statistics: to 1e-4 and in
    truth to rounding.
    """
    (alone,) = workers(1, tmp_path, "--model", "lenet-8-16-mlp-32", "--learn")
    first, second = workers(2, tmp_path, "--model", "lenet-8-16-mlp-32", "--learn")
    together = [(one + other) / 2 for one, other in zip(first, second, strict=True)]
    assert len(alone) == 19
    assert alone[-1] < 0.98 * alone[0]
    assert together == pytest.approx(alone, rel=1e-4)


def measure(model: str, images: int, folder: Path) -> None:
    """Print images/s with one worker and with two, in turns, medians over epochs: by the clock, and
    by the busier processor.
    """
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for _ in range(2):
        for count in found:
            epochs = list(
                zip(*workers(count, folder, "--model", model, "--images", str(images)), strict=True)
            )
            found[count] += [
                tuple(images / max(each) for each in zip(*epoch, strict=True))
                for epoch in epochs[1:]
            ]
    for place, kind in enumerate(("by the clock", "by processor time")):
        one, two = (statistics.median(rates[place] for rates in found[count]) for count in (1, 2))
        print(
            f"{model}, {kind}: {one:.1f} images/s with one worker, {two:.1f} with two, "
            f"{two / one:.2f} times as many"
        )
    print(
        {
            count: [tuple(round(rate, 1) for rate in epoch) for epoch in epochs]
            for count, epochs in found.items()
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="wrn-16-2")
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--learn", action="store_true")
    parser.add_argument("--world", type=int, default=0)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--place", type=Path, default=Path())
    wanted = parser.parse_args()
    if not wanted.world:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            measure(wanted.model, wanted.images, Path(folder))
        return
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{wanted.place}", rank=wanted.rank, world_size=wanted.world
    )
    worker = Worker(torch.device("cpu"), wanted.rank, wanted.world)
    print(
        json.dumps(
            learn(wanted.model, worker)
            if wanted.learn
            else epoch_seconds(wanted.model, wanted.images, worker)
        )
    )
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
