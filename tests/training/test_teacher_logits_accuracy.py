"""What half precision costs: students of real teachers on stored float16 answers, computed in
float32 or in bfloat16, and on live float32 ones, over twenty seeds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from distill_ray.augmentation import CropFlip
from distill_ray.data import open_source
from distill_ray.job import Data, Job, Recipe, Split
from distill_ray.methods import EnsembleKD, Supervised
from distill_ray.testing.jobs import train_to_end
from distill_ray.training import (
    Dataset,
    LiveTeachers,
    StoredTeachers,
    TeacherLogitsKey,
    Worker,
    compute_teacher_logits,
    from_arrow,
    load_dataset,
    load_network,
    to_arrow,
)
from distill_ray.training.top_k import TAIL_BOUND, total_variation

HERE = Worker(torch.device("cpu"))
SEEDS = range(20)


class FromFiles:
    """Teachers that answer from what a file of float16 would hold."""

    def __init__(
        self, job: Job, networks: list[nn.Module], precision: str, dataset: Dataset
    ) -> None:
        self.networks = networks
        self._key = TeacherLogitsKey.of(job, precision)
        self._live = LiveTeachers(networks, HERE.device, precision)
        self._dataset = dataset

    def of_epoch(self, epoch: int) -> StoredTeachers:
        identity = self._key.identity(epoch)
        content = to_arrow(
            compute_teacher_logits(self._key, epoch, self._live, self._dataset, HERE.device),
            identity,
        )
        teacher_logits = from_arrow(pa.py_buffer(content), identity)
        assert teacher_logits.logits[0].dtype == np.float16
        return StoredTeachers(teacher_logits, HERE.device)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_half_precision_makes_no_difference_beyond_seed_noise(precision: str) -> None:
    """Run with -s to see the numbers."""
    source = open_source("digits")
    data = Data(
        name="digits",
        digest=source.digest,
        location="digits",
        label=source.label,
        split=Split(validation=500, train=320),
    )
    dataset = load_dataset(data)
    recipe = Recipe(
        model="wrn-10-1",
        method=Supervised(),
        augmentation=CropFlip(padding=1),
        epochs=10,
        batch_size=64,
        precision="fp32",
    )
    networks: list[nn.Module] = []
    for seed in range(100, 103):
        job = Job(recipe=recipe, data=data, seed=seed)
        networks.append(load_network(job, train_to_end(job, dataset)[1].weights, dataset))
    live = LiveTeachers(networks, HERE.device, "fp32")
    job = Job(recipe=replace(recipe, method=EnsembleKD()), data=data, seed=0, teachers=("a",) * 3)
    key = TeacherLogitsKey.of(job, precision, exact=True)
    exact, answers = (
        torch.from_numpy(compute_teacher_logits(key, 1, teachers, dataset, HERE.device).logits[0])
        for teachers in (live, LiveTeachers(networks, HERE.device, precision))
    )
    moved = float(total_variation(exact, answers).mean())
    off = float((exact - answers).abs().max())
    print(f"{precision}: logits up to {float(exact.abs().max()):.3g} off by {off:.2g}, {moved:.2g}")
    assert moved <= TAIL_BOUND
    found: dict[str, list[list[float]]] = {"val/accuracy": [], "val/nll": []}
    for seed in SEEDS:
        job = Job(
            recipe=replace(recipe, method=EnsembleKD()),
            data=data,
            seed=seed,
            teachers=("a", "b", "c"),
        )
        both = [
            train_to_end(job, dataset, teachers)[0][-1]
            for teachers in (live, FromFiles(job, networks, precision, dataset))
        ]
        for name, values in found.items():
            values.append([record[name] for record in both])
    for name, values in found.items():
        table = np.array(values)
        spread = table[:, 0].std(ddof=1)
        difference = table[:, 1] - table[:, 0]
        print(
            f"{name}: live {table[:, 0].mean():.4f} +- {spread:.4f}, {precision} in fp16 "
            f"{table[:, 1].mean():.4f}; paired {difference.mean():.4f} +- "
            f"{difference.std(ddof=1):.4f}, {difference}"
        )
        assert abs(difference.mean()) <= spread / np.sqrt(len(SEEDS))
        # In bfloat16 a student ends further from its twin, yet no further than other seeds do
        assert np.abs(difference).max() <= (spread if precision == "fp32" else 2 * spread)
