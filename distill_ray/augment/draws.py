"""Random numbers by address: each is a pure function of (seed, epoch, purpose, index), never of what was drawn before it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distill_ray._lazy import LazyModule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = LazyModule("numpy")

WORDS_PER_BLOCK = 4
"""64-bit words that Philox makes of one value of its counter."""


@dataclass(frozen=True)
class Draws:
    """The random numbers of one epoch.

    `purpose` names what a number is for ("crop", "flip"); numbers of different purposes are independent. `index` is a position
    in the epoch's order for what is drawn per image, and a step for what is drawn per batch.

    The bits are those of the Philox4x64-10 generator, whose stream NumPy guarantees, under a key that is a hash of the
    address; all else is made of them here, with operations that IEEE 754 defines exactly, so no release of NumPy changes it.
    """

    seed: int
    epoch: int

    def uniform(self, purpose: str, start: int, stop: int, count: int) -> NDArray[np.float64]:
        """`count` numbers in [0, 1) for each index from `start` to `stop`: (stop - start, count), multiples of 2^-53.

        Row i depends on the index and on `count` alone, not on the range that is asked for.
        """
        address = f"{self.seed}/{self.epoch}/{purpose}".encode()
        key = int.from_bytes(hashlib.blake2b(address, digest_size=16).digest(), "little")
        block, skipped = divmod(start * count, WORDS_PER_BLOCK)
        words = np.random.Philox(key=key, counter=block).random_raw(skipped + (stop - start) * count)[skipped:]
        return (words >> np.uint64(11)).astype(np.float64).reshape(stop - start, count) * 2.0**-53

    def permutation(self, purpose: str, size: int) -> NDArray[np.int64]:
        """A uniformly distributed order of 0 ... size - 1."""
        return order_of(self.uniform(purpose, 0, size, 1)[:, 0])


def order_of(uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """The permutation that sorts `uniform` (n,); equal numbers keep their order."""
    return np.argsort(uniform, kind="stable").astype(np.int64)


def integers(uniform: NDArray[np.float64], choices: int) -> NDArray[np.int64]:
    """Integers 0 ... choices - 1 from numbers in [0, 1), of the same shape."""
    return np.floor(uniform * choices).astype(np.int64)
