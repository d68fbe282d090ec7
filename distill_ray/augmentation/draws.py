"""Random numbers by address: each is a pure function of (seed, epoch, purpose, index), never of
what was drawn before it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from distill_ray._lazy import LazyModule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = LazyModule("numpy")
special = LazyModule("scipy.special")

Per = Literal["image", "batch"]
"""Whether something is drawn for every image, or once for all images of a batch."""

WORDS_PER_BLOCK = 4
"""64-bit words that Philox makes of one value of its counter."""


@dataclass(frozen=True)
class Draws:
    """The random numbers of one epoch.

    `purpose` names what a number is for ("crop", "flip"); numbers of different purposes are
    independent. `index` is a position in the epoch's order for what is drawn per image, and a step
    for what is drawn per batch.

    The bits are those of the Philox4x64-10 generator, whose stream NumPy guarantees, under a key
    that is a hash of the address; all else is made of them here, with operations that IEEE 754
    defines exactly, so no release of NumPy changes it.
    """

    seed: int
    epoch: int

    def uniform(self, purpose: str, start: int, stop: int, count: int) -> NDArray[np.float64]:
        """`count` numbers in [0, 1) for each index from `start` to `stop`: (stop - start, count),
        multiples of 2^-53.

        A row depends on its index and on `count`, not on the range that is asked for, and costs the
        same wherever it lies.
        """
        address = f"{self.seed}/{self.epoch}/{purpose}".encode()
        key = int.from_bytes(hashlib.blake2b(address, digest_size=16).digest(), "little")
        block, skipped = divmod(start * count, WORDS_PER_BLOCK)
        words = np.random.Philox(key=key, counter=block).random_raw(
            skipped + (stop - start) * count
        )[skipped:]
        words >>= np.uint64(11)
        numbers = words.astype(np.float64)
        numbers *= 2.0**-53
        return numbers.reshape(stop - start, count)

    def permutation(self, purpose: str, size: int) -> NDArray[np.int64]:
        """A uniformly distributed order of 0 ... size - 1."""
        return order_of(self.uniform(purpose, 0, size, 1)[:, 0])


def order_of(uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """The permutation that sorts `uniform` (n,); equal numbers keep their order."""
    return np.argsort(uniform, kind="stable").astype(np.int64)


def integers(uniform: NDArray[np.float64], choices: int) -> NDArray[np.int64]:
    """Integers 0 ... choices - 1 from numbers in [0, 1), of the same shape."""
    return np.floor(uniform * choices).astype(np.int64)


def beta(uniform: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """Beta(alpha, alpha) numbers in [0, 1] by the inverse of the distribution function, of the same
    shape.

    They are rounded to multiples of 2^-24, which float32 holds exactly and which hide how SciPy
    rounds its last digits.
    """
    quantile = uniform if alpha == 1 else special.betaincinv(alpha, alpha, uniform)
    rounded: NDArray[np.float64] = np.round(quantile * 2.0**24) * 2.0**-24
    return rounded


def shares(uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """Dirichlet(1, ..., 1) weights (n, k + 1) from numbers (n, k): the gaps that they, sorted,
    leave in [0, 1].
    """
    ends = np.ones((len(uniform), 1))
    return np.diff(np.sort(uniform, axis=1), axis=1, prepend=0 * ends, append=ends)
