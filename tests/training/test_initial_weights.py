"""Jobs that start from weights which were trained elsewhere, in plain PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from distill_ray.augmentation import Identity
from distill_ray.errors import RequestError
from distill_ray.job import Job
from distill_ray.methods import Hydra, Method, Supervised
from distill_ray.metrics import validation_score
from distill_ray.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from distill_ray.testing.jobs import CPU, small_dataset, small_job, untrained_teachers
from distill_ray.training import EpochTeachers, Outcome, train

DATA = small_dataset()
NAME = "mine.pt@0123456789abcdef"


def plain(num_classes: int = 3) -> nn.Module:
    """A network as somebody else made it, with statistics that are not the first ones."""
    torch.manual_seed(5)
    network = torchvision.models.get_model("resnet18", weights=None, num_classes=num_classes)
    network.train()(torch.rand(8, 3, 32, 32))
    return network.eval()


def job(method: Method | None = None, **settings: Any) -> Job:
    usual = {"weights": NAME, "epochs": 0, "keep": "last", "precision": "fp32"}
    settings = {"model": "torchvision/resnet18"} | usual | settings
    return small_job(method or Supervised(), Identity(), **settings)


def run(
    job: Job, network: nn.Module, teachers: EpochTeachers | None = None
) -> tuple[list[dict[str, float]], Outcome]:
    training = train(job, DATA, teachers, worker=CPU, initial=network.state_dict())
    records = []
    while True:
        try:
            records.append(next(training))
        except StopIteration as end:
            return records, end.value


def test_without_epochs_the_predictions_are_those_of_plain_torch() -> None:
    """To the last bit, as the images are prepared here by hand."""
    preparing = Preprocessing(size=32, channels="bgr")
    records, outcome = run(job(preprocessing=preparing), plain())
    images = torch.from_numpy(DATA.images[DATA.validation]).permute(0, 3, 1, 2).float() / 255
    images = nn.functional.interpolate(images, (32, 32), mode="bilinear", antialias=True).flip(1)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    expected = plain()((images - mean) / std).log_softmax(1).detach().numpy()
    np.testing.assert_allclose(outcome.log_probabilities, expected, rtol=0, atol=1e-6)
    (record,) = records
    scores = validation_score(expected, DATA.labels[DATA.validation])
    assert record["epoch"] == outcome.kept_epoch == 0
    assert record["val/accuracy"] == scores["accuracy"]
    assert record["val/nll"] == pytest.approx(scores["nll"], abs=1e-6)


def test_a_network_of_timm_gets_images_as_timm_prepares_them() -> None:
    """At its size, by its interpolation, mean and deviation, unless the study says otherwise."""
    torch.manual_seed(5)
    network = timm.create_model("test_resnet", num_classes=3).eval()
    _, outcome = run(job(model="timm/test_resnet"), network)
    images = torch.from_numpy(DATA.images[DATA.validation]).permute(0, 3, 1, 2).float() / 255
    images = nn.functional.interpolate(images, (160, 160), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = network((images - 0.5) / 0.5).log_softmax(1).numpy()
    np.testing.assert_allclose(outcome.log_probabilities, expected, rtol=0, atol=1e-6)


def test_outputs_follow_the_order_of_the_classes() -> None:
    _, plain_order = run(job(), plain())
    network = plain(4)
    fc = plain().fc
    network.load_state_dict(
        plain().state_dict()
        | {
            "fc.weight": torch.stack([fc.weight[2], torch.zeros(512), fc.weight[0], fc.weight[1]]),
            "fc.bias": torch.stack([fc.bias[2], torch.zeros(()), fc.bias[0], fc.bias[1]]),
        }
    )
    _, outcome = run(job(classes=("2", "unknown", "0", "1")), network)
    np.testing.assert_array_equal(outcome.log_probabilities, plain_order.log_probabilities)
    with pytest.raises(RequestError, match="`classes` names no output for 1"):
        run(job(classes=("2", "unknown", "0", "3")), network)


def test_training_starts_from_the_weights() -> None:
    """A learning rate of almost nothing leaves them as they are; a classifier for other classes is
    drawn anew."""
    tiny = {"epochs": 1, "lr": 1e-12, "weight_decay": 0.0}
    _, outcome = run(job(**tiny), plain())
    trained = outcome.weights
    torch.testing.assert_close(trained["features.0.conv1.weight"], plain().conv1.weight)
    torch.testing.assert_close(trained["classifier.weight"], plain().fc.weight)
    _, other = run(job(**tiny), plain(7))
    assert other.weights["classifier.weight"].shape == (3, 512)
    torch.testing.assert_close(other.weights["features.0.conv1.weight"], plain(7).conv1.weight)


def test_heads_start_from_them_too() -> None:
    student = job(Hydra(heads=2), epochs=1, lr=1e-12, weight_decay=0.0)
    teachers = untrained_teachers(student, DATA)
    _, outcome = run(student, plain(), teachers)
    (stem,) = (weight for weight in outcome.weights.values() if weight.shape == (64, 3, 7, 7))
    torch.testing.assert_close(stem, plain().conv1.weight)
