"""Tensors for oracles."""

from __future__ import annotations

import torch
from torch import Tensor


def f64(values: object) -> Tensor:
    """A tensor of doubles, in which formulas are compared with numbers worked out elsewhere."""
    return torch.tensor(values, dtype=torch.float64)
