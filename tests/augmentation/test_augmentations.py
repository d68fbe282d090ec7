"""Every augmentation of the package in the tests that `distill_ray.testing` has for augmentations,
and what else is ours alone: pinned images and refusals.
"""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from distill_ray.augmentation import (
    AUGMENTATIONS,
    Additional,
    Augmentation,
    AugMix,
    AutoAugment,
    ColourJitter,
    CropFlip,
    CutMix,
    Cutout,
    Mixup,
    Photo,
    RandAugment,
    Rotation,
)
from distill_ray.testing import AugmentationConformance
from distill_ray.testing.augmentations import batches_of
from distill_ray.testing.cases import settings_label

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
    RandAugment(operations=3, magnitude=20, rotation=10),
    ColourJitter(grey=0.2, blur=0.5, padding=0),
    Photo(policy="trivial-augment", hue=0.1, blur=0.3, erasing=0.4, interpolation="bicubic"),
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
    Photo(policy="rand-augment", erasing=0.3, mixup=0.8, cutmix=1.0),
    *(
        Additional(scheme=scheme)
        for scheme in ("identity", "flip", "crop-flip", "cutout", "autoaugment", "mixup", "cutmix")
    ),
    Additional(pick="kl", pool=3),
]


class TestAugmentations(AugmentationConformance):
    augmentations = PER_IMAGE
    per_batch = PER_BATCH


def test_every_registered_augmentation_is_tested() -> None:
    assert {augmentation.name for augmentation in PER_IMAGE + PER_BATCH} == set(AUGMENTATIONS)


@pytest.mark.parametrize("augmentation", PER_BATCH, ids=settings_label)
def test_draws_per_batch_differ_between_batches(augmentation: Augmentation) -> None:
    images = np.broadcast_to(np.arange(120, dtype=np.uint8).reshape(12, 10, 1) * 2, (45, 12, 10, 3))
    images = np.where(np.arange(45).reshape(-1, 1, 1, 1) % 2, images, 255 - images)
    means = [
        part.images.mean() for batch in batches_of(augmentation, images) for part in batch.parts
    ]
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
    "mixup,alpha=0.3,per=image": 7385326731,
    "cutmix,padding=0,flip=False,rotation=30,alpha=0.5": 7569076565,
    "cutout,size=3,holes=2": 7419859819,
    "autoaugment,policy=imagenet": 6915645806,
    "augmix,rotation=10,chains=1,depth=2,consistency=True": 21346561031,
    "additional,scheme=flip,per=image": 14831429665,
    "additional,scheme=crop-flip,per=image": 14184255894,
    "additional,scheme=autoaugment,per=image": 14401672977,
    "additional,scheme=mixup,per=image": 14845104509,
    "additional,per=image": 14872315965,
    "mixup": 7392048918,
    "cutmix,per=batch": 7393396234,
    "cutout,per=batch": 7409603542,
    "autoaugment,per=batch": 6158936929,
    "additional,scheme=identity": 14831518085,
    "additional,scheme=flip": 14830563417,
    "additional,scheme=crop-flip": 14345471486,
    "additional,scheme=cutout": 14839127902,
    "additional,scheme=autoaugment": 12480912030,
    "additional,scheme=mixup": 14823133498,
    "additional": 14833571885,
    "additional,pick=kl,pool=3": 29560032635,
    "random-erasing": 7434854778,
    "rand-augment": 6658069176,
    "trivial-augment": 5804766984,
    "random-resized-crop": 8240834078,
    "colour-jitter": 7499020038,
    "photo": 8240834078,
    "rand-augment,rotation=10,operations=3,magnitude=20": 5932063869,
    "colour-jitter,padding=0,grey=0.2,blur=0.5": 8438103595,
    "photo,interpolation=bicubic,policy=trivial-augment,hue=0.1,blur=0.3,erasing=0.4": 6621210676,
    "photo,policy=rand-augment,erasing=0.3,mixup=0.8,cutmix=1.0": 7676052227,
}


@pytest.mark.parametrize("augmentation", PER_IMAGE + PER_BATCH, ids=settings_label)
def test_the_images_are_pinned_for_ever(augmentation: Augmentation) -> None:
    images = (
        torch.cat([part.images for batch in batches_of(augmentation) for part in batch.parts])
        .mul(255)
        .round()
        .long()
        .flatten()
    )
    assert (
        int((images * (torch.arange(len(images)) % 8191 + 1)).sum())
        == GOLDEN[settings_label(augmentation)]
    )


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
        batches_of(augmentation, np.zeros((20, height, width, channels), np.uint8))


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
        batches_of(Cutout(), mean=None)


def test_importing_augmentations_does_not_import_torch() -> None:
    code = "import sys; from distill_ray.augmentation import AUGMENTATIONS; "
    code += "[augmentation() for augmentation in AUGMENTATIONS.values()]; "
    code += "sys.exit(bool({'torch', 'numpy'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
