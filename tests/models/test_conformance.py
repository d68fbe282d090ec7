"""Every family of networks in the tests that `distill_ray.testing` has for models."""

from typing import ClassVar

from distill_ray.testing import ModelConformance


class TestModels(ModelConformance):
    models: ClassVar = {
        "wrn-10-1": 8,
        "pre-wrn-10-1": 8,
        "resnet8": 8,
        "resnet8x4": 8,
        "basic-resnet-4-6": 8,
        "vgg8": 8,
        "mobilenet-v2": 16,
        "shuffle-v1": 8,
        "shuffle-v2": 8,
        "mlp-20-10": 8,
        "lenet-4-6-mlp-12": 8,
        "torchvision/resnet18": 32,
        "torchvision/squeezenet1_1": 33,
    }
