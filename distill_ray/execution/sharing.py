"""Whether students use live teachers or share stored teacher logits: what the study says, or what
is cheaper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from distill_ray.augmentation import Augmentation
from distill_ray.job import Recipe
from distill_ray.study import StudyDefinition
from distill_ray.study.space import Choice


@dataclass(frozen=True)
class Sharing:
    """How the jobs of a stage get the teachers' logits. `sharers` is how many of them, on average,
    use the same ones.

    `exact` always stores float32, `top_k` only that many logits per prediction (None:
    `automatic_top_k`); `limit` is the size in bytes that all teacher logits of a store may have.
    """

    mode: Literal["auto", "cached", "live"] = "auto"
    sharers: float = 1.0
    exact: bool = False
    limit: float = 20e9
    top_k: int | None = None

    def stores(self, augmentation: Augmentation) -> bool:
        """Whether teacher logits for `augmentation` are to be stored."""
        return self.mode == "cached" or (
            self.mode == "auto" and self.sharers > stored_share(augmentation)
        )

    def stores_for(self, recipe: Recipe) -> bool:
        """Whether teacher logits for a job with that recipe are to be stored: its versions come
        back in later epochs, and in other jobs.
        """
        if recipe.method.live_teachers(recipe.augmentation):
            return False
        returning = recipe.versions is not None and self.mode != "live"
        return returning or self.stores(recipe.augmentation)

    def largest(self, recipe: Recipe, num_classes: int) -> int | None:
        """How many logits are kept per prediction for a job with that recipe; None: those of all
        classes.
        """
        if recipe.method.needs_all_classes(recipe.augmentation):
            return None
        wanted = automatic_top_k(num_classes) if self.top_k is None else self.top_k
        return wanted if wanted < num_classes else None


def automatic_top_k(num_classes: int) -> int:
    """All classes where storing them is cheap, one eighth of many."""
    return num_classes if num_classes <= 500 else num_classes // 8


LIVE, STORED = Sharing("live"), Sharing("cached")


def stored_share(augmentation: Augmentation) -> float:
    """Images that teachers see when everything is stored, over those that one live run shows them.

    It is 1 unless the student's own predictions pick images from a pool: live teachers then see
    only those picked.
    """
    if not augmentation.picks or getattr(augmentation, "pick", None) != "student-entropy":
        return 1.0
    return (
        augmentation.part_count - 1 + getattr(augmentation, "pool", 1)
    ) / augmentation.part_count


def trial_sharing(study: StudyDefinition) -> Sharing:
    """The sharing of the search: its trials have one seed, so those with the same augmentation
    share.
    """
    return _sharing(study, study.search.trials / distinct_augmentations(study))


def confirm_sharing(study: StudyDefinition) -> Sharing:
    """The sharing of the confirmations: candidates that learn from teachers with the student's
    augmentation share their seeds.
    """
    recipes = [*study.confirm.baselines.values(), *[study.student] * study.confirm.top]
    alike = [
        recipe
        for recipe in recipes
        if recipe.method.needs_teachers and recipe.augmentation == study.student.augmentation
    ]
    return _sharing(study, len(alike))


def distinct_augmentations(study: StudyDefinition) -> float:
    """How many different augmentations the search space has, infinitely many where a number of the
    augmentation is drawn.
    """
    changes_augmentation = (
        ["augmentation", "batch_size"] if study.student.augmentation.by_batch else ["augmentation"]
    )
    count = 1.0
    for dimension in study.search.space.dimensions:
        if dimension.name in changes_augmentation or dimension.name.startswith("augmentation."):
            count *= len(dimension.values) if isinstance(dimension, Choice) else math.inf
    return count


def _sharing(study: StudyDefinition, sharers: float) -> Sharing:
    settings = study.resources.teacher_logits
    exact = settings.precision == "fp32"
    return Sharing(settings.mode, sharers, exact, settings.gb * 1e9, settings.top_k)
