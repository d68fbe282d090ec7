"""Last layers with noise against the oracle of the multi-head system, and as the training loop
calls them.
"""

import pytest
import torch
from torch import nn

from distill_ray.augmentation.augmentation import Batch, Part
from distill_ray.augmentation.draws import Draws
from distill_ray.methods.drop_gauss import DropoutKD, GaussianKD, SampledHeads
from distill_ray.methods.drop_gauss_layers import DropoutClassifier, GaussianClassifier
from distill_ray.methods.method import Setup, Student
from distill_ray.models import build_model
from support.teachers import TeachersByImage
from support.tensors import f64


def gaussian_layer() -> GaussianClassifier:
    layer = GaussianClassifier(nn.Linear(2, 1).double())
    with torch.no_grad():
        layer.weight.copy_(f64([[0.5, -1]]))
        layer.bias.fill_(0.2)
        layer.log_variance_offset.copy_(f64([[-2, 0]]) + 10)
        layer.bias_log_variance_offset.fill_(-1.0 + 10)
    return layer


def test_gaussian_oracle() -> None:
    layer = gaussian_layer()
    assert layer.divergence_from_prior().item() == pytest.approx(1.3966073622, abs=5.1e-11)
    mean, variance = layer.moments(f64([[2, 3]]))
    assert mean.item() == pytest.approx(-1.8)
    assert variance.item() == pytest.approx(9.9092205741, abs=5.1e-11)
    fresh = nn.Linear(1, 1).double()
    with torch.no_grad():
        fresh.weight.zero_()
        fresh.bias.zero_()
    assert GaussianClassifier(fresh).divergence_from_prior().item() / 2 == pytest.approx(
        4.5000227, abs=5.1e-8
    )


def test_gaussian_samples_have_the_moments() -> None:
    layer = gaussian_layer()
    noise = torch.from_numpy(Draws(0, 1).uniform("test", 0, 1, 20_000)).view(1, -1, 1)
    samples = layer(f64([[2, 3]]), noise)
    assert samples.mean().item() == pytest.approx(-1.8, abs=0.07)
    assert samples.var().item() == pytest.approx(9.9092205741, rel=0.03)
    weight, bias = layer.drawn(20_000, torch.Generator().manual_seed(0))
    drawn = (weight * f64([2, 3])).sum(-1) + bias
    assert drawn.mean().item() == pytest.approx(-1.8, abs=0.07)
    assert drawn.var().item() == pytest.approx(9.9092205741, rel=0.03)
    assert layer(f64([[2, 3]]), torch.zeros(1, 1, 1)).isfinite().all()


def test_dropout_keeps_the_mean() -> None:
    layer = DropoutClassifier(nn.Linear(3, 2).double())
    features = f64([[1, -2, 0.5]])
    noise = torch.from_numpy(Draws(0, 1).uniform("test", 0, 20_000, 3)).unsqueeze(0)
    samples = layer(features, noise)
    plain = nn.functional.linear(features, layer.weight, layer.bias)
    torch.testing.assert_close(samples.mean(1), plain, rtol=0, atol=0.05)
    everything = layer(features, torch.full((1, 1, 3), 0.5, dtype=torch.float64))
    torch.testing.assert_close(
        everything[:, 0], nn.functional.linear(2 * features, layer.weight, layer.bias)
    )
    nothing = layer(features, torch.full((1, 1, 3), 0.4999, dtype=torch.float64))
    torch.testing.assert_close(nothing[0, 0], layer.bias)
    weight, bias = layer.drawn(20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        ((weight * features).sum(-1) + bias).mean(0), plain[0], rtol=0, atol=0.05
    )


ANSWERS = 3 * torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(1))
IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def plain_network(seed: int = 0) -> nn.Module:
    return build_model("wrn-10-1", num_classes=4, image_shape=(3, 8, 8), seed=seed)


def batch(rows: slice = slice(0, 6), epoch: int = 1) -> Batch:
    return Batch(
        (Part(IMAGES[rows], LABELS[rows]),), torch.arange(6)[rows], draws=Draws(seed=0, epoch=epoch)
    )


BOTH = pytest.mark.parametrize(
    "method", [DropoutKD(samples=5), GaussianKD(samples=5)], ids=["drop", "gauss"]
)


@BOTH
def test_a_step(method: SampledHeads) -> None:
    network = method.student(plain_network(), Setup(teachers=3, rows=range(60)))
    terms = method.loss(Student(network, network), batch(), TeachersByImage(IMAGES, ANSWERS))
    terms["loss"].backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for parameter in network.parameters()
    )
    total = (
        0.05 * terms["loss/labels"]
        + 0.95 * terms["loss/teachers"]
        + terms.get("loss/prior", torch.tensor(0.0)) / 60
    )
    torch.testing.assert_close(terms["loss"], total)


@BOTH
def test_noise_belongs_to_the_epoch_and_the_position(method: SampledHeads) -> None:
    network = method.student(plain_network(), Setup(teachers=3, rows=range(60)))
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.forward = lambda maps: maps
    if isinstance(network.classifier, GaussianClassifier):
        nn.init.constant_(network.classifier.log_variance_offset, 9.0)

    def loss(shown: Batch) -> float:
        return method.loss(Student(network, network), shown, TeachersByImage(IMAGES, ANSWERS))[
            "loss/teachers"
        ].item()

    whole = loss(batch())
    assert loss(batch()) == whole
    assert loss(batch(epoch=2)) != pytest.approx(whole, rel=1e-6)
    halves = [loss(batch(slice(0, 3))), loss(batch(slice(3, 6)))]
    assert sum(halves) / 2 == pytest.approx(whole, rel=1e-5)


@BOTH
def test_deployment_is_the_mean_of_samples_drawn_once(method: SampledHeads) -> None:
    network = method.student(plain_network(), Setup(teachers=3, rows=range(60))).eval()
    with torch.no_grad():
        deployed = method.deploy(network)
        samples = network(IMAGES)
        assert samples.shape == (6, 5, 4)
        assert samples.var(1).sum() > 0
        torch.testing.assert_close(deployed(IMAGES).exp(), samples.softmax(-1).mean(1))
        torch.testing.assert_close(method.deploy(network)(IMAGES), deployed(IMAGES), rtol=0, atol=0)
        loaded = method.deployed_like(plain_network(seed=5)).eval()
        loaded.load_state_dict(deployed.state_dict())
        torch.testing.assert_close(loaded(IMAGES), deployed(IMAGES))
