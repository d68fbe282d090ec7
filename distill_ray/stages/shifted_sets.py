"""Labelled test images under a shift, such as CIFAR-10-C: a data set, or a folder of `.npy` files
as its authors publish it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from distill_ray.data import load_images, open_source
from distill_ray.errors import RequestError
from distill_ray.escaping import for_terminal

LABELS = "labels.npy"
SEVERITIES = 5
"""The levels that an array of CIFAR-10-C holds one after the other, the mildest first."""

SHOWN = 5
"""Classes of a data set that are named where they are others."""

Shifted = tuple[str, np.ndarray, np.ndarray]
"""A name, images (N, H, W, C) and labels (N,); the levels of one shift have one name."""


def shifted_sets(
    location: str, shape: tuple[int, ...], class_names: tuple[str, ...]
) -> Iterator[Shifted]:
    """The images and labels of each shift, level by level. All that is wrong with them is found
    before the first is given.

    A folder with `labels.npy` holds an array (N, H, W, C) of uint8 for each shift, named after it;
    where its number of images is a multiple of five they are five levels of equal size. Anything
    else is a data set as `data.source` names it, with one level.

    Args:
        location: the folder or data set.
        shape: that of an image of the study.
        class_names: the classes of the study.

    Raises:
        RequestError: images of another shape, labels of other classes, or no such files.
    """
    folder = Path(location)
    if (folder / LABELS).is_file():
        labels, arrays = _arrays(folder, shape, len(class_names))
        return _levels(labels, arrays)
    source = open_source(location, named_by="--shifted")
    others = tuple(source.class_names)
    if others != class_names:
        raise _wrong(
            location, f"its classes are {_some(others)}, those of the study {_some(class_names)}"
        )
    images = load_images(source, "test" if source.rows("test") else "train")
    if images.images.shape[1:] != shape:
        raise _wrong(location, f"its images are {images.images.shape[1:]}, the study's {shape}")
    return iter([(location, images.images[:], images.labels)])


def _some(class_names: Sequence[str]) -> str:
    names = ", ".join(map(for_terminal, class_names[:SHOWN]))
    more = "" if len(class_names) <= SHOWN else ", ..."
    return f"{names}{more} ({len(class_names)})"


def _arrays(
    folder: Path, shape: tuple[int, ...], classes: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The labels, and the images of each shift, of all its levels."""
    labels = _array(folder / LABELS)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) == 0:
        raise _wrong(folder / LABELS, "must hold the labels (N,) as integers")
    if labels.min() < 0 or labels.max() >= classes:
        numbers = f"labels {labels.min()} to {labels.max()}"
        raise _wrong(folder / LABELS, f"has {numbers}, the study has {classes} classes")
    files = sorted(file for file in folder.glob("*.npy") if file.name != LABELS)
    if not files:
        raise _wrong(folder, "has no image arrays (.npy) beside labels.npy")
    arrays = {}
    for file in files:
        images = _array(file)
        if images.dtype != np.uint8 or images.shape != (len(labels), *shape):
            expected = f"uint8 of shape {(len(labels), *shape)}"
            raise _wrong(file, f"must be {expected}, found {images.dtype} of {images.shape}")
        arrays[file.stem] = images
    return labels, arrays


def _levels(labels: np.ndarray, arrays: Mapping[str, np.ndarray]) -> Iterator[Shifted]:
    levels = SEVERITIES if len(labels) % SEVERITIES == 0 else 1
    for name, images in arrays.items():
        of_levels = zip(np.split(images, levels), np.split(labels, levels), strict=True)
        for pixels, truth in of_levels:
            yield name, np.array(pixels), truth.astype(np.int64)


def _array(file: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _wrong(file, f"cannot be read as an array ({error})") from None
    return array


def _wrong(place: str | Path, what: str) -> RequestError:
    return RequestError(f"--shifted {for_terminal(str(place))}: {what}")
