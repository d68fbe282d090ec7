"""What augmentations cost on one core against torchvision's v2 transforms of Pillow images, and
against the batched tensor code alone:

python benchmarks/augmentations.py

Milliseconds of CPU time for a batch of 64 images of 32, 64 and 224 pixels, from uint8 in memory to
float32, and the medians of the ratios within each round.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from distill_ray.augmentation import AUGMENTATIONS
from distill_ray.augmentation.epoch import epoch_batches
from distill_ray.augmentation.kernels import opencv
from distill_ray.planning.bench import machine_name

BATCH = 64


def on_pillow(side: int) -> dict[str, v2.Compose]:
    """The same augmentations by torchvision, from arrays over Pillow images to float32."""
    window = [v2.RandomCrop(side, padding=side // 8), v2.RandomHorizontalFlip()]
    end = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    steps = {
        "crop-flip": window,
        "rotation": [*window, v2.RandomRotation(15)],
        "autoaugment": [*window, v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)],
        "rand-augment": [*window, v2.RandAugment()],
        "trivial-augment": [*window, v2.TrivialAugmentWide()],
        "augmix": [*window, v2.AugMix(severity=3, all_ops=False)],
        "colour-jitter": [*window, v2.ColorJitter(0.4, 0.4, 0.4, 0.1)],
        "random-resized-crop": [v2.RandomResizedCrop(side), v2.RandomHorizontalFlip()],
    }
    named = {name: v2.Compose([v2.ToPILImage(), *some, *end]) for name, some in steps.items()}
    erased = [v2.ToPILImage(), *window, *end, v2.RandomErasing()]
    return named | {"random-erasing": v2.Compose(erased)}


def pictures(side: int) -> np.ndarray:
    """Smooth noise, uint8 (64, side, side, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, (BATCH, 3, side // 4, side // 4))
    smooth = functional.resize(torch.from_numpy(noise).byte(), [side, side])
    return smooth.permute(0, 2, 3, 1).contiguous().numpy()


def ours(name: str, images: np.ndarray, epoch: int) -> None:
    """One batch by this package."""
    settings: dict[str, Any] = {"seed": 0, "batch_size": BATCH, "device": "cpu"}
    labels, mean = np.zeros(BATCH, np.int64), [0.5] * 3
    next(epoch_batches(AUGMENTATIONS[name](), images, labels, epoch=epoch, mean=mean, **settings))


def batched(name: str, images: np.ndarray, epoch: int) -> None:
    """The same in tensor code alone."""
    with mock.patch.object(opencv, "suits", return_value=False):
        ours(name, images, epoch)


def theirs(transform: v2.Compose, images: np.ndarray, epoch: int) -> None:
    """One batch by torchvision."""
    torch.stack([transform(image) for image in images])


def seconds(work: Callable[[], object]) -> float:
    """CPU time of this process."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def main(rounds: int) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(machine_name())
    print(
        f"{'':24} {'side':>4} {'Pillow':>9} {'batched':>9} {'ours':>9}  over Pillow  over batched"
    )
    for side in (32, 64, 224):
        images = pictures(side)
        for name, transform in on_pillow(side).items():
            kinds = (
                functools.partial(theirs, transform, images),
                functools.partial(batched, name, images),
                functools.partial(ours, name, images),
            )
            times = np.array(
                [
                    [seconds(functools.partial(kind, turn)) for kind in kinds]
                    for turn in range(rounds + 1)
                ]
            )[1:]
            medians = "".join(f"{1000 * each:>7.1f} ms" for each in np.median(times, axis=0))
            over = [statistics.median(times[:, 2] / times[:, other]) for other in (0, 1)]
            print(f"{name:24} {side:>4}{medians}  {over[0]:>11.2f}  {over[1]:>12.2f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    main(parser.parse_args().rounds)
