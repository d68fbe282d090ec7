"""What every network of the catalogue promises."""

import contextlib
import copy
import functools

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from distill_ray.models import build_model, family_of
from distill_ray.models.network import Network

SMALL = {
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
"""A small member of each family, with a side of image that it takes."""

CASES = [pytest.param(name, side, id=name) for name, side in SMALL.items()]
pytestmark = pytest.mark.parametrize(("name", "side"), CASES)


def built(name: str, side: int, channels: int = 3, num_classes: int = 5) -> Network:
    return copy.deepcopy(_built(name, side, channels, num_classes))


@functools.cache
def _built(name: str, side: int, channels: int = 3, num_classes: int = 5, seed: int = 0) -> Network:
    mean, std = [0.4, 0.5, 0.6][:channels], [0.2, 0.3, 0.25][:channels]
    return build_model(
        name,
        num_classes=num_classes,
        image_shape=(channels, side, side),
        seed=seed,
        mean=mean,
        std=std,
    )


def images(side: int, channels: int = 3, count: int = 4) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("channels", "num_classes"), [(1, 10), (3, 2)])
def test_logits_for_any_channels_and_classes(
    name: str, side: int, channels: int, num_classes: int
) -> None:
    net = built(name, side, channels, num_classes).eval()
    logits = net(images(side, channels))
    assert logits.shape == (4, num_classes)
    assert logits.dtype == torch.float32
    assert isinstance(net.classifier, torch.nn.Linear)
    torch.testing.assert_close(
        logits, net.classifier(net.features(net.normalise(images(side, channels))))
    )


def test_the_smallest_images_that_its_family_allows(name: str, side: int) -> None:
    family, arguments = family_of(name)

    def allowed(least: int) -> bool:
        with contextlib.suppress(ValueError):
            family.check_images((3, least, least), **arguments)
            return True
        return False

    least = next(filter(allowed, range(1, side + 1)))
    net = built(name, least)
    net(images(least)).sum().backward()
    assert net.eval()(images(least)).isfinite().all()


def test_weights_are_a_function_of_the_seed(name: str, side: int) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = _built.__wrapped__(name, side).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    first, other = _built(name, side).state_dict(), _built(name, side, seed=1).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_gradients_reach_every_parameter(name: str, side: int) -> None:
    net = built(name, side).double()
    net(images(side).double()).square().sum().backward()
    idle = [
        key
        for key, parameter in net.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert idle == []


def test_weights_survive_safetensors(name: str, side: int) -> None:
    net, other = built(name, side), copy.deepcopy(_built(name, side, seed=1))
    net(images(side))
    other.load_state_dict(load(save(net.state_dict())))
    torch.testing.assert_close(other.eval()(images(side)), net.eval()(images(side)), rtol=0, atol=0)


def test_channels_last_changes_nothing_and_is_kept(name: str, side: int) -> None:
    net = built(name, side).double().eval()
    contiguous = net(images(side).double())
    kept: list[bool] = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda _, given, made: kept.append(
                    is_channels_last(given[0]) and is_channels_last(made)
                )
            )
    net = net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(
        net(images(side).double().to(memory_format=torch.channels_last)), contiguous
    )
    assert all(kept)


def is_channels_last(maps: Tensor) -> bool:
    return maps.shape[1] == 1 or maps.stride(1) == 1


def test_images_do_not_influence_each_other_in_evaluation(name: str, side: int) -> None:
    net = built(name, side).double().eval()
    together = net(images(side).double())
    torch.testing.assert_close(
        torch.cat([net(image[None]) for image in images(side).double()]), together
    )


def test_normalisation_comes_first(name: str, side: int) -> None:
    net = built(name, side).eval()
    mean, std = (
        torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1),
        torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1),
    )
    expected = net.classifier(net.features((images(side) - mean) / std))
    torch.testing.assert_close(net(images(side)), expected)
