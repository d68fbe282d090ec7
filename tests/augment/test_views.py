"""What every view must keep, whatever it does to the images."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from distill_ray.augment import VIEWS, Batch, View
from distill_ray.augment.epoch import epoch_batches

IMAGES = np.random.default_rng(0).integers(0, 256, (45, 12, 10, 3), dtype=np.uint8)
LABELS = np.arange(45) % 7


def run(view: View, images: NDArray[np.uint8] = IMAGES, **options: Any) -> list[Batch]:
    labels = LABELS if images is IMAGES else np.arange(len(images)) % 7
    settings: dict[str, Any] = {"seed": 5, "epoch": 2, "batch_size": 16, "device": "cpu"} | options
    return list(epoch_batches(view, images, labels, **settings))


def content(batch: Batch, num_classes: int = 7) -> list[torch.Tensor]:
    return [tensor for part in batch.parts for tensor in (part.images, part.targets(num_classes))]


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.positions, b.positions) and all(torch.equal(x, y) for x, y in zip(content(a), content(b), strict=True))
        for a, b in zip(first, second, strict=True)
    )


@pytest.fixture(params=list(VIEWS))
def view(request: pytest.FixtureRequest) -> View:
    return VIEWS[request.param]()


def test_the_same_address_gives_the_same_images(view: View) -> None:
    assert same(run(view), run(view))


def test_another_epoch_and_another_seed_give_others(view: View) -> None:
    batches = run(view)
    assert not same(batches, run(view, epoch=3))
    assert not same(batches, run(view, seed=6))


def test_an_epoch_can_be_resumed_at_any_step(view: View) -> None:
    batches = run(view)
    assert same(batches[2:], run(view, first_step=2))


@pytest.mark.parametrize("workers", [2, 3])
def test_the_shares_of_the_workers_make_up_the_batch(view: View, workers: int) -> None:
    whole = run(view)
    shares = [run(view, rank=rank, world_size=workers) for rank in range(workers)]
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert torch.equal(batch.positions, torch.cat([part.positions for part in parts]))
        for number, tensor in enumerate(content(batch)):
            assert torch.equal(tensor, torch.cat([content(part)[number] for part in parts]))
        weights = [part.weight * len(part.positions) / workers for part in parts]
        assert weights == pytest.approx([part.weight * len(part.positions) / workers for part in parts])
        assert sum(part.weight for part in parts) == pytest.approx(workers)


def test_shapes_types_and_range(view: View) -> None:
    for batch in run(view):
        assert batch.positions.dtype == torch.int64
        for part in batch.parts:
            assert part.images.dtype == torch.float32
            assert part.images.shape == (len(batch.positions), 3, 12, 10)
            assert part.images.is_contiguous(memory_format=torch.channels_last)
            assert part.images.min() >= 0 and part.images.max() <= 1
            assert part.labels.dtype == torch.int64


def test_targets_are_distributions_over_the_right_labels(view: View) -> None:
    for batch in run(view):
        assert batch.rows is not None
        for part in batch.parts:
            assert torch.equal(part.labels, torch.from_numpy(LABELS)[batch.rows])
            assert torch.allclose(part.targets(7).sum(1), torch.ones(len(part.labels)))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(8, 8), (9, 17), (64, 64)])
def test_any_channels_and_size(view: View, channels: int, size: tuple[int, int]) -> None:
    images = np.random.default_rng(1).integers(0, 256, (6, *size, channels), dtype=np.uint8)
    for batch in run(view, images, batch_size=6):
        assert all(part.images.shape == (6, channels, *size) for part in batch.parts)


def test_importing_views_does_not_import_torch() -> None:
    code = "import sys, distill_ray.augment as a; [v() for v in a.VIEWS.values()]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
