"""Networks with several heads, against the parameter and operation counts of Hydra+ and against
separate networks.
"""

import copy

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from distill_ray.models import build_model, check_multi_head
from distill_ray.models.cost import count_operations
from distill_ray.models.multi_head import MultiHead, to_multi_head
from distill_ray.models.network import Network

HYDRA = {
    "spiral": ("mlp-100-100-100-100", 3, (2, 1, 1), 1),
    "regress": ("mlp-50-50-50", 2, (1, 1, 1), 1),
    "svhn": ("lenet-128-32-mlp-128-128", 10, (3, 32, 32), 2),
    "cifar": ("basic-resnet-96-192-256-128", 10, (3, 32, 32), 2),
}
"""The students: plain network, outputs, image shape, units in a head."""


def student(task: str, heads: int) -> MultiHead:
    name, outputs, image_shape, depth = HYDRA[task]
    with torch.device("meta"):
        return to_multi_head(
            build_model(name, num_classes=outputs, image_shape=image_shape, seed=0), heads, depth
        )


@pytest.mark.parametrize(
    ("task", "heads", "parameters"),
    [
        ("spiral", 20, 228_560),
        ("spiral", 10, 124_530),
        ("spiral", 5, 72_515),
        ("regress", 20, 55_690),
        ("regress", 10, 29_170),
        ("regress", 5, 15_910),
        ("svhn", 20, 1_709_800),
        ("svhn", 10, 875_140),
        ("svhn", 5, 457_810),
        ("cifar", 20, 19_232_808),
        ("cifar", 10, 11_506_628),
        ("cifar", 5, 7_643_538),
    ],
)
def test_parameters(task: str, heads: int, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in student(task, heads).parameters()) == parameters


@pytest.mark.parametrize(
    ("task", "core", "head"),
    [
        ("spiral", 20_800, 10_503),
        ("regress", 2_750, 2_702),
        ("svhn", 13_395_968, 83_722),
        ("cifar", 791_805_952, 12_356_874),
    ],
)
def test_operations(task: str, core: int, head: int) -> None:
    for heads in (1, 5):
        assert count_operations(student(task, heads), HYDRA[task][2]).total == core + heads * head


@pytest.mark.parametrize(
    ("task", "terms"), [("spiral", 206), ("regress", 104), ("svhn", 532), ("cifar", 660)]
)
def test_rows_of_the_head_weights(task: str, terms: int) -> None:
    rows = 0
    for weight, bias in student(task, 3).head_weights():
        assert weight.shape[0] == 3 and (bias is None or bias.shape == weight.shape[:2])
        rows += weight.shape[1] * (1 if bias is None else 2)
    assert rows == terms


SMALL = {
    "wrn-10-1": 8, "pre-wrn-10-1": 8, "resnet8": 8, "basic-resnet-4-6": 8, "vgg8": 8,
    "mobilenet-v2": 16, "shuffle-v1": 8, "shuffle-v2": 8, "mlp-20-10": 8, "lenet-4-6-mlp-12": 8,
}  # fmt: skip
CASES = [
    *((name, side, 1) for name, side in SMALL.items()),
    ("wrn-10-1", 8, 0),
    ("wrn-10-1", 8, 3),
    ("shuffle-v2", 8, 3),
    ("lenet-4-6-mlp-12", 8, 2),
    ("torchvision/squeezenet1_1", 33, 0),
]


def whole(network: Network, multi: MultiHead, head: int) -> nn.Sequential:
    """Trunk and one head of `multi` as a plain chain of modules."""
    template = copy.deepcopy(multi.heads)
    single = copy.deepcopy(
        nn.Sequential(*[*network.features, network.classifier][-len(template) :])
    )
    state = {}
    for name, value in multi.heads.state_dict().items():
        state[name] = value.unflatten(0, (multi.members, -1))[head] if value.dim() else value
    single.load_state_dict(state)
    return nn.Sequential(copy.deepcopy(multi.trunk), single)


def gradient(module: nn.Module, path: str) -> Tensor:
    found = module.get_parameter(path).grad
    assert found is not None
    return found


