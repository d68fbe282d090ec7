"""A split of a data set as memory-mapped uint8 pixels, decoded once per node."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from filelock import FileLock

from distill_ray.data.cache import VARIABLE, cache_root, new_folder, writing
from distill_ray.data.decoding import ColourFoundError, Shape, decode, decoder, shape_of
from distill_ray.data.source import Generated, Source, SplitName
from distill_ray.data.statistics import PixelSums
from distill_ray.errors import RequestError

FORMAT = 1
"""Part of every cache key. Raise it when the files in the cache change their meaning."""


@dataclass(frozen=True, eq=False)
class Images:
    """One split, decoded."""

    images: np.ndarray
    """(N, H, W, C) uint8, memory-mapped and shared between processes; writing to it changes this process's copy only.

    Inputs that are real numbers are float32, and in memory.
    """
    labels: np.ndarray
    """(N,) int64, each in 0..num_classes-1; float32 for regression."""
    class_names: tuple[str, ...]
    digest: str
    """The digest of the source."""
    mean: tuple[float, ...]
    """Per channel over the whole split, 255 being 1; 0 for real numbers, whose `std` is 1."""
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)


def load_images(source: Source, split: SplitName, cache_dir: str | os.PathLike[str] | None = None) -> Images:
    """Decode `split` of `source`, or take it from the cache of this node when any process has decoded it before.

    Processes that ask at the same time wait for the one that decodes. A data set of both grey and colour images (1.8 % of
    Tiny ImageNet is grey) is loaded as RGB. Test images must have the shape of the training images, if there are any. The
    cache is `cache_dir`, see `cache_root` for its default.

    Raises:
        RequestError: the data are not usable (the message names the row), or the cache folder is not.
        RunError: the disk filled up.
    """
    if isinstance(source, Generated):
        return source.images(split)
    if source.rows(split) == 0:
        raise RequestError(f"data.source: {source.location} has no {split} split")
    key = json.dumps([FORMAT, source.digest, source.label, split])
    root = cache_root(cache_dir)
    folder = root / "images" / hashlib.sha256(key.encode()).hexdigest()[:32]
    images = _from_cache(folder, source)
    if images is None:
        with writing(folder.parent, f"set {VARIABLE} to a folder on another disk"):
            folder.parent.mkdir(exist_ok=True)
            with FileLock(folder.with_suffix(".lock")):
                images = _from_cache(folder, source)
                if images is None:
                    _decode_into_cache(source, split, folder, root)
                    images = _from_cache(folder, source)
    if images is None:
        raise RequestError(f"cache folder {root} does not keep what is written to it; set {VARIABLE} to one that does")
    return images


def image_shape(source: Source) -> tuple[int, int, int]:
    """Channels, height and width of the first training image; that the others are alike shows when they are decoded."""
    if isinstance(source, Generated):
        _, height, width, channels = source.images("train").images.shape
        return channels, height, width
    shape = _first_shape(source, "train")
    return shape.channels, shape.height, shape.width


def _from_cache(folder: Path, source: Source) -> Images | None:
    """What the cache holds, or None when that is nothing or not what was written."""
    try:
        about = json.loads((folder / "about.json").read_bytes())
        pixels = np.load(folder / "images.npy", mmap_mode="c")
        labels = np.load(folder / "labels.npy")
        if [_checksum(pixels), _checksum(labels)] != about["checksums"]:
            return None
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None
    return Images(pixels, labels, source.class_names, source.digest, tuple(about["mean"]), tuple(about["std"]))


def _checksum(array: np.ndarray) -> list[int]:
    return [*array.shape, zlib.crc32(array.data)]


def _decode_into_cache(source: Source, split: SplitName, folder: Path, root: Path) -> None:
    for left_over in folder.parent.glob(f"{folder.name}.partial-*"):
        shutil.rmtree(left_over)
    like_training = split == "test" and source.rows("train") > 0
    shape = _shape_of_training_images(source, root) if like_training else _first_shape(source, split)
    with new_folder(folder) as partial:
        try:
            about = _decode_all(source, split, partial, shape)
        except ColourFoundError as found:
            if like_training:
                raise RequestError(f"{found}: the image has colours, but all training images are grey; make both alike") from None
            shutil.rmtree(partial)
            partial.mkdir()
            about = _decode_all(source, split, partial, replace(shape, channels=3))
        (partial / "about.json").write_text(json.dumps(about))


def _first_shape(source: Source, split: SplitName) -> Shape:
    for batch in source.batches(split):
        return shape_of(batch)
    raise RequestError(f"{source.location}: no rows in the {split} split, which announces {source.rows(split)}; get it again")


def _shape_of_training_images(source: Source, root: Path) -> Shape:
    """The shape that test images must have too. Only where the first training image is grey must the others be seen."""
    first = _first_shape(source, "train")
    return first if first.channels == 3 else replace(first, channels=load_images(source, "train", root).images.shape[-1])


def _decode_all(source: Source, split: SplitName, folder: Path, shape: Shape) -> dict[str, object]:
    """Stream the rows into `images.npy` and `labels.npy` and return what there is to know about them."""
    rows = source.rows(split)
    dimensions = (rows, shape.height, shape.width, shape.channels)
    sums = PixelSums(shape.channels)
    labels: list[np.ndarray] = []
    done = crc = 0
    with (folder / "images.npy").open("wb") as file, decoder() as threads:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": dimensions})
        for batch in source.batches(split):
            batch.check_labels(source.label, source.num_classes)
            pixels = decode(batch, shape, threads)
            sums.add(pixels)
            crc = zlib.crc32(pixels.data, crc)
            file.write(pixels.data)
            labels.append(batch.labels)
            done += len(pixels)
    if done != rows:
        raise RequestError(f"{source.location}: the {split} split holds {done} rows, not the {rows} it announces; get it again")
    all_labels = np.concatenate(labels).astype(np.int64)
    np.save(folder / "labels.npy", all_labels)
    mean, std = sums.statistics()
    return {"checksums": [[*dimensions, crc], _checksum(all_labels)], "mean": mean, "std": std, "source": source.location}
