"""The formulas of the papers in NumPy, in longdouble, written without a look at the code that they
check: what the tests of the distillation methods compare with.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.longdouble]


def exact(values: object) -> Floats:
    """Numbers, or a tensor, in longdouble."""
    return np.asarray(values.tolist() if isinstance(values, Tensor) else values, np.longdouble)


def softmax(logits: Floats, temperature: float = 1) -> Floats:
    """Over the last axis."""
    powers = np.exp(logits / np.longdouble(temperature))
    return powers / powers.sum(-1, keepdims=True)


def z_score(logits: Floats) -> Floats:
    """Each row less its mean, over its deviation with the number of classes as the divisor."""
    deviation = np.sqrt(((logits - logits.mean(-1, keepdims=True)) ** 2).mean(-1, keepdims=True))
    return (logits - logits.mean(-1, keepdims=True)) / deviation


def kl(p: Floats, q: Floats) -> Floats:
    """KL(p || q) over the last axis."""
    return (p * np.log(p / q)).sum(-1)


def cross_entropy(logits: Floats, labels: list[int]) -> Floats:
    """One for each image."""
    return -np.log(softmax(logits))[range(len(labels)), labels]
