"""What lies outside the squares that a split is decoded to: the strips on both sides of each, for
augmentations that crop from whole photographs.

They are a file of their own, decoded when they are first asked for, so that whoever reads the
squares alone neither waits for them nor needs the space.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from distill_ray.data.decode_split import (
    MARGINS,
    STRIPS,
    DecodedStrips,
    are_undamaged,
    decode_strips_of_split,
)
from distill_ray.data.decoding import Shape
from distill_ray.data.images import ABOUT, DAMAGED, SOUND
from distill_ray.data.source import Source, SplitName
from distill_ray.errors import RunError
from distill_ray.node_cache import cache_root, facts, made_once, new_folder, remembered_digest

FORMAT = 1
"""Part of every cache key. Raise it when the files in the cache change their meaning."""

Strips: TypeAlias = "StripsInFile | JoinedStrips"
"""The strips of all images of a split; they are asked for by rows."""


class StripsInFile:
    """The strips in a file of the cache, memory-mapped or read from the disk by rows.

    `margins` (N,) int64 has the width of the strips of each image, or their height as a negative
    number, see `distill_ray.data.decoding.strips_of`.
    """

    def __init__(
        self, path: Path, margins: NDArray[np.int64], begins: NDArray[np.int64], unit: int
    ) -> None:
        """`begins` (N,) is where the strips of each image begin, `unit` the bytes of a pixel of
        margin: 2 * side * channels.
        """
        self.margins = margins
        self._begins = begins
        self._sizes = np.abs(margins) * unit
        self._path = path
        self._file = path.open("rb", buffering=0)
        self._mapped: NDArray[np.uint8] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all strips."""
        return int(self._sizes.sum())

    def mapped(self) -> StripsInFile:
        """The same, memory-mapped."""
        if self.nbytes:
            self._mapped = np.memmap(self._path, np.uint8, mode="c")
        return self

    def of_rows(self, rows: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """Both strips of images number `rows`, one after the other and flat. Raises `RunError`
        when the disk does not have them any more.
        """
        places = zip(self._begins[rows].tolist(), self._sizes[rows].tolist(), strict=True)
        if self._mapped is not None:
            return [self._mapped[begin : begin + size] for begin, size in places]
        return [self._read(begin, size) for begin, size in places]

    def will_read(self, rows: NDArray[np.int64]) -> None:
        """Let the kernel fetch the strips of `rows` ahead of the time they are asked for."""
        if self._mapped is None and hasattr(os, "posix_fadvise"):
            for begin, size in zip(self._begins[rows], self._sizes[rows], strict=True):
                if size:
                    os.posix_fadvise(self._file.fileno(), begin, size, os.POSIX_FADV_WILLNEED)

    def _read(self, begin: int, size: int) -> NDArray[np.uint8]:
        pixels = np.frombuffer(os.pread(self._file.fileno(), size, begin), np.uint8)
        if len(pixels) < size:
            raise RunError(
                f"{self._file.name} has become shorter; run the same command again to decode the "
                "images anew"
            )
        return pixels


class JoinedStrips:
    """The strips of `JoinedPixels`; those of grey images become RGB where `repeats` is 3."""

    def __init__(self, first: Strips, second: Strips, repeats: int) -> None:
        self.margins: NDArray[np.int64] = np.concatenate([first.margins, second.margins])
        self._first, self._second, self._repeats = first, second, repeats

    def of_rows(self, rows: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """As those of one file."""
        count = len(self._first.margins)
        in_first = rows < count
        ours = iter(self._first.of_rows(rows[in_first]))
        theirs = iter(self._second.of_rows(rows[~in_first] - count))
        return [
            next(ours) if first else np.repeat(next(theirs), self._repeats)
            for first in in_first.tolist()
        ]

    def will_read(self, rows: NDArray[np.int64]) -> None:
        """Let the kernel fetch the strips of `rows` ahead of the time they are asked for."""
        count = len(self._first.margins)
        self._first.will_read(rows[rows < count])
        self._second.will_read(rows[rows >= count] - count)


def load_strips(
    source: Source,
    split: SplitName,
    squares: Sequence[int],
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    memory: float,
) -> StripsInFile:
    """What lies outside the `squares` (N, S, S, C) that `load_images` has made of `split`, decoded
    or taken from the cache of this node.

    It is memory-mapped if it has at most `memory` bytes, which is what decoding keeps to as well.
    Raises as `load_images`.
    """
    _, side, _, channels = squares
    key = json.dumps([FORMAT, source.digest, source.label, split, side, channels, "strips"])
    folder = cache_root(cache_dir) / "images" / hashlib.sha256(key.encode()).hexdigest()[:32]

    def make() -> None:
        with new_folder(folder) as partial:
            shape = Shape(side, side, channels, "", fit=True)
            parts = decode_strips_of_split(source, split, shape, partial, memory)
            source.check_unchanged()
            (partial / ABOUT).write_text(json.dumps([asdict(part) for part in parts]))

    strips = made_once(folder, lambda: _from_cache(folder, 2 * side * channels), make)
    return strips.mapped() if strips.nbytes <= memory else strips


def _from_cache(folder: Path, unit: int) -> StripsInFile | None:
    """What the cache holds, or None when that is nothing or not what was written."""
    try:
        parts = [DecodedStrips(**part) for part in json.loads((folder / ABOUT).read_bytes())]
        files = facts(folder, (ABOUT, STRIPS, MARGINS))
        sound = remembered_digest(files, lambda: SOUND if are_undamaged(folder, parts) else DAMAGED)
        if sound != SOUND:
            return None
        margins = np.load(folder / MARGINS)
        sizes = np.abs(margins) * unit
        begins = np.empty_like(margins)
        for part in parts:
            ends = part.begin + np.cumsum(sizes[part.first : part.last])
            begins[part.first : part.last] = ends - sizes[part.first : part.last]
        return StripsInFile(folder / STRIPS, margins, begins, unit)
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None
