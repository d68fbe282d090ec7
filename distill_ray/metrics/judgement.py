"""What networks say of images beyond the class that they name: how unsure they are and why, and
whether that tells foreign images from familiar ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from distill_ray.metrics.classification import FloatArray
from distill_ray.metrics.ensemble import mean_log_probabilities, shares_of
from distill_ray.metrics.regression import mean_gaussian, mixture
from distill_ray.metrics.uncertainty import (
    Uncertainty,
    decompose,
    decompose_dirichlet,
    entropy,
    separation,
)
from distill_ray.task import Task


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a network, or the mean of several, says of N images.

    `prediction` is that of the mean over its members, heads or samples: log-probabilities (N, K) in
    nats, or mean and log-variance (N, 2) for regression. `epistemic` (N,) is the part of the
    uncertainty that comes from their disagreement (see `metrics.uncertainty.Uncertainty`), 0 for a
    network without any. `energy` (N,) is the free energy of the logits, the mean over members (Liu
    et al. 2020); None for regression.
    """

    prediction: FloatArray
    epistemic: FloatArray
    energy: FloatArray | None

    @cached_property
    def uncertainty(self) -> Uncertainty:
        """The uncertainty with its sources, (N,) each."""
        if self.energy is None:
            total = np.exp(self.prediction[:, 1].astype(np.float64) / 2)
            aleatoric = np.sqrt(np.maximum(total**2 - self.epistemic**2, 0))
        else:
            total = entropy(self.prediction)
            aleatoric = total - self.epistemic
        return Uncertainty(total, aleatoric, self.epistemic)

    @property
    def doubts(self) -> dict[str, FloatArray]:
        """What is higher for foreign images, (N,) each: `total`, the entropy of the prediction or
        its standard deviation; for classification `msp`, minus the log-probability of the most
        probable class, and `energy`; `epistemic` where members disagree.
        """
        doubts = {"total": self.uncertainty.total}
        if self.energy is not None:
            doubts |= {"msp": -self.prediction.max(axis=1), "energy": self.energy}
        if self.epistemic.any():
            doubts["epistemic"] = self.epistemic
        return doubts


def judge(outputs: ArrayLike, task: Task, *, dirichlet: bool = False) -> Judgement:
    """The judgement of one network, from what its members, heads or samples give.

    Args:
        outputs: logits (M, N, K), or means and log-variances (M, N, 2) for regression.
        task: which of the two.
        dirichlet: whether the logits of the only member are the logarithms of the concentrations of
            a Dirichlet distribution, as of `endd`.
    """
    members = np.asarray(outputs, np.float64)
    if task == "regression":
        mean, deviations = mixture(members[..., 0], np.exp(members[..., 1]))
        prediction = np.stack([mean, 2 * np.log(deviations.total)], axis=1)
        return Judgement(prediction, deviations.epistemic, None)
    evidence = np.logaddexp.reduce(members, axis=-1)
    logs = members - evidence[..., None]
    sources = decompose_dirichlet(np.exp(members[0])) if dirichlet else decompose(logs)
    return Judgement(mean_log_probabilities(logs), sources.epistemic, -evidence.mean(axis=0))


def pooled(judgements: Sequence[Judgement], weights: ArrayLike | None = None) -> Judgement:
    """The judgement of the mean of several networks with these `weights`, equal by default.

    The uncertainty that each of them expects on its own is averaged; what the mean prediction has
    beyond it is their disagreement, between them and within them.
    """
    shares = shares_of(weights, len(judgements))
    predictions = [judgement.prediction for judgement in judgements]
    noises = np.stack([judgement.uncertainty.aleatoric for judgement in judgements])
    energies = [judgement.energy for judgement in judgements if judgement.energy is not None]
    if not energies:
        prediction = mean_gaussian(predictions, shares)
        epistemic = np.sqrt(np.maximum(np.exp(prediction[:, 1]) - shares @ noises**2, 0))
        return Judgement(prediction, epistemic, None)
    prediction = mean_log_probabilities(np.stack(predictions), shares)
    epistemic = np.maximum(entropy(prediction) - shares @ noises, 0)
    return Judgement(prediction, epistemic, shares @ np.stack(energies))


def separations(familiar: Judgement, foreign: Judgement) -> dict[str, float]:
    """How well each doubt of one network tells foreign images from familiar ones.

    The measures of `metrics.uncertainty.separation`: by the total uncertainty under their own
    names (`auroc`), by the others with the name of the doubt before them (`msp-auroc`,
    `energy-fpr95`, `epistemic-aupr-test`).
    """
    values = {}
    before = familiar.doubts
    for doubt, scores in foreign.doubts.items():
        prefix = "" if doubt == "total" else f"{doubt}-"
        for measure, value in separation(before.get(doubt, familiar.epistemic), scores).items():
            values[prefix + measure] = value
    return values
