"""Plain networks and transformed ones under bfloat16 autocast, in training and in evaluation."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from distill_ray.models import build_model
from distill_ray.models.batch_ensemble import to_batch_ensemble
from distill_ray.models.multi_head import to_multi_head
from distill_ray.models.network import Network

SHAPES: dict[str, Callable[[Network], nn.Module]] = {
    "plain": lambda network: network,
    "batch-ensemble": lambda network: to_batch_ensemble(network, 2),
    "multi-head": lambda network: to_multi_head(network, 2, 2),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "name", ["wrn-10-1", "pre-wrn-10-1", "shuffle-v2", "resnet8", "lenet-4-6-mlp-12"]
)
def test_logits_are_near_and_gradients_reach_every_parameter(name: str, shape: str) -> None:
    network = SHAPES[shape](build_model(name, num_classes=3, image_shape=(3, 8, 8), seed=0))
    network = network.to(memory_format=torch.channels_last)
    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(
        memory_format=torch.channels_last
    )
    exact = network.eval()(images)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(images)
        trained = network.train()(images)
    assert rounded.dtype == trained.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.05)
    trained.float().square().sum().backward()
    for parameter in network.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()
