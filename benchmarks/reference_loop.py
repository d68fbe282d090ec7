"""How fast a student trains beside a plain loop: knowledge distillation as published repositories
write it.

    python benchmarks/reference_loop.py cifar100.yaml --set resources.cpus_per_worker=1

prints what `distill-ray bench` prints, with the plain loop among the steps; --json prints it for
programs. The plain loop: float32, contiguous, a DataLoader over torchvision's PIL transforms (crop,
flip, normalise), every teacher on every batch, one after another, an unfused optimiser and meters
that read the loss in each step. Nothing in it is slower than it is there.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import transforms

from distill_ray.cli.bench import lines
from distill_ray.job import Recipe
from distill_ray.models.network import Network
from distill_ray.planning.bench import bench_study
from distill_ray.study import load_study
from distill_ray.training import Dataset

REFERENCE = "plain reference"

TEMPERATURE, ALPHA = 4.0, 0.9


class PilImages(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """The training split, augmented image by image."""

    def __init__(self, dataset: Dataset) -> None:
        self._images = np.ascontiguousarray(dataset.images[dataset.train])
        self._labels = dataset.labels[dataset.train].tolist()
        height = self._images.shape[1]
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(self._images.shape[1:3], padding=height // 8),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(dataset.mean, dataset.std),
            ]
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._images[index].squeeze())), self._labels[index]


def reference_epochs(
    recipe: Recipe,
    student: Network,
    teachers: Sequence[Network],
    dataset: Dataset,
    device: torch.device,
) -> Iterator[float]:
    """Train without end; yields the seconds of each epoch, without the wait for its first batch,
    per step.

    The networks are copied. Their own normalisation is left out, since the loader's images are
    normalised.
    """
    model, *experts = (_plain(network).to(device) for network in (student, *teachers))
    threads = torch.get_num_threads()
    workers = 0 if threads == 1 else min(8, os.cpu_count() or 1)
    loader: DataLoader[Any] = DataLoader(
        PilImages(dataset),
        batch_size=recipe.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=0.9, weight_decay=5e-4)
    for expert in experts:
        expert.eval()
    while True:
        model.train()
        seen, right, started, steps = 0.0, 0, 0.0, 0
        for number, (loaded, answers) in enumerate(loader):
            if number == 0 and workers:
                started = time.perf_counter()
            elif number == 0:
                started = time.perf_counter() - _loading_seconds(loader)
            images, labels = (
                loaded.to(device, non_blocking=True),
                answers.to(device, non_blocking=True),
            )
            logits = model(images)
            with torch.no_grad():
                targets = torch.stack(
                    [functional.softmax(expert(images) / TEMPERATURE, dim=1) for expert in experts]
                ).mean(0)
            divergence = functional.kl_div(
                functional.log_softmax(logits / TEMPERATURE, dim=1), targets, reduction="batchmean"
            )
            loss = (1 - ALPHA) * functional.cross_entropy(
                logits, labels
            ) + ALPHA * TEMPERATURE**2 * divergence
            seen += loss.item() * len(labels)
            right += int((logits.argmax(1) == labels).sum())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
        yield (time.perf_counter() - started) / steps


def _loading_seconds(loader: DataLoader[Any]) -> float:
    """What one batch costs where it is loaded in this process."""
    images, size = loader.dataset, loader.batch_size or 1
    started = time.perf_counter()
    torch.stack([images[index][0] for index in range(size)])
    return time.perf_counter() - started


def _plain(network: Network) -> nn.Module:
    return copy.deepcopy(nn.Sequential(network.features, network.classifier)).to(
        memory_format=torch.contiguous_format
    )


def main() -> None:
    """Time a study's student beside the plain loop."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    study = load_study(chosen.study, chosen.overrides)
    measured = bench_study(study, {REFERENCE: reference_epochs})
    if chosen.json:
        print(json.dumps(measured.to_dict(), indent=1, allow_nan=False))
    else:
        print("\n".join(lines(measured)))


if __name__ == "__main__":
    main()
