"""Decoded images: in memory, or on the disk of a node and read by rows."""

from __future__ import annotations

import copy
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from distill_ray.errors import RunError

Pixels: TypeAlias = "np.ndarray | PixelsOnDisk | JoinedPixels"
"""Images (N, H, W, C): in memory, memory-mapped, or on the disk; all are indexed by rows."""


@dataclass(frozen=True, eq=False)
class Images:
    """One split, decoded."""

    images: Pixels
    """(N, H, W, C) uint8, memory-mapped and shared between processes (writing to it changes this
    process's copy only), or read from the disk by rows. Inputs that are real numbers are float32,
    and in memory.
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


class PixelsOnDisk:
    """The images in a `.npy` file, (N, H, W, C) uint8. Indexing with rows reads these and keeps
    nothing.

    What was read stays in the page cache as long as the kernel has no better use for that memory,
    for all processes alike.

    Raises `ValueError` when the file holds anything else.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        np.lib.format.read_magic(self._file)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(self._file)
        if len(shape) != 4 or fortran or dtype != np.uint8:
            raise ValueError(f"{path} does not hold images")
        self.dtype: np.dtype[Any] = dtype
        self.shape: tuple[int, int, int, int] = (shape[0], shape[1], shape[2], shape[3])
        self._begin = self._file.tell()
        self._row = math.prod(self.shape[1:])
        self._rows: np.ndarray | None = None
        self._whole: tuple[int, int, int] = self.shape[1:]
        if os.fstat(self._file.fileno()).st_size != self._begin + self.nbytes:
            raise ValueError(f"{path} is not as long as it says")

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return self.shape[0] * math.prod(self.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def of_rows(self, rows: np.ndarray) -> PixelsOnDisk:
        """The images number `rows` alone, counted from 0 again; they stay on the disk."""
        part = copy.copy(self)
        part._rows = rows
        part.shape = (len(rows), *self.shape[1:])
        return part

    def middle(self, side: int) -> PixelsOnDisk:
        """The squares of that side in the middle of the images; they stay on the disk."""
        part = copy.copy(self)
        count, height, width, channels = self.shape
        part._whole = (height, width, channels)
        part.shape = (count, side, side, channels)
        return part

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Images number `rows` (B,): (B, H, W, C), in memory. Raises `RunError` when the disk does
        not have them any more.
        """
        wanted = (
            np.arange(*rows.indices(len(self)))
            if isinstance(rows, slice)
            else np.asarray(rows, np.int64)
        )
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"rows must be 0 to {len(self) - 1}")
        self.will_read(wanted)
        if self._rows is not None:
            wanted = self._rows[wanted]
        images = np.empty((len(wanted), *self._whole), np.uint8)
        flat = images.reshape(-1).data
        done = 0
        for first, count in _runs(wanted):
            self._read(flat[done : done + count * self._row], first)
            done += count * self._row
        return _middle(images, *self.shape[1:3])

    def will_read(self, rows: np.ndarray) -> None:
        """Let the kernel fetch `rows` side by side, ahead of the time they are asked for. Waits for
        nothing.
        """
        if self._rows is not None:
            rows = self._rows[rows]
        if hasattr(os, "posix_fadvise"):
            for first, count in _runs(rows):
                start = self._begin + first * self._row
                os.posix_fadvise(
                    self._file.fileno(), start, count * self._row, os.POSIX_FADV_WILLNEED
                )

    def _read(self, out: memoryview, first: int) -> None:
        place = self._begin + first * self._row
        while out:
            count = os.preadv(self._file.fileno(), [out], place)
            if not count:
                raise RunError(
                    f"{self._file.name} has become shorter; run the same command again to decode "
                    "the images anew"
                )
            out, place = out[count:], place + count


class JoinedPixels:
    """The images of two files, one after the other, without a copy; they are indexed by rows.

    Grey images (N, H, W, 1) in the second file become RGB where those in the first are.
    """

    def __init__(self, first: Pixels, second: Pixels) -> None:
        self.first, self.second = first, second
        self.dtype: np.dtype[Any] = first.dtype
        count, height, width, channels = first.shape
        self.shape: tuple[int, int, int, int] = (
            count + second.shape[0],
            height,
            width,
            channels,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Images number `rows` (B,): (B, H, W, C), in memory."""
        numbers = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        images = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        in_first = numbers < len(self.first)
        images[in_first] = self.first[numbers[in_first]]
        images[~in_first] = self.second[numbers[~in_first] - len(self.first)]
        return images

    def will_read(self, rows: np.ndarray) -> None:
        """Let the kernel fetch `rows` ahead of the time they are asked for."""
        in_first = rows < len(self.first)
        if isinstance(self.first, PixelsOnDisk):
            self.first.will_read(rows[in_first])
        if isinstance(self.second, PixelsOnDisk):
            self.second.will_read(rows[~in_first] - len(self.first))


def middle(pixels: Pixels, side: int) -> Pixels:
    """The squares of that side in the middle of images (N, H, W, C), without a copy."""
    if isinstance(pixels, JoinedPixels):
        return JoinedPixels(middle(pixels.first, side), middle(pixels.second, side))
    if isinstance(pixels, PixelsOnDisk):
        return pixels.middle(side)
    return _middle(pixels, side, side)


def _middle(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
    return pixels[:, top : top + height, left : left + width]


def _runs(rows: np.ndarray) -> list[tuple[int, int]]:
    """Rows that follow each other, as (first, count)."""
    if not len(rows):
        return []
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    starts = np.concatenate([[0], breaks])
    counts = np.diff(np.concatenate([starts, [len(rows)]]))
    return list(zip(rows[starts].tolist(), counts.tolist(), strict=True))
