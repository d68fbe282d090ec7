"""Versions: which one an epoch shows, and that a version is one of any number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill_ray.augmentation import CutMix, Mixup
from distill_ray.augmentation.epoch import epoch_batches, version_batches
from distill_ray.augmentation.versions import Versions

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
ROWS = np.arange(5, 29)


def test_every_version_is_seen_before_one_comes_back() -> None:
    versions = Versions(4)
    orders = []
    for seed in range(6):
        shown = [versions.shown_in(epoch, seed) for epoch in range(1, 13)]
        rounds = [tuple(shown[start : start + 4]) for start in (0, 4, 8)]
        assert all(sorted(each) == [1, 2, 3, 4] for each in rounds)
        orders += rounds
    assert len(set(orders)) > 6, "the order is that of seed and round"
    assert versions.shown_to(4, [0]) == [1, 2, 3, 4]
    assert versions.shown_to(1, [0, 1, 2, 3]) == sorted({versions.shown_in(1, n) for n in range(4)})


def test_a_version_is_the_same_image_with_the_same_partner_of_any_number_and_seed() -> None:
    """Whatever seed, epoch, batch size, worker and number of versions."""
    settings = {"rows": ROWS, "device": "cpu"}
    expected: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    arguments = (CutMix(), PIXELS, np.arange(30))
    for batch in version_batches(*arguments, version=2, seed=9, batch_size=7, **settings):
        (part,) = batch.parts
        assert batch.rows is not None and part.partner_labels is not None
        for place, row in enumerate(batch.rows.tolist()):
            expected[row] = part.images[place], part.partner_labels[place]
    assert sorted(expected) == ROWS.tolist()
    for count, seed in ((2, 0), (3, 1)):
        versions = Versions(count, seed=9)
        (epoch,) = (each for each in range(1, count + 1) if versions.shown_in(each, seed) == 2)
        for batch in epoch_batches(
            *arguments,
            seed=seed,
            epoch=epoch,
            batch_size=10,
            rank=1,
            world_size=2,
            versions=versions,
            **settings,
        ):
            (part,) = batch.parts
            assert batch.rows is not None and part.partner_labels is not None
            for place, row in enumerate(batch.rows.tolist()):
                images, partner = expected[row]
                assert torch.equal(part.images[place], images)
                assert part.partner_labels[place] == partner


def test_versions_of_the_study_are_refused_by_an_augmentation_that_draws_once_per_batch() -> None:
    with pytest.raises(ValueError, match="versions: augmentation mixup draws once per batch"):
        epoch_batches(
            Mixup(),
            PIXELS,
            np.arange(30),
            seed=0,
            epoch=1,
            batch_size=8,
            device="cpu",
            versions=Versions(2),
        )
