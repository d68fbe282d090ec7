"""Random resized crops, policies, jitter, grey, blur and erasing against torchvision's v2
transforms, which are given the same random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from distill_ray.augmentation import (
    Augmentation,
    ColourJitter,
    Draws,
    Photo,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    TrivialAugment,
)
from distill_ray.augmentation.epoch import epoch_batches
from distill_ray.augmentation.kernels.boxes import erasing_boxes
from distill_ray.augmentation.kernels.resized_crop import crop_windows
from support.operations import NAMES, reference

SEED, EPOCH, MEAN = 3, 1, (0.4, 0.5, 0.6)


def photographs(count: int, height: int = 30, width: int = 26, channels: int = 3) -> np.ndarray:
    """Noise over a ramp: every value occurs, and neighbours differ."""
    draw = np.random.default_rng(7)
    ramp = np.linspace(0, 160, height).reshape(1, height, 1, 1)
    noise = draw.integers(0, 96, (count, height, width, channels))
    return (ramp + noise).astype(np.uint8)


def made(augmentation: Augmentation, images: np.ndarray, **options: Any) -> tuple[Tensor, Tensor]:
    """The images of an epoch as levels of 0 to 255, and the originals in the same order."""
    settings: dict[str, Any] = {"seed": SEED, "epoch": EPOCH, "batch_size": 8, "device": "cpu"}
    labels = np.zeros(len(images), np.int64)
    batches = list(epoch_batches(augmentation, images, labels, mean=MEAN, **settings | options))
    rows = torch.cat([batch.rows for batch in batches if batch.rows is not None])
    shown = torch.cat([batch.parts[0].images for batch in batches])
    return shown * 255, torch.from_numpy(images)[rows].permute(0, 3, 1, 2).contiguous()


def drawn(purpose: str, images: int, count: int) -> np.ndarray:
    return Draws(SEED, EPOCH).uniform(purpose, 0, images, count)


class Given:
    """Takes the place of torch's generators: `uniform` and `whole` are the next numbers in [0, 1)
    for real and for whole ones.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.uniform: Iterator[float] = iter(())
        self.whole: Iterator[float] = iter(())

        def real(tensor: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
            return tensor.fill_(low + (high - low) * next(self.uniform))

        def integer(*limits: Any, size: Any = ()) -> Tensor:
            low, high = limits[:2] if isinstance(limits[1], int) else (0, limits[0])
            return torch.tensor(int(low + np.floor(next(self.whole) * (high - low))))

        monkeypatch.setattr(torch.Tensor, "uniform_", real)
        monkeypatch.setattr(torch, "randint", integer)
        monkeypatch.setattr(torch, "rand", lambda size: torch.tensor(next(self.uniform)))


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Given:
    return Given(monkeypatch)


@pytest.mark.parametrize(
    ("smallest", "ratio", "shape"),
    [(0.08, 4 / 3, (30, 26)), (0.9, 1.0, (26, 30)), (0.5, 3.0, (9, 60)), (1.0, 1.01, (60, 9))],
)
def test_windows_are_those_of_torchvision(
    smallest: float, ratio: float, shape: tuple[int, int], given: Given
) -> None:
    theirs = v2.RandomResizedCrop(shape, scale=(smallest, 1.0), ratio=(1 / ratio, ratio))
    uniform = np.random.default_rng(0).random((60, 22))
    height, width = (np.full(60, length) for length in shape)
    windows = crop_windows(uniform, smallest, ratio, height, width)
    for numbers, window in zip(uniform, windows.tolist(), strict=True):
        given.uniform = iter(numbers[:20].reshape(2, 10).T.ravel().tolist())
        given.whole = iter(numbers[20:].tolist())
        found = theirs.make_params([torch.empty(3, *shape)])
        assert window == [found[name] for name in ("top", "left", "height", "width")]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_are_resized_as_by_torchvision_and_by_pillow(
    interpolation: Any, channels: int
) -> None:
    images = photographs(20, channels=channels)
    shown, originals = made(RandomResizedCrop(interpolation=interpolation), images)
    height, width = np.full(20, 30), np.full(20, 26)
    windows = crop_windows(drawn("resized crop", 20, 22), 0.08, 4 / 3, height, width)
    mirrored = drawn("flip", 20, 1)[:, 0] < 0.5
    assert 3 < mirrored.sum() < 17
    mode = functional.InterpolationMode(interpolation)
    for image, result, window, turned in zip(originals, shown, windows, mirrored, strict=True):
        box = [int(number) for number in window]
        expected = functional.resized_crop(image, *box, [30, 26], mode, antialias=True)
        picture = functional.resized_crop(functional.to_pil_image(image), *box, [30, 26], mode)
        if turned:
            expected, picture = expected.flip(2), functional.horizontal_flip(picture)
        assert (result - expected).abs().max() < 0.01
        by_pillow = np.asarray(picture).reshape(30, 26, channels).astype(int)
        assert np.abs(result.permute(1, 2, 0).numpy() - by_pillow).max() < (
            1.01 if interpolation == "bilinear" else 2.01
        )


def policy_of(kind: type[Any], seen: list[Tensor]) -> type[Any]:
    """A policy of torchvision with the operations that `test_policy` compares ours with: its own
    ones move tensors otherwise than Pillow images.
    """

    class Compared(kind):  # type: ignore[misc]
        def _apply_image_or_video_transform(
            self, image: Tensor, name: str, amount: float, **_: Any
        ) -> Tensor:
            if name == "Identity":
                return image
            if name in ("Brightness", "Color", "Contrast", "Sharpness"):
                amount += 1
            return reference(image, NAMES[name], 255 * amount if name == "Solarize" else amount)

    return Compared


@pytest.mark.parametrize("channels", [1, 3])
def test_rand_augment_is_torchvisions(channels: int, given: Given) -> None:
    images = photographs(80, channels=channels)
    plain = {"padding": 0, "flip": False}
    shown, originals = made(RandAugment(operations=2, magnitude=17, **plain), images)
    theirs = policy_of(v2.RandAugment, [])(num_ops=2, magnitude=17)
    for image, result, numbers in zip(
        originals, shown, drawn("randaugment", 80, 4).tolist(), strict=True
    ):
        given.whole, given.uniform = iter(numbers[::2]), signs(theirs, numbers)
        assert torch.equal(result.round().to(torch.uint8), theirs(image))


def signs(theirs: Any, numbers: list[float]) -> Iterator[float]:
    """The signs of those operations that have one, which alone torchvision draws."""
    space = list(theirs._AUGMENTATION_SPACE.values())
    for which, sign in zip(numbers[::2], numbers[1::2], strict=True):
        if space[int(which * len(space))][1]:
            yield sign


@pytest.mark.parametrize("channels", [1, 3])
def test_trivial_augment_is_torchvisions(channels: int, given: Given) -> None:
    images = photographs(120, channels=channels)
    shown, originals = made(TrivialAugment(padding=0, flip=False), images)
    theirs = policy_of(v2.TrivialAugmentWide, [])()
    for image, result, (which, level, sign) in zip(
        originals, shown, drawn("trivialaugment", 120, 3).tolist(), strict=True
    ):
        given.whole, given.uniform = iter([which, level]), iter([sign])
        # Their strengths are float32, which turns a rounding here and there
        difference = (result.round() - theirs(image).int()).abs()
        assert difference.max() <= 1 and difference.mean() < 0.2


def test_jitter_is_torchvisions(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    images = photographs(40)
    strengths = {"brightness": 0.4, "contrast": 0.3, "saturation": 0.5, "hue": 0.2}
    shown, originals = made(ColourJitter(padding=0, flip=False, **strengths), images)
    theirs = v2.ColorJitter(**strengths)
    numbers = drawn("colour jitter", 40, 8)
    for image, result, row in zip(originals, shown, numbers, strict=True):
        order = torch.from_numpy(np.argsort(row[4:], kind="stable"))
        monkeypatch.setattr(torch, "randperm", lambda size, order=order: order)
        given.uniform = iter(row[:4].tolist())
        expected = theirs(image).int()
        # A hue that comes out one level off may be stretched by what follows it
        assert (result.round() - expected).abs().max() <= 3
        assert ((result.round() - expected).abs() > 0).float().mean() < 0.1


def test_hues_are_torchvisions_for_all_colours() -> None:
    from distill_ray.augmentation.kernels import colour

    levels = torch.tensor([0, 1, 77, 128, 254, 255], dtype=torch.uint8)
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 6, 36)
    for shift in (-0.5, -0.21, 0.0, 0.1, 0.34, 0.5):
        ours = colour.hue(colours, torch.tensor([shift], dtype=torch.float64)).int()
        assert (ours - functional.adjust_hue(colours, shift).int()).abs().max() <= 1
    assert (colour.hue(colours, torch.zeros(1)).int() - colours.int()).abs().max() == 0
    grey = colours[:, :1]
    assert torch.equal(colour.hue(grey, torch.tensor([0.3])), grey)


def test_grey_and_blur_are_torchvisions() -> None:
    images = photographs(60, 62, 70)
    settings = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
    augmentation = ColourJitter(padding=0, flip=False, grey=0.4, blur=0.6, **settings)
    shown, originals = made(augmentation, images)
    happened = 0
    grey, blur = drawn("grey", 60, 2), drawn("blur", 60, 2)
    for image, result, greyed, blurred in zip(originals, shown, grey, blur, strict=True):
        expected = image
        if greyed[0] < 0.4:
            expected = functional.rgb_to_grayscale(expected, 3)
        if blurred[0] < 0.6:
            expected = functional.gaussian_blur(expected, [7, 7], [0.1 + 1.9 * blurred[1]] * 2)
        happened += (greyed[0] < 0.4) + (blurred[0] < 0.6)
        assert (result.round() - expected.int()).abs().max() <= 1
    assert 40 < happened < 80


@pytest.mark.parametrize("areas", [(0.02, 0.33), (0.9, 1.0)])
def test_erased_rectangles_are_those_of_torchvision(
    areas: tuple[float, float], given: Given
) -> None:
    theirs = v2.RandomErasing(scale=areas, ratio=(0.3, 1 / 0.3))
    image = torch.zeros(3, 30, 26)
    uniform = np.random.default_rng(0).random((60, 22))
    empty = 0
    for numbers, box in zip(uniform, erasing_boxes(uniform, areas, 30, 26), strict=True):
        given.uniform = iter(numbers[:20].reshape(2, 10).T.ravel().tolist())
        given.whole = iter(numbers[20:].tolist())
        found = theirs.make_params([image])
        top, bottom, left, right = box.tolist()
        empty += found["v"] is None
        if found["v"] is None:
            assert (bottom - top) * (right - left) == 0
        else:
            assert [top, left, bottom - top, right - left] == [
                found[name] for name in ("i", "j", "h", "w")
            ]
    assert empty > 30 if areas[0] > 0.5 else empty == 0


def test_a_rectangle_has_the_mean_colour() -> None:
    images = photographs(40)
    shown, originals = made(RandomErasing(padding=0, flip=False, chance=0.3), images)
    changed = (shown - originals).abs().amax(1) > 0.01
    assert 5 < changed.flatten(1).any(1).sum() < 20
    mean = torch.tensor(MEAN).mul(255).view(3, 1).float()
    assert (shown.permute(1, 0, 2, 3)[:, changed] - mean).abs().max() < 0.01
    assert 0.01 < changed.float().mean() < 0.33 * 0.5


PARTS: dict[str, Callable[[], Augmentation]] = {
    "policy": lambda: Photo(policy="rand-augment", magnitude=20),
    "jitter": lambda: Photo(brightness=0.4, hue=0.1, grey=0.2, blur=0.5),
    "erasing": lambda: Photo(erasing=0.5),
    "all": lambda: Photo(policy="trivial-augment", hue=0.2, erasing=0.5),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_mixed_batch_is_made_of_the_images_without_mixing(name: str) -> None:
    """Whatever else is set, on one worker and on several: partners are made anew on these."""
    from dataclasses import replace

    single = PARTS[name]()
    images = photographs(16)
    settings = {"seed": SEED, "epoch": EPOCH, "batch_size": 8, "device": "cpu", "mean": MEAN}
    labels = np.arange(16)
    alone = list(epoch_batches(single, images, labels, **settings))
    for both in ({"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}):
        mixed = replace(single, **both)
        one = list(epoch_batches(mixed, images, labels, **settings))
        two = [
            list(epoch_batches(mixed, images, labels, rank=rank, world_size=2, **settings))
            for rank in range(2)
        ]
        for step, batch in enumerate(one):
            part, plain = batch.parts[0], alone[step].parts[0].images
            shared = torch.cat([worker[step].parts[0].images for worker in two])
            assert torch.equal(part.images, shared)
            assert part.label_weight is not None and part.partner_labels is not None
            places = [int((part.labels == label).nonzero()) for label in part.partner_labels]
            weight = part.label_weight.view(-1, 1, 1, 1)
            between = weight * plain + (1 - weight) * plain[places]
            by_area = (part.images == plain) | (part.images == plain[places])
            assert torch.allclose(part.images, between, atol=1e-6) or by_area.all()


def test_pictures_of_one_level_stay_what_they_are() -> None:
    """Where there is nothing to change, resizing, hue and blur change nothing."""
    images = np.full((8, 24, 20, 3), 93, np.uint8)
    shown, _ = made(Photo(hue=0.4, blur=0.9), images)
    assert (shown - 93).abs().max() < 0.01
