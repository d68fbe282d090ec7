"""Images that are kept larger than networks see them: training crops from all of them, evaluation
takes the middle, and the exported model the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distill_ray.augmentation import (
    AUGMENTATIONS,
    Augmentation,
    Crop,
    CropFlip,
    Identity,
    RandomResizedCrop,
)
from distill_ray.augmentation.epoch import epoch_batches
from distill_ray.data import open_source
from distill_ray.data.pixels import PixelsOnDisk, middle
from distill_ray.export.images import read_image
from distill_ray.job import Data, Split
from distill_ray.testing.jobs import CPU
from distill_ray.tracking.preprocessing import ImagePreparation
from distill_ray.training import load_dataset, load_network, predict
from distill_ray.training.dataset import load_split
from support.small import finish, tiny_job

WHOLE = np.random.default_rng(0).integers(1, 256, (24, 15, 14, 3), dtype=np.uint8)
SHAPE = (10, 10)


def shown(augmentation: Augmentation, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """The images of an epoch, uint8, and the whole images in the same order."""
    settings: dict[str, Any] = {"seed": 1, "epoch": 1, "batch_size": 8, "device": "cpu"}
    settings |= {"mean": (0.5,) * 3, "shape": SHAPE}
    labels = np.zeros(len(WHOLE), np.int64)
    batches = list(epoch_batches(augmentation, WHOLE, labels, **settings | options))
    images = torch.cat([batch.parts[0].images for batch in batches]).mul(255).round()
    rows = torch.cat([batch.rows for batch in batches if batch.rows is not None])
    return images.permute(0, 2, 3, 1).numpy().astype(np.uint8), WHOLE[rows.numpy()]


def test_without_a_crop_the_middle_is_shown() -> None:
    images, whole = shown(Identity())
    np.testing.assert_array_equal(images, whole[:, 2:12, 2:12])
    cropped, _ = shown(Crop(padding=0))
    np.testing.assert_array_equal(cropped, images)


def test_a_crop_is_any_window_and_has_no_border() -> None:
    images, whole = shown(Crop())
    windows = np.lib.stride_tricks.sliding_window_view(whole, SHAPE, axis=(1, 2))
    alike = (windows == images.transpose(0, 3, 1, 2)[:, None, None]).all((3, 4, 5))
    places = [tuple(np.argwhere(each)[0]) for each in alike]
    assert alike.sum() == len(images)
    assert len(set(places)) > 10
    assert {row for row, _ in places} == set(range(6))
    assert {column for _, column in places} == set(range(5))


def test_a_resized_crop_may_be_the_whole_image() -> None:
    images, whole = shown(RandomResizedCrop(smallest=1.0, ratio=1.0, flip=False))
    reached = np.stack([np.asarray(Image.fromarray(each[:14]).resize((10, 10))) for each in whole])
    middles = whole[:, 2:12, 2:12]
    assert np.abs(images.astype(int) - middles).mean() > np.abs(images.astype(int) - reached).mean()


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "additional"])
def test_every_augmentation_shows_the_size_that_networks_see(name: str) -> None:
    """And the same images whatever the batches."""
    augmentation = AUGMENTATIONS[name]()
    images, _ = shown(augmentation)
    assert images.shape[1:3] == SHAPE
    if not augmentation.by_batch:
        again, _ = shown(augmentation, batch_size=5)
        np.testing.assert_array_equal(images, again)


def test_a_shape_beyond_the_images_is_refused() -> None:
    with pytest.raises(ValueError, match="shape must be within"):
        shown(Identity(), shape=(16, 10))


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Noise of several sizes in an image folder: 12 images to train on and 4 to test."""
    monkeypatch.setenv("DISTILL_RAY_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(3)
    for split, count in (("train", 6), ("test", 2)):
        for label in ("a", "b"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                size = (20 + 3 * number, 26, 3) if number % 2 else (24, 18 + number, 3)
                pixels = draw.integers(0, 256, size, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "images"


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_a_job_validates_tests_and_exports_the_middle(photographs: Path, memory_gb: float) -> None:
    source = open_source(str(photographs))
    data = Data(
        name="photographs",
        digest=source.digest,
        location=str(photographs),
        label=source.label,
        split=Split(validation=4),
        size=12,
        resize=16,
        memory_gb=memory_gb,
    )
    dataset, test = load_dataset(data), load_split(data, "test")
    assert dataset.image_shape == (3, 12, 12)
    assert dataset.whole_images.shape[1:3] == (16, 16)
    assert isinstance(dataset.images, PixelsOnDisk) == (memory_gb == 0)
    rows = np.arange(12)
    np.testing.assert_array_equal(dataset.images[rows], dataset.whole_images[rows][:, 2:14, 2:14])
    assert test.images.shape == (4, 12, 12, 3)

    job = tiny_job(data, augmentation=CropFlip(), batch_size=4)
    _, outcome = finish(job, dataset)
    network = load_network(job, outcome.weights, dataset)
    again = predict(network, dataset.images, dataset.validation, worker=CPU)
    np.testing.assert_allclose(again, outcome.log_probabilities, atol=1e-5)

    steps = ImagePreparation(12, 12, 3, fit=True, resize=16)
    files = sorted((photographs / "test").glob("*/*.png"))
    read = np.stack([read_image(path, steps) for path in files])
    np.testing.assert_array_equal(read, test.images[np.arange(4)])
    assert data.identity["resize"] == 16
    assert middle(read, 6).shape == (4, 6, 6, 3)
