"""What every network of the catalogue promises."""

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from distill_ray.models import build_model
from distill_ray.models.network import Network

SMALL = {"wrn-10-1": 8}
"""One small member of each family, with a side of image that it takes."""

CASES = [pytest.param(name, side, id=name) for name, side in SMALL.items()]
pytestmark = pytest.mark.parametrize(("name", "side"), CASES)


def built(name: str, side: int, channels: int = 3, num_classes: int = 5, seed: int = 0) -> Network:
    return build_model(
        name,
        num_classes=num_classes,
        image_shape=(channels, side, side),
        seed=seed,
        mean=[0.4, 0.5, 0.6][:channels],
        std=[0.2, 0.3, 0.25][:channels],
    )


def images(side: int, channels: int = 3, count: int = 4) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("channels", "num_classes"), [(1, 10), (3, 2)])
def test_logits_for_any_channels_and_classes(name: str, side: int, channels: int, num_classes: int) -> None:
    net = built(name, side, channels, num_classes).eval()
    logits = net(images(side, channels))
    assert logits.shape == (4, num_classes)
    assert logits.dtype == torch.float32
    assert isinstance(net.classifier, torch.nn.Linear)
    torch.testing.assert_close(logits, net.classifier(net.features(net.normalise(images(side, channels)))))


def test_weights_are_a_function_of_the_seed(name: str, side: int) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = built(name, side).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    again, other = built(name, side).state_dict(), built(name, side, seed=1).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_gradients_reach_every_parameter(name: str, side: int) -> None:
    net = built(name, side).double()
    net(images(side).double()).square().sum().backward()
    idle = [key for key, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert idle == []


def test_weights_survive_safetensors(name: str, side: int) -> None:
    net, other = built(name, side), built(name, side, seed=1)
    net(images(side))
    other.load_state_dict(load(save(net.state_dict())))
    torch.testing.assert_close(other.eval()(images(side)), net.eval()(images(side)), rtol=0, atol=0)


def test_channels_last_changes_nothing_and_is_kept(name: str, side: int) -> None:
    net = built(name, side).double().eval()
    contiguous = net(images(side).double())
    net = net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(images(side).double().to(memory_format=torch.channels_last)), contiguous)


def test_images_do_not_influence_each_other_in_evaluation(name: str, side: int) -> None:
    net = built(name, side).double().eval()
    together = net(images(side).double())
    torch.testing.assert_close(torch.cat([net(image[None]) for image in images(side).double()]), together)


def test_normalisation_comes_first(name: str, side: int) -> None:
    net, plain = built(name, side).eval(), build_model(name, num_classes=5, image_shape=(3, side, side), seed=0).eval()
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1)
    torch.testing.assert_close(net(images(side)), plain((images(side) - mean) / std))
