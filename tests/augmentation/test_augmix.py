"""AugMix: the mix, the levels and the chains, against the published numbers and Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from distill_ray.augmentation import AugMix
from distill_ray.augmentation.epoch import epoch_batches
from distill_ray.augmentation.kernels.augmix import OPERATIONS, amounts, augmix, blend


def test_the_mix_of_a_pixel() -> None:
    chains = torch.tensor([0.1, 0.7, -0.2], dtype=torch.float64).view(3, 1, 1)
    mixed = blend(
        torch.tensor([[0.4]], dtype=torch.float64),
        chains,
        torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64),
        torch.tensor([0.6], dtype=torch.float64),
    )
    assert mixed.item() == pytest.approx(0.346, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "strength", "expected"),
    [
        ("rotate", 2.9, -8.0),
        ("shear-x", 2.9, -0.087),
        ("translate-x", 2.9, -3.0),  # a third of 32, times 0.29: 3.09
        ("translate-y", 2.9, -4.0),  # a third of 48: 4.64
        ("posterize", 2.6, 3.0),
        ("posterize", 2.4, 4.0),
        ("solarize", 2.9, 182.0),
        ("equalize", 2.9, 0.0),
    ],
)
def test_what_levels_mean(name: str, strength: float, expected: float) -> None:
    found = amounts(np.array([name]), np.array([strength]), np.array([True]), 48, 32)
    assert found[0] == pytest.approx(expected, abs=1e-12)


class Source:
    """Draws of a test: chains of chosen operations, with the weights all on the first chain."""

    def __init__(self, length: float, operations: list[int]) -> None:
        self.chain = np.array(
            [
                [
                    length,
                    *((operation + 0.5) / 9 for operation in operations),
                    0.7,
                    0.7,
                    0.7,
                    0.9,
                    0.9,
                    0.9,
                ]
            ]
        )

    def uniform(self, purpose: str, count: int) -> np.ndarray:
        return self.chain if "chain " in purpose else np.ones((1, count))

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array)


def pillow(picture: Image.Image, name: str, strength: float) -> Image.Image:
    """One operation as the published code does it with Pillow."""
    width, height = picture.size
    affine = {
        "shear-x": (1, strength * 0.3 / 10, 0, 0, 1, 0),
        "shear-y": (1, 0, 0, strength * 0.3 / 10, 1, 0),
        "translate-x": (1, 0, -int(strength * width / 3 / 10), 0, 1, 0),
        "translate-y": (1, 0, 0, 0, 1, -int(strength * height / 3 / 10)),
    }
    if name in affine:
        return picture.transform(
            picture.size, Image.Transform.AFFINE, affine[name], resample=Image.Resampling.BILINEAR
        )
    if name == "rotate":
        return picture.rotate(int(strength * 3), resample=Image.Resampling.BILINEAR)
    if name == "posterize":
        return ImageOps.posterize(picture, 4 - int(strength * 4 / 10))
    if name == "solarize":
        return ImageOps.solarize(picture, 256 - int(strength * 256 / 10))
    return {"autocontrast-by-table": ImageOps.autocontrast, "equalize": ImageOps.equalize}[name](
        picture
    )


@pytest.mark.parametrize("first", range(9))
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_chain_is_pillows_operations_one_after_the_other(first: int, depth: int) -> None:
    pixels = np.random.default_rng(2).integers(20, 230, (32, 32, 3), dtype=np.uint8)
    operations = [first, (first + 4) % 9, (first + 2) % 9]
    image = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    mixed = augmix(Source((depth - 0.5) / 3, operations), image, 2.87, 1, None)
    picture = Image.fromarray(pixels)
    for operation in operations[:depth]:
        picture = pillow(picture, OPERATIONS[operation], 0.1 + 2.77 * 0.7)
    expected = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)
    assert ((mixed[0] * 255).round() - expected).abs().max() <= 1
    assert ((mixed[0] * 255).round() != expected).float().mean() < 2e-3


def batch_of(augmentation: AugMix) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    batches = epoch_batches(
        augmentation, pixels, np.arange(60), seed=0, epoch=0, batch_size=60, device="cpu"
    )
    return next(iter(batches)).parts[0].images


def test_three_versions_are_the_clean_images_and_two_different_mixes() -> None:
    clean, first, second = batch_of(AugMix(consistency=True)).unflatten(0, (3, 60))
    assert torch.equal(first, batch_of(AugMix()))
    assert (first != clean).flatten(1).any(1).float().mean() > 0.9
    assert (first != second).flatten(1).any(1).float().mean() > 0.9


def test_severity_and_depth_make_the_mix_stronger() -> None:
    clean = batch_of(AugMix(consistency=True))[:60]
    change = [
        (batch_of(AugMix(severity=severity, depth=depth)) - clean).abs().mean()
        for severity, depth in ((1, 1), (3, 1), (3, 3), (9, 3))
    ]
    assert change == sorted(change)
