"""Mixup and CutMix: the arithmetic, who is mixed with whom, and with what weights."""

from typing import Any

import numpy as np
import pytest
import torch

from distill_ray.augmentation import Augmentation, Batch, CutMix, Draws, Mixup
from distill_ray.augmentation.epoch import epoch_batches
from distill_ray.augmentation.kernels.boxes import inside
from distill_ray.augmentation.kernels.mixing import batch_order, mixup

PIXELS = np.broadcast_to(np.arange(100, dtype=np.uint8).reshape(-1, 1, 1, 1), (100, 8, 8, 1))


def run(augmentation: Augmentation, **options: Any) -> list[Batch]:
    settings: dict[str, Any] = {"seed": 1, "epoch": 0, "batch_size": 50, "device": "cpu"} | options
    return list(epoch_batches(augmentation, PIXELS, np.arange(100), **settings))


def test_mixup_of_numbers() -> None:
    images = torch.tensor([[1, 2], [3, -1], [0, 5]], dtype=torch.float64)
    mixed = mixup(images, images[[2, 0, 1]], torch.full((3,), 0.3, dtype=torch.float64))
    assert mixed.flatten().tolist() == pytest.approx([0.3, 4.1, 1.6, 1.1, 2.1, 0.8], abs=1e-12)
    pair = mixup(
        torch.tensor([1.5], dtype=torch.float64),
        torch.tensor([-0.5], dtype=torch.float64),
        torch.tensor([0.3]),
    )
    assert pair.item() == pytest.approx(0.1, abs=1e-7)


def test_cutmix_of_a_small_image() -> None:
    first = torch.arange(16.0).view(1, 1, 4, 4)
    mixed = torch.where(inside(torch.tensor([[1, 3, 0, 2]]), 4, 4), first + 100, first)
    assert mixed[0, 0].tolist() == [
        [0, 1, 2, 3],
        [104, 105, 6, 7],
        [108, 109, 10, 11],
        [12, 13, 14, 15],
    ]


@pytest.mark.parametrize("per", ["image", "batch"])
def test_mixup_mixes_images_and_labels_alike(per: Any) -> None:
    for batch in run(Mixup(per=per, padding=0)):
        (part,) = batch.parts
        assert part.partner_labels is not None
        assert part.label_weight is not None
        mixed = part.label_weight * part.labels + (1 - part.label_weight) * part.partner_labels
        assert torch.allclose(part.images[:, 0, 0, 0] * 255, mixed, atol=1e-4)
        assert len(set(part.label_weight.tolist())) == (50 if per == "image" else 1)


@pytest.mark.parametrize("per", ["image", "batch"])
def test_cutmix_mixes_labels_by_area(per: Any) -> None:
    for batch in run(CutMix(per=per, padding=0)):
        (part,) = batch.parts
        assert part.partner_labels is not None
        assert part.label_weight is not None
        pixels = (part.images[:, 0] * 255).round().flatten(1)
        own = part.labels.unsqueeze(1)
        assert ((pixels == own) | (pixels == part.partner_labels.unsqueeze(1))).all()
        different = part.labels != part.partner_labels
        assert torch.allclose(
            (pixels == own).float().mean(1)[different], part.label_weight[different]
        )


def test_per_batch_partners_come_from_the_batch_and_per_image_from_everywhere() -> None:
    for augmentation in (Mixup(), CutMix(per="batch")):
        for batch in run(augmentation):
            (part,) = batch.parts
            assert part.partner_labels is not None
            assert sorted(part.partner_labels.tolist()) == sorted(part.labels.tolist())
    partners = torch.cat(
        [
            batch.parts[0].partner_labels
            for batch in run(CutMix())
            if batch.parts[0].partner_labels is not None
        ]
    )
    # 100 draws of 100 with replacement: 63 different ones
    assert 50 < len(set(partners.tolist())) < 80


def test_a_partner_has_augmentation_of_its_own() -> None:
    ramp = np.arange(8, dtype=np.uint8).reshape(1, 1, 8, 1).repeat(8, 1)
    augmentation = Mixup(per="image", padding=0)
    epochs = [
        next(epoch_batches(augmentation, ramp, [0], seed=seed, epoch=0, batch_size=1, device="cpu"))
        for seed in range(200)
    ]
    slopes = torch.cat([epoch.parts[0].images for epoch in epochs]).mul(255).diff(dim=3)[:, 0, 0, 0]
    # The image meets itself, and half of the time mirrored
    assert 0.35 < (slopes.abs() < 0.999).float().mean() < 0.65


def test_cutmix_never_mixes_an_image_with_itself_and_mixup_may() -> None:
    itself = []
    for seed in range(30):
        draws = Draws(seed, 0)
        assert (batch_order(draws, "partner", 10, 14, meets_itself=False) != np.arange(4)).all()
        itself.append(
            (batch_order(draws, "partner", 10, 14, meets_itself=True) == np.arange(4)).any()
        )
    assert 10 < sum(itself) < 27  # 15 of 24 orders keep a place


def test_orders_without_a_fixed_place_are_equally_frequent() -> None:
    orders = [
        tuple(batch_order(Draws(seed, 0), "partner", 0, 4, meets_itself=False).tolist())
        for seed in range(900)
    ]
    found, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(found) == 9
    assert ((counts - 100) ** 2 / 100).sum() < 28  # 8 degrees of freedom: 28 at 0.0005


def test_alpha_decides_how_even_the_mixing_is() -> None:
    def spread(alpha: float) -> float:
        weights = [batch.parts[0].label_weight for batch in run(Mixup(alpha=alpha, per="image"))]
        return float(torch.cat([weight for weight in weights if weight is not None]).std())

    assert spread(20.0) < 0.12 < 0.25 < spread(1.0) < 0.33 < spread(0.2)
