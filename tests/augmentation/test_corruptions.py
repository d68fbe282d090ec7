"""Corrupted test images against the published description."""

import importlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from distill_ray.augmentation.draws import Draws
from distill_ray.augmentation.kernels import corruptions
from distill_ray.augmentation.kernels.corruptions import CORRUPTIONS, corrupted, refusal
from distill_ray.errors import RunError


def scene(count: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Smooth coloured images without black or white."""
    noise = np.random.default_rng(0).normal(size=(count, height, width, channels))
    smooth = ndimage.gaussian_filter(noise, (0, 2, 2, 0))
    return np.clip(128 + 250 * smooth, 30, 220).astype(np.uint8)


def grey(value: int, count: int = 4, side: int = 32) -> np.ndarray:
    return np.full((count, side, side, 3), value, np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption(name: str) -> None:
    """Of any shape and of one channel; an image is corrupted alike without those after it."""
    for images in (scene(3, 32, 32), scene(2, 20, 33), scene(2, 28, 28, 1), scene(1, 72, 65)):
        mild, strong = (corrupted(images, name, severity, 0) for severity in (1, 5))
        assert (strong.dtype, strong.shape) == (np.uint8, images.shape)
        far, near = (np.abs(each.astype(float) - images).mean() for each in (strong, mild))
        # The published affine map of `elastic` is strongest at the mildest severities, large images
        # are all in fog at the first, and photographs of frost differ
        assert far > near or name in ("elastic", "fog", "frost")
        assert far > 0.5
        assert np.array_equal(corrupted(images[:1], name, 5, 0), strong[:1])
    images = np.repeat(scene(1, 32, 32), 6, axis=0)
    same = corrupted(images, name, 3, 0)
    fixed = {"defocus-blur", "zoom-blur", "brightness", "contrast", "pixelate", "jpeg"}
    assert (same == same[:1]).all() == (name in fixed)
    assert np.array_equal(same, corrupted(images, name, 3, 1)) == (name in fixed)


def test_noise_has_the_published_spread() -> None:
    images = grey(128, count=20)
    for severity, deviation in ((1, 0.04), (5, 0.1)):
        noise = corrupted(images, "gaussian-noise", severity, 0) / 255 - 128 / 255
        assert noise.std() == pytest.approx(deviation, rel=0.02)
        assert noise.mean() == pytest.approx(-0.5 / 255, abs=0.002)  # cut off, not rounded
    shot = corrupted(images, "shot-noise", 5, 0) / 255
    assert shot.var() == pytest.approx(128 / 255 / 50, rel=0.03)
    large = corrupted(grey(128, 2, 65), "gaussian-noise", 1, 0) / 255
    assert large.std() == pytest.approx(0.08, rel=0.02)
    impulses = corrupted(images, "impulse-noise", 5, 0)
    for value in (0, 255):
        assert (impulses == value).mean() == pytest.approx(0.035, rel=0.05)


def test_contrast_and_brightness_by_their_formulas() -> None:
    images = scene(3, 32, 32)
    values = images / 255
    means = values.mean(axis=(1, 2), keepdims=True)
    contrast = corrupted(images, "contrast", 3, 0)
    assert np.abs(contrast - np.floor(255 * (0.4 * values + 0.6 * means))).max() <= 1
    before, after = (
        np.stack([cv2.cvtColor(np.float32(image / 255), cv2.COLOR_RGB2HSV) for image in each])
        for each in (images, corrupted(images, "brightness", 4, 0))
    )
    assert after[..., 2] == pytest.approx(np.minimum(before[..., 2] + 0.2, 1), abs=1.1 / 255)
    assert after[..., 1] == pytest.approx(before[..., 1], abs=0.02)
    # By hand: value 100 / 255 + 0.3, and black becomes grey
    assert corrupted(grey(100), "brightness", 5, 0).max() == 176
    assert set(corrupted(grey(0), "brightness", 5, 0).ravel()) == {76}


def test_what_pillow_does() -> None:
    images = scene(2, 20, 33)
    for image, small, again in zip(
        images, corrupted(images, "pixelate", 5, 0), corrupted(images, "jpeg", 5, 0), strict=True
    ):
        shown = Image.fromarray(image)
        coarse = shown.resize((21, 13), Image.Resampling.BOX)  # 0.65 of each side
        assert np.array_equal(small, coarse.resize((33, 20), Image.Resampling.BOX))
        file = io.BytesIO()
        shown.save(file, "JPEG", quality=40)
        assert np.array_equal(again, Image.open(file))


def test_blurs_keep_what_has_no_detail() -> None:
    for name in ("defocus-blur", "glass-blur", "motion-blur", "zoom-blur", "elastic"):
        assert np.abs(corrupted(grey(90), name, 4, 0).astype(int) - 90).max() <= 1


def test_motion_blur_spreads_a_point_along_a_line() -> None:
    point = np.zeros((1, 33, 33, 1), np.uint8)
    point[0, 16, 16] = 255
    blurred = corrupted(point, "motion-blur", 5, 0)[0, ..., 0] / 255
    weights = np.exp(-(np.arange(19) ** 2) / (2 * 2.5**2))
    assert blurred[16, 16] == pytest.approx(weights[0] / weights.sum(), abs=1 / 255)
    assert not blurred[:, 17:].any()  # one-sided, within 45 degrees of the row
    assert blurred.sum() == pytest.approx(1, abs=0.06)


def test_defocus_of_a_point_is_the_disk() -> None:
    """Radius 1 is a cross of five pixels, and a softness of 0.2 hardly changes it."""
    point = np.zeros((1, 33, 33, 1), np.uint8)
    point[0, 16, 16] = 255
    blurred = corrupted(point, "defocus-blur", 4, 0)[0, 15:18, 15:18, 0]
    cross = np.float32([[0, 1, 0], [1, 1, 1], [0, 1, 0]]) / 5
    assert np.abs(blurred - 255 * cv2.GaussianBlur(cross, (3, 3), 0.2)).max() <= 1


def test_fog_by_its_formula() -> None:
    """On grey 100 of 255: fog 0 leaves x m / (m + 1.5), fog 1 is (x + 1.5) m / (m + 1.5) = m."""
    foggy = corrupted(grey(100), "fog", 5, 0)
    assert foggy.max() == 100
    assert foggy.min() == int(255 * (100 / 255) ** 2 / (100 / 255 + 1.5))


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[np.ndarray]]:
    """Five of another size each, installed as the package does it."""
    pictures = [scene(1, 170 + 10 * number, 420)[0] for number in range(5)]
    folder = tmp_path / "imagecorruptions" / "frost"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise AssertionError('imported')")
    for number, picture in enumerate(pictures):
        # The published code reads three PNG and two JPEG; OpenCV goes by the content
        name = folder / f"frost{number + 1}.{'png' if number < 3 else 'jpg'}"
        Image.fromarray(picture).save(name, "PNG")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "imagecorruptions", raising=False)
    forget_photographs()
    yield pictures
    forget_photographs()


def forget_photographs() -> None:
    corruptions._photographs.cache_clear()
    corruptions._frost_above.cache_clear()


def frost_draws(severity: int, count: int) -> np.ndarray:
    return Draws(0, severity).uniform("corruption/frost/piece", 0, count, 3)


@pytest.mark.parametrize(
    ("side", "severity", "kept", "amount"), [(32, 4, 0.85, 0.4), (160, 4, 0.65, 0.7)]
)
def test_frost_as_published(
    photographs: list[np.ndarray], side: int, severity: int, kept: float, amount: float
) -> None:
    """For CIFAR-10-C photographs are a fifth as large, for ImageNet-C as they are."""
    images = scene(20, side, side)
    frosted = corrupted(images, "frost", severity, 0)
    for image, found, (which, down, right) in zip(
        images, frosted, frost_draws(severity, 20), strict=True
    ):
        frost = photographs[int(which * 5)]
        if side == 32:
            frost = cv2.resize(frost, (0, 0), fx=0.2, fy=0.2)
        top, left = int(down * (frost.shape[0] - side)), int(right * (frost.shape[1] - side))
        piece = frost[top : top + side, left : left + side]
        expected = np.uint8(np.clip(kept * image + amount * piece, 0, 255))
        assert np.abs(expected.astype(int) - found).max() <= 1  # of 99.99999 and 100
        assert (expected == found).mean() > 0.999
    grey_images = scene(2, side, side, 1)
    assert corrupted(grey_images, "frost", severity, 0).shape == grey_images.shape


def test_frost_needs_all_photographs(photographs: list[np.ndarray], tmp_path: Path) -> None:
    assert len(corruptions._photographs()) == 5
    lost = tmp_path / "imagecorruptions" / "frost" / "frost4.jpg"
    lost.write_bytes(b"")
    with pytest.raises(RunError, match=r"frost4\.jpg: not an image; install imagecorruptions"):
        corrupted(scene(20, 32, 32), "frost", 1, 0)
    lost.unlink()
    forget_photographs()
    assert corruptions._photographs() == ()


@pytest.mark.skipif(
    "frost" not in CORRUPTIONS, reason="install imagecorruptions-imaug, without its dependencies"
)
def test_frost_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """On images larger than every photograph, for which the published code has no rule."""
    # Of what the package imports, frost needs OpenCV alone
    stubs = {
        "numba": {"njit": lambda: lambda function: function},
        "skimage": {"__version__": "0.26"},
        "skimage.filters": {"gaussian": None},
    }
    for name, content in stubs.items():
        stub = ModuleType(name)
        vars(stub).update(content)
        monkeypatch.setitem(sys.modules, name, stub)
    package = importlib.import_module("imagecorruptions")
    images = scene(6, 620, 930)
    for severity in (1, 5):
        frosted = corrupted(images, "frost", severity, 0)
        for image, found, draws in zip(images, frosted, frost_draws(severity, 6), strict=True):
            which, down, right = draws
            pieces = iter((down, right))

            def randint(low: int, high: int | None = None) -> int:
                return int(which * 5) if high is None else int(next(pieces) * high)  # noqa: B023

            monkeypatch.setattr(np.random, "randint", randint)
            expected = package.corrupt(image, severity, "frost").astype(int)
            assert np.abs(expected - found).max() <= 1
            assert (expected == found).mean() > 0.999


def test_images_that_are_refused() -> None:
    assert refusal((32, 32, 3)) is None and refusal((16, 20, 1)) is None
    assert "8x8 pixels" in (refusal((8, 8, 1)) or "")
    assert "4 channels" in (refusal((32, 32, 4)) or "")
