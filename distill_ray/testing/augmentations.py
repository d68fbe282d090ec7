"""What every augmentation must keep, whatever it does to the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_ray.augmentation import AUGMENTATIONS, Augmentation, Batch
from distill_ray.augmentation.epoch import epoch_batches
from distill_ray.augmentation.versions import Versions
from distill_ray.testing.cases import Conformance, settings_label

NUM_CLASSES = 7
IMAGES = np.random.default_rng(0).integers(0, 256, (45, 12, 10, 3), dtype=np.uint8)
LABELS = np.arange(45) % NUM_CLASSES


class AugmentationConformance(Conformance):
    """An augmentation is a pure function of (seed, epoch, position).

    `augmentations` must be registered; those whose draws are shared by a whole batch, if any, are
    in `per_batch` instead.
    """

    augmentations: ClassVar[Sequence[Augmentation]]
    per_batch: ClassVar[Sequence[Augmentation]] = ()
    argument = "augmentation"

    def cases(self) -> Sequence[Augmentation]:
        return [*self.augmentations, *self.per_batch]

    def label(self, case: Augmentation) -> str:
        return settings_label(case)

    def test_it_is_registered_under_its_name(self, augmentation: Augmentation) -> None:
        assert AUGMENTATIONS[augmentation.name] is type(augmentation)

    def test_the_same_address_gives_the_same_images(self, augmentation: Augmentation) -> None:
        assert same(batches_of(augmentation), batches_of(augmentation))

    def test_another_epoch_and_another_seed_give_others(self, augmentation: Augmentation) -> None:
        batches = batches_of(augmentation)
        assert not same(batches, batches_of(augmentation, epoch=3))
        assert not same(batches, batches_of(augmentation, seed=6))

    def test_a_version_is_the_same_for_every_seed(self, augmentation: Augmentation) -> None:
        versions = Versions(1, seed=3)
        if augmentation.by_batch:
            with pytest.raises(ValueError, match="versions"):
                batches_of(augmentation, versions=versions)
            return
        batches = batches_of(augmentation, versions=versions)
        others = batches_of(augmentation, versions=versions, seed=6, epoch=1, batch_size=20)
        for one, other in zip(_by_row(batches), _by_row(others), strict=True):
            assert torch.equal(one, other)

    @pytest.mark.parametrize("workers", [2, 3])
    def test_the_shares_of_the_workers_make_up_the_batch(
        self, augmentation: Augmentation, workers: int
    ) -> None:
        shares = [
            batches_of(augmentation, rank=rank, world_size=workers) for rank in range(workers)
        ]
        for step, batch in enumerate(batches_of(augmentation)):
            parts = [share[step] for share in shares]
            assert torch.equal(batch.positions, torch.cat([part.positions for part in parts]))
            assert same([batch], parts)
            total = sum(
                part.weight / workers * part.parts[0].images.sum().item() / len(part.positions)
                for part in parts
            )
            expected = batch.parts[0].images.sum().item() / len(batch.positions)
            assert total == pytest.approx(expected)

    def test_draws_per_image_do_not_depend_on_the_batch_size(
        self, augmentation: Augmentation
    ) -> None:
        if augmentation in self.per_batch:
            pytest.skip("draws are those of the batch")
        assert same(batches_of(augmentation), batches_of(augmentation, batch_size=9))

    def test_shapes_types_and_range(self, augmentation: Augmentation) -> None:
        for batch in batches_of(augmentation):
            assert len(batch.parts) == augmentation.part_count
            assert len(batch.parts[0].images) == len(batch.positions) * augmentation.copies
            assert batch.parts[0].copies == augmentation.copies
            assert (batch.parts[-1].pick is not None) == augmentation.picks
            assert batch.positions.dtype == torch.int64
            for part in batch.parts:
                assert part.images.dtype == torch.float32
                assert part.images.shape[1:] == (3, 12, 10)
                assert len(part.images) == len(part.labels)
                assert part.images.is_contiguous(memory_format=torch.channels_last)
                assert part.images.min() >= 0
                assert part.images.max() <= 1
                assert part.labels.dtype == torch.int64

    def test_targets_are_distributions_over_the_right_labels(
        self, augmentation: Augmentation
    ) -> None:
        for batch in batches_of(augmentation):
            assert batch.rows is not None
            labels = torch.from_numpy(LABELS)[batch.rows]
            for part in batch.parts:
                assert torch.equal(part.labels, labels.repeat(len(part.labels) // len(labels)))
                totals = part.targets(NUM_CLASSES).sum(1)
                assert torch.allclose(totals, torch.ones(len(part.labels)))

    @pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (9, 17))], ids=str)
    def test_any_size_grey_or_colour(
        self, augmentation: Augmentation, channels: int, size: tuple[int, int]
    ) -> None:
        images = np.random.default_rng(1).integers(0, 256, (6, *size, channels), dtype=np.uint8)
        for batch in batches_of(augmentation, images, batch_size=6):
            for part in batch.parts:
                assert part.images.shape[1:] == (channels, *size)

    def test_one_image_is_enough_for_a_batch(self, augmentation: Augmentation) -> None:
        batches = batches_of(augmentation, IMAGES[:9], batch_size=4)
        assert [len(batch.positions) for batch in batches] == [4, 4, 1]

    def test_settings_survive_the_way_through_json(self, augmentation: Augmentation) -> None:
        settings = augmentation.to_dict()
        assert AUGMENTATIONS[settings.pop("name")](**settings) == augmentation


def batches_of(
    augmentation: Augmentation, images: NDArray[np.uint8] = IMAGES, **options: Any
) -> list[Batch]:
    """The batches of an epoch; `options` are arguments of `epoch_batches`."""
    labels = LABELS if images is IMAGES else np.arange(len(images)) % NUM_CLASSES
    settings: dict[str, Any] = {
        "seed": 5,
        "epoch": 2,
        "batch_size": 16,
        "device": "cpu",
        "mean": [0.5] * images.shape[3],
    }
    return list(epoch_batches(augmentation, images, labels, **settings | options))


def same(first: Sequence[Batch], second: Sequence[Batch]) -> bool:
    """Whether the batches together hold the same images and targets in the same order."""
    return all(
        torch.equal(one, other) for one, other in zip(_joined(first), _joined(second), strict=True)
    )


def _by_row(batches: Sequence[Batch]) -> list[Tensor]:
    rows = torch.cat([batch.rows for batch in batches if batch.rows is not None])
    return [tensor[rows.argsort()] for tensor in _joined(batches)]


def _joined(batches: Sequence[Batch]) -> list[Tensor]:
    contents = [_content(batch) for batch in batches]
    return [torch.cat(tensors) for tensors in zip(*contents, strict=True)]


def _content(batch: Batch) -> list[Tensor]:
    """Everything that a batch has per image, by image first: several versions of an image are put
    beside each other.
    """
    tensors = []
    for part in batch.parts:
        for tensor in (part.images.contiguous(), part.targets(NUM_CLASSES)):
            versions = tensor.view(-1, len(batch.positions), *tensor.shape[1:])
            tensors.append(versions.transpose(0, 1))
    return tensors
