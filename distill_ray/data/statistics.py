"""Mean and standard deviation of pixels per channel, exact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CHUNK = 2048


def channel_statistics(pixels: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (over N, H, W; denominator NHW) of each channel, on the scale
    where 255 is 1.

    `Images` carries those of its split already. The standard deviation is at least 1/255, so that
    dividing by it is safe where a channel is constant.

    Args:
        pixels: (N, H, W, C) uint8, N at least 1; read in chunks, so it may be memory-mapped.
    """
    sums = PixelSums(pixels.shape[-1])
    for start in range(0, len(pixels), CHUNK):
        sums.add(pixels[start : start + CHUNK])
    return sums.statistics()


class PixelSums:
    """Integer sums of pixels and of their squares per channel, over all batches that are added."""

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._sum = np.zeros(channels, np.int64)
        self._squares = np.zeros(channels, np.int64)

    def add(self, pixels: np.ndarray) -> None:
        """Add (B, H, W, C) uint8 pixels."""
        flat = pixels.reshape(-1, pixels.shape[-1])
        self._count += len(flat)
        for channel in range(flat.shape[1]):
            counts = np.bincount(flat[:, channel], minlength=256)
            self._sum[channel] += counts @ np.arange(256)
            self._squares[channel] += counts @ np.arange(256) ** 2

    def values(self) -> tuple[int, list[int], list[int]]:
        """How many pixels, and per channel their sum and the sum of their squares."""
        return self._count, self._sum.tolist(), self._squares.tolist()

    def add_values(self, count: int, total: Sequence[int], squares: Sequence[int]) -> None:
        """Add the `values` of other sums."""
        self._count += count
        self._sum += np.array(total, np.int64)
        self._squares += np.array(squares, np.int64)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel; see `channel_statistics`."""
        mean = [int(total) / self._count for total in self._sum]
        variance = [
            (self._count * int(squares) - int(total) ** 2) / self._count**2
            for total, squares in zip(self._sum, self._squares, strict=True)
        ]
        return tuple(value / 255 for value in mean), tuple(
            max(value**0.5, 1.0) / 255 for value in variance
        )
