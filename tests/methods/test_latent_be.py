"""LatentBE with and without perturbed images, against the full-step oracles of its system."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from distill_ray.augmentation import AUGMENTATIONS, Identity
from distill_ray.augmentation.augmentation import Batch, Part
from distill_ray.augmentation.draws import Draws
from distill_ray.methods import EnsembleKD
from distill_ray.methods.latent_be import LatentBE, pair
from distill_ray.methods.method import Setup, Student
from distill_ray.models.network import Architecture, Network, Normalise
from support.teachers import NetworkTeachers
from support.tensors import f64

WEIGHT_DECAY = 5e-4


W, BIAS = f64([[1, 0, 2], [-1, 3, 0.5]]), f64([0.1, -0.2, 0.3])
R, S = f64([[1, 2], [0.5, 1]]), f64([[1, 1, 2], [2, 0.5, 1]])
TEACHERS = f64([[[1, -2], [0.5, 1.5], [-1, 0.3]], [[0.8, -1], [-0.7, 1.2], [0.4, 0.1]]])
X = f64([[0.2, 0.7], [0.6, 0.4]]).view(2, 2, 1, 1)
PART = Part(X, torch.tensor([0, 2]))


def plain_network() -> Network:
    """Images (B, 2, 1, 1) to W x + b."""
    architecture = Architecture(nn.Sequential(nn.Flatten()), nn.Linear(2, 3))
    network = Network("toy", 0, Normalise([0.0, 0.0], [1.0, 1.0]), architecture).double()
    with torch.no_grad():
        network.classifier.weight.copy_(W.T)
        network.classifier.bias.copy_(BIAS)
    return network


def linear_teachers() -> NetworkTeachers:
    """The two linear teachers."""
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(2, 3, bias=False)).double() for _ in TEACHERS]
    for network, weight in zip(networks, TEACHERS, strict=True):
        network[1].weight.data.copy_(weight)
    return NetworkTeachers(networks)


def batch_with_pair(first: int, second: int) -> Batch:
    for step in range(100):
        batch = Batch(
            parts=(PART,), positions=torch.arange(2), step=step, draws=Draws(seed=7, epoch=1)
        )
        if pair(batch, 2) == (first, second):
            return batch
    raise AssertionError(f"no step of the first hundred has the pair {first}, {second}")


def student_of(method: LatentBE) -> nn.Module:
    student = method.student(plain_network(), Setup(teachers=2))
    with torch.no_grad():
        student.network.classifier.r_offset.copy_(R - 1)
        student.network.classifier.s_offset.copy_(S - 1)
    return student


FULL_STEP = [
    (
        LatentBE(alpha=0.7),
        (0, 1),
        (2.2167888428, 17.9457891156, 13.2313740338),
        [[-0.108267245, 0.000236412, 0.175562798], [-0.425736322, 0.126590258, 0.372426445]],
        [-0.460516577, 0.089044754, 0.399624249],
        [[0.523816903, 0.760959073], [-0.086450398, 0.452272487]],
        [[0.339118336, 0.619047046, 0.612861696], [0.101353251, 0.191423195, 0.085388797]],
    ),
    (
        LatentBE(alpha=0.7, perturb="tdiv-sdiv"),
        (0, 1),
        (2.2082713969, 17.9424975408, 13.2265146977),
        [[-0.108745051, 0.001288243, 0.173795505], [-0.424298401, 0.124290217, 0.375254785]],
        [-0.460409188, 0.088712165, 0.399962358],
        [[0.515994562, 0.755095287], [-0.086855292, 0.450152318]],
        [[0.337621125, 0.605793838, 0.610624893], [0.100196868, 0.190595197, 0.085824432]],
    ),
    (
        LatentBE(alpha=0.7, perturb="tdiv-sdiv"),
        (1, 0),
        (2.2284759496, 17.9501278954, 13.2379173117),
        [[-0.108568038, -0.000620857, 0.178037229], [-0.428644635, 0.128899897, 0.371703733]],
        [-0.461302418, 0.089254935, 0.400272826],
        [[0.533177540, 0.768562880], [-0.086579398, 0.456016624]],
        [[0.341472087, 0.632028710, 0.617583233], [0.102705312, 0.193007394, 0.085509880]],
    ),
]


@pytest.mark.parametrize(
    ("method", "members", "losses", "dw", "db", "dr", "ds"), FULL_STEP, ids=["plain", "0-1", "1-0"]
)
def test_full_step_oracle(
    method: LatentBE,
    members: tuple[int, int],
    losses: tuple[float, ...],
    dw: object,
    db: object,
    dr: object,
    ds: object,
) -> None:
    """Losses and gradients of the total loss; weight decay is the optimiser's, 5e-4 times each
    trained value.
    """
    network, teachers = student_of(method), linear_teachers()
    shown: list[Tensor] = []

    def recorded(images: Tensor) -> Tensor:
        shown.append(images)
        return network(images)

    terms = method.loss(Student(network, recorded), batch_with_pair(*members), teachers)
    terms["loss"].backward()
    answers = (teachers(Part(shown[0], PART.labels)) / 4).softmax(-1)
    entropy = -16 * (answers * answers.log()).sum(-1).mean()
    labels, distilled, total = losses
    assert terms["loss/labels"].item() == pytest.approx(labels, abs=1e-10)
    assert (terms["loss/teachers"] + entropy).item() == pytest.approx(distilled, abs=1e-10)
    assert (terms["loss"] + 0.7 * entropy).item() + WEIGHT_DECAY * 8.57 == pytest.approx(
        total, abs=1.1e-10
    )

    layer = network.network.classifier
    decayed = (layer.weight, dw), (layer.bias, db), (layer.r_offset, dr), (layer.s_offset, ds)
    for parameter, expected in decayed:
        gradient = parameter.grad + WEIGHT_DECAY * parameter.detach()
        gradient = gradient.T if parameter is layer.weight else gradient
        torch.testing.assert_close(gradient, f64(expected), rtol=0, atol=5.1e-10)


def test_weight_decay_is_that_of_the_published_loss() -> None:
    """r and s are decayed towards 1, each at the full rate although the loss is a mean over
    members.
    """
    layer = student_of(LatentBE()).network.classifier
    torch.testing.assert_close(
        WEIGHT_DECAY * layer.r_offset.detach(), f64([[0, 0.0005], [-0.00025, 0]])
    )
    torch.testing.assert_close(
        WEIGHT_DECAY * layer.s_offset.detach(), f64([[0, 0, 0.0005], [0.0005, -0.00025, 0]])
    )


def test_plain_distillation_on_the_same_inputs() -> None:
    """The oracle's plain step: the same network without members, against the mean over the
    teachers.
    """
    network = plain_network()
    method = EnsembleKD(temperature=4.0, alpha=0.7, combine="mean-loss")
    terms = method.loss(Student(network, network), batch_with_pair(0, 1), linear_teachers())
    terms["loss"].backward()
    answers = (linear_teachers()(PART) / 4).softmax(-1)
    distilled = terms["loss/teachers"] - 16 * (answers * answers.log()).sum(-1).mean()
    assert terms["loss/labels"].item() == pytest.approx(1.6397292514, abs=5.1e-11)
    assert distilled.item() == pytest.approx(17.5433300556, abs=1e-10)
    total = 0.3 * terms["loss/labels"] + 0.7 * distilled + WEIGHT_DECAY * 7.695
    assert total.item() == pytest.approx(12.7760973143, abs=1e-10)
    layer = network.classifier
    decay = 0.5 * sum(parameter.square().sum() for parameter in layer.parameters())
    assert decay.item() == pytest.approx(7.695)
    expected = [[-0.055965301, 0.018733325, 0.038731976], [-0.136509285, 0.080031723, 0.057727563]]
    torch.testing.assert_close(
        layer.weight.grad.T + WEIGHT_DECAY * W, f64(expected), rtol=0, atol=5.1e-10
    )
    torch.testing.assert_close(
        layer.bias.grad + WEIGHT_DECAY * BIAS,
        f64([-0.209783248, 0.108819666, 0.101063582]),
        rtol=0,
        atol=5.1e-10,
    )


def test_merged_network() -> None:
    """Oracle 8.4, for both rules and both treatments of the bias; the input is that of 8.3."""
    inputs = f64([[1, 2], [-1, 0.5]]).view(2, 2, 1, 1)
    expected = {
        ("product-of-means", "kept"): [[-3.275, 6.55, 4.8], [-2.15, 1.4875, -1.3875]],
        ("product-of-means", "scaled"): [[-3.225, 6.6, 4.95], [-2.1, 1.5375, -1.2375]],
        ("mean-of-products", "kept"): (
            inputs.flatten(1) @ f64([[1, 0, 2.5], [-2, 3.75, 1.25]]) + BIAS
        ).tolist(),
    }
    for (rule, bias), outputs in expected.items():
        method = LatentBE(merge=rule, merged_bias=bias)
        deployed = method.deploy(student_of(method))
        torch.testing.assert_close(deployed(inputs), f64(outputs))
        deployable = method.deployed_like(plain_network())
        deployable.load_state_dict(deployed.state_dict())
        torch.testing.assert_close(deployable(inputs), f64(outputs))


def test_the_perturbation_leaves_nothing_behind() -> None:
    torch.manual_seed(0)
    architecture = Architecture(
        nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Flatten()), nn.Linear(2, 3)
    )
    method = LatentBE(perturb="tdiv-sdiv")
    network = method.student(
        Network("toy", 0, Normalise([0.0, 0.0], [1.0, 1.0]), architecture).double(),
        Setup(teachers=2),
    )
    network.train()
    moved = method._moved(X, Student(network, network), batch_with_pair(0, 1), linear_teachers())
    assert network.training
    assert network.network.features[1].num_batches_tracked == 0
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not moved.requires_grad
    assert not torch.equal(moved, X)


def test_every_ordered_pair_is_equally_likely_and_workers_agree() -> None:
    draws = Draws(seed=0, epoch=3)
    pairs = [pair(Batch((), torch.arange(0), step=step, draws=draws), 4) for step in range(2400)]
    counts = {drawn: pairs.count(drawn) for drawn in itertools.permutations(range(4), 2)}
    assert sum(counts.values()) == 2400
    assert min(counts.values()) > 140
    other_worker = Batch((), torch.arange(32, 64), step=5, draws=draws)
    assert pair(other_worker, 4) == pairs[5]


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="perturb 'tdiv-sdiv' needs at least 2 teachers, found 1"):
        LatentBE(perturb="tdiv-sdiv").check_fit(
            model="wrn-10-1", augmentation=Identity(), teachers=1
        )
    LatentBE().check_fit(model="wrn-10-1", augmentation=Identity(), teachers=1)
    with pytest.raises(ValueError, match="perturb must be one of 'none', 'tdiv-sdiv'"):
        LatentBE(perturb="random")
    assert LatentBE(perturb="tdiv-sdiv").live_teachers(Identity())
    assert not LatentBE().live_teachers(Identity())
    assert not LatentBE().live_teachers(AUGMENTATIONS["additional"](pick="kl"))
