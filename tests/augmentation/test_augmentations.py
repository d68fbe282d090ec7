"""What every augmentation must keep, whatever it does to the images."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from distill_ray.augmentation import (
    AUGMENTATIONS,
    Additional,
    Augmentation,
    AugMix,
    AutoAugment,
    Batch,
    CropFlip,
    CutMix,
    Cutout,
    Mixup,
    Rotation,
)
from distill_ray.augmentation.epoch import epoch_batches

IMAGES = np.random.default_rng(0).integers(0, 256, (45, 12, 10, 3), dtype=np.uint8)
LABELS = np.arange(45) % 7

PER_IMAGE: list[Augmentation] = [
    *(
        augmentation()
        for name, augmentation in AUGMENTATIONS.items()
        if name not in ("mixup", "additional")
    ),
    Mixup(per="image", alpha=0.3),
    CutMix(alpha=0.5, flip=False, padding=0, rotation=30),
    Cutout(holes=2, size=3),
    AutoAugment(policy="imagenet"),
    AugMix(consistency=True, rotation=10, depth=2, chains=1),
    *(
        Additional(scheme=scheme, per="image")
        for scheme in ("flip", "crop-flip", "autoaugment", "mixup", "cutmix")
    ),
]
PER_BATCH: list[Augmentation] = [
    Mixup(),
    CutMix(per="batch"),
    Cutout(per="batch"),
    AutoAugment(per="batch"),
    *(
        Additional(scheme=scheme)
        for scheme in ("identity", "flip", "crop-flip", "cutout", "autoaugment", "mixup", "cutmix")
    ),
    Additional(pick="kl", pool=3),
]


def named(augmentation: Augmentation) -> str:
    changed = [
        f"{name}={value}"
        for name, value in augmentation.to_dict().items()
        if value != type(augmentation)().to_dict()[name]
    ]
    return " ".join([augmentation.name, *changed])


every_augmentation = pytest.mark.parametrize("augmentation", PER_IMAGE + PER_BATCH, ids=named)


def run(
    augmentation: Augmentation, images: NDArray[np.uint8] = IMAGES, **options: Any
) -> list[Batch]:
    labels = LABELS if images is IMAGES else np.arange(len(images)) % 7
    settings: dict[str, Any] = {
        "seed": 5,
        "epoch": 2,
        "batch_size": 16,
        "device": "cpu",
        "mean": [0.5] * images.shape[3],
    } | options
    return list(epoch_batches(augmentation, images, labels, **settings))


def content(batch: Batch, num_classes: int = 7) -> list[torch.Tensor]:
    """Everything that a batch has per image, by image first: several versions of an image are put
    beside each other.
    """
    return [
        tensor.view(-1, len(batch.positions), *tensor.shape[1:]).transpose(0, 1)
        for part in batch.parts
        for tensor in (part.images.contiguous(), part.targets(num_classes))
    ]


def joined(batches: list[Batch]) -> list[torch.Tensor]:
    return [
        torch.cat(tensors) for tensors in zip(*(content(batch) for batch in batches), strict=True)
    ]


def same(first: list[Batch], second: list[Batch]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(joined(first), joined(second), strict=True))


def test_every_registered_augmentation_is_tested() -> None:
    assert {augmentation.name for augmentation in PER_IMAGE + PER_BATCH} >= set(AUGMENTATIONS)


@every_augmentation
def test_the_same_address_gives_the_same_images(augmentation: Augmentation) -> None:
    assert same(run(augmentation), run(augmentation))


@every_augmentation
def test_another_epoch_and_another_seed_give_others(augmentation: Augmentation) -> None:
    batches = run(augmentation)
    assert not same(batches, run(augmentation, epoch=3))
    assert not same(batches, run(augmentation, seed=6))


@pytest.mark.parametrize("workers", [2, 3])
@every_augmentation
def test_the_shares_of_the_workers_make_up_the_batch(
    augmentation: Augmentation, workers: int
) -> None:
    shares = [run(augmentation, rank=rank, world_size=workers) for rank in range(workers)]
    for step, batch in enumerate(run(augmentation)):
        of_workers = [share[step] for share in shares]
        assert torch.equal(batch.positions, torch.cat([share.positions for share in of_workers]))
        assert same([batch], of_workers)
        total = sum(
            share.weight / workers * share.parts[0].images.sum() / len(share.positions)
            for share in of_workers
        )
        assert total == pytest.approx(batch.parts[0].images.sum() / len(batch.positions))


@pytest.mark.parametrize("augmentation", PER_IMAGE, ids=named)
def test_draws_per_image_do_not_depend_on_the_batch_size(augmentation: Augmentation) -> None:
    assert same(run(augmentation), run(augmentation, batch_size=9))


@pytest.mark.parametrize("augmentation", PER_BATCH, ids=named)
def test_draws_per_batch_differ_between_batches(augmentation: Augmentation) -> None:
    images = np.broadcast_to(np.arange(120, dtype=np.uint8).reshape(12, 10, 1) * 2, (45, 12, 10, 3))
    images = np.where(np.arange(45).reshape(-1, 1, 1, 1) % 2, images, 255 - images)
    means = [part.images.mean() for batch in run(augmentation, images) for part in batch.parts]
    assert len(set(means)) > 1


GOLDEN = {
    "identity": 8382294701,
    "flip": 8382314407,
    "crop": 7373846024,
    "crop-flip": 7373757993,
    "rotation": 7148095996,
    "cutout": 7406790070,
    "autoaugment": 6905466241,
    "augmix": 7091731510,
    "cutmix": 7378506958,
    "mixup alpha=0.3 per=image": 7385326731,
    "cutmix padding=0 flip=False rotation=30 alpha=0.5": 7569076565,
    "cutout size=3 holes=2": 7419859819,
    "autoaugment policy=imagenet": 6915645806,
    "augmix rotation=10 chains=1 depth=2 consistency=True": 21346561031,
    "additional scheme=flip per=image": 14831429665,
    "additional scheme=crop-flip per=image": 14184255894,
    "additional scheme=autoaugment per=image": 14401672977,
    "additional scheme=mixup per=image": 14845104509,
    "additional per=image": 14872315965,
    "mixup": 7392048918,
    "cutmix per=batch": 7393396234,
    "cutout per=batch": 7409603542,
    "autoaugment per=batch": 6158936929,
    "additional scheme=identity": 14831518085,
    "additional scheme=flip": 14830563417,
    "additional scheme=crop-flip": 14345471486,
    "additional scheme=cutout": 14839127902,
    "additional scheme=autoaugment": 12480912030,
    "additional scheme=mixup": 14823133498,
    "additional": 14833571885,
    "additional pick=kl pool=3": 29560032635,
}


@pytest.mark.parametrize("augmentation", PER_IMAGE + PER_BATCH, ids=named)
def test_the_images_are_pinned_for_ever(augmentation: Augmentation) -> None:
    images = (
        torch.cat([part.images for batch in run(augmentation) for part in batch.parts])
        .mul(255)
        .round()
        .long()
        .flatten()
    )
    assert (
        int((images * (torch.arange(len(images)) % 8191 + 1)).sum()) == GOLDEN[named(augmentation)]
    )


@every_augmentation
def test_shapes_types_and_range(augmentation: Augmentation) -> None:
    for batch in run(augmentation):
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


@every_augmentation
def test_targets_are_distributions_over_the_right_labels(augmentation: Augmentation) -> None:
    for batch in run(augmentation):
        assert batch.rows is not None
        for part in batch.parts:
            labels = torch.from_numpy(LABELS)[batch.rows]
            assert torch.equal(part.labels, labels.repeat(len(part.labels) // len(labels)))
            assert torch.allclose(part.targets(7).sum(1), torch.ones(len(part.labels)))


@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (9, 17))], ids=str)
@every_augmentation
def test_any_size_grey_or_colour(
    augmentation: Augmentation, channels: int, size: tuple[int, int]
) -> None:
    images = np.random.default_rng(1).integers(0, 256, (6, *size, channels), dtype=np.uint8)
    for batch in run(augmentation, images, batch_size=6):
        assert all(part.images.shape[1:] == (channels, *size) for part in batch.parts)


@every_augmentation
def test_one_image_is_enough_for_a_batch(augmentation: Augmentation) -> None:
    assert [len(batch.positions) for batch in run(augmentation, IMAGES[:9], batch_size=4)] == [
        4,
        4,
        1,
    ]


@every_augmentation
def test_settings_survive_the_way_through_json(augmentation: Augmentation) -> None:
    values = augmentation.to_dict()
    assert AUGMENTATIONS[values.pop("name")](**values) == augmentation


@pytest.mark.parametrize(
    ("augmentation", "shape", "reason"),
    [
        (
            CropFlip(padding=10),
            (3, 12, 10),
            "padding must be below the side of the images, 10, found 10",
        ),
        (Rotation(padding=12), (3, 12, 16), "padding must be below"),
        (Cutout(size=11), (3, 12, 10), "size must be at most the side of the images, 10, found 11"),
        (Additional(scheme="cutout", size=11), (3, 12, 10), "size must be at most"),
        (
            AutoAugment(),
            (4, 12, 10),
            "autoaugment changes colours, so images must have 1 or 3 channels, found 4",
        ),
        (Additional(scheme="autoaugment"), (2, 12, 10), "autoaugment changes colours"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_with_the_reason(
    augmentation: Augmentation, shape: tuple[int, int, int], reason: str
) -> None:
    channels, height, width = shape
    with pytest.raises(ValueError, match=reason):
        augmentation.check_images(channels, height, width)
    with pytest.raises(ValueError, match=reason):
        run(augmentation, np.zeros((20, height, width, channels), np.uint8))


@pytest.mark.parametrize(
    ("augmentation", "settings", "reason"),
    [
        (CropFlip, {"padding": -1}, "padding must be at least 0"),
        (Cutout, {"holes": 0}, "holes must be at least 1"),
        (Mixup, {"alpha": 0.0}, "alpha must be above 0"),
        (CutMix, {"per": "pixel"}, "per must be one of 'image', 'batch'"),
        (AugMix, {"severity": 11.0}, "severity must be at least 0.1, at most 10"),
        (AugMix, {"depth": 4}, "depth must be at least 1, at most 3"),
        (Additional, {"scheme": "sepia"}, "scheme must be one of"),
        (Additional, {"pool": 1}, "pool must be at least 2"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_by_name(
    augmentation: type[Augmentation], settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        augmentation(**settings)


def test_cutout_without_the_mean_colour_is_refused() -> None:
    with pytest.raises(ValueError, match="mean"):
        run(Cutout(), mean=None)


def test_importing_augmentations_does_not_import_torch() -> None:
    code = "import sys; from distill_ray.augmentation import AUGMENTATIONS; [augmentation() for augmentation in AUGMENTATIONS.values()]; "
    code += "sys.exit(bool({'torch', 'numpy'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
