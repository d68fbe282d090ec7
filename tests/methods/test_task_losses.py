"""Regression through the methods that have it: their losses against the oracles, what they deploy,
and a short training.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distill_ray.augmentation import Identity
from distill_ray.augmentation.augmentation import Batch, Part
from distill_ray.job import Data, Job, Recipe, Split
from distill_ray.methods import (
    METHODS,
    DropoutKD,
    GaussianKD,
    Hydra,
    HydraPlus,
    LatentBE,
    Method,
    Supervised,
)
from distill_ray.methods.method import Student
from distill_ray.models import build_model
from distill_ray.training import Dataset, LiveTeachers, Worker, load_network, predict, train
from distill_ray.training.loop import make_network
from support.teachers import FixedTeachers

TEACHERS = torch.tensor(
    [[[0.5, -0.2], [-1, 0.3]], [[0.7, 0.1], [-0.8, -0.5]], [[0.4, 0], [-1.3, 0.2]]],
    dtype=torch.float64,
)
HEADS = torch.tensor([[[0.6, 0], [0.2, -0.3]], [[-0.9, 0.1], [-1.1, 0.4]]], dtype=torch.float64)
BATCH = Batch(
    (Part(torch.zeros(2, 1, 1, 1), torch.tensor([0.55, -1.2], dtype=torch.float64)),),
    torch.arange(2),
)


class Constant(nn.Module):
    """A network that gives the heads of the oracle."""

    def forward(self, images: Tensor) -> Tensor:
        return HEADS

    def head_weights(self) -> list[tuple[Tensor, None]]:
        return [(torch.ones(2, 1, 1, dtype=torch.float64), None)]


def test_losses_are_those_of_the_oracle() -> None:
    student = Student(Constant(), Constant())
    assert Supervised().loss(student, BATCH, FixedTeachers(TEACHERS))[
        "loss"
    ].item() == pytest.approx(0.0569995340, abs=1e-9)
    assert Hydra(temperature=7).loss(student, BATCH, FixedTeachers(TEACHERS))[
        "loss"
    ].item() == pytest.approx(0.5787762242, abs=1e-9)
    terms = HydraPlus(diversity=0, temperature=7, mean_temperature=3).loss(
        student, BATCH, FixedTeachers(TEACHERS)
    )
    assert terms["loss/aggregation"].item() == pytest.approx(0.5366598967, abs=1e-9)
    assert terms["loss"].item() == pytest.approx(0.5076462078, abs=1e-9)


def test_a_single_output_is_a_single_head() -> None:
    single = Student(Constant(), lambda images: HEADS[:, 0])
    expected = 0.5 * ((0.55 - 0.6) ** 2 + 0.1 + (-1.2 + 0.9) ** 2 / np.exp(0.1)) / 2
    assert Supervised().loss(single, BATCH, FixedTeachers(TEACHERS))[
        "loss"
    ].item() == pytest.approx(expected)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_each_method_says_whether_it_is_for_regression(name: str) -> None:
    method = METHODS[name]()
    method.check_data(task="classification", real_valued=True)
    if name in ("supervised", "hydra", "hydra+", "drop", "gauss"):
        method.check_data(task="regression", real_valued=True)
    else:
        with pytest.raises(
            ValueError,
            match=r"is for classification; for regression there are drop, gauss, hydra, hydra\+, "
            r"super",
        ):
            method.check_data(task="regression", real_valued=True)


def test_perturbed_images_must_be_pixels() -> None:
    with pytest.raises(ValueError, match="real numbers; use none"):
        LatentBE(perturb="tdiv-sdiv").check_data(task="classification", real_valued=True)


def dataset() -> Dataset:
    inputs = np.linspace(-2, 2, 40, dtype=np.float32)
    return Dataset(
        images=inputs.reshape(-1, 1, 1, 1),
        labels=np.sin(inputs),
        train=np.arange(0, 40, 2),
        validation=np.arange(1, 40, 2),
        class_names=(),
        mean=(0.0,),
        std=(1.0,),
    )


def job(method: Method) -> Job:
    recipe = Recipe(
        model="mlp-8-8",
        method=method,
        augmentation=Identity(),
        epochs=12,
        batch_size=10,
        optimizer="adam",
        lr=0.02,
    )
    data = Data(
        name="sine",
        digest="0" * 32,
        location="sine",
        label="label",
        split=Split(validation=20, rule="last"),
    )
    return Job(
        recipe=recipe, data=data, seed=3, teachers=("a", "b") if method.needs_teachers else ()
    )


@pytest.mark.parametrize(
    "method",
    [
        Supervised(),
        Hydra(heads=3, depth=1),
        HydraPlus(heads=2),
        DropoutKD(samples=4),
        GaussianKD(samples=4),
    ],
    ids=lambda method: method.name,
)
def test_training_evaluation_and_loading(method: Method) -> None:
    worker, shown = Worker(torch.device("cpu")), dataset()
    networks = [
        make_network(dataclasses.replace(job(Supervised()), seed=seed), shown) for seed in (0, 1)
    ]
    running = train(
        job(method), shown, LiveTeachers(networks, worker.device, "fp32"), worker=worker
    )
    records = []
    while True:
        try:
            records.append(next(running))
        except StopIteration as finished:
            outcome = finished.value
            break
    assert {"val/nll", "val/rmse", "val/mae"} <= set(records[0]) and "val/accuracy" not in records[
        0
    ]
    assert records[-1]["train/loss"] < records[0]["train/loss"]
    assert outcome.log_probabilities.shape == (20, 2)
    loaded = load_network(job(method), outcome.weights, shown)
    again = predict(loaded, shown.images, shown.validation, worker=worker, task="regression")
    np.testing.assert_allclose(again, outcome.log_probabilities, rtol=1e-5, atol=1e-6)


def test_heads_are_deployed_as_one_gaussian() -> None:
    method = HydraPlus(heads=4, depth=1)
    plain = build_model("mlp-8-8", num_classes=2, image_shape=(1, 1, 1), seed=0, task="regression")
    student = method.student(plain, None).eval()
    inputs = torch.linspace(-1, 1, 5).view(-1, 1, 1, 1)
    with torch.no_grad():
        heads, deployed = student(inputs), method.deploy(student)(inputs)
    mean, variance = heads[..., 0], heads[..., 1].exp()
    torch.testing.assert_close(deployed[:, 0], mean.mean(1))
    torch.testing.assert_close(deployed[:, 1].exp(), variance.mean(1) + mean.var(1))
