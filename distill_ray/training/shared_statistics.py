"""Batch normalisation over the images of all workers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from distill_ray.models.pre_wide_resnet import BiasedBatchNorm2d


def with_shared_statistics(network: nn.Module) -> nn.Module:
    """`network` with every `BatchNorm2d` in it normalising over the workers' images together.

    Parameters and buffers stay what and where they are.
    """
    for name, layer in network.named_children():
        setattr(network, name, with_shared_statistics(layer))
    return SharedBatchNorm2d(network) if isinstance(network, nn.BatchNorm2d) else network


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation as one worker with all images would do it, on any device.

    Each worker has means and squared deviations of its own images; all of them merge these (Chan,
    Golub & LeVeque 1983), and gradients flow back to where the images are. torch's SyncBatchNorm
    does the same on GPUs alone.
    """

    num_batches_tracked: Tensor

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        super().__init__(layer.num_features, eps=layer.eps, affine=layer.affine)
        if layer.momentum is None or not layer.track_running_stats:
            raise ValueError("sync_batch_norm needs running statistics with a momentum")
        self.momentum: float = layer.momentum
        self._biased = isinstance(layer, BiasedBatchNorm2d)
        self._parameters, self._buffers = layer._parameters, layer._buffers

    def forward(self, maps: Tensor) -> Tensor:
        if not self.training:
            return super().forward(maps)
        mean, variance, count = _of_all_workers(maps.float())
        with torch.no_grad():
            kept = variance if self._biased else variance * (count / (count - 1))
            self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr]
            self.running_var.lerp_(kept, self.momentum)  # type: ignore[union-attr]
            self.num_batches_tracked.add_(1)
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale
        if self.bias is not None:
            shift = shift + self.bias
        channels = (1, -1, 1, 1)
        return (maps * scale.view(channels) + shift.view(channels)).to(maps.dtype)


def _of_all_workers(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance (C,) of all workers' values (B, C, H, W), and their number."""
    channels = maps.shape[1]
    mean = maps.mean((0, 2, 3))
    deviations = (maps - mean.view(1, -1, 1, 1)).square().sum((0, 2, 3))
    count = mean.new_tensor([maps.numel() // channels])
    every = torch.stack(all_gather(torch.cat([mean, deviations, count])))
    means, deviations, counts = every.split([channels, channels, 1], dim=1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    between = (counts * (means - mean).square()).sum(0)
    return mean, (deviations.sum(0) + between) / total, total
