"""Hydra and Hydra+ as the training loop calls them."""

import pytest
import torch
from torch import Tensor, nn

from distill_ray.augmentation.augmentation import Batch, Part
from distill_ray.augmentation.draws import Draws
from distill_ray.methods import losses, member_losses
from distill_ray.methods.hydra import Hydra, HydraPlus, ramp
from distill_ray.methods.hydra_diversity import diversity
from distill_ray.methods.method import Setup, Student
from distill_ray.methods.mixture import MeanPrediction
from distill_ray.models import build_model
from support.teachers import FixedTeachers
from support.tensors import f64

TEACHERS = f64(
    [[[2, 0, -1], [1, 0.5, 0], [3, -1, 0.5]], [[0, 1, 2], [-0.5, 0, 1.5], [1, -1, 0.5]]]
).transpose(0, 1)
HEADS = f64([[[1, 0, 0], [0.5, 0.5, -1]], [[0, 0, 1], [-1, 1, 0.5]]])


class Oracle(nn.Module):
    """Heads whose logits are the images, and whose weights are those of the diversity oracle."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(2)

    def head_weights(self) -> list[tuple[Tensor, Tensor]]:
        return [
            (
                f64([[[1, 2, 3], [0, -1, 1]], [[2, 0, 1], [1, 1, -1]]]),
                f64([[0.1, -0.2], [0.3, 0.1]]),
            )
        ]


def batch(epoch: int = 1) -> Batch:
    part = Part(HEADS.unsqueeze(-1), torch.tensor([0, 2]))
    return Batch(parts=(part, part), positions=torch.arange(2), draws=Draws(seed=0, epoch=epoch))


ORACLE = Student(Oracle(), Oracle())


def test_hydra_is_individuality_alone() -> None:
    for temperature, expected in ((1.0, 0.2130695146), (3.0, 0.3200179113)):
        loss = Hydra(heads=2, temperature=temperature).loss(
            ORACLE, batch(), FixedTeachers(TEACHERS)
        )["loss"]
        assert loss.item() == pytest.approx(expected, abs=3e-7)


@pytest.mark.parametrize(
    ("alpha", "beta", "expected"),
    [(0.9, 0.5, 0.2767227315), (0.95, 0.9, 0.3229872520), (0.9, 1.0, 0.3619351834)],
)
def test_totals_without_diversity(alpha: float, beta: float, expected: float) -> None:
    method = HydraPlus(
        heads=2,
        temperature=3.0,
        mean_temperature=1.0,
        correctness=1 - alpha,
        aggregation=alpha * (1 - beta),
        individuality=alpha * beta,
        diversity=0.0,
    )
    terms = method.loss(ORACLE, batch(), FixedTeachers(TEACHERS))
    assert terms["loss"].item() == pytest.approx(expected, abs=3e-7)
    assert terms["loss/correctness"].item() == pytest.approx(0.7391906331, abs=1e-9)


@pytest.mark.parametrize(("bias", "expected"), [("none", 3.1753796056), ("separate", 6.1753795569)])
def test_diversity_grows_with_the_epochs(bias: str, expected: float) -> None:
    method = HydraPlus(
        heads=2, diversity=0.5, diversity_from=2, diversity_until=5, diversity_bias=bias
    )
    without = (
        HydraPlus(heads=2, diversity=0.0)
        .loss(ORACLE, batch(), FixedTeachers(TEACHERS))["loss"]
        .item()
    )
    penalties = []
    for epoch in range(1, 8):
        terms = method.loss(ORACLE, batch(epoch), FixedTeachers(TEACHERS))
        assert terms["loss/diversity"].item() == pytest.approx(expected, abs=5.1e-11)
        penalties.append((terms["loss"].item() - without) / (0.5 * expected))
    assert penalties == pytest.approx([0, 0, 0, 0.5, 1, 1, 1], abs=1e-10)


def test_ramp_oracle() -> None:
    assert [ramp(epoch, 50, 150, 0.002) for epoch in (49, 50, 51, 100, 149, 199)] == pytest.approx(
        [0, 0, 2.0202020e-5, 0.0010101010, 0.002, 0.002], abs=5.1e-11
    )
    assert [ramp(epoch, 20, 150, 0.05) for epoch in (21, 100)] == pytest.approx(
        [3.8759690e-4, 0.0310077519], abs=5.1e-11
    )
    assert [ramp(epoch, 0, 0, 4.0) for epoch in (0, 1, 199)] == [4.0, 4.0, 4.0]
    assert [ramp(epoch, 3, 3, 4.0) for epoch in (2, 3)] == [0.0, 4.0]
    assert [ramp(epoch, 3, 4, 4.0) for epoch in (2, 3, 4)] == [0.0, 4.0, 4.0]


@pytest.mark.parametrize("depth", [0, 1])
def test_a_network_with_heads(depth: int) -> None:
    plain = build_model("wrn-10-1", num_classes=4, image_shape=(3, 8, 8), seed=0)
    method = HydraPlus(heads=3, depth=depth)
    network = method.student(plain, Setup(teachers=2))
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    part = Part(images, torch.tensor([0, 1, 2, 3, 0, 1]))
    answers = 3 * torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1))
    shown = Batch(parts=(part,), positions=torch.arange(6), draws=Draws(seed=0, epoch=1))
    terms = method.loss(Student(network, network), shown, FixedTeachers(answers))
    terms["loss"].backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for parameter in network.parameters()
    )

    network.eval()
    with torch.no_grad():
        heads = network(images)
        deployed = method.deploy(network)
        torch.testing.assert_close(deployed(images).exp(), heads.softmax(-1).mean(1))
        loaded = method.deployed_like(
            build_model("wrn-10-1", num_classes=4, image_shape=(3, 8, 8), seed=1)
        ).eval()
        loaded.load_state_dict(deployed.state_dict())
        torch.testing.assert_close(loaded(images), deployed(images))
    assert heads.shape == (6, 3, 4)


def test_losses_of_a_network_are_those_of_its_outputs() -> None:
    plain = build_model("wrn-10-1", num_classes=4, image_shape=(3, 8, 8), seed=0)
    method = HydraPlus(heads=2, temperature=5.0, mean_temperature=2.0)
    network = method.student(plain, Setup(teachers=3)).eval()
    part = Part(torch.rand(5, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0]))
    answers = torch.randn(3, 5, 4)
    terms = method.loss(
        Student(network, network),
        Batch((part,), torch.arange(5), draws=Draws(0, 1)),
        FixedTeachers(answers),
    )
    logits = network(part.images)
    torch.testing.assert_close(terms["loss/correctness"], losses.cross_entropy(logits, part))
    torch.testing.assert_close(
        terms["loss/aggregation"], member_losses.aggregated_kd(logits, answers, 2.0)
    )
    torch.testing.assert_close(
        terms["loss/individuality"], member_losses.paired_kd(logits, answers, 5.0)
    )
    torch.testing.assert_close(terms["loss/diversity"], diversity(network.head_weights()))


def test_mean_prediction_is_a_distribution_in_full_precision() -> None:
    class Members(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.stack([images, -images], 1).bfloat16()

    outputs = MeanPrediction(Members())(torch.randn(7, 5))
    assert outputs.dtype == torch.float32
    torch.testing.assert_close(outputs.exp().sum(-1), torch.ones(7))


def test_what_is_refused() -> None:
    with pytest.raises(
        ValueError, match="correctness, aggregation and individuality must not all be 0"
    ):
        HydraPlus(correctness=0.0, aggregation=0.0, individuality=0.0)
    with pytest.raises(ValueError, match="heads must be at least 1, found 0"):
        Hydra(heads=0)
    with pytest.raises(ValueError, match="diversity must be at least 0"):
        HydraPlus(diversity=-0.1)
