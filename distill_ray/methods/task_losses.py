"""Loss terms that several methods share, for either task: against the labels, each teacher, or the
teachers' mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from distill_ray.methods import gaussian_losses, losses, member_losses

if TYPE_CHECKING:
    from distill_ray.augmentation.augmentation import Part


@dataclass(frozen=True)
class TaskLosses:
    """Losses averaged over images; outputs are (B, M, K) of M heads, against the labels also (B,
    K).

    `individuality` pairs teachers (N, B, K) and heads in order, `aggregation` compares the means of
    both. Both take a temperature, which regression has no use for.
    """

    correctness: Callable[[Tensor, Part], Tensor]
    individuality: Callable[[Tensor, Tensor, float], Tensor]
    aggregation: Callable[[Tensor, Tensor, float], Tensor]


def task_losses(part: Part) -> TaskLosses:
    """Those of the task that the labels of `part` belong to."""
    return REGRESSION if part.labels.is_floating_point() else CLASSIFICATION


def _likelihood(outputs: Tensor, part: Part) -> Tensor:
    outputs = losses.at_least_float32(outputs)
    return gaussian_losses.gaussian_likelihood(
        outputs if outputs.ndim == 3 else outputs.unsqueeze(1), part.labels
    )


def _paired(outputs: Tensor, teachers: Tensor, temperature: float) -> Tensor:
    return gaussian_losses.paired_gaussians(
        losses.at_least_float32(outputs), losses.at_least_float32(teachers)
    )


def _aggregated(outputs: Tensor, teachers: Tensor, temperature: float) -> Tensor:
    return gaussian_losses.aggregated_gaussians(
        losses.at_least_float32(outputs), losses.at_least_float32(teachers)
    )


CLASSIFICATION = TaskLosses(
    losses.cross_entropy, member_losses.paired_kd, member_losses.aggregated_kd
)
REGRESSION = TaskLosses(_likelihood, _paired, _aggregated)
