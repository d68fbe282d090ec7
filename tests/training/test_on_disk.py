"""Images that stay on the disk train to the same result as images in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distill_ray.augmentation import AUGMENTATIONS, Additional, Augmentation, CutMix
from distill_ray.augmentation.augmentation import Part
from distill_ray.augmentation.epoch import AHEAD, epoch_batches
from distill_ray.data.pixels import PixelsOnDisk
from distill_ray.job import Data, Job, Recipe
from distill_ray.testing.jobs import train_to_end
from distill_ray.training import Dataset


@pytest.fixture
def on_disk(small_dataset: Dataset, tmp_path: Path) -> Dataset:
    """The same images, on the disk."""
    np.save(tmp_path / "images.npy", small_dataset.images)
    return replace(small_dataset, images=PixelsOnDisk(tmp_path / "images.npy"))


@pytest.mark.parametrize(
    "augmentation", [CutMix(), Additional()], ids=lambda augmentation: augmentation.name
)
def test_weights_are_the_same_also_after_an_interruption(
    augmentation: Augmentation, small_dataset: Dataset, on_disk: Dataset, small_data: Data
) -> None:
    recipe = Recipe(
        model="wrn-10-1",
        augmentation=augmentation,
        epochs=2,
        batch_size=16,
        lr=0.05,
    )
    job = Job(recipe=recipe, data=small_data, seed=3)
    records, expected = train_to_end(job, small_dataset)
    saved: list[bytes] = []
    of_disk, outcome = train_to_end(job, on_disk, save=lambda pack: saved.append(pack()))
    resumed, again = train_to_end(job, on_disk, saved=saved[0])
    losses = [[record["train/loss"] for record in run] for run in (records, of_disk, resumed)]
    assert losses[0] == losses[1] == losses[2]
    for one in (outcome, again):
        assert all(
            torch.equal(one.weights[name], weight) for name, weight in expected.weights.items()
        )
        np.testing.assert_array_equal(one.log_probabilities, expected.log_probabilities)


@pytest.mark.parametrize(
    "name", sorted(name for name in AUGMENTATIONS if name not in ("autoaugment", "augmix"))
)
@pytest.mark.parametrize("world_size", [1, 2])
def test_every_worker_gets_its_share_of_every_augmentation(
    name: str, world_size: int, small_dataset: Dataset, on_disk: Dataset
) -> None:
    def parts(dataset: Dataset, rank: int) -> list[Part]:
        batches = epoch_batches(
            AUGMENTATIONS[name](),
            dataset.images,
            dataset.labels,
            rows=dataset.train,
            mean=dataset.mean,
            seed=1,
            epoch=2,
            batch_size=16,
            device="cpu",
            rank=rank,
            world_size=world_size,
        )
        return [part for batch in batches for part in batch.parts]

    for rank in range(world_size):
        expected, found = parts(small_dataset, rank), parts(on_disk, rank)
        assert len(expected) == len(found) > 0
        for one, other in zip(expected, found, strict=True):
            assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def test_rows_are_fetched_some_batches_ahead(
    on_disk: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[int] = []
    monkeypatch.setattr(PixelsOnDisk, "will_read", lambda self, rows: fetched.extend(rows.tolist()))
    batches = epoch_batches(
        AUGMENTATIONS["identity"](),
        on_disk.images,
        on_disk.labels,
        rows=on_disk.train,
        seed=1,
        epoch=2,
        batch_size=5,
        device="cpu",
    )
    first = next(batches)
    assert first.rows is not None
    # Those ahead, and its own again when they are read
    assert len(fetched) == 5 * (AHEAD + 1) + len(first.rows)
    later = next(batches).rows
    assert later is not None and set(later.tolist()) <= set(fetched[: 5 * AHEAD])
