"""Predictions of a network for unaugmented images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from distill_ray.augmentation.kernels.geometry import unit
from distill_ray.data.pixels import Pixels
from distill_ray.device import to_device
from distill_ray.models.network import Normalise
from distill_ray.task import Task
from distill_ray.training.device import Precision, Worker, autocast

PIXELS, PIXELS_ON_A_GPU = 500 * 32 * 32, 128 * 224 * 224
"""At most so many pixels are predicted at a time, however few images they make, counted at the size
that the network resizes them to.
"""


def predict(
    network: nn.Module,
    images: Pixels,
    rows: np.ndarray,
    *,
    worker: Worker,
    precision: Precision = "fp32",
    batch_size: int = 500,
    task: Task = "classification",
) -> np.ndarray:
    """Log-probabilities of the classes for `rows` of `images` (N, H, W, C): float32 (len(rows), K).

    Images are uint8, or real numbers in float32. For regression the outputs are means and
    log-variances, (len(rows), 2).

    The network is put into eval mode. It computes in float32, as it will where it is deployed;
    predictions in another `precision` are for following a training, not for keeping. The workers of
    a data-parallel run share the rows and all return the whole.
    """
    network.eval()
    share = np.array_split(rows, worker.world_size)[worker.rank]
    pixels = PIXELS_ON_A_GPU if worker.device.type == "cuda" else PIXELS
    size = max(1, min(batch_size, pixels // _pixels_of_an_image(network, images)))
    # Laid out at once: what is kept from every batch lies between the buffers of the batches, and
    # the C library can then use none of these again.
    outputs: Tensor | None = None
    with torch.inference_mode():
        for first in range(0, len(share), size):
            if not isinstance(images, np.ndarray):
                images.will_read(share[first + size : first + 2 * size])
            batch = torch.from_numpy(images[share[first : first + size]])
            with autocast(worker.device, precision):
                answers = network(unit(to_device(batch, worker.device).permute(0, 3, 1, 2))).float()
            if outputs is None:
                outputs = answers.new_empty(len(share), *answers.shape[1:])
            outputs[first : first + size] = (
                torch.log_softmax(answers, dim=-1) if task == "classification" else answers
            )
        assert outputs is not None, "there is at least a row for each worker"
        gathered = worker.gather(outputs)
    predictions: np.ndarray = gathered.cpu().numpy()
    return predictions


def _pixels_of_an_image(network: nn.Module, images: Pixels) -> int:
    """As the data has it, or as the network makes it where that is more."""
    pixels: int = images.shape[1] * images.shape[2]
    for module in network.modules():
        if isinstance(module, Normalise) and module.preprocessing.size is not None:
            pixels = max(pixels, module.preprocessing.size**2)
    return pixels