@pytest.mark.parametrize(("name", "side", "depth"), CASES)
def test_heads_are_those_of_separate_networks(name: str, side: int, depth: int) -> None:
    network = build_model(name, num_classes=3, image_shape=(1, side, side), seed=0).double()
    images = torch.rand(
        4, 1, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    torch.manual_seed(1)
    state = torch.get_rng_state()
    multi = to_multi_head(network, 2, depth)
    assert torch.equal(state, torch.get_rng_state())
    separate = [whole(network, multi, head) for head in range(2)]
    deterministic = not any(isinstance(module, nn.Dropout) for module in network.modules())
    multi.train(deterministic)
    logits = multi(images)
    assert logits.shape == (4, 2, 3)
    for head, chain in enumerate(separate):
        torch.testing.assert_close(logits[:, head], chain.train(deterministic)(images))
    logits.square().sum().backward()
    for chain in separate:
        chain(images).square().sum().backward()
    for path, _ in multi.heads.named_parameters():
        expected = torch.cat([gradient(chain, f"1.{path}") for chain in separate])
        torch.testing.assert_close(gradient(multi, f"heads.{path}"), expected, rtol=1e-6, atol=1e-9)
    for path, _ in multi.trunk.named_parameters():
        summed = torch.stack([gradient(chain, f"0.{path}") for chain in separate]).sum(0)
        torch.testing.assert_close(gradient(multi, f"trunk.{path}"), summed, rtol=1e-6, atol=1e-9)
    multi.eval()
    evaluated = multi(images)
    if deterministic:
        once = [whole(network, multi, head).eval()(images) for head in range(2)]
        torch.testing.assert_close(evaluated, torch.stack(once, 1))


def test_batch_normalisation_of_the_heads_tracks_its_own_statistics() -> None:
    network = build_model("wrn-10-1", num_classes=3, image_shape=(1, 8, 8), seed=0)
    multi = to_multi_head(network, 2, 1)
    norms = [module for module in multi.heads.modules() if isinstance(module, nn.BatchNorm2d)]
    before = norms[-1].running_mean
    assert before is not None
    before = before.clone()
    multi(torch.rand(4, 1, 8, 8))
    after = norms[-1].running_mean
    assert after is not None
    assert not torch.equal(before, after)
    assert not torch.equal(*after.chunk(2))


def test_first_head_is_the_network_and_the_others_are_drawn_by_its_rule_and_seed() -> None:
    network = build_model("pre-wrn-10-4", num_classes=10, image_shape=(3, 8, 8), seed=0).eval()
    images = torch.rand(2, 3, 8, 8)
    two, three = to_multi_head(network, 2, 1).eval(), to_multi_head(network, 3, 1).eval()
    torch.testing.assert_close(two(images)[:, 0], network(images))
    torch.testing.assert_close(to_multi_head(network, 1).eval()(images)[:, 0], network(images))
    torch.testing.assert_close(three(images)[:, :2], two(images))
    for weight, bias in three.head_weights():
        deviation = weight.flatten(1).std(1)
        torch.testing.assert_close(
            deviation, torch.full((3,), (2 / weight[0, 0].numel()) ** 0.5), rtol=0.1, atol=0
        )
        assert bias is None or not bias.any()
        assert not torch.equal(weight[0], weight[1]) and not torch.equal(weight[1], weight[2])
    other = build_model("pre-wrn-10-4", num_classes=10, image_shape=(3, 8, 8), seed=1)
    assert not torch.equal(
        next(to_multi_head(other, 2, 1).head_weights())[0][1], next(two.head_weights())[0][1]
    )


def test_weights_survive_safetensors_and_channels_last() -> None:
    network = build_model("wrn-10-1", num_classes=3, image_shape=(1, 8, 8), seed=0)
    images = torch.rand(2, 1, 8, 8)
    multi = to_multi_head(network, 3, 2).to(memory_format=torch.channels_last)
    multi(images)
    other = to_multi_head(
        build_model("wrn-10-1", num_classes=3, image_shape=(1, 8, 8), seed=1), 3, 2
    )
    other.load_state_dict(
        load(save({name: value.contiguous() for name, value in multi.state_dict().items()}))
    )
    torch.testing.assert_close(other.eval()(images), multi.eval()(images))


@pytest.mark.parametrize(
    "name",
    [*SMALL, "resnet50", "resnet20", "vgg13", "pre-wrn-28-4", "torchvision/resnet18", "mlp-7"],
)
def test_depth_that_leaves_nothing_to_share_is_refused_with_and_without_torch(name: str) -> None:
    with torch.device("meta"):
        network = build_model(name, num_classes=2, image_shape=(3, 32, 32), seed=0)
    units = len(network.units())
    check_multi_head(name, units - 1)
    for depth in (units, -1):
        reason = f"model '{name}' cannot become multi-head with depth {depth}: it has {units} units"
        with pytest.raises(ValueError, match=reason):
            to_multi_head(network, 2, depth)
        with pytest.raises(ValueError, match=reason):
            check_multi_head(name, depth)


def test_what_is_no_network_or_no_head_is_refused() -> None:
    with pytest.raises(ValueError, match="found Linear"):
        to_multi_head(nn.Linear(2, 2), 2)
    with pytest.raises(ValueError, match="heads must be at least 1, found 0"):
        to_multi_head(build_model("mlp-3", num_classes=2, image_shape=(1, 2, 2), seed=0), 0)
