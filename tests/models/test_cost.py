"""Parameters and operations of every architecture, against the published counts."""

import pytest
import torch
from torch import nn

from distill_ray.models import Size, build_model, model_families
from distill_ray.models.batch_ensemble import to_batch_ensemble
from distill_ray.models.cost import count_operations
from distill_ray.models.network import Network


def outlined(name: str, num_classes: int, image_shape: tuple[int, int, int]) -> Network:
    with torch.device("meta"):
        return build_model(name, num_classes=num_classes, image_shape=image_shape, seed=0)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def weighted_parameters(network: Network) -> int:
    return sum(
        parameters(module)
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    )


@pytest.mark.parametrize(
    ("name", "total", "weighted", "total_for_64_pixels"),
    [
        ("wrn-40-2", 2_255_156, 2_249_748, 2_268_056),
        ("wrn-16-2", 703_284, 701_460, 716_184),
        ("resnet56", 861_620, 857_364, 868_120),
        ("resnet20", 278_324, 276_756, 284_824),
        ("resnet32x4", 7_433_860, 7_423_940, 7_459_560),
        ("resnet8x4", 1_233_540, 1_230_788, 1_259_240),
        ("vgg13", 9_462_180, 9_456_292, 9_513_480),
        ("vgg8", 3_965_028, 3_962_084, 4_016_328),
        ("resnet50", 23_705_252, 23_652_132, 23_910_152),
        ("mobilenet-v2", 812_836, 794_468, 940_936),
        ("shuffle-v2", 1_355_528, 1_339_348, 1_458_028),
    ],
)
def test_parameters_of_the_networks_for_cifar_and_tiny_imagenet(
    name: str, total: int, weighted: int, total_for_64_pixels: int
) -> None:
    network = outlined(name, 100, (3, 32, 32))
    assert (parameters(network), weighted_parameters(network)) == (total, weighted)
    assert parameters(outlined(name, 200, (3, 64, 64))) == total_for_64_pixels


def test_parameters_of_shuffle_v1() -> None:
    network = outlined("shuffle-v1", 100, (3, 32, 32))
    assert (parameters(network), weighted_parameters(network)) == (949_258, 925_522)


def test_parameters_of_the_latent_batch_ensemble_network() -> None:
    network = outlined("pre-wrn-28-4", 100, (3, 32, 32))
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    normalisations = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert (len(convolutions), len(normalisations), len(list(network.parameters()))) == (28, 25, 80)
    assert sum(parameters(convolution) for convolution in convolutions) == 5_839_280
    assert sum(parameters(normalisation) for normalisation in normalisations) == 7_200
    assert parameters(network) == 5_872_180


@pytest.mark.parametrize(
    ("name", "num_classes", "image_shape", "total", "operations"),
    [
        ("mlp-100-100-100-100", 3, (2, 1, 1), 30_903, 31_303),
        ("mlp-50-50-50", 2, (1, 1, 1), 5_302, 5_452),
        ("lenet-32-64-mlp-128", 10, (3, 32, 32), 151_882, 5_887_498),
        ("lenet-128-32-mlp-128-128", 10, (3, 32, 32), 123_946, 13_395_968 + 83_722),
        ("basic-resnet-32-64-128-256", 10, (3, 32, 32), 2_797_610, 140_319_242),
        ("basic-resnet-96-192-256-128", 10, (3, 32, 32), 4_553_066, 804_159_488 + 3_338),
    ],
)
def test_parameters_and_operations_of_the_hydra_networks(
    name: str, num_classes: int, image_shape: tuple[int, int, int], total: int, operations: int
) -> None:
    network = outlined(name, num_classes, image_shape)
    assert parameters(network) == total
    assert count_operations(network, image_shape).total == operations


@pytest.mark.parametrize(
    ("name", "gflops"),
    [
        ("wrn-40-2", 0.6552),
        ("wrn-16-2", 0.2022),
        ("resnet56", 0.2515),
        ("resnet20", 0.0816),
        ("vgg13", 0.5699),
        ("vgg8", 0.1924),
        ("resnet50", 2.5960),
        ("mobilenet-v2", 0.0130),
        ("shuffle-v2", 0.0890),
    ],
)
def test_multiply_adds_of_the_networks_for_cifar(name: str, gflops: float) -> None:
    network = outlined(name, 100, (3, 32, 32))
    assert round(2e-9 * count_operations(network, (3, 32, 32)).multiply_adds, 4) == gflops


SIZES = {name: size for family in model_families() for name, size in family.sizes.items()}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_that_the_catalogue_states(name: str) -> None:
    network = outlined(name, 100, (3, 32, 32))
    assert (
        Size(parameters(network), count_operations(network, (3, 32, 32)).multiply_adds)
        == SIZES[name]
    )


def test_multiply_adds_of_the_latent_batch_ensemble_network() -> None:
    network = outlined("pre-wrn-28-4", 100, (3, 32, 32))
    assert round(1e-9 * count_operations(network, (3, 32, 32)).multiply_adds, 3) == 0.846


def test_counting_leaves_the_network_alone() -> None:
    network = build_model("wrn-10-1", num_classes=10, image_shape=(1, 8, 8), seed=0)
    count_operations(network, (1, 8, 8))
    assert network.training
    assert network.classifier.weight.device.type == "cpu"


def test_members_of_a_batch_ensemble_cost_what_the_network_costs() -> None:
    network = outlined("resnet8", 10, (3, 8, 8))
    once = count_operations(network, (3, 8, 8)).multiply_adds
    assert count_operations(to_batch_ensemble(network, 3), (3, 8, 8)).multiply_adds == 3 * once
