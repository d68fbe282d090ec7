"""A fixed number of augmented versions of every image, in place of a new one in every epoch.

What an image looks like is then a pure function of (augmentation seed, version, image), whatever
the seed of the run, the epoch, and the image's place in it. All runs that learn from the same
teachers can share their logits.

Sources: Faghri et al. 2023, "Reinforce data, multiply impact" (dataset reinforcement); Shen and
Xing 2022, "A fast knowledge distillation framework for visual recognition" (FKD); Vasu et al. 2024,
"MobileCLIP".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from distill_ray.augmentation.augmentation import Augmentation
from distill_ray.augmentation.draws import Draws


@dataclass(frozen=True)
class Versions:
    """`count` augmented versions of every image, drawn with `seed` and numbered from 1.

    A version does not depend on `count`: the first four of eight are those of four.
    """

    count: int
    seed: int = 0

    def shown_in(self, epoch: int, seed: int) -> int:
        """The version that the 1-based `epoch` of a run with that seed shows of every image.

        Each is shown once before one comes back, in an order that is new in every round.
        """
        passed, place = divmod(epoch - 1, self.count)
        return 1 + int(Draws(seed, passed).permutation("versions", self.count)[place])

    def shown_to(self, epochs: int, seeds: Iterable[int]) -> list[int]:
        """All versions that runs of so many epochs with those seeds see, in order."""
        if epochs >= self.count:
            return list(range(1, self.count + 1))
        versions = {self.shown_in(epoch, seed) for seed in seeds for epoch in range(1, epochs + 1)}
        return sorted(versions)


def check_versions(augmentation: Augmentation) -> None:
    """Raise `ValueError` for an augmentation that has no versions of single images."""
    if augmentation.by_batch:
        raise ValueError(
            f"versions: augmentation {augmentation.name} draws once per batch, so that an image "
            "depends on which others lie in its batch, and those are others for every seed; it "
            "needs per: image"
        )
