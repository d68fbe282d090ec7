"""Fine-tuning: what is frozen stays to the last bit, and learning rates fall towards the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_ray.errors import RequestError
from distill_ray.job import Job, Recipe
from distill_ray.methods import METHODS
from distill_ray.models import build_model
from distill_ray.training import Dataset, Worker, make_network, train
from distill_ray.training.fine_tuning import Frozen, rate_factors
from distill_ray.training.loop import Outcome

RECIPE = Recipe(
    model="wrn-10-1",
    weights="own.pt@0123456789abcdef",
    epochs=2,
    batch_size=16,
    freeze=1,
    optimizer="adamw",
    lr=0.01,
)


def run(job: Job, dataset: Dataset, initial: dict[str, Tensor]) -> tuple[list[Any], Outcome]:
    saved: list[bytes] = []
    training = train(
        job, dataset, worker=Worker(torch.device("cpu")), initial=initial,
        save=lambda make: saved.append(make()),
    )  # fmt: skip
    records = []
    while True:
        try:
            records.append(next(training))
        except StopIteration as end:
            return saved, end.value


@pytest.fixture
def job(small_data: Any) -> Job:
    return Job(recipe=RECIPE, data=small_data, seed=0)


def test_all_but_the_classifier_stays_while_frozen(job: Job, small_dataset: Dataset) -> None:
    start = make_network(replace(job, seed=7), small_dataset).state_dict()
    once = replace(job, recipe=replace(RECIPE, epochs=1))
    _, frozen = run(once, small_dataset, start)
    changed = {
        name for name, tensor in start.items() if not torch.equal(tensor, frozen.weights[name])
    }
    assert changed == {"classifier.weight", "classifier.bias"}
    _, thawed = run(job, small_dataset, start)
    assert not torch.equal(thawed.weights["features.0.weight"], start["features.0.weight"])


def test_a_resumed_run_thaws_alike(job: Job, small_dataset: Dataset) -> None:
    start = make_network(replace(job, seed=7), small_dataset).state_dict()
    saved, whole = run(job, small_dataset, start)
    training = train(
        job, small_dataset, worker=Worker(torch.device("cpu")), initial=start, saved=saved[0]
    )
    while True:
        try:
            next(training)
        except StopIteration as end:
            resumed = end.value
            break
    assert all(torch.equal(tensor, resumed.weights[name]) for name, tensor in whole.weights.items())


@pytest.mark.parametrize(
    ("method", "trained"),
    [
        ("kd", {"classifier"}),
        ("hydra", {"heads"}),
        ("latent-be", {"classifier", "r_offset", "s_offset"}),
    ],
)
def test_every_shape_of_student_trains_what_is_its_own(method: str, trained: set[str]) -> None:
    from distill_ray.methods.method import Setup

    plain = build_model("wrn-10-1", num_classes=5, image_shape=(3, 8, 8), seed=0)
    student = METHODS[method]().student(plain, Setup(teachers=2))
    for parameter in student.parameters():
        parameter.grad = torch.ones_like(parameter)
    Frozen(RECIPE, student).drop_gradients(1)
    left = {name for name, parameter in student.named_parameters() if parameter.grad is not None}
    assert left and all(any(part in name for part in trained) for name in left)
    assert all(any(part in name for name in left) for part in trained)


@pytest.mark.parametrize(
    ("model", "blocks"),
    [("torchvision/resnet18", 10), ("torchvision/vit_b_32", 14), ("wrn-16-2", 8)],
)
def test_rates_fall_block_by_block(model: str, blocks: int) -> None:
    side = 32
    network = build_model(model, num_classes=5, image_shape=(3, side, side), seed=0)
    factors = rate_factors(network, 0.5)
    named = {name: factors[parameter] for name, parameter in network.named_parameters()}
    assert sorted(set(named.values())) == [0.5**depth for depth in reversed(range(blocks))]
    assert named["classifier.weight"] == named["classifier.bias"] == 1
    first = next(name for name in named if named[name] == min(named.values()))
    assert first in list(named)[:4]
    assert list(named.values())[-3] <= 1


def test_the_first_step_is_smaller_before(job: Job, small_dataset: Dataset) -> None:
    start = make_network(replace(job, seed=7), small_dataset).state_dict()
    few = replace(small_dataset, train=small_dataset.train[:16])
    recipe = replace(RECIPE, epochs=1, freeze=0, weight_decay=0.0)
    moved: dict[float | None, Callable[[str], float]] = {}
    for decay in (None, 0.5):
        _, outcome = run(replace(job, recipe=replace(recipe, layer_decay=decay)), few, start)
        moved[decay] = lambda name, after=outcome.weights: float(
            (after[name] - start[name]).abs().max()
        )
    assert moved[0.5]("classifier.weight") == pytest.approx(moved[None]("classifier.weight"))
    ratio = moved[0.5]("features.0.weight") / moved[None]("features.0.weight")
    assert ratio < 0.2


def test_settings_for_weights_need_weights_and_a_classifier() -> None:
    with pytest.raises(ValueError, match="layer_decay is for trained weights"):
        Recipe(model="wrn-10-1", layer_decay=0.75)
    network = build_model("wrn-10-1", num_classes=5, image_shape=(3, 8, 8), seed=0)
    with pytest.raises(RequestError, match="nothing would be trained"):
        Frozen(RECIPE, torch.nn.ModuleDict({"features": network.features}))
