"""Torchvision's networks under our interface."""

import pytest
import torch
import torchvision

from distill_ray.models import build_model, check_model_name
from distill_ray.models.torchvision_names import NAMES, SMALLEST_SIDES


def test_every_classification_network_is_known_by_name() -> None:
    assert sorted(NAMES) == sorted(torchvision.models.list_models(module=torchvision.models))


@pytest.mark.parametrize(
    ("name", "side"),
    [
        *(
            (next(name for name in NAMES if name.startswith(start)), side)
            for start, side in SMALLEST_SIDES.items()
        ),
        ("efficientnet_b0", 1),
        ("mnasnet0_5", 1),
        ("shufflenet_v2_x0_5", 1),
        ("maxvit_t", 224),
        ("vit_b_32", 64),
    ],
)
def test_every_family_takes_its_smallest_images(name: str, side: int) -> None:
    with torch.device("meta"):
        network = build_model(
            f"torchvision/{name}", num_classes=7, image_shape=(1, side, side), seed=0
        )
        features = network.features(torch.empty(2, 1, side, side))
        assert features.shape == (2, network.classifier.in_features)
        assert network.classifier(features).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "image_shape", "reason"),
    [
        (
            "torchvision/vgg16",
            (3, 31, 32),
            "model 'torchvision/vgg16' takes images of at least 32x32 pixels, found 31x32",
        ),
        (
            "torchvision/vit_b_16",
            (3, 40, 40),
            "square images with a side that is a multiple of 16, found 40x40",
        ),
        (
            "torchvision/vit_b_16",
            (3, 32, 64),
            "square images with a side that is a multiple of 16, found 32x64",
        ),
        ("torchvision/maxvit_t", (3, 32, 32), "multiple of 224"),
        ("vgg8", (1, 7, 9), "model 'vgg8' takes images of at least 8x8 pixels, found 7x9"),
        ("vgg8", (1, 64, 15), "at least 16x16 pixels, found 64x15"),
        ("lenet-4-8-16-mlp-9", (1, 7, 9), "at least 8x8"),
    ],
)
def test_images_that_do_not_fit_are_refused(
    name: str, image_shape: tuple[int, int, int], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        check_model_name(name, image_shape)
