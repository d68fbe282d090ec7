"""Images that are there twice: byte for byte, or to the eye (another compression, another size)."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
from PIL import Image

from distill_ray.data.decoding import as_mode

SIDE = 32
"""Side of the thumbnails that two images are compared by."""

BITS, DISTANCE = 64, 4
"""Bits of a fingerprint, and in how many of them near duplicates may differ."""

SMALLEST = 16
"""Side below which an image is too small for its look to tell it from others of its class."""

ALIKE = 0.99
"""Correlation of their thumbnails from which on two images are near duplicates."""

FLAT = 2.0
"""Standard deviation below which a thumbnail has nothing to correlate, of 255."""

COMPARED = 4_000_000
"""Pairs of fingerprints that are compared at a time, which bounds the memory it takes."""


def content_digest(encoded: bytes) -> int:
    """64 bits that two encoded images share when they are the same, byte for byte."""
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")


def thumbnail(image: Image.Image) -> np.ndarray:
    """`image` in a square of 32 pixels, (32, 32, 3) float32 of 0 to 255."""
    # A JPEG is decoded at a fraction of its size: more than what is kept of it is not needed
    image.draft("RGB", (2 * SIDE, 2 * SIDE))
    small = as_mode(image, "RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float32)


def fingerprint(small: np.ndarray) -> int:
    """64 bits of a thumbnail that change little when the image is compressed or resized: in a grid
    of 8 by 9 grey values, whether each is brighter than its right neighbour.

    Source: dHash, Krawetz, "Kind of like that", 2013.
    """
    grey = Image.fromarray(small.mean(axis=2)).resize((9, 8), Image.Resampling.BOX)
    values = np.asarray(grey)
    bits = (values[:, 1:] > values[:, :-1]).reshape(-1)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def are_alike(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two thumbnails show the same picture."""
    if min(first.std(), second.std()) < FLAT:
        return bool(np.abs(first - second).mean() < FLAT)
    return bool(np.corrcoef(first.reshape(-1), second.reshape(-1))[0, 1] >= ALIKE)


def near_pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pairs of fingerprints that differ in at most `DISTANCE` bits: their positions in `first` (N,)
    and `second` (M,), both uint64 without repetitions; int64 (P, 2).

    Of `DISTANCE` + 1 blocks of bits at least one is then the same, so only those that share a block
    are compared.
    """
    pairs = [np.empty((0, 2), np.int64)]
    bounds = np.linspace(0, BITS, DISTANCE + 2).astype(int)
    for low, high in itertools.pairwise(bounds):
        mask = np.uint64((1 << int(high - low)) - 1)
        ours = (first >> np.uint64(low)) & mask
        theirs = (second >> np.uint64(low)) & mask
        order = np.argsort(theirs, kind="stable")
        begin = np.searchsorted(theirs[order], ours, "left")
        counts = np.searchsorted(theirs[order], ours, "right") - begin
        start = 0
        while start < len(first):
            several = np.searchsorted(np.cumsum(counts[start:]), COMPARED, "right")
            stop = start + max(1, int(several))
            rows = np.repeat(np.arange(start, stop), counts[start:stop])
            ends = np.cumsum(counts[start:stop])
            within = np.arange(len(rows)) - np.repeat(ends - counts[start:stop], counts[start:stop])
            columns = order[begin[rows] + within]
            near = np.bitwise_count(first[rows] ^ second[columns]) <= DISTANCE
            pairs.append(np.stack([rows[near], columns[near]], axis=1))
            start = stop
    return np.unique(np.concatenate(pairs), axis=0)
