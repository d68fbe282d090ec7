"""The wide residual network of the latent BatchEnsemble system, against its oracles 8.2, 8.13 and
8.15.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from distill_ray.models import build_model
from distill_ray.models.network import Network
from distill_ray.models.pre_wide_resnet import BiasedBatchNorm2d


def close(found: Tensor, expected: list[object]) -> None:
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=2e-9
    )


def test_whole_network_in_evaluation(filled_network: Network, two_images: Tensor) -> None:
    logits = filled_network.eval()(two_images)
    close(
        logits[:, :4],
        [
            [7.293222467, -5.803243369, -0.304991676, -0.518287410],
            [3.882813779, -4.829239038, 0.613333308, -0.121518267],
        ],
    )
    close(logits.logsumexp(1), [27.359292502, 20.816274592])
    assert logits.argmax(1).tolist() == [84, 84]


def test_whole_network_in_training(filled_network: Network, two_images: Tensor) -> None:
    logits = filled_network.train()(two_images)
    close(
        logits[:, :4],
        [
            [0.457640627, 0.290194266, 0.018113734, -0.159292318],
            [0.854963180, 0.619615042, 0.378636375, 0.016409035],
        ],
    )
    last = [module for module in filled_network.modules() if isinstance(module, nn.BatchNorm2d)][-1]
    assert last.running_mean is not None and last.running_var is not None
    close(last.running_mean[:3], [0.060830479, 0.219073202, -0.221304098])
    close(last.running_var[:3], [1.855426488, 2.205463495, 2.660010003])


def test_running_variance_is_the_biased_one() -> None:
    norm = BiasedBatchNorm2d(1).double()
    normalised = norm(torch.tensor([1, 2, 3, 4], dtype=torch.float64).view(4, 1, 1, 1))
    torch.testing.assert_close(
        normalised.flatten(),
        torch.tensor([-1.34163542, -0.44721181, 0.44721181, 1.34163542], dtype=torch.float64),
        rtol=0,
        atol=1e-8,
    )
    assert norm.running_mean is not None
    assert norm.running_mean.item() == pytest.approx(0.25)
    assert norm.running_var.item() == pytest.approx(1.025)
    norm.eval()(torch.zeros(4, 1, 1, 1, dtype=torch.float64))
    assert norm.running_var.item() == pytest.approx(1.025)


def test_weights_are_drawn_from_the_truncated_normal() -> None:
    network = build_model("pre-wrn-28-4", num_classes=100, image_shape=(3, 32, 32), seed=0)
    narrow = next(
        m
        for m in network.modules()
        if isinstance(m, nn.Conv2d) and m.weight.shape == (64, 64, 3, 3)
    )
    stem = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    for weight, bound in (
        (narrow.weight, 0.1339787314),
        (stem.weight, 2 * 0.3094106266),
        (network.classifier.weight, 2 * 0.1004840486),
    ):
        assert 0.97 * bound < weight.abs().max().item() <= bound * (1 + 1e-6)
    assert narrow.weight.std().item() == pytest.approx(math.sqrt(2 / 576), rel=0.01)
    assert network.classifier.weight.std().item() == pytest.approx(0.0883883, rel=0.02)
    assert not network.classifier.bias.any()
    decay = 0.5 * sum(parameter.square().sum().item() for parameter in network.parameters())
    assert decay == pytest.approx(5948.0, abs=15)


@pytest.mark.parametrize(("name", "projections"), [("pre-wrn-10-1", 2), ("pre-wrn-10-4", 3)])
def test_shortcut_is_projected_only_where_stride_or_width_change(
    name: str, projections: int
) -> None:
    network = build_model(name, num_classes=10, image_shape=(3, 8, 8), seed=0)
    assert (
        sum(isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) for m in network.modules())
        == projections
    )
