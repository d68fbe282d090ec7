"""Decoded images: in memory, or on the disk of a node and read by rows."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from distill_ray.errors import RunError

Pixels: TypeAlias = "np.ndarray | PixelsOnDisk"
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
        shape, fortran, self.dtype = np.lib.format.read_array_header_1_0(self._file)
        if len(shape) != 4 or fortran or self.dtype != np.uint8:
            raise ValueError(f"{path} does not hold images")
        self.shape: tuple[int, int, int, int] = (shape[0], shape[1], shape[2], shape[3])
        self._begin = self._file.tell()
        self._row = math.prod(self.shape[1:])
        if os.fstat(self._file.fileno()).st_size != self._begin + self.nbytes:
            raise ValueError(f"{path} is not as long as it says")

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return self.shape[0] * self._row

    def __len__(self) -> int:
        return self.shape[0]

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
        images = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        flat = images.reshape(-1).data
        done = 0
        for first, count in _runs(wanted):
            self._read(flat[done : done + count * self._row], first)
            done += count * self._row
        return images

    def will_read(self, rows: np.ndarray) -> None:
        """Let the kernel fetch `rows` side by side, ahead of the time they are asked for. Waits for
        nothing.
        """
        if hasattr(os, "posix_fadvise"):
            for first, count in _runs(rows):
                start = self._begin + first * self._row
                os.posix_fadvise(
                    self._file.fileno(), start, count * self._row, os.POSIX_FADV_WILLNEED
                )

    def _read(self, out: memoryview, first: int) -> None:
        place = self._begin + first * self._row
        while out:
            got = os.preadv(self._file.fileno(), [out], place)
            if not got:
                raise RunError(
                    f"{self._file.name} has become shorter; run the same command again to decode "
                    "the images anew"
                )
            out, place = out[got:], place + got


def _runs(rows: np.ndarray) -> list[tuple[int, int]]:
    """Rows that follow each other, as (first, count)."""
    if not len(rows):
        return []
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    starts = np.concatenate([[0], breaks])
    counts = np.diff(np.concatenate([starts, [len(rows)]]))
    return list(zip(rows[starts].tolist(), counts.tolist(), strict=True))
