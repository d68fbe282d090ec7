"""A split of a data set as uint8 pixels, decoded once per node into a file that its processes
share.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from distill_ray.data.decode_split import IMAGES, LABELS, DecodedRows, decode_split, is_undamaged
from distill_ray.data.decoding import ColourFoundError, Shape, shape_of
from distill_ray.data.pixels import Images, PixelsOnDisk
from distill_ray.data.source import Generated, Source, SplitName
from distill_ray.data.statistics import PixelSums
from distill_ray.errors import RequestError
from distill_ray.node_cache import cache_root, facts, made_once, new_folder, remembered_digest

logger = logging.getLogger(__name__)

FORMAT = 3
"""DecodedRows of every cache key. Raise it when the files in the cache change their meaning."""

MEMORY = 4e9
"""Bytes of a split that are memory-mapped by default."""

ABOUT = "about.json"

SOUND, DAMAGED = "sound".ljust(32), "damaged".ljust(32)


def load_images(
    source: Source,
    split: SplitName,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    size: int | None = None,
    memory: float = MEMORY,
) -> Images:
    """Decode `split` of `source`, or take it from the cache of this node when any process has
    decoded it before.

    Processes that ask at the same time wait for the one that decodes. A data set of both grey and
    colour images (1.8 % of Tiny ImageNet is grey) is loaded as RGB. All images must have one size,
    unless `size` makes squares of them. Test images must have the shape of the training images, if
    there are any. Pixels of up to `memory` bytes are memory-mapped, more stay on the disk until
    they are asked for; decoding keeps to that much memory too. The cache is `cache_dir`, see
    `cache_root` for its default.

    Raises:
        RequestError: the data are not usable (the message names the row), or the cache folder is
        not. RunError: the disk filled up, or a decoding process was killed.
    """
    if isinstance(source, Generated):
        return source.images(split)
    if source.rows(split) == 0:
        raise RequestError(f"{source.location} has no {split} split")
    key = json.dumps([FORMAT, source.digest, source.label, split, size])
    root = cache_root(cache_dir)
    folder = root / "images" / hashlib.sha256(key.encode()).hexdigest()[:32]
    return made_once(
        folder,
        lambda: _from_cache(folder, source, memory),
        lambda: _decode_into_cache(source, split, folder, root, size, memory),
    )


def image_shape(
    source: Source, size: int | None = None, split: SplitName = "train"
) -> tuple[int, int, int]:
    """Channels, height and width of the first image of a split; that the others are alike shows
    when they are decoded.
    """
    if isinstance(source, Generated):
        _, height, width, channels = source.images(split).images.shape
        return channels, height, width
    shape = _first_shape(source, split, size)
    return shape.channels, shape.height, shape.width


def _from_cache(folder: Path, source: Source, memory: float) -> Images | None:
    """What the cache holds, or None when that is nothing or not what was written, which is looked
    at once for each change.
    """
    try:
        about = json.loads((folder / ABOUT).read_bytes())
        parts = [DecodedRows(**part) for part in about["parts"]]
        pixels = PixelsOnDisk(folder / IMAGES)
        labels = np.load(folder / LABELS)
        files = facts(folder, (ABOUT, IMAGES, LABELS))
        sound = remembered_digest(files, lambda: _soundness(folder, parts, pixels))
        if sound != SOUND or labels.shape != pixels.shape[:1]:
            return None
        mapped = np.load(folder / IMAGES, mmap_mode="c") if pixels.nbytes <= memory else pixels
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None
    return Images(
        mapped, labels, source.class_names, source.digest, tuple(about["mean"]), tuple(about["std"])
    )


def _soundness(folder: Path, parts: list[DecodedRows], pixels: PixelsOnDisk) -> str:
    whole = sum(part.last - part.first for part in parts) == len(pixels)
    return SOUND if whole and is_undamaged(folder, parts, pixels.nbytes // len(pixels)) else DAMAGED


def _decode_into_cache(
    source: Source, split: SplitName, folder: Path, root: Path, size: int | None, memory: float
) -> None:
    for remark in source.remarks:
        logger.warning("%s: %s", source.location, remark)
    like_training = split == "test" and source.rows("train") > 0
    shape = (
        _shape_of_training_images(source, root, size, memory)
        if like_training
        else _first_shape(source, split, size)
    )
    with new_folder(folder) as partial:
        try:
            parts = decode_split(source, split, shape, partial, memory)
        except ColourFoundError as colour:
            if like_training:
                raise RequestError(
                    f"{colour}: the image has colours, but all training images are grey; make both "
                    "alike"
                ) from None
            shape = replace(shape, channels=3)
            parts = decode_split(source, split, shape, partial, memory)
        source.check_unchanged()  # else these would be other pixels than the digest stands for
        sums = PixelSums(shape.channels)
        for part in parts:
            sums.add_values(*part.sums)
        mean, std = sums.statistics()
        about = {
            "parts": [asdict(part) for part in parts],
            "mean": mean,
            "std": std,
            "source": source.location,
        }
        (partial / ABOUT).write_text(json.dumps(about))


def _first_shape(source: Source, split: SplitName, size: int | None) -> Shape:
    for batch in source.batches(split):
        return shape_of(batch, size)
    raise RequestError(
        f"{source.location}: no rows in the {split} split, which announces {source.rows(split)}; "
        "download it again"
    )


def _shape_of_training_images(source: Source, root: Path, size: int | None, memory: float) -> Shape:
    """The shape that test images must have too. Only where the first training image is grey must
    the others be seen.
    """
    first = _first_shape(source, "train", size)
    if first.channels == 3:
        return first
    return replace(
        first,
        channels=load_images(source, "train", root, size=size, memory=memory).images.shape[-1],
    )
