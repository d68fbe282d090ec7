"""x and x': the first part is the usual augmentation, the second is made of its very images."""

from typing import Any

import numpy as np
import pytest
import torch

from distill_ray.augmentation import Additional, Augmentation, Batch, CropFlip
from distill_ray.augmentation.epoch import epoch_batches

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3), dtype=np.uint8)


def first(augmentation: Augmentation, seed: int = 0, batch_size: int = 32) -> Batch:
    return next(
        epoch_batches(
            augmentation,
            PIXELS,
            np.arange(32),
            seed=seed,
            epoch=0,
            batch_size=batch_size,
            device="cpu",
            mean=(0.5,) * 3,
        )
    )


SCHEMES = ["identity", "flip", "crop-flip", "cutout", "autoaugment", "mixup", "cutmix"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_first_part_is_the_usual_augmentation(scheme: Any) -> None:
    assert torch.equal(
        first(Additional(scheme=scheme)).parts[0].images, first(CropFlip()).parts[0].images
    )


def test_identity_is_a_copy() -> None:
    standard, extra = first(Additional(scheme="identity")).parts
    assert torch.equal(standard.images, extra.images)


def test_flip_turns_the_whole_batch_or_none_of_it() -> None:
    seen = set()
    for seed in range(12):
        standard, extra = first(Additional(scheme="flip"), seed).parts
        flipped = torch.equal(extra.images, standard.images.flip(3))
        assert flipped or torch.equal(extra.images, standard.images)
        seen.add(flipped)
    assert seen == {True, False}


def test_flip_per_image_turns_half_of_it() -> None:
    standard, extra = first(Additional(scheme="flip", per="image")).parts
    same = (extra.images == standard.images).flatten(1).all(1)
    assert 6 < same.sum() < 26
    assert torch.equal(extra.images[~same], standard.images[~same].flip(3))


def test_crop_flip_shifts_the_whole_batch_by_one_offset() -> None:
    for seed in range(4):
        standard, extra = first(Additional(scheme="crop-flip", padding=2), seed).parts
        padded = torch.nn.functional.pad(standard.images, (2, 2, 2, 2))
        windows = [padded[:, :, y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
        assert any(
            torch.equal(extra.images, image)
            for window in windows
            for image in (window, window.flip(3))
        )


def test_cutout_makes_one_hole_for_all() -> None:
    standard, extra = first(Additional(scheme="cutout", size=6)).parts
    changed = (standard.images != extra.images).any(1)
    assert (extra.images.movedim(1, 3)[changed] == 0.5).all()
    hole = changed.any(0)
    assert hole.sum() <= 36
    assert (extra.images[:, :, hole] == 0.5).all()


@pytest.mark.parametrize("scheme", ["mixup", "cutmix"])
def test_mixing_is_among_the_images_of_the_first_part(scheme: Any) -> None:
    standard, extra = first(Additional(scheme=scheme)).parts
    assert extra.partner_labels is not None
    assert extra.label_weight is not None
    place = {label: i for i, label in enumerate(standard.labels.tolist())}
    partners = standard.images[[place[label] for label in extra.partner_labels.tolist()]]
    if scheme == "mixup":
        weight = extra.label_weight.view(-1, 1, 1, 1)
        assert torch.allclose(extra.images, weight * standard.images + (1 - weight) * partners)
    else:
        assert ((extra.images == standard.images) | (extra.images == partners)).all()
        pasted = (extra.images != standard.images).any(1).any(0)
        assert pasted.float().mean() == pytest.approx(1 - extra.label_weight[0].item(), abs=1e-6)


def test_a_pool_is_made_of_independent_goes() -> None:
    _, extra = first(Additional(pick="teacher-entropy", pool=3)).parts
    goes = extra.images.unflatten(0, (3, 32))
    assert not torch.equal(goes[0], goes[1])
    assert not torch.equal(goes[1], goes[2])
    assert extra.label_weight is not None
    assert len(set(extra.label_weight.tolist())) == 3
    assert extra.pick is not None
    assert (extra.pick.criterion, extra.pick.total, extra.pick.start, extra.pick.stop) == (
        "teacher-entropy",
        32,
        0,
        32,
    )


def test_each_worker_picks_as_many_as_it_has() -> None:
    choices = []
    for rank in range(3):
        batches = epoch_batches(
            Additional(pick="kl"),
            PIXELS,
            np.arange(32),
            seed=0,
            epoch=0,
            batch_size=32,
            device="cpu",
            rank=rank,
            world_size=3,
        )
        choice = next(batches).parts[1].pick
        assert choice is not None
        choices.append((choice.total, choice.start, choice.stop))
    assert choices == [(32, 0, 10), (32, 10, 21), (32, 21, 32)]
