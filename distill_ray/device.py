"""Tensors from the host's arrays, and from the host to the device that trains."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """`values` on `device`; to a GPU through pinned memory, so that the host does not wait for the
    copy.
    """
    if values.device == device or device.type != "cuda" or values.device.type == "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def as_tensor(values: ArrayLike | Tensor) -> Tensor:
    """`values` as a tensor that shares their memory and is only read, such as a read-only map of a
    file.
    """
    if isinstance(values, Tensor):
        return values
    with warnings.catch_warnings():
        # torch warns because it cannot forbid writing to the tensor
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(values))
