"""What is predicted for an input: its class, or a number with its uncertainty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

Task = Literal["classification", "regression"]
"""For classification labels are integers and a network has an output per class, its logits. For
regression labels are real numbers, and a network has the two outputs of `GAUSSIAN`.
"""

GAUSSIAN = ("mean", "log variance")
"""The outputs of a network for regression, in their order."""


def task_of(labels: np.ndarray[Any, Any]) -> Task:
    """The task that labels belong to, by their type."""
    return "regression" if labels.dtype.kind == "f" else "classification"
