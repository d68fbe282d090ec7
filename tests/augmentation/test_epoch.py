"""The order of an epoch, the shares of the workers, and what the arguments must satisfy."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from distill_ray.augmentation import Augmentation, Flip, Identity
from distill_ray.augmentation.epoch import epoch_batches, share, steps_per_epoch

IMAGES = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1).repeat(8, 1).repeat(8, 2)
LABELS = np.arange(50)
IDENTITY = Identity()


def test_every_image_comes_once_with_its_label() -> None:
    batches = list(
        epoch_batches(Identity(), IMAGES, LABELS, seed=0, epoch=0, batch_size=16, device="cpu")
    )
    assert [len(batch.positions) for batch in batches] == [16, 16, 16, 2]
    assert [batch.step for batch in batches] == [0, 1, 2, 3]
    labels = torch.cat([batch.parts[0].labels for batch in batches])
    pixels = torch.cat([batch.parts[0].images[:, 0, 0, 0] for batch in batches])
    assert sorted(labels.tolist()) == list(range(50))
    assert labels.tolist() != list(range(50))
    assert torch.equal(pixels, labels / 255)
    assert torch.equal(
        labels, torch.cat([batch.rows for batch in batches if batch.rows is not None])
    )


def test_rows_choose_the_training_split() -> None:
    rows = np.arange(1, 50, 3)
    batches = list(
        epoch_batches(
            Identity(), IMAGES, LABELS, rows=rows, seed=0, epoch=0, batch_size=8, device="cpu"
        )
    )
    assert [len(batch.positions) for batch in batches] == [8, 8, 1]
    labels = torch.cat([batch.parts[0].labels for batch in batches])
    assert sorted(labels.tolist()) == rows.tolist()
    assert torch.equal(
        labels, torch.cat([batch.rows for batch in batches if batch.rows is not None])
    )


def test_drop_last_leaves_the_small_batch_out() -> None:
    batches = list(
        epoch_batches(
            Identity(), IMAGES, LABELS, seed=0, epoch=0, batch_size=16, device="cpu", drop_last=True
        )
    )
    assert [len(batch.positions) for batch in batches] == [16, 16, 16]


def test_draws_per_image_do_not_depend_on_the_batch_size() -> None:
    def images(batch_size: int) -> torch.Tensor:
        rows = np.arange(50 * 64, dtype=np.uint8).reshape(50, 8, 8, 1)
        batches = epoch_batches(
            Flip(), rows, LABELS, seed=0, epoch=0, batch_size=batch_size, device="cpu"
        )
        return torch.cat([batch.parts[0].images for batch in batches])

    assert torch.equal(images(50), images(7))


def test_the_order_is_pinned_for_ever() -> None:
    batch = next(
        epoch_batches(Identity(), IMAGES, LABELS, seed=3, epoch=1, batch_size=8, device="cpu")
    )
    assert batch.parts[0].labels.tolist() == [24, 18, 41, 8, 27, 7, 49, 46]


def test_a_memory_mapped_read_only_array_gives_no_warning(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = next(
            epoch_batches(Identity(), mapped, LABELS, seed=0, epoch=0, batch_size=50, device="cpu")
        )
    again = next(
        epoch_batches(
            Identity(),
            torch.from_numpy(IMAGES),
            torch.from_numpy(LABELS),
            seed=0,
            epoch=0,
            batch_size=50,
            device="cpu",
        )
    )
    assert torch.equal(batch.parts[0].images, again.parts[0].images)


def test_shares_differ_by_at_most_one_image() -> None:
    shares = [share(10, 27, rank, 4) for rank in range(4)]
    assert shares == [(10, 14), (14, 18), (18, 22), (22, 27)]


@pytest.mark.parametrize(
    ("images", "size", "drop", "steps"),
    [(50, 16, False, 4), (50, 16, True, 3), (48, 16, False, 3), (5, 16, True, 0)],
)
def test_steps_per_epoch(images: int, size: int, drop: bool, steps: int) -> None:
    assert steps_per_epoch(images, size, drop) == steps


def test_wrong_arguments_are_refused_by_name() -> None:
    def begin(
        images: NDArray[Any],
        labels: NDArray[Any],
        augmentation: Augmentation = IDENTITY,
        **options: Any,
    ) -> object:
        settings: dict[str, Any] = {
            "seed": 0,
            "epoch": 0,
            "batch_size": 16,
            "device": "cpu",
        } | options
        return epoch_batches(augmentation, images, labels, **settings)

    with pytest.raises(ValueError, match="images must be uint8 or float32"):
        begin(IMAGES.astype(np.float64), LABELS)
    with pytest.raises(ValueError, match="images must be uint8 \\(N"):
        begin(IMAGES.astype(np.float32), LABELS, Flip())
    with pytest.raises(ValueError, match=r"labels must be \(50,\)"):
        begin(IMAGES, LABELS[:49])
    with pytest.raises(ValueError, match="last of 2: too few for 3 workers; drop_last"):
        begin(IMAGES, LABELS, world_size=3)
    with pytest.raises(ValueError, match="into 0 batches"):
        begin(IMAGES, LABELS, batch_size=64, drop_last=True)


def test_real_numbers_and_real_labels_stay_as_they_are() -> None:
    numbers = np.linspace(-3, 3, 20, dtype=np.float32).reshape(10, 1, 1, 2)
    targets = np.linspace(0, 1, 10)
    (batch,) = epoch_batches(
        IDENTITY, numbers, targets, seed=0, epoch=1, batch_size=10, device="cpu"
    )
    (part,) = batch.parts
    assert part.images.shape == (10, 2, 1, 1) and part.labels.dtype == torch.float32
    np.testing.assert_array_equal(part.images.flatten(1).numpy(), numbers[batch.rows.numpy(), 0, 0])
    np.testing.assert_allclose(part.labels.numpy(), targets[batch.rows.numpy()], rtol=1e-6)
