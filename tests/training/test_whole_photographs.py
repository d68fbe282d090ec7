"""Random resized crops of photographs that are not square: they come from all of the image, while
everything else sees the squares in the middle.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode, functional

from distill_ray.augmentation import Augmentation, CropFlip, Draws, Photo, RandomResizedCrop
from distill_ray.augmentation.epoch import epoch_batches, version_batches
from distill_ray.augmentation.kernels.resized_crop import crop_windows
from distill_ray.augmentation.versions import Versions
from distill_ray.data import decode_split, load_images, open_source
from distill_ray.data.decoding import opened_image, strips_of
from distill_ray.data.strips import StripsInFile, load_strips
from distill_ray.errors import RunError
from distill_ray.job import Data, Job, Recipe, Split, Unlabelled
from distill_ray.resolve import comparable, search_name
from distill_ray.stages.answer import Answers
from distill_ray.stages.answer_files import image_tables
from distill_ray.study import load_study
from distill_ray.training import Dataset, load_dataset
from distill_ray.training.teacher_logits_key import TeacherLogitsKey
from support.small import finish, tiny_job

SIDE, SIZE = 16, 12
"""The shorter side that images have here, and that of what networks see."""

LONGER = (16, 28, 20, 33, 16, 61)
"""Longer sides of the images of each class: squares, images of all shapes, and one that is more
than three times as long as it is wide.
"""


def picture(draw: np.random.Generator, height: int, width: int, channels: int = 3) -> Image.Image:
    """A smooth picture with some noise."""
    coarse = draw.integers(0, 256, (4, 4, channels), dtype=np.uint8).squeeze()
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height)), int)
    noisy = smooth + draw.integers(-9, 10, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, Image.Image]:
    """Training images by row, in folders of `tmp_path`: wide ones of class a, tall ones of b."""
    monkeypatch.setenv("DISTILL_RAY_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(3)
    made = {}
    for split in ("train", "test"):
        for label in ("a", "b"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for number, longer in enumerate(LONGER):
                size = (SIDE, longer) if label == "a" else (longer, SIDE)
                image = picture(draw, *size)
                image.save(folder / f"{number}.png")
                if split == "train":
                    made[len(made)] = image
    return made


def data_in(folder: Path, **settings: Any) -> Data:
    source = open_source(str(folder))
    return Data(
        name="photographs",
        digest=source.digest,
        location=str(folder),
        label=source.label,
        split=Split(validation=2),
        **{"size": SIZE, "resize": SIDE} | settings,
    )


def shown(
    augmentation: Augmentation, dataset: Dataset, batch_size: int = 5, **options: Any
) -> dict[int, np.ndarray]:
    """What an epoch shows of every row: (position, image as levels (H, W, C))."""
    batches = epoch_batches(
        augmentation,
        dataset.whole_images,
        dataset.labels,
        seed=3,
        epoch=1,
        batch_size=batch_size,
        device="cpu",
        mean=dataset.mean,
        shape=dataset.image_shape[1:],
        **{"strips": dataset.strips} | options,
    )
    images = {}
    for batch in batches:
        assert batch.rows is not None
        levels = batch.parts[0].images.mul(255).permute(0, 2, 3, 1).numpy()
        for position, row, image in zip(
            batch.positions.tolist(), batch.rows.tolist(), levels, strict=True
        ):
            images[row] = position, image
    return images


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_are_torchvisions_of_the_whole_picture(
    photographs: dict[int, Image.Image], tmp_path: Path, interpolation: Any, memory_gb: float
) -> None:
    """Where the shorter side has the stated size already, so that nothing is resized before."""
    dataset = load_dataset(data_in(tmp_path / "images", memory_gb=memory_gb))
    augmentation = RandomResizedCrop(smallest=0.3, interpolation=interpolation)
    beyond = 0
    for row, (position, image) in shown(augmentation, dataset).items():
        original = photographs[row]
        width, height = (min((length - SIDE) // 2, SIDE) * 2 + SIDE for length in original.size)
        uniform = Draws(3, 1).uniform("resized crop", position, position + 1, 22)
        ((top, left, tall, wide),) = crop_windows(
            uniform, 0.3, 4 / 3, np.array([height]), np.array([width])
        ).tolist()
        side = (max(height, width) - SIDE) // 2
        begin = top if height > width else left
        beyond += begin < side or begin + (tall if height > width else wide) > side + SIDE
        # What is kept may begin between two pixels
        box = [(original.width - width) / 2, (original.height - height) / 2]
        box += [box[0] + width, box[1] + height]
        original = original.resize((width, height), Image.Resampling.BILINEAR, box=box)
        mode = InterpolationMode(interpolation)
        expected = functional.resized_crop(original, top, left, tall, wide, [SIZE] * 2, mode)
        if Draws(3, 1).uniform("flip", position, position + 1, 1)[0, 0] < 0.5:
            expected = functional.horizontal_flip(expected)
        off = np.abs(image - np.asarray(expected, int)).max()
        assert off < (1.01 if interpolation == "bilinear" else 2.01)
    assert beyond >= 5


@pytest.mark.parametrize(("height", "width"), [(70, 117), (103, 64), (300, 451), (48, 500)])
@pytest.mark.parametrize("channels", [1, 3])
def test_strips_continue_the_square(tmp_path: Path, height: int, width: int, channels: int) -> None:
    """All three together are the picture, resized at once by Pillow."""
    original = picture(np.random.default_rng(0), height, width, channels)
    original.save(tmp_path / "a.png")
    with opened_image((tmp_path / "a.png").read_bytes()) as opened:
        margin, pixels = strips_of(opened, 32, channels)
    scale = min(height, width) / 32
    assert (margin > 0) == (width > height)
    assert abs(margin) == min(32, int((max(height, width) / scale - 32) / 2))
    along = abs(margin) + 16
    across = [0, min(height, width)]
    ends = [max(height, width) / 2 - along * scale, max(height, width) / 2 + along * scale]
    size, box = ((2 * along, 32), (ends[0], across[0], ends[1], across[1]))
    if height > width:
        size, box = (32, 2 * along), (across[0], ends[0], across[1], ends[1])
    box = [max(0, number) for number in box]
    whole = np.asarray(original.resize(size, Image.Resampling.BILINEAR, box=box), int)
    whole = whole.reshape(size[1], size[0], channels)
    first, last = np.split(whole, [abs(margin), 32 + abs(margin)], axis=1 if margin > 0 else 0)[::2]
    outside = np.concatenate([first.ravel(), last.ravel()])
    assert len(pixels) == 2 * abs(margin) * 32 * channels
    assert np.abs(pixels - outside).max() <= 1


def test_square_images_are_shown_as_without_strips(
    photographs: dict[int, Image.Image], tmp_path: Path
) -> None:
    dataset = load_dataset(data_in(tmp_path / "images"))
    square = [row for row, image in photographs.items() if image.width == image.height]
    assert len(square) == 4
    for augmentation in (RandomResizedCrop(), Photo(hue=0.1, erasing=0.5)):
        whole, before = shown(augmentation, dataset), shown(augmentation, dataset, strips=None)
        for row in square:
            np.testing.assert_array_equal(whole[row][1], before[row][1])
        assert sum(np.array_equal(whole[row][1], before[row][1]) for row in whole) < 8


def test_a_crop_does_not_depend_on_the_batches_workers_or_partners(
    photographs: dict[int, Image.Image], tmp_path: Path
) -> None:
    dataset = load_dataset(data_in(tmp_path / "images"))
    once = shown(RandomResizedCrop(), dataset)
    for options in ({"batch_size": 12}, {"batch_size": 6, "world_size": 2, "rank": 1}):
        for row, (_, image) in shown(RandomResizedCrop(), dataset, **options).items():
            np.testing.assert_array_equal(image, once[row][1])
    mixed = shown(Photo(mixup=0.4), dataset, batch_size=12)
    assert {image.shape for _, image in mixed.values()} == {(SIZE, SIZE, 3)}


def test_teachers_answer_for_the_crops_that_students_see(
    photographs: dict[int, Image.Image], tmp_path: Path
) -> None:
    """With versions, which students see in another order than teachers."""
    dataset = load_dataset(data_in(tmp_path / "images"))
    seen = shown(RandomResizedCrop(), dataset, versions=Versions(1, seed=9))
    for batch in version_batches(
        RandomResizedCrop(),
        dataset.whole_images,
        dataset.labels,
        version=1,
        seed=9,
        batch_size=7,
        device="cpu",
        shape=dataset.image_shape[1:],
        strips=dataset.strips,
    ):
        assert batch.rows is not None
        images = batch.parts[0].images.mul(255).permute(0, 2, 3, 1).numpy()
        for row, image in zip(batch.rows.tolist(), images, strict=True):
            np.testing.assert_array_equal(image, seen[row][1])


def test_images_are_exported_as_teachers_saw_them(
    photographs: dict[int, Image.Image], tmp_path: Path
) -> None:
    recipe = Recipe(model="wrn-10-1", augmentation=RandomResizedCrop(), versions=1)
    data = data_in(tmp_path / "images")
    key = TeacherLogitsKey.of(Job(recipe=recipe, data=data, seed=0), "fp32")
    table = pa.concat_tables(image_tables(Answers(key, (1,), 10), 1))
    dataset = load_dataset(data)
    seen = shown(RandomResizedCrop(), dataset, versions=Versions(1), rows=dataset.train)
    assert table.num_rows == 10
    for row, image in zip(table["row"].to_pylist(), table["image"].to_pylist(), strict=True):
        exported = np.array(image, np.float32).reshape(SIZE, SIZE, 3) * 255
        np.testing.assert_allclose(exported, seen[row][1], atol=1e-3)


def test_a_job_trains_on_whole_photographs(
    photographs: dict[int, Image.Image], tmp_path: Path
) -> None:
    data = data_in(tmp_path / "images")
    job = tiny_job(data, augmentation=RandomResizedCrop(), batch_size=4)
    whole = load_dataset(data)
    (first, *_), _ = finish(job, whole)
    (again, *_), _ = finish(job, load_dataset(data))
    (squares, *_), _ = finish(job, replace(whole, strips=None))
    assert first["train/loss"] == again["train/loss"] != squares["train/loss"]


def test_other_augmentations_decode_no_strips(
    photographs: dict[int, Image.Image], tmp_path: Path
) -> None:
    dataset = load_dataset(data_in(tmp_path / "images"))
    shown(CropFlip(), dataset)
    assert not list((tmp_path / "cache" / "images").glob("*/strips"))
    shown(RandomResizedCrop(), dataset)
    assert len(list((tmp_path / "cache" / "images").glob("*/strips"))) == 1


def test_processes_write_what_one_would(
    photographs: dict[int, Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is left between what they write is a hole."""
    source = open_source(str(tmp_path / "images"))
    squares = load_images(source, "train", size=SIDE).images.shape
    rows = np.arange(12)
    alone = load_strips(source, "train", squares, tmp_path / "alone", memory=1e9)
    monkeypatch.setattr(decode_split, "ROWS_PER_PROCESS", 3)
    monkeypatch.setattr(decode_split, "cores", lambda: 3)
    together = load_strips(source, "train", squares, tmp_path / "together", memory=1e9)
    assert alone.margins.tolist() == together.margins.tolist()
    assert alone.margins.tolist()[:6] == [0, 6, 2, 8, 0, 16]
    for one, other in zip(alone.of_rows(rows), together.of_rows(rows), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["strips", "margins.npy", "about.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed"])
