"""Torchvision's classification networks: their names and the images they take, known here without
importing torchvision.
"""

from __future__ import annotations

from typing import Any

from distill_ray.models.family import at_least

# fmt: off
NAMES = (
    "alexnet", "convnext_base", "convnext_large", "convnext_small", "convnext_tiny", "densenet121",
    "densenet161", "densenet169", "densenet201", "efficientnet_b0", "efficientnet_b1",
    "efficientnet_b2", "efficientnet_b3", "efficientnet_b4", "efficientnet_b5", "efficientnet_b6",
    "efficientnet_b7", "efficientnet_v2_l", "efficientnet_v2_m", "efficientnet_v2_s", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3",
    "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_16gf", "regnet_x_1_6gf",
    "regnet_x_32gf", "regnet_x_3_2gf", "regnet_x_400mf", "regnet_x_800mf", "regnet_x_8gf",
    "regnet_y_128gf", "regnet_y_16gf", "regnet_y_1_6gf", "regnet_y_32gf", "regnet_y_3_2gf",
    "regnet_y_400mf", "regnet_y_800mf", "regnet_y_8gf", "resnet101", "resnet152", "resnet18",
    "resnet34", "resnet50", "resnext101_32x8d", "resnext101_64x4d", "resnext50_32x4d",
    "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0",
    "squeezenet1_0", "squeezenet1_1", "swin_b", "swin_s", "swin_t", "swin_v2_b", "swin_v2_s",
    "swin_v2_t", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn",
    "vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32", "wide_resnet101_2",
    "wide_resnet50_2",
)
# fmt: on

SMALLEST_SIDES = {
    "alexnet": 63,
    "convnext": 32,
    "densenet": 29,
    "googlenet": 15,
    "inception": 75,
    "squeezenet1_0": 21,
    "squeezenet1_1": 17,
    "swin": 4,
    "vgg": 32,
}
"""The smallest side of image, by the start of the name; the others take every size."""


def architecture(name: str) -> dict[str, Any]:
    """The builder's argument for torchvision's `name`."""
    return {"architecture": name}


def check_images(image_shape: tuple[int, int, int], architecture: str) -> None:
    """Raise `ValueError` when the architecture does not take images of that shape."""
    at_least(
        next((side for start, side in SMALLEST_SIDES.items() if architecture.startswith(start)), 1),
        image_shape,
    )
    _, height, width = image_shape
    if architecture == "maxvit_t":
        patch = 224
    elif architecture.startswith("vit_"):
        patch = int(architecture[-2:])
    else:
        patch = 1
    if patch > 1 and (height != width or height % patch):
        raise ValueError(
            f"takes square images with a side that is a multiple of {patch}, found {height}x{width}"
        )


_PAYS_FROM = {"mobilenet_v2": 128, "regnet": 64}
"""Sides of images from which on half precision pays for these, measured in BENCHMARKS.md."""


def dense(side: int, architecture: str) -> bool:
    """Whether the architecture spends its time in large products, for images of that `side`.

    Those for mobile devices convolve each channel, or each group of a few, for itself. Where such
    convolutions have three by three weights and large maps, half precision pays all the same.
    """
    for prefix, smallest in _PAYS_FROM.items():
        if architecture.startswith(prefix):
            return side >= smallest
    return not architecture.startswith(("efficientnet", "mnasnet", "mobilenet", "shufflenet"))


def plain_layers(architecture: str) -> bool:
    """Whether all trained parameters are in convolutions, linear layers and batch normalisation."""
    return not architecture.startswith(("convnext", "maxvit", "swin", "vit"))
