"""Maps inside of networks: which are compared, and the losses of the methods that compare them."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distill_ray.augmentation import Identity
from distill_ray.augmentation.augmentation import Batch, Part
from distill_ray.methods import AttentionTransfer, FitNet
from distill_ray.methods.attention_transfer import attention
from distill_ray.methods.method import Setup, Student
from distill_ray.methods.tapped import Tapped
from distill_ray.methods.taps import TappedStudent, of_one_size, pairs, run, sizes
from distill_ray.models import build_model
from distill_ray.models.network import Network
from oracles.formulas import Floats, exact

SHAPE = (3, 16, 16)
IMAGES = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))
PART = Part(IMAGES, torch.tensor([0, 1, 2, 0, 1]))


def network_of(name: str, seed: int = 0) -> Network:
    return build_model(name, num_classes=3, image_shape=SHAPE, seed=seed)


class Live:
    """Two teachers, one deeper and wider than the student, one like it."""

    def __init__(self) -> None:
        self.networks = [network_of("wrn-16-2", 1).eval(), network_of("wrn-10-1", 2).eval()]

    def __call__(self, part: Part) -> Tensor:
        raise AssertionError("one pass is enough")


LIVE = Live()


def make_student(method: Tapped) -> TappedStudent:
    setup = Setup(teachers=2, networks=LIVE.networks, image_shape=SHAPE)
    student = method.student(network_of("wrn-10-1"), setup)
    assert isinstance(student, TappedStudent)
    return student.train()


def terms_of(method: Tapped, network: TappedStudent) -> Mapping[str, Tensor]:
    batch = Batch((PART,), torch.arange(5))
    return method.loss(Student(network, network), batch, LIVE)


@pytest.mark.parametrize("name", ["wrn-10-1", "pre-wrn-10-1", "resnet8", "vgg8", "mobilenet-v2"])
def test_maps_are_what_the_units_give(name: str) -> None:
    """And stay so where the next unit works in place."""
    network = network_of(name).eval()
    beginnings = network.units()
    units = list(sizes(network, SHAPE))
    assert units
    assert network.training is False
    with torch.no_grad():
        maps, logits = run(network, IMAGES, units)
        torch.testing.assert_close(logits, network(IMAGES))
        for unit, found in zip(units, maps, strict=True):
            stop = [*beginnings, len(network.features)][unit + 1]
            values, expected = network.normalise(IMAGES), None
            for module in network.features[:stop]:
                values = module(values)
                if values.ndim == 4 and values.shape[-1] > 1:
                    expected = values.clone()
            torch.testing.assert_close(found, expected)


def test_pairs_by_size_are_the_last_of_each() -> None:
    """wrn-10-1 has units of 16, 16, 8 and 4 pixels, wrn-16-2 of 16, 16, 16, 8, 8, 4 and 4."""
    student, teacher = network_of("wrn-10-1"), network_of("wrn-16-2")
    assert [size[1] for size in sizes(student, SHAPE).values()] == [16, 16, 8, 4]
    assert [size[1] for size in sizes(teacher, SHAPE).values()] == [16, 16, 16, 8, 8, 4, 4]
    assert pairs(student, teacher, SHAPE) == [(1, 2), (2, 4), (3, 6)]
    assert pairs(student, teacher, SHAPE, (1, 3), (3, 7)) == [(0, 2), (2, 6)]
    assert FitNet().chosen(pairs(student, teacher, SHAPE)) == [(2, 4)]


def test_units_that_cannot_be_paired_are_refused() -> None:
    student, teacher = network_of("wrn-10-1"), network_of("wrn-16-2")
    with pytest.raises(
        ValueError, match=r"student_units names unit 5 of 'wrn-10-1', which has no maps \(units w"
    ):
        pairs(student, teacher, SHAPE, (5,), (3,))
    with pytest.raises(ValueError, match="teacher_units names unit 9 of 'wrn-16-2', which"):
        pairs(student, teacher, SHAPE, (1,), (9,))
    for other in ("mlp-6", "torchvision/resnet18"):
        with pytest.raises(ValueError, match=f"'{other}' has nothing to compare"):
            pairs(student, network_of(other), SHAPE)
    with pytest.raises(ValueError, match="only networks of the catalogue show their features"):
        pairs(nn.Linear(2, 2), teacher, SHAPE)


def test_maps_of_two_sizes_are_averaged_down() -> None:
    one, other = of_one_size(torch.arange(16.0).view(1, 1, 4, 4), torch.zeros(1, 3, 2, 4))
    assert other.shape == (1, 3, 2, 4)
    assert one.tolist() == [[[[2, 3, 4, 5], [10, 11, 12, 13]]]]


def test_attention_by_hand() -> None:
    """One channel of two pixels: (3, 4) gives (9, 16) / sqrt 337, (1, 1) gives (1, 1) / sqrt 2.

    Differences -0.21684554 and 0.16446875; the mean of their squares is 0.03703598.
    """
    student, teacher = torch.tensor([[[[3.0, 4]]]]).double(), torch.ones(1, 2, 1, 2).double()
    found = AttentionTransfer().map_term(student, teacher).item()
    assert found == pytest.approx(0.03703598, abs=5e-9)


def attention_of(maps: Floats) -> Floats:
    energy = (maps**2).mean(1).reshape(len(maps), -1)
    return energy / np.sqrt((energy**2).sum(1))[:, None]


def test_attention_transfer_of_two_teachers() -> None:
    method = AttentionTransfer(teacher_weights=(1.0, 3.0))
    network = make_student(method)
    terms = terms_of(method, network)
    sums = []
    by_size = [(1, 2), (2, 4), (3, 6)], [(1, 1), (2, 2), (3, 3)]
    for teacher, chosen in zip(LIVE.networks, by_size, strict=True):
        own, _ = run(network.network, IMAGES, [own for own, _ in chosen])
        others, _ = run(teacher, IMAGES, [other for _, other in chosen])
        differences = [
            attention_of(exact(one.detach())) - attention_of(exact(other.detach()))
            for one, other in zip(own, others, strict=True)
        ]
        sums.append(sum((difference**2).mean() for difference in differences))
    expected = float((sums[0] + 3 * sums[1]) / 4)
    assert terms["loss/attention"].item() == pytest.approx(expected, rel=1e-4)
    total = terms["loss/labels"] + 1000 * terms["loss/attention"]
    torch.testing.assert_close(terms["loss"], total)
    assert len(list(network.projections.parameters())) == 0


def test_hints_of_two_teachers() -> None:
    """The first is twice as wide, and has a projection; the second is as wide as the student."""
    method = FitNet()
    network = make_student(method)
    terms = terms_of(method, network)
    (weight,) = network.projections.parameters()
    assert weight.shape == (64, 32, 1, 1)
    (own,), _ = run(network.network, IMAGES, [2])
    own = exact(own.detach())
    projected = np.einsum("dc,bchw->bdhw", exact(weight.detach())[:, :, 0, 0], own)
    expected = []
    for mine, teacher, unit in ((projected, LIVE.networks[0], 4), (own, LIVE.networks[1], 2)):
        (other,), _ = run(teacher, IMAGES, [unit])
        expected.append(((mine - exact(other.detach())) ** 2).mean())
    found = terms["loss/hint"].item()
    assert found == pytest.approx(float(sum(expected) / 2), rel=1e-4)


def test_the_hint_reaches_the_projection_and_the_lower_units_alone() -> None:
    network = make_student(FitNet())
    terms_of(FitNet(), network)["loss/hint"].backward()
    touched = {name for name, weight in network.named_parameters() if weight.grad is not None}
    assert "projections.0.weight" in touched
    assert any(name.startswith("network.features.2.") for name in touched)
    assert not any(
        name.startswith(("network.features.3.", "network.classifier")) for name in touched
    )


def test_named_units() -> None:
    network = make_student(FitNet(student_units=(1, 4), teacher_units=(2, 3)))
    assert network.pairs == [[(0, 1), (3, 2)], [(0, 1), (3, 2)]]
    terms = terms_of(FitNet(student_units=(1, 4), teacher_units=(2, 3)), network)
    assert terms["loss/hint"].isfinite()


def test_projections_are_drawn_from_the_seed_of_the_network_and_left_out() -> None:
    torch.manual_seed(1)
    first = make_student(FitNet())
    torch.manual_seed(2)
    second = make_student(FitNet())
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name
    plain = FitNet().deployed_like(network_of("wrn-10-1", seed=5))
    plain.load_state_dict(FitNet().deploy(first).state_dict())
    torch.testing.assert_close(plain.eval()(IMAGES), first.eval()(IMAGES))


def test_attention_of_dark_maps_is_finite() -> None:
    maps = torch.zeros(2, 3, 4, 4, requires_grad=True)
    attention(maps).sum().backward()
    assert maps.grad.isfinite().all()


def test_settings_and_studies_that_are_refused() -> None:
    with pytest.raises(ValueError, match="must be as many as teacher_units, found 2 and 1"):
        FitNet(student_units=(1, 2), teacher_units=(1,))
    with pytest.raises(ValueError, match="student_units must be at least 1"):
        FitNet(student_units=(0,), teacher_units=(1,))
    method = FitNet(student_units=(5,), teacher_units=(1,))
    with pytest.raises(ValueError, match="student_units must be at most 4 for model 'wrn-10-1'"):
        method.check_fit(model="wrn-10-1", augmentation=Identity(), teachers=1)
    method.check_fit(model="wrn-16-1", augmentation=Identity(), teachers=1)
    method = FitNet(student_units=(1,), teacher_units=(5,))
    method.check_teachers(["wrn-16-1"])
    with pytest.raises(ValueError, match="teacher_units must be at most 4 for model 'wrn-10-1'"):
        method.check_teachers(["wrn-16-1", "wrn-10-1"])
    assert method.live_teachers(Identity())
    with pytest.raises(ValueError, match="must not all be 0"):
        AttentionTransfer(labels=0.0, attention=0.0)
