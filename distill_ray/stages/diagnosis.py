"""Why a given teacher may be poor: the usual mistakes in preparing images and naming classes, each
tried on some validation images rather than guessed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from distill_ray.job import Recipe
from distill_ray.models import check_model_name
from distill_ray.models.network import Network, Normalise
from distill_ray.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from distill_ray.training import Worker, predict
from distill_ray.training.dataset import Dataset

IMAGES = 200
"""Validation images that every attempt is measured on."""

FEWEST = 50
"""Fewer images than that say too little."""

LONGEST_S = 3.0
"""Seconds for an attempt; larger images are tried on fewer of them, or not at all."""

GAIN = 0.1
"""So much more accuracy makes an attempt an explanation."""

SIDES = (32, 64, 96, 128, 224, 256, 384)
"""Sizes of images that networks are commonly trained with."""

Prepared = tuple[Preprocessing, tuple[float, ...], tuple[float, ...]]
"""How images are prepared, with mean and standard deviation of each channel."""


def diagnose(
    network: Network, recipe: Recipe, dataset: Dataset, log_probabilities: np.ndarray
) -> list[str]:
    """What would make the teacher better, best first, each a sentence with its measurement.

    Args:
        network: the teacher, as it answers now.
        recipe: what the study says of it.
        dataset: the images.
        log_probabilities: its answers for all validation images, (N, K).
    """
    labels = dataset.labels[dataset.validation]
    rows = np.random.default_rng(0).permutation(len(labels))[:IMAGES]
    right = log_probabilities[rows].argmax(1) == labels[rows]
    measured = _Measure(network, dataset, dataset.validation[rows], right)

    # ---- Each mistake by itself, then a second one on top of the best ----------------------------
    normalise = network.normalise
    asis: Prepared = (
        normalise.preprocessing,
        tuple(normalise.mean.flatten().tolist()),
        tuple(normalise.std.flatten().tolist()),
    )
    measured.time(asis)
    explanations = _explanations(asis, recipe, dataset, measured)
    if explanations:
        first, remedy, prepared = explanations[0]
        for second, other, _ in _explanations(prepared, recipe, dataset, measured)[:1]:
            if second.accuracy >= first.accuracy + GAIN:
                explanations.insert(0, (second, f"{remedy} and {other}", prepared))
    network.normalise = normalise

    sentences = [
        f"preprocessing: with {remedy} {100 * attempt.accuracy:.1f} % of {attempt.images} "
        f"validation images are right, {100 * attempt.before:.1f} % without"
        for attempt, remedy, _ in explanations[:3]
    ]
    sentences += permuted(log_probabilities, labels, dataset.class_names)
    slow = ", ".join(map(str, sorted(measured.too_slow)))
    untried = f" (sizes {slow} would take too long here to be tried)" if slow else ""
    return sentences or [
        "neither channel order, value range, mean and std, image size nor the order of classes "
        f"explains it{untried}; were the weights trained for these classes?"
    ]


@dataclass(frozen=True)
class Attempt:
    """The accuracy of an attempt on some images, and what it was before on the same ones."""

    accuracy: float
    before: float
    images: int


class _Measure:
    """Measures attempts on the rows of some images, of which those are `right` as it is."""

    def __init__(
        self, network: Network, dataset: Dataset, rows: np.ndarray, right: np.ndarray
    ) -> None:
        self._network = network
        self._dataset = dataset
        self._rows = rows
        self._right = right
        self._seconds_per_pixel = 0.0
        self.too_slow = set[int]()

    def time(self, asis: Prepared) -> None:
        """Take the time of an image, after once unmeasured."""
        few = self._rows[:FEWEST]
        self._answers(asis, few)
        begun = time.perf_counter()
        self._answers(asis, few)
        pixels = self._side(asis) ** 2 * len(few)
        self._seconds_per_pixel = (time.perf_counter() - begun) / pixels

    def __call__(self, prepared: Prepared) -> Attempt | None:
        """None where the network cannot take such images, or not soon."""
        side = self._side(prepared)
        affordable = int(LONGEST_S / (self._seconds_per_pixel * side**2))
        if affordable < min(FEWEST, len(self._rows)):
            self.too_slow.add(side)
            return None
        rows = self._rows[:affordable]
        try:
            answers = self._answers(prepared, rows)
        except (RuntimeError, ValueError):  # layers that are made for one size
            return None
        right = answers.argmax(1) == self._dataset.labels[rows]
        return Attempt(right.mean(), self._right[: len(rows)].mean(), len(rows))

    def _side(self, prepared: Prepared) -> int:
        return prepared[0].size or self._dataset.image_shape[1]

    def _answers(self, prepared: Prepared, rows: np.ndarray) -> np.ndarray:
        wanted, mean, std = prepared
        worker = Worker.here()
        self._network.normalise = Normalise(mean, std, wanted)
        network = self._network.to(worker.device)
        return predict(network, self._dataset.images, rows, worker=worker)


def _explanations(
    asis: Prepared,
    recipe: Recipe,
    dataset: Dataset,
    measured: _Measure,
) -> list[tuple[Attempt, str, Prepared]]:
    """Attempts that are better by `GAIN`, best first."""
    explanations = []
    labels = dataset.labels[dataset.validation]
    chance = np.bincount(labels).max() / len(labels)
    for remedy, prepared in _attempts(asis, recipe, dataset):
        attempt = measured(prepared)
        if attempt is not None and attempt.accuracy >= max(attempt.before, chance) + GAIN:
            explanations.append((attempt, remedy, prepared))
    return sorted(explanations, key=lambda explanation: -explanation[0].accuracy)


def _attempts(asis: Prepared, recipe: Recipe, dataset: Dataset) -> Iterator[tuple[str, Prepared]]:
    """Other ways to prepare images, each with what to write into the study file."""
    wanted, mean, std = asis
    channels = len(mean)
    if channels == 3:
        other: Literal["rgb", "bgr"] = "rgb" if wanted.channels == "bgr" else "bgr"
        yield f"channels: {other}", (replace(wanted, channels=other), mean, std)
    scale = 1.0 if wanted.value_range != 1 else 255.0
    yield f"value_range: {scale:g}", (replace(wanted, value_range=scale), mean, std)
    norms = {
        "those of the training split": (dataset.mean, dataset.std),
        "pixels as they are": ((0.0,) * channels, (1.0,) * channels),
        "pixels in [-1, 1]": ((0.5,) * channels, (0.5,) * channels),
    }
    if channels == 3:
        norms["those of ImageNet"] = (IMAGENET_MEAN, IMAGENET_STD)
    for name, (other_mean, other_std) in norms.items():
        if not np.allclose([*mean, *std], [*other_mean, *other_std], atol=0.02):
            setting = ", ".join(
                f"{key}: [{', '.join(f'{value:.3g}' for value in values)}]"
                for key, values in (("mean", other_mean), ("std", other_std))
            )
            yield f"{setting} ({name})", (wanted, tuple(other_mean), tuple(other_std))
    side = wanted.size or dataset.image_shape[1]
    for size in SIDES:
        if size != side and _takes(recipe.model, (channels, size, size)):
            yield f"size: {size}", (replace(wanted, size=size), mean, std)


def _takes(model: str, image_shape: tuple[int, int, int]) -> bool:
    try:
        check_model_name(model, image_shape)
    except ValueError:
        return False
    return True


def permuted(
    log_probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    *,
    answers_alone: bool = False,
) -> list[str]:
    """Whether the outputs are for the classes in another order, which the study can name, unless
    teachers are known by their `answers_alone`.

    The order that makes most answers right is found on one half of the images and judged on the
    other.
    """
    answers, classes = log_probabilities.argmax(1), len(class_names)
    seen, judged = np.array_split(np.random.default_rng(0).permutation(len(labels)), 2)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (answers[seen], labels[seen]), 1)
    outputs, meant = linear_sum_assignment(confusion, maximize=True)
    order = np.empty(classes, dtype=np.int64)
    order[outputs] = meant
    now = float((answers[judged] == labels[judged]).mean())
    accuracy = float((order[answers[judged]] == labels[judged]).mean())
    if accuracy < now + GAIN:
        return []
    names = ", ".join(class_names[place] for place in order[:30])
    rest = f", and {classes - 30} more" if classes > 30 else ""
    remedy = f"try classes: [{names}{rest}]"
    if answers_alone:
        remedy = (
            f"they seem to be in the order [{names}{rest}], and are to be answered in that of "
            "class_names, which the metadata of the files that were asked have"
        )
    return [
        f"class order: {100 * accuracy:.1f} % of {len(labels[judged])} validation images are right "
        f"where the outputs mean other classes, {100 * now:.1f} % as it is; {remedy}"
    ]