def test_damage_is_repaired(
    photographs: dict[int, Image.Image], tmp_path: Path, name: str, damage: str
) -> None:
    source = open_source(str(tmp_path / "images"))
    squares, rows = load_images(source, "train", size=SIDE).images.shape, np.arange(12)

    def loaded() -> StripsInFile:
        return load_strips(source, "train", squares, memory=0)

    before = np.concatenate(loaded().of_rows(rows))
    (path,) = (tmp_path / "cache" / "images").glob("*/strips")
    path = path.with_name(name)
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    change: dict[str, Callable[[], object]] = {
        "truncated": lambda: os.truncate(path, len(content) - 1),
        "flipped": lambda: path.write_bytes(content),
        "removed": path.unlink,
    }
    change[damage]()
    np.testing.assert_array_equal(np.concatenate(loaded().of_rows(rows)), before)


def test_strips_that_become_shorter_while_in_use_are_said_so(
    photographs: dict[int, Image.Image], tmp_path: Path
) -> None:
    source = open_source(str(tmp_path / "images"))
    squares = load_images(source, "train", size=SIDE).images.shape
    strips = load_strips(source, "train", squares, memory=0)
    (path,) = (tmp_path / "cache" / "images").glob("*/strips")
    os.truncate(path, 100)
    with pytest.raises(RunError, match="has become shorter; run the same command again"):
        strips.of_rows(np.arange(12))


