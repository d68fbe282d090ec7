"""Whether students ask their teachers live, or share answers that were stored once: what the study says and what pays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from distill_ray.augment import View
from distill_ray.job import Recipe
from distill_ray.study import Study
from distill_ray.study.space import Choice


@dataclass(frozen=True)
class Sharing:
    """How the jobs of a stage get the teachers' answers. `sharers` is how many of them, on average, ask for the same ones.

    `exact` stores float32 in any case, `top_k` the largest logits of each answer alone (None: `automatic_top_k`); `limit` is what
    all signals of a store may take, in bytes.
    """

    mode: Literal["auto", "stored", "live"] = "auto"
    sharers: float = 1.0
    exact: bool = False
    limit: float = 20e9
    top_k: int | None = None

    def stores(self, view: View) -> bool:
        """Whether answers for `view` are to be stored."""
        return self.mode == "stored" or (self.mode == "auto" and self.sharers > stored_share(view))

    def largest(self, recipe: Recipe, num_classes: int) -> int | None:
        """How many logits are kept of each answer for a job with that recipe; None: of all classes."""
        if not recipe.method.takes_even_tail(recipe.augment):
            return None
        wanted = automatic_top_k(num_classes) if self.top_k is None else self.top_k
        return wanted if wanted < num_classes else None


def automatic_top_k(num_classes: int) -> int:
    """All classes where storing them is cheap, an eighth of many."""
    return num_classes if num_classes <= 500 else num_classes // 8


LIVE, STORED = Sharing("live"), Sharing("stored")


def stored_share(view: View) -> float:
    """Images that teachers see when everything is stored, over those that one live run shows them.

    It is 1 unless the student's own answers pick images out of a pool: live teachers then see only those picked.
    """
    if not view.picks or getattr(view, "pick", None) != "student-entropy":
        return 1.0
    return (view.part_count - 1 + getattr(view, "pool", 1)) / view.part_count


def trial_sharing(study: Study) -> Sharing:
    """That of the search: its trials have one seed, so those with the same view share."""
    return _sharing(study, study.search.trials / distinct_views(study))


def confirm_sharing(study: Study) -> Sharing:
    """That of the confirmations: of the candidates, those that learn from teachers and have the student's view share a seed."""
    recipes = [*study.confirm.baselines.values(), *[study.student] * study.confirm.top]
    alike = [recipe for recipe in recipes if recipe.method.needs_teachers and recipe.augment == study.student.augment]
    return _sharing(study, len(alike))


def distinct_views(study: Study) -> float:
    """How many different views the search space has, infinitely many where a number of the view is drawn."""
    changes_view = ["augment", "batch_size"] if study.student.augment.by_batch else ["augment"]
    count = 1.0
    for dimension in study.search.space.dimensions:
        if dimension.name in changes_view or dimension.name.startswith("augment."):
            count *= len(dimension.values) if isinstance(dimension, Choice) else math.inf
    return count


def _sharing(study: Study, sharers: float) -> Sharing:
    wanted = study.resources
    return Sharing(wanted.signals, sharers, wanted.signals_precision == "fp32", wanted.signals_gb * 1e9, wanted.signals_top_k)
