"""Learning rates and the optimiser, against the numbers printed in the specifications of the
published systems.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from distill_ray.job import Recipe
from distill_ray.methods.drop_gauss_layers import GaussianClassifier
from distill_ray.training.optimisation import Steps, clip_gradients, learning_rate, make_optimizer
from support.small import DATA, finish, small_dataset, tiny_job

LATENT_BE = Recipe(model="wrn-28-4", epochs=200, lr=0.1, warmup_epochs=5, schedule="cosine")
GOOD_DA = Recipe(model="wrn-16-2", epochs=240, lr=0.05, schedule="step", milestones=(150, 180, 210))
CALIBRATED_KD = Recipe(
    model="wrn-16-2", epochs=500, lr=0.01, schedule="step", milestones=(149, 179, 209)
)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.0),
        (1, 5.69800570e-5),
        (351, 0.02),
        (1754, 0.099943019943),
        (1755, 0.1),
        (1756, 0.0999999999473),
        (35977, 0.050001147488),
        (65000, 0.00141742570),
        (70199, 5.26691e-11),
    ],
)
def test_cosine_with_warm_up(step: int, expected: float) -> None:
    assert learning_rate(LATENT_BE, step, 351) == pytest.approx(expected, rel=1e-6, abs=1e-15)


@pytest.mark.parametrize(
    ("epoch", "mean"),
    [(1, 9.9715e-3), (2, 2.9972e-2), (40, 9.2474e-2), (186, 1.3589e-3), (200, 2.1722e-6)],
)
def test_cosine_means_of_epochs(epoch: int, mean: float) -> None:
    rates = [learning_rate(LATENT_BE, step, 351) for step in range((epoch - 1) * 351, epoch * 351)]
    assert sum(rates) / 351 == pytest.approx(mean, rel=5e-5)


@pytest.mark.parametrize(
    ("epoch", "expected"), [(150, 0.05), (151, 0.005), (181, 5e-4), (211, 5e-5), (240, 5e-5)]
)
def test_steps_after_milestones(epoch: int, expected: float) -> None:
    for step in ((epoch - 1) * 782, epoch * 782 - 1):
        assert learning_rate(GOOD_DA, step, 782) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("epoch", "expected"), [(148, 0.01), (149, 0.001), (179, 1e-4), (209, 1e-5)]
)
def test_steps_counted_from_zero(epoch: int, expected: float) -> None:
    assert learning_rate(CALIBRATED_KD, epoch * 10, 10) == pytest.approx(expected)


def test_nesterov() -> None:
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = make_optimizer(
        Recipe(model="wrn-16-2", momentum=0.9, weight_decay=0.0), nn.ParameterList([weight])
    )
    seen = []
    for gradient, rate in ((0.5, 0.0), (0.5, 0.1), (-0.2, 0.2)):
        weight.grad = torch.full_like(weight, gradient)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        seen.append(weight.item())
    assert seen == pytest.approx([1, 0.8645, 0.7866], abs=1e-12)


def test_weight_decay_is_an_l2_penalty() -> None:
    weight = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = make_optimizer(
        Recipe(model="wrn-16-2", lr=0.5, momentum=0.0, nesterov=False, weight_decay=0.1),
        nn.ParameterList([weight]),
    )
    weight.grad = torch.tensor([1.0], dtype=torch.float64)
    optimizer.step()
    optimizer.zero_grad()
    assert weight.item() == pytest.approx(2 - 0.5 * (1 + 0.1 * 2))


@pytest.mark.parametrize(
    ("epoch", "factor"),
    [(0, 1), (1, 0.9999383162), (50, 0.8535533906), (100, 0.5), (199, 6.1683759e-5)],
)
def test_cosine_that_moves_every_epoch(epoch: int, factor: float) -> None:
    recipe = Recipe(model="wrn-16-2", epochs=200, lr=0.001, schedule_every="epoch")
    for step in (epoch * 30, epoch * 30 + 29):
        assert learning_rate(recipe, step, 30) / recipe.lr == pytest.approx(factor, abs=5.1e-11)


def test_warm_up_moves_every_step_all_the_same() -> None:
    recipe = Recipe(model="wrn-16-2", epochs=10, lr=1.0, warmup_epochs=1.5, schedule_every="epoch")
    rates = [learning_rate(recipe, step, 4) for step in range(12)]
    assert rates[:8] == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1])
    assert (
        rates[8]
        == rates[11]
        == pytest.approx(
            learning_rate(Recipe(model="x", epochs=10, lr=1.0, warmup_epochs=1.5), 8, 4)
        )
    )


def test_adam() -> None:
    """Three steps of the formulas of Kingma & Ba 2015, the penalty added to the gradient."""
    weight = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = make_optimizer(
        Recipe(model="x", optimizer="adam", lr=0.01, weight_decay=0.1), nn.ParameterList([weight])
    )
    expected, mean, square = 2.0, 0.0, 0.0
    for step, gradient in enumerate((0.5, -0.3, 0.8), start=1):
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        optimizer.zero_grad()
        total = gradient + 0.1 * expected
        mean, square = 0.9 * mean + 0.1 * total, 0.999 * square + 0.001 * total**2
        expected -= 0.01 * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)) ** 0.5 + 1e-8)
        assert weight.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, [3.0, 4.0]), (10.0, [3.0, 4.0]), (1.0, [0.6, 0.8])]
)
def test_gradients_are_clipped_together(limit: float | None, expected: list[float]) -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    for weight, gradient in zip(weights, (3.0, 4.0), strict=True):
        weight.grad = torch.tensor([gradient])
    clip_gradients(Recipe(model="x", clip_norm=limit), nn.ParameterList(weights))
    assert [weight.grad.item() for weight in weights] == pytest.approx(expected, rel=1e-5)


def test_the_penalty_is_clipped_with_the_gradient() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    recipe = Recipe(
        model="x", lr=1.0, momentum=0.0, nesterov=False, weight_decay=10.0, clip_norm=1.0
    )
    network = nn.ParameterList([weight])
    optimizer = make_optimizer(recipe, network)
    weight.grad = torch.zeros_like(weight)
    clip_gradients(recipe, network)
    optimizer.step()
    optimizer.zero_grad()
    assert weight.tolist() == pytest.approx([2.4, 3.2], abs=1e-6)


@pytest.mark.parametrize("limit", [None, 1e9])
def test_gaussian_layers_are_not_decayed(limit: float | None) -> None:
    network = nn.Sequential(nn.Linear(2, 2), GaussianClassifier(nn.Linear(2, 2)))
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    recipe = Recipe(
        model="x", lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.5, clip_norm=limit
    )
    optimizer = make_optimizer(recipe, network)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    clip_gradients(recipe, network)
    optimizer.step()
    optimizer.zero_grad()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter, before[name] * (0.95 if name.startswith("0.") else 1))


@pytest.mark.parametrize(("limit", "decay_norms"), [(None, True), (None, False), (0.5, True)])
def test_adamw_is_torchs(limit: float | None, decay_norms: bool) -> None:
    """With gradients clipped before it, and decay apart from them."""
    recipe = Recipe(
        model="x",
        optimizer="adamw",
        lr=0.01,
        weight_decay=0.1,
        clip_norm=limit,
        decay_norms=decay_norms,
    )
    torch.manual_seed(0)
    ours, theirs = (nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    one = make_optimizer(recipe, ours)
    vectors = [parameter for parameter in theirs.parameters() if parameter.ndim == 1]
    matrices = [parameter for parameter in theirs.parameters() if parameter.ndim > 1]
    groups = [
        {"params": matrices, "weight_decay": 0.1},
        {"params": vectors, "weight_decay": 0.1 if decay_norms else 0.0},
    ]
    other = torch.optim.AdamW(groups, lr=0.01)
    for images in torch.randn(4, 5, 3):
        for network in (ours, theirs):
            network(images).pow(3).sum().backward()
        clip_gradients(recipe, ours)
        if limit is not None:
            nn.utils.clip_grad_norm_(theirs.parameters(), limit)
        for optimizer in (one, other):
            optimizer.step()
            optimizer.zero_grad()
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("limit", [None, 1e9])
@pytest.mark.parametrize("decay_norms", [True, False])
def test_norms_and_biases_may_be_exempt_from_the_penalty(
    limit: float | None, decay_norms: bool
) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    recipe = Recipe(
        model="x",
        lr=0.1,
        momentum=0.0,
        nesterov=False,
        weight_decay=0.5,
        clip_norm=limit,
        decay_norms=decay_norms,
    )
    optimizer = make_optimizer(recipe, network)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    clip_gradients(recipe, network)
    optimizer.step()
    for name, parameter in network.named_parameters():
        shrinks = decay_norms or name == "0.weight"
        torch.testing.assert_close(parameter, before[name] * (0.95 if shrinks else 1))


def test_the_cosine_ends_at_the_final_rate() -> None:
    """As torch's own CosineAnnealingLR does."""
    recipe = Recipe(model="x", epochs=5, lr=0.2, final_lr=0.02)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.02)
    for step in range(20):
        assert learning_rate(recipe, step, 4) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()
    assert learning_rate(recipe, 20, 4) == pytest.approx(0.02)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("settings", [{}, {"clip_norm": 0.1, "ema": 0.9}, {"optimizer": "adamw"}])