def test_strips_are_mapped_only_into_the_memory_that_squares_leave(
    photographs: dict[int, Image.Image], tmp_path: Path
) -> None:
    squares = 12 * SIDE * SIDE * 3
    strips = 2 * 2 * (6 + 2 + 8 + 16) * SIDE * 3
    for memory, mapped in ((squares + strips + 1, True), (squares + strips - 1, False)):
        dataset = load_dataset(data_in(tmp_path / "images", memory_gb=memory / 1e9))
        assert isinstance(dataset.whole_images, np.ndarray) and dataset.strips is not None
        strips_of_all = dataset.strips()
        assert isinstance(strips_of_all, StripsInFile)
        assert strips_of_all.nbytes == strips
        assert isinstance(strips_of_all.of_rows(np.array([1]))[0], np.memmap) == mapped


def test_unlabelled_photographs_are_whole_too(
    photographs: dict[int, Image.Image], tmp_path: Path
) -> None:
    """Even grey ones beside others in colour."""
    from distill_ray.data.unlabelled import open_unlabelled

    (tmp_path / "more").mkdir()
    grey = picture(np.random.default_rng(5), SIDE, 40, 1)
    grey.save(tmp_path / "more" / "one.png")
    location = str(tmp_path / "more")
    digest = open_unlabelled(location).digest
    unlabelled = Unlabelled(digest=digest, location=location, images=1, seed=0)
    dataset = load_dataset(data_in(tmp_path / "images", unlabelled=unlabelled))
    position, image = shown(RandomResizedCrop(smallest=0.9, flip=False), dataset)[12]
    uniform = Draws(3, 1).uniform("resized crop", position, position + 1, 22)
    ((top, left, tall, wide),) = crop_windows(
        uniform, 0.9, 4 / 3, np.array([SIDE]), np.array([40])
    ).tolist()
    box = (left, top, left + wide, top + tall)
    crop = grey.convert("RGB").crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    assert wide > SIDE
    assert np.abs(image - np.asarray(crop, int)).max() < 1.01


