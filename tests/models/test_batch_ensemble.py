"""BatchEnsemble, against the oracles 8.3, 8.4, 8.7 and 8.15 of the latent BatchEnsemble system."""

import copy

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from distill_ray.models import build_model, check_batch_ensemble
from distill_ray.models.batch_ensemble import (
    BatchEnsemble,
    BatchEnsembleLayer,
    MergedBias,
    MergeRule,
    to_batch_ensemble,
)
from distill_ray.models.network import Architecture, Network, Normalise


def exactly(*rows: object) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def close(found: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def linear_network() -> Network:
    classifier = nn.Linear(2, 3).double()
    with torch.no_grad():
        classifier.weight.copy_(exactly([1, 0, 2], [-1, 3, 0.5]).T)
        classifier.bias.copy_(exactly(0.1, -0.2, 0.3))
    return Network(
        "linear",
        0,
        Normalise([0, 0], [1, 1]).double(),
        Architecture(nn.Sequential(nn.Flatten()), classifier),
    )


def classifier_of(student: BatchEnsemble) -> BatchEnsembleLayer:
    layer = student.get_submodule("network.classifier")
    assert isinstance(layer, BatchEnsembleLayer)
    return layer


@pytest.fixture
def toy() -> BatchEnsemble:
    """The layer of oracle 8.3, as a network on images of two channels and one pixel."""
    student = to_batch_ensemble(linear_network(), 2)
    layer = classifier_of(student)
    with torch.no_grad():
        layer.r_offset.copy_(exactly([1, 2], [0.5, 1]) - 1)
        layer.s_offset.copy_(exactly([1, 1, 2], [2, 0.5, 1]) - 1)
    return student


IMAGES = exactly([1, 2], [-1, 0.5]).view(2, 2, 1, 1)


def test_layer(toy: BatchEnsemble) -> None:
    logits = toy(IMAGES)
    close(logits[:, 0], exactly([-2.9, 11.8, 8.6], [-1.9, 2.8, -2.4]))
    close(logits[:, 1], exactly([-2.8, 2.9, 2.3], [-1.8, 0.65, -0.45]))


@pytest.mark.parametrize(
    ("rule", "bias", "weight", "expected"),
    [
        (
            "product-of-means",
            "kept",
            [[1.125, 0, 2.25], [-2.25, 3.375, 1.125]],
            [[-3.275, 6.55, 4.8], [-2.15, 1.4875, -1.3875]],
        ),
        (
            "product-of-means",
            "scaled",
            [[1.125, 0, 2.25], [-2.25, 3.375, 1.125]],
            [[-3.225, 6.6, 4.95], [-2.1, 1.5375, -1.2375]],
        ),
        (
            "mean-of-products",
            "kept",
            [[1, 0, 2.5], [-2, 3.75, 1.25]],
            [[-2.9, 7.3, 5.3], [-1.9, 1.675, -1.575]],
        ),
    ],
)
def test_merged_layer(
    toy: BatchEnsemble,
    rule: MergeRule,
    bias: MergedBias,
    weight: list[list[float]],
    expected: list[list[float]],
) -> None:
    merged = toy.merge(rule, bias)
    close(merged.classifier.weight, exactly(*weight).T)
    close(merged(IMAGES), exactly(*expected))


def test_weight_decay_draws_scales_to_one_and_their_gradient_is_that_of_their_own_member(
    toy: BatchEnsemble,
) -> None:
    layer = classifier_of(toy)
    toy(IMAGES).square().mean().backward()
    alone = copy.deepcopy(toy)
    alone.zero_grad()
    alone(IMAGES)[:, 1].square().mean().backward()
    own = classifier_of(alone).r_offset.grad
    assert layer.r_offset.grad is not None and own is not None
    close(layer.r_offset.grad[1], own[1] / 2)

    offsets = [layer.r_offset, layer.s_offset]
    before = [layer.r.detach(), layer.s.detach()]
    for offset in offsets:
        offset.grad = torch.zeros_like(offset)
    torch.optim.SGD(offsets, lr=1, weight_decay=5e-4).step()
    close(before[0] - layer.r, exactly([0, 0.0005], [-0.00025, 0]))
    close(before[1] - layer.s, exactly([0, 0, 0.0005], [0.0005, -0.00025, 0]))


def test_gradient_of_a_scale_is_that_of_a_network_of_its_own(toy: BatchEnsemble) -> None:
    step = 1e-6
    layer = classifier_of(toy)
    toy(IMAGES).square().mean().backward()
    assert layer.s_offset.grad is not None
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            layer.s_offset[1, 2] += sign * step
            values.append(toy(IMAGES)[:, 1].square().mean().item())
            layer.s_offset[1, 2] -= sign * step
    assert layer.s_offset.grad[1, 2].item() == pytest.approx(
        (values[0] - values[1]) / (2 * step), rel=1e-6
    )


def filled(network: Network) -> BatchEnsemble:
    student = to_batch_ensemble(network, 4)
    for layer in student.modules():
        if isinstance(layer, BatchEnsembleLayer):
            member = torch.arange(4, dtype=torch.float64)[:, None]
            with torch.no_grad():
                layer.r_offset.copy_(
                    0.1
                    * torch.sin(member + 0.5 * torch.arange(layer.r.shape[1], dtype=torch.float64))
                )
                layer.s_offset.copy_(
                    0.1
                    * torch.cos(member + 0.3 * torch.arange(layer.s.shape[1], dtype=torch.float64))
                )
    return student


def test_whole_network_in_evaluation(filled_network: Network, two_images: Tensor) -> None:
    student = filled(filled_network).eval()
    logits = student(two_images)
    expected = exactly(
        [[11.321004958, -8.351421948], [5.977018255, -5.176250408]],
        [[12.221185823, -7.590425404], [8.327728613, -5.873885084]],
        [[8.733041808, -5.148455778], [6.456624970, -5.430227511]],
        [[5.831227665, -4.160637917], [3.990051263, -4.316199589]],
    )
    close(logits[:, :, :2].transpose(0, 1), expected, atol=2e-9)
    close(student.logits_of(two_images, (3, 1)), logits[:, [3, 1]])
    close(
        student.merge()(two_images)[:, :3],
        exactly(
            [8.353880691, -5.953403443, -0.634684435], [5.243947212, -5.237251849, 0.046788011]
        ),
        atol=2e-9,
    )
    close(
        student.merge(bias="scaled")(two_images)[:, :3],
        exactly(
            [8.354216098, -5.953985512, -0.633688272], [5.244282619, -5.237833917, 0.047784174]
        ),
        atol=2e-9,
    )


def test_whole_network_in_training(filled_network: Network, two_images: Tensor) -> None:
    student = filled(filled_network).train()
    logits = student(two_images)
    expected = exactly(
        [[0.417433986, 0.058312513], [0.755304724, 0.461295883]],
        [[0.418812145, 0.281542550], [0.949323928, 0.673661169]],
        [[0.538848610, 0.453141978], [1.031272142, 0.742030454]],
        [[0.508158920, 0.464367951], [0.846890436, 0.682897804]],
    )
    close(logits[:, :, :2].transpose(0, 1), expected, atol=2e-9)
    last = [module for module in student.modules() if isinstance(module, nn.BatchNorm2d)][-1]
    assert last.running_mean is not None and last.running_var is not None
    close(last.running_mean[:3], exactly(0.065659600, 0.239673244, -0.218588033), atol=2e-9)
    close(last.running_var[:3], exactly(1.864458658, 2.181329325, 2.674203245), atol=2e-9)


def test_parameters_of_the_published_student() -> None:
    with torch.device("meta"):
        student = to_batch_ensemble(
            build_model("pre-wrn-28-4", num_classes=100, image_shape=(3, 32, 32), seed=0), 4
        )
    assert len(list(student.parameters())) == 138
    assert sum(parameter.numel() for parameter in student.parameters()) == 5_904_016
    assert sum(isinstance(module, BatchEnsembleLayer) for module in student.modules()) == 29


TRANSFORMABLE = {
    "wrn-10-1": 8, "pre-wrn-10-1": 8, "resnet8": 8, "basic-resnet-4-6": 8, "vgg8": 8,
    "mobilenet-v2": 16, "shuffle-v1": 8, "shuffle-v2": 8, "mlp-20-10": 8, "lenet-4-6-mlp-12": 8,
    "torchvision/squeezenet1_1": 33,
}  # fmt: skip


@pytest.mark.parametrize(("name", "side"), TRANSFORMABLE.items())
def test_members_start_as_the_network_and_merge_back_to_it(name: str, side: int) -> None:
    network = build_model(name, num_classes=3, image_shape=(1, side, side), seed=0).double().eval()
    images = torch.rand(
        2, 1, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    torch.manual_seed(1)
    state = torch.get_rng_state()
    student = to_batch_ensemble(network, 2).eval()
    assert torch.equal(state, torch.get_rng_state())
    logits = student(images)
    assert logits.shape == (2, 2, 3)
    for member in range(2):
        torch.testing.assert_close(logits[:, member], network(images))
    merged = student.merge()
    assert type(merged) is Network and merged.state_dict().keys() == network.state_dict().keys()
    torch.testing.assert_close(merged(images), network(images))
    assert set(network.state_dict()) < {
        path.removeprefix("network.") for path in student.state_dict()
    }

    student.train()(images).square().sum().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("name", ["shuffle-v1", "mobilenet-v2", "lenet-4-6-mlp-12"])
def test_scales_go_where_they_belong(name: str) -> None:
    network = build_model(name, num_classes=3, image_shape=(3, 16, 16), seed=0).double().eval()
    student = to_batch_ensemble(network, 2).eval()
    generator = torch.Generator().manual_seed(0)
    for layer in student.modules():
        if isinstance(layer, BatchEnsembleLayer):
            for offset in (layer.r_offset, layer.s_offset):
                offset.data.copy_(0.3 * torch.randn(offset.shape, generator=generator))
    images = torch.rand(2, 3, 16, 16, generator=generator, dtype=torch.float64)
    scales = {
        path: layer
        for path, layer in student.network.named_modules()
        if isinstance(layer, BatchEnsembleLayer)
    }

    def scaled(layer: nn.Module, scale: BatchEnsembleLayer, member: int) -> None:
        def around(given: Tensor, vector: Tensor) -> Tensor:
            return given * (vector[:, None, None] if given.dim() == 4 else vector)

        layer.register_forward_pre_hook(lambda _, inputs: (around(inputs[0], scale.r[member]),))
        layer.register_forward_hook(lambda _, __, outputs: around(outputs, scale.s[member]))

    for member in range(2):
        direct = copy.deepcopy(network)
        for path, layer in direct.named_modules():
            if path in scales:
                scaled(layer, scales[path], member)
        torch.testing.assert_close(student(images)[:, member], direct(images))


def test_weights_survive_safetensors_and_more_training(toy: BatchEnsemble) -> None:
    other = to_batch_ensemble(linear_network(), 2)
    other.load_state_dict(load(save(toy.state_dict())))
    close(other(IMAGES), toy(IMAGES))
    close(copy.deepcopy(toy)(IMAGES), toy(IMAGES))


def test_channels_last_is_kept() -> None:
    network = build_model("wrn-10-2", num_classes=3, image_shape=(3, 8, 8), seed=0)
    student = to_batch_ensemble(network, 2).to(memory_format=torch.channels_last)
    kept: list[bool] = []
    for layer in student.modules():
        if isinstance(layer, BatchEnsembleLayer) and layer.convolution:
            layer.register_forward_hook(
                lambda _, given, made: kept.append(given[0].stride(1) == made.stride(1) == 1)
            )
    student(torch.rand(2, 3, 8, 8).to(memory_format=torch.channels_last))
    assert len(kept) == 10 and all(kept)


@pytest.mark.parametrize(
    "architecture",
    ["vit_b_32", "swin_t", "swin_v2_t", "convnext_tiny", "maxvit_t", "mnasnet0_5", "vgg11"],
)
def test_networks_that_cannot_be_transformed_are_refused_with_and_without_torch(
    architecture: str,
) -> None:
    name = f"torchvision/{architecture}"
    with torch.device("meta"):
        network = build_model(name, num_classes=2, image_shape=(3, 224, 224), seed=0)
        try:
            to_batch_ensemble(network, 2)
        except ValueError as error:
            assert f"model {name!r} cannot become a BatchEnsemble: " in str(error)
            with pytest.raises(ValueError, match="cannot become a BatchEnsemble"):
                check_batch_ensemble(name)
        else:
            check_batch_ensemble(name)


def test_what_is_no_network_or_no_ensemble_is_refused() -> None:
    with pytest.raises(ValueError, match="found Linear"):
        to_batch_ensemble(nn.Linear(2, 2), 2)
    with pytest.raises(ValueError, match="members must be at least 1, found 0"):
        to_batch_ensemble(linear_network(), 0)
