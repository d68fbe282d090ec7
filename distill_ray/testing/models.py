"""What every network of the catalogue must keep."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from distill_ray.models import build_model, family_of
from distill_ray.models.network import Network
from distill_ray.testing.cases import Conformance, is_accepted

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


class ModelConformance(Conformance):
    """A network takes the images that its family allows, is a function of its seed, trains and is
    saved. `models` has the side of the images that each name is tested with, the smaller the
    faster.
    """

    models: ClassVar[Mapping[str, int]]
    argument = "model"

    def cases(self) -> Sequence[str]:
        return list(self.models)

    @pytest.mark.parametrize(("channels", "num_classes"), [(1, 10), (3, 2)])
    def test_logits_for_any_channels_and_classes(
        self, model: str, channels: int, num_classes: int
    ) -> None:
        side = self.models[model]
        net = built(model, side, channels, num_classes).eval()
        inputs = images(side, channels)
        logits = net(inputs)
        assert logits.shape == (4, num_classes)
        assert logits.dtype == torch.float32
        assert isinstance(net.classifier, nn.Linear)
        torch.testing.assert_close(logits, net.classifier(net.features(net.normalise(inputs))))

    def test_the_smallest_images_that_its_family_allows(self, model: str) -> None:
        family, arguments = family_of(model)
        least = next(
            side
            for side in range(1, self.models[model] + 1)
            if is_accepted(family.check_images, (3, side, side), **arguments)
        )
        net = built(model, least)
        net(images(least)).sum().backward()
        assert net.eval()(images(least)).isfinite().all()

    def test_weights_are_a_function_of_the_seed(self, model: str) -> None:
        side = self.models[model]
        torch.manual_seed(5)
        before = torch.get_rng_state()
        again = _built.__wrapped__(model, side).state_dict()
        assert torch.equal(before, torch.get_rng_state())
        first, other = _built(model, side).state_dict(), _built(model, side, seed=1).state_dict()
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not torch.equal(first["classifier.weight"], other["classifier.weight"])

    def test_gradients_reach_every_parameter(self, model: str) -> None:
        side = self.models[model]
        net = built(model, side).double()
        net(images(side).double()).square().sum().backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None and parameter.grad.any(), name

    def test_weights_survive_safetensors(self, model: str) -> None:
        side = self.models[model]
        net, other = built(model, side), copy.deepcopy(_built(model, side, seed=1))
        net(images(side))
        other.load_state_dict(load(save(net.state_dict())))
        inputs = images(side)
        torch.testing.assert_close(other.eval()(inputs), net.eval()(inputs), rtol=0, atol=0)

    def test_channels_last_changes_nothing_and_is_kept(self, model: str) -> None:
        side = self.models[model]
        net, inputs = built(model, side).double().eval(), images(side).double()
        contiguous = net(inputs)
        kept: list[bool] = []

        def look(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            kept.append(_is_channels_last(given[0]) and _is_channels_last(made))

        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(look)
        net = net.to(memory_format=torch.channels_last)
        inputs = inputs.to(memory_format=torch.channels_last)
        torch.testing.assert_close(net(inputs), contiguous)
        assert all(kept)

    def test_images_do_not_influence_each_other_in_evaluation(self, model: str) -> None:
        side = self.models[model]
        net, inputs = built(model, side).double().eval(), images(side).double()
        alone = torch.cat([net(image[None]) for image in inputs])
        torch.testing.assert_close(alone, net(inputs))

    def test_normalisation_comes_first(self, model: str) -> None:
        side = self.models[model]
        net, inputs = built(model, side).eval(), images(side)
        mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
        expected = net.classifier(net.features((inputs - mean) / std))
        torch.testing.assert_close(net(inputs), expected)


def built(model: str, side: int, channels: int = 3, num_classes: int = 5) -> Network:
    """A network of its own, which a test may change."""
    return copy.deepcopy(_built(model, side, channels, num_classes))


@functools.cache
def _built(
    model: str, side: int, channels: int = 3, num_classes: int = 5, seed: int = 0
) -> Network:
    return build_model(
        model,
        num_classes=num_classes,
        image_shape=(channels, side, side),
        seed=seed,
        mean=MEAN[:channels],
        std=STD[:channels],
    )


def images(side: int, channels: int = 3, count: int = 4) -> Tensor:
    """Random images (count, channels, side, side) in [0, 1)."""
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(1))


def _is_channels_last(maps: Tensor) -> bool:
    return maps.shape[1] == 1 or maps.stride(1) == 1
