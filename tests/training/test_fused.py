"""Teachers as programs answer as they do layer by layer, within rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distill_ray.augmentation import Crop
from distill_ray.augmentation.augmentation import Part
from distill_ray.job import Data, Split
from distill_ray.models import build_model
from distill_ray.models.network import Network
from distill_ray.models.preprocessing import Preprocessing
from distill_ray.training import (
    Dataset,
    LiveTeachers,
    TeacherLogitsKey,
    compute_teacher_logits,
    fused,
    teacher_logits,
    to_arrow,
)
from distill_ray.training.fused import FusedForward

CPU = torch.device("cpu")
DATA = Data(
    name="noise", digest="0" * 32, location="noise", label="label", split=Split(validation=16)
)
OFF = {"fp32": 1e-4, "bf16": 0.05}


def network_of(model: str, size: int = 16, **settings: Any) -> Network:
    """A network with batch statistics of noise, as a teacher is kept."""
    network = build_model(model, num_classes=5, image_shape=(3, size, size), seed=1, **settings)
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(16, 3, size, size))
    return network.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def is_program(forward: FusedForward, images: Tensor) -> bool:
    return forward._forward[images.shape] != forward._as_it_is


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("wrn-10-1", {}),
        ("resnet8", {"mean": (0.5,) * 3, "std": (0.2,) * 3}),
        ("vgg8", {"preprocessing": Preprocessing(size=24)}),
        ("shuffle-v1", {}),
        ("mlp-20-20", {}),
        ("lenet-8-16-mlp-32", {}),
    ],
)
def test_it_is_the_same_within_rounding(
    model: str, settings: dict[str, Any], precision: str
) -> None:
    """For images of several shapes in turn, and the network itself stays as it is."""
    network = network_of(model, **settings)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    forward = FusedForward(network, precision)
    for count in (8, 8, 3, 8):
        images = torch.rand(count, 3, 16, 16).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            logits, expected = forward(images), network(images)
        assert is_program(forward, images)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected, rtol=0, atol=OFF[precision])
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


class TurnsAtWill(nn.Module):
    """What no program can follow: it looks at the numbers to decide what to do."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flip(3) if images.mean() > 0.5 else images


def test_what_cannot_be_traced_goes_layer_by_layer() -> None:
    network = network_of("wrn-10-1")
    network.features = nn.Sequential(TurnsAtWill(), *network.features)
    forward = FusedForward(network, "fp32")
    for images in (torch.full((4, 3, 16, 16), 0.2), torch.rand(4, 3, 16, 16) / 2 + 0.5):
        with torch.inference_mode():
            assert torch.equal(forward(images), network(images))
        assert not is_program(forward, images)


def test_a_program_that_answers_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = network_of("wrn-10-1"), torch.rand(4, 3, 16, 16)
    monkeypatch.setattr(fused, "_program", lambda *_: lambda batch: 10 * network(batch))
    forward = FusedForward(network, "fp32")
    with torch.inference_mode():
        assert torch.equal(forward(images), network(images))


@pytest.fixture
def noise() -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (400, 16, 16, 3)).astype(np.uint8)
    rows, classes = np.arange(384), ("a", "b", "c", "d", "e")
    return Dataset(
        images, np.arange(400) % 5, rows, np.arange(384, 400), classes, (0.5,) * 3, (0.3,) * 3
    )


def key(**settings: Any) -> TeacherLogitsKey:
    given = {"precision": "fp32", "exact": False} | settings
    return TeacherLogitsKey(
        teachers=("a", "b"), data=DATA, augmentation=Crop(), seed=3, batch_size=None, **given
    )


def test_passes_over_many_images_take_programs(
    noise: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever pieces came before, the answers are the same bytes; those that are to be exact, and
    those for few images, come layer by layer.
    """
    networks = [network_of("wrn-10-1"), network_of("resnet8")]
    of_many: list[int] = []
    fused_pass = LiveTeachers.of_many

    def counted(teachers: LiveTeachers, part: Part) -> Tensor:
        of_many.append(len(part.images))
        return fused_pass(teachers, part)

    monkeypatch.setattr(LiveTeachers, "of_many", counted)

    def answers(teachers: LiveTeachers, number: int, **settings: Any) -> bytes:
        of_many.clear()
        logits = compute_teacher_logits(key(**settings), number, teachers, noise, CPU)
        return to_arrow(logits, "")

    answers(LiveTeachers(networks, CPU, "fp32"), 2)
    assert of_many == []
    monkeypatch.setattr(teacher_logits, "MANY", 384)
    one, other = LiveTeachers(networks, CPU, "fp32"), LiveTeachers(networks, CPU, "fp32")
    answers(one, 1)
    assert answers(one, 2) == answers(other, 2)
    assert of_many == [128] * 3
    logits = compute_teacher_logits(key(), 2, one, noise, CPU).logits[0]
    of_many.clear()
    expected = compute_teacher_logits(key(exact=True), 2, one, noise, CPU).logits[0]
    assert of_many == []
    assert np.abs(logits.astype(np.float32) - expected).max() < 0.02
