"""From the host to the device that trains."""

from __future__ import annotations

import torch
from torch import Tensor


def send(values: Tensor, device: torch.device) -> Tensor:
    """`values` on `device`; to a GPU through pinned memory, so that the host does not wait for the
    copy.
    """
    if values.device == device or device.type != "cuda" or values.device.type == "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
