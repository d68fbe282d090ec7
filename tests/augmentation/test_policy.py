"""AutoAugment: the table, what its magnitudes mean, and whole sub-policies against torchvision."""

import numpy as np
import pytest
import torch
from torchvision.transforms import AutoAugment as Reference
from torchvision.transforms import AutoAugmentPolicy

from distill_ray.augmentation import AutoAugment
from distill_ray.augmentation.epoch import epoch_batches
from distill_ray.augmentation.kernels.policy import (
    POLICIES,
    Policy,
    amounts,
    auto_augment,
    sub_policies,
)
from support.operations import NAMES, reference


@pytest.mark.parametrize("policy", POLICIES)
def test_the_tables_are_those_of_torchvision(policy: Policy) -> None:
    expected = [
        [(NAMES[name], chance, level or 0) for name, chance, level in pair]
        for pair in Reference(AutoAugmentPolicy(policy)).policies
    ]
    assert sub_policies(policy) == expected


@pytest.mark.parametrize("name", NAMES)
def test_magnitudes_are_those_of_torchvision(name: str) -> None:
    values, signed = Reference()._augmentation_space(10, (40, 32))[name]
    if values.ndim == 0:
        return
    expected = values.double().numpy() * (-1 if signed else 1)
    if name.startswith("Translate"):
        expected = np.trunc(expected)
    elif name in ("Brightness", "Color", "Contrast", "Sharpness"):
        expected = 1 + expected
    levels = np.arange(10) / 9
    found = amounts(np.full(10, NAMES[name]), levels, np.full(10, True), 40, 32)
    assert found == pytest.approx(expected, abs=1e-4)
    if name in ("Brightness", "Color", "Contrast", "Sharpness"):
        expected = 2 - expected
    elif signed:
        expected = -expected
    found = amounts(np.full(10, NAMES[name]), levels, np.full(10, False), 40, 32)
    assert found == pytest.approx(expected, abs=1e-4)


class Source:
    """Draws that a test chooses: sub-policy, chances, signs."""

    def __init__(self, drawn: np.ndarray) -> None:
        self.drawn = drawn

    def uniform(self, purpose: str, count: int, per: str) -> np.ndarray:
        assert count == self.drawn.shape[1]
        return self.drawn

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_sub_policy_gives_what_torchvision_gives(policy: Policy) -> None:
    draw = np.random.default_rng(0)
    table = sub_policies(policy)
    chosen = np.tile(np.arange(25), 4)
    drawn = np.column_stack([(chosen + 0.5) / 25, draw.random((100, 4))])
    images = torch.from_numpy(draw.integers(0, 256, (100, 24, 20, 3), dtype=np.uint8)).permute(
        0, 3, 1, 2
    )
    changed = auto_augment(Source(drawn), images, policy, "image")
    for image, row, result in zip(images, drawn, changed, strict=True):
        for turn, (name, chance, level) in enumerate(table[int(row[0] * 25)]):
            if row[1 + turn] < chance:
                amount = amounts(
                    np.array([name]), np.array([level / 9]), row[3 + turn : 4 + turn] < 0.5, 24, 20
                )[0]
                image = reference(image, name, float(amount))
        assert torch.equal(result, image)


def test_a_batch_can_share_its_sub_policy() -> None:
    pixels = np.broadcast_to(
        np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8), (60, 16, 16, 3)
    )
    alike = []
    for step in range(6):
        augmentation = AutoAugment(per="batch", padding=0, flip=False)
        batch = next(
            epoch_batches(
                augmentation,
                pixels,
                np.zeros(60, np.int64),
                seed=step,
                epoch=0,
                batch_size=60,
                device="cpu",
            )
        )
        assert (batch.parts[0].images == batch.parts[0].images[:1]).all()
        alike.append(batch.parts[0].images[0])
    assert len({tuple(image.flatten().tolist()) for image in alike}) > 2
