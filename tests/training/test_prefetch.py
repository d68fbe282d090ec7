"""Batches that are made ahead are the same batches, and on a GPU no step waits for the host."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from distill_ray.augmentation import AUGMENTATIONS, Augmentation, AugMix, CropFlip, CutMix
from distill_ray.augmentation.augmentation import Batch
from distill_ray.augmentation.epoch import epoch_batches
from distill_ray.job import Data, Job, Recipe
from distill_ray.methods import CRD, DropoutKD, EnsembleKD, GaussianKD, LatentBE, Method
from distill_ray.training import Dataset, LiveTeachers, Worker, train
from distill_ray.training.loop import make_network
from distill_ray.training.prefetch import ahead, prefetched

CPU = torch.device("cpu")


def batches(augmentation: Augmentation, dataset: Dataset) -> Iterator[Batch]:
    return epoch_batches(
        augmentation,
        dataset.images,
        dataset.labels,
        rows=dataset.train,
        mean=dataset.mean,
        seed=1,
        epoch=2,
        batch_size=9,
        device=CPU,
    )


@pytest.mark.parametrize("name", ["crop-flip", "augmix", "cutmix", "additional"])
def test_they_are_the_same(name: str, small_dataset: Dataset) -> None:
    augmentation = AUGMENTATIONS[name]()
    for one, other in zip(
        batches(augmentation, small_dataset),
        ahead(batches(augmentation, small_dataset)),
        strict=True,
    ):
        assert one.step == other.step and torch.equal(one.positions, other.positions)
        for part, same in zip(one.parts, other.parts, strict=True):
            assert torch.equal(part.images, same.images) and torch.equal(part.labels, same.labels)


def test_one_is_made_while_the_last_is_used(small_dataset: Dataset) -> None:
    made: list[str] = []

    def watched() -> Iterator[Batch]:
        for batch in batches(AUGMENTATIONS["identity"](), small_dataset):
            made.append(threading.current_thread().name)
            yield batch

    running = ahead(watched())
    next(running)
    limit = time.monotonic() + 10
    while len(made) < 2 and time.monotonic() < limit:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 2
    assert all(name.startswith("augmentations") for name in made)


def test_an_error_reaches_who_asks_and_leaving_early_ends_the_thread(
    small_dataset: Dataset,
) -> None:
    def broken() -> Iterator[Batch]:
        yield next(batches(AUGMENTATIONS["identity"](), small_dataset))
        raise ValueError("an augmentation that fails")

    running = ahead(broken())
    next(running)
    with pytest.raises(ValueError, match="an augmentation that fails"):
        next(running)
    left = ahead(batches(AUGMENTATIONS["identity"](), small_dataset))
    next(left)
    left.close()  # type: ignore[attr-defined]
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith("augmentations")
    ]


def test_on_a_cpu_they_come_as_they_are_asked_for(small_dataset: Dataset) -> None:
    asked = batches(AUGMENTATIONS["identity"](), small_dataset)
    assert prefetched(asked, CPU) is asked


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("method", "augmentation"),
    [
        (EnsembleKD(), CropFlip()),
        (EnsembleKD(), CutMix()),
        (EnsembleKD(), AugMix()),
        (EnsembleKD(combine="mean-loss", teacher_weights=(1.0, 2.0)), CropFlip()),
        (CRD(negatives=50), CropFlip()),
        (DropoutKD(), CropFlip()),
        (GaussianKD(), CropFlip()),
        (LatentBE(perturb="tdiv-sdiv"), CropFlip()),
    ],
    ids=lambda value: value.name,
)
def test_on_a_gpu_no_step_waits_for_the_host(
    method: Method, augmentation: Augmentation, small_dataset: Dataset, small_data: Data
) -> None:
    """From the first step to the last of an epoch: what comes before and after it may wait."""
    recipe = Recipe(
        model="wrn-10-1", method=method, augmentation=augmentation, epochs=2, batch_size=4
    )
    job = Job(recipe=recipe, data=small_data, seed=3, teachers=("a", "b"))
    device = torch.device("cuda", 0)

    class Watched(LiveTeachers):
        def of_epoch(self, epoch: int) -> LiveTeachers:
            torch.cuda.set_sync_debug_mode("default")
            self.answered = 0
            return self

        def __call__(self, part: object) -> torch.Tensor:
            self.answered += 1
            steps = len(small_dataset.train) // 4
            torch.cuda.set_sync_debug_mode("error" if 1 < self.answered < steps else "default")
            return super().__call__(part)  # type: ignore[arg-type]

    teachers = Watched(
        [make_network(replace(job, seed=seed), small_dataset) for seed in (8, 9)], device, "fp32"
    )
    assert len(list(train(job, small_dataset, teachers, worker=Worker(device)))) == 2
