"""Training images at 224 pixels from the decoded cache, against torchvision's ImageFolder and a
DataLoader on the same JPEG files:

THP_MEM_ALLOC_ENABLE=1 python benchmarks/photographs.py

512 files cut from the two photographs that scikit-learn ships, 500 by 375 and 375 by 420 pixels.
Images per second of CPU time on one core, medians of epochs in turn; the first of each is left out.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from distill_ray.augmentation import Augmentation, CropFlip, RandomResizedCrop
from distill_ray.augmentation.epoch import epoch_batches
from distill_ray.data import open_source
from distill_ray.job import Data, Split
from distill_ray.planning.bench import machine_name
from distill_ray.training import Dataset, load_dataset

FILES, BATCH, EPOCHS = 512, 64, 3
END = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
CASES: dict[str, tuple[Augmentation, list[v2.Transform]]] = {
    "random resized crop, flip": (
        RandomResizedCrop(),
        [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), *END],
    ),
    "crop of 224 from 256, flip": (
        CropFlip(),
        [v2.Resize(256), v2.RandomCrop(224), v2.RandomHorizontalFlip(), *END],
    ),
}


def write_files(folder: Path) -> None:
    """An image folder of two classes."""
    draw = np.random.default_rng(0)
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for split, count in (("train", FILES), ("test", 8)):
        for number in range(count):
            label = folder / split / "ab"[number % 2]
            label.mkdir(parents=True, exist_ok=True)
            photograph = photographs[number // 2 % 2]
            width, height = (500, 375) if number % 4 else (375, 420)
            left = int(draw.integers(0, photograph.width - width + 1))
            top = int(draw.integers(0, photograph.height - height + 1))
            cut = photograph.crop((left, top, left + width, top + height))
            cut.save(label / f"{number}.jpg", quality=90)


def decoded(folder: Path) -> Dataset:
    """The same files as a job has them."""
    source = open_source(str(folder))
    data = Data(
        name="photographs",
        digest=source.digest,
        location=str(folder),
        label=source.label,
        split=Split(validation=2),
        size=224,
        resize=256,
    )
    return load_dataset(data)


def speed(epoch: Callable[[], int]) -> float:
    """Images per second of CPU time."""
    begun = time.process_time()
    images = epoch()
    return images / (time.process_time() - begun)


def main() -> None:
    """Print a line for each case."""
    torch.set_num_threads(1)
    print(machine_name())
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["DISTILL_RAY_CACHE"] = f"{temporary}/cache"
        folder = Path(temporary, "photographs")
        write_files(folder)
        dataset = decoded(folder)
        for name, (augmentation, transforms) in CASES.items():
            files = ImageFolder(folder / "train", v2.Compose(transforms))
            loader = DataLoader(files, BATCH, shuffle=True)
            speeds = []
            for epoch in range(EPOCHS + 1):
                batches = epoch_batches(
                    augmentation,
                    dataset.whole_images,
                    dataset.labels,
                    rows=dataset.train,
                    seed=0,
                    epoch=epoch,
                    batch_size=BATCH,
                    device="cpu",
                    shape=dataset.image_shape[1:],
                )
                theirs = speed(lambda loader=loader: sum(len(images) for images, _ in loader))
                ours = speed(
                    lambda batches=batches: sum(len(batch.parts[0].images) for batch in batches)
                )
                speeds.append((theirs, ours, ours / theirs))
            theirs, ours, ratio = (
                statistics.median(each) for each in zip(*speeds[1:], strict=True)
            )
            print(
                f"{name:28} ImageFolder {theirs:.0f} images/s, ours {ours:.0f}, ratio {ratio:.1f}"
            )


if __name__ == "__main__":
    main()