def test_accumulated_batches_are_one_larger_batch(drop_last: bool, settings: Any) -> None:
    """44 images: 16, 16 and 12 at once, or in batches of 4. The network has no batch statistics."""
    common = {"model": "mlp-16", "drop_last": drop_last, "lr": 0.01, "precision": "fp32"} | settings
    dataset = small_dataset()
    for method in ("kd", "latent-be"):
        large = tiny_job(DATA, method, batch_size=16, **common)
        small = tiny_job(DATA, method, batch_size=4, accumulate=4, **common)
        (expected, whole), (records, parts) = finish(large, dataset), finish(small, dataset)
        for record, other in zip(records, expected, strict=True):
            assert record["train/loss"] == pytest.approx(other["train/loss"], rel=1e-4)
            assert record["lr"] == other["lr"]
        for name, weight in whole.weights.items():
            torch.testing.assert_close(parts.weights[name], weight, rtol=1e-3, atol=1e-4)


def test_the_images_of_every_step_count_once() -> None:
    for images, size, accumulate, drop_last in itertools.product(
        (7, 12, 13), (1, 4), (1, 2, 5), (False, True)
    ):
        steps = Steps(images, size, accumulate, drop_last)
        sizes = [min(size, images - first) for first in range(0, images, size)]
        shares = [steps.share(number, sizes[number]) for number in range(steps.batches)]
        assert sum(shares) == pytest.approx(steps.per_epoch)
        assert sum(map(steps.is_last, range(steps.batches))) == steps.per_epoch