def test_only_jobs_that_crop_whole_images_are_others_than_before(
    photographs: dict[int, Image.Image], tmp_path: Path
) -> None:
    data = data_in(tmp_path / "images")
    unsized = data_in(tmp_path / "images", size=None, resize=None)
    for augmentation, changed in (
        (CropFlip(), False),
        (RandomResizedCrop(), True),
        (Photo(), True),
    ):
        assert ("whole" in data.seen_by(augmentation)) == changed
        assert unsized.seen_by(augmentation) == unsized.identity
        job = Job(recipe=Recipe(model="wrn-10-1", augmentation=augmentation), data=data, seed=0)
        key = TeacherLogitsKey.of(job, "fp32")
        assert ('"whole":true' in key.identity(1)) == changed


@pytest.mark.parametrize(
    ("student", "choice", "other"),
    [
        ("crop-flip", "[crop-flip, cutout]", False),
        ("photo", "[crop-flip, cutout]", True),
        ("crop-flip", "[crop-flip, photo]", True),
    ],
)
def test_searches_with_such_crops_are_others_than_before(
    photographs: dict[int, Image.Image],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    student: str,
    choice: str,
    other: bool,
) -> None:
    """Those whose student or whose space has them; all others keep their name."""
    (tmp_path / "study.yaml").write_text(
        f"""
name: x
data: {{source: {tmp_path / "images"}, size: 12}}
teachers: {{members: 1, model: wrn-10-1}}
student: {{model: wrn-10-1, method: kd, augmentation: {student}}}
search: {{trials: 2, space: {{augmentation: {{choice: {choice}}}}}}}
"""
    )
    study, data = load_study(tmp_path / "study.yaml"), data_in(tmp_path / "images")
    names = search_name(study, data, ["a"]), comparable(study, data, ["a"])
    monkeypatch.setattr(RandomResizedCrop, "crops_whole", False)
    before = search_name(study, data, ["a"]), comparable(study, data, ["a"])
    assert [now != then for now, then in zip(names, before, strict=True)] == [other, other]
