"""VGG with batch normalisation and one linear layer, as used by CRD and its successors."""

from __future__ import annotations

from torch import nn

from distill_ray.models.layers import GlobalAveragePool, conv_norm, draw_fan_out_and_small
from distill_ray.models.network import Architecture


def vgg(image_shape: tuple[int, int, int], num_classes: int, depth: int) -> Architecture:
    """Architecture of vgg8 (one convolution in each of five blocks) and vgg13 (two).

    The map is halved after blocks 1, 2 and 3, and after block 4 for images of 64 pixels and more.
    Source: Simonyan and Zisserman 2015, as coded in RepDistiller.
    """
    features = nn.Sequential()
    narrow = image_shape[0]
    for block, wide in enumerate((64, 128, 256, 512, 512), start=1):
        for _ in range({8: 1, 13: 2}[depth]):
            features.append(conv_norm(narrow, wide, 3, bias=True))
            narrow = wide
        if block <= 3 or (block == 4 and image_shape[1] >= 64):
            features.append(nn.MaxPool2d(2))
    features.append(GlobalAveragePool())
    return Architecture(features, nn.Linear(narrow, num_classes), draw_fan_out_and_small)
