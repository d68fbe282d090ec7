"""The diversifying perturbation against the oracles of the latent BatchEnsemble system."""

import pytest
import torch
from torch import Tensor, nn

from distill_ray.methods.latent_be_perturbation import ascend, disagreement, diversify
from support.tensors import f64


def test_normalisation_oracle() -> None:
    images = f64([[0.5, 0.001, 1, 0.999], [0.995, 0, 1, 0.25]])
    gradient = f64([[0.3, -0.4, 0, 1.2], [1e-6, 0, 0, 0]])
    middle = torch.full_like(images, 0.5)
    steps = [[0.0018099548, -0.0024132730, 0, 0.0072398190], [0.0078431373, 0, 0, 0]]
    torch.testing.assert_close(ascend(middle, gradient) - middle, f64(steps), rtol=0, atol=5.1e-11)
    moved = [[0.5018099548, 0, 1, 1], [1, 0, 1, 0.25]]
    torch.testing.assert_close(ascend(images, gradient), f64(moved), rtol=0, atol=5.1e-11)


def test_length_of_a_cifar_step() -> None:
    images = torch.full((2, 3, 32, 32), 0.5, dtype=torch.float64)
    gradient = torch.randn(
        2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    lengths = (ascend(images, gradient) - images).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, f64([0.217355395, 0.217355395]), rtol=0, atol=5.1e-10)


def test_an_image_without_gradient_stays() -> None:
    images = torch.rand(3, 1, 2, 2)
    gradient = torch.zeros(3, 1, 2, 2)
    gradient[1] = 1.0
    moved = ascend(images, gradient)
    assert moved.isfinite().all()
    assert torch.equal(moved[0], images[0])
    assert torch.equal(moved[2], images[2])
    assert not torch.equal(moved[1], images[1])


def test_the_scale_of_the_gradient_does_not_matter() -> None:
    images = torch.full((1, 1, 4, 4), 0.5)
    gradient = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = ascend(images, gradient)
    for scale in (1e-30, 1e30):
        torch.testing.assert_close(ascend(images, gradient * scale), expected)


X = f64([[0.2, 0.7], [0.6, 0.4]]).view(2, 2, 1, 1)
TEACHERS = f64([[[1, -2], [0.5, 1.5], [-1, 0.3]], [[0.8, -1], [-0.7, 1.2], [0.4, 0.1]]])
W, BIAS = f64([[1, 0, 2], [-1, 3, 0.5]]), f64([0.1, -0.2, 0.3])
R, S = f64([[1, 2], [0.5, 1]]), f64([[1, 1, 2], [2, 0.5, 1]])


def teacher(member: int, images: Tensor) -> Tensor:
    return images.flatten(1) @ TEACHERS[member].T


def student(member: int, images: Tensor) -> Tensor:
    return S[member] * ((R[member] * images.flatten(1)) @ W + BIAS)


@pytest.mark.parametrize(
    ("first", "second", "tdiv", "sdiv", "gradient", "expected"),
    [
        (
            *(0, 1, 1.1971687203, 1.2549929890),
            [[0.4960829300, -0.4792665290], [-0.3519544680, 0.2448263031]],
            [[0.2039885892, 0.6961466175], [0.5954472424, 0.4031669858]],
        ),
        (
            *(1, 0, 0.9881759888, 0.7490342485),
            [[-0.0267451849, 0.0771077125], [0.2624181181, -0.0977856586]],
            [[0.1981825862, 0.7052396954], [0.6051968542, 0.3980634805]],
        ),
    ],
)
def test_step_oracle(
    first: int,
    second: int,
    tdiv: float,
    sdiv: float,
    gradient: list[list[float]],
    expected: list[list[float]],
) -> None:
    assert disagreement(teacher(first, X), teacher(second, X)).item() / 2 == pytest.approx(
        tdiv, abs=5.1e-11
    )
    assert disagreement(student(first, X), student(second, X)).item() / 2 == pytest.approx(
        sdiv, abs=5.1e-11
    )
    moved = diversify(
        X,
        lambda images: (teacher(first, images), teacher(second, images)),
        lambda images: (student(first, images), student(second, images)),
    )
    torch.testing.assert_close(moved.flatten(1), f64(expected), rtol=0, atol=1e-10)
    assert not moved.requires_grad
    images = X.clone().requires_grad_()
    apart = disagreement(teacher(first, images), teacher(second, images)) - disagreement(
        student(first, images), student(second, images)
    )
    (found,) = torch.autograd.grad(apart / 2, images)
    # One is printed off by two
    torch.testing.assert_close(found.flatten(1), f64(gradient), rtol=0, atol=2.1e-10)


def test_members_that_agree_leave_it_to_the_teachers() -> None:
    same = diversify(
        X,
        lambda images: (teacher(0, images), teacher(1, images)),
        lambda images: (student(0, images),) * 2,
    )
    images = X.clone().requires_grad_()
    own = student(0, images)
    objective = disagreement(teacher(0, images), teacher(1, images)) - disagreement(own, own)
    (gradient,) = torch.autograd.grad(objective, images)
    torch.testing.assert_close(same, ascend(X, gradient))


def test_parameters_get_no_gradient_even_where_gradients_are_off() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 3)).double()
    with torch.no_grad():
        diversify(
            X,
            lambda images: (network(images), teacher(0, images)),
            lambda images: (network(images), teacher(1, images)),
        )
    assert all(parameter.grad is None for parameter in network.parameters())
