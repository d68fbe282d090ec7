"""Teacher logits: stored answers are those of live teachers for every augmentation, and a file of
something else is never taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from distill_ray.augmentation import AUGMENTATIONS, Augmentation, Identity
from distill_ray.augmentation.epoch import epoch_batches
from distill_ray.augmentation.picking import pick
from distill_ray.augmentation.versions import Versions
from distill_ray.job import Data, Job, Recipe, Split
from distill_ray.methods import METHODS
from distill_ray.models import build_model
from distill_ray.training import (
    Dataset,
    LiveTeachers,
    ShardedTeachers,
    StoredTeachers,
    TeacherLogits,
    TeacherLogitsKey,
    Worker,
    compute_teacher_logits,
    from_arrow,
    teacher_logits_key,
    to_arrow,
    train,
)
from distill_ray.training.teacher_logits import ERROR_BOUND
from support.logits import logits_of_part

CPU = torch.device("cpu")
DATA = Data(
    name="noise", digest="0" * 32, location="noise", label="label", split=Split(validation=16)
)


def augmentations() -> Iterator[Augmentation]:
    yield from (AUGMENTATIONS[name]() for name in AUGMENTATIONS)
    for pick_ in ("student-entropy", "teacher-entropy", "kl"):
        yield AUGMENTATIONS["additional"](pick=pick_, pool=3)
    yield AUGMENTATIONS["augmix"](consistency=True)
    yield AUGMENTATIONS["mixup"](per="image")
    yield AUGMENTATIONS["cutmix"](per="batch")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3)).astype(np.uint8)
    train_rows, validation = np.arange(44), np.arange(44, 60)
    return Dataset(
        images, np.arange(60) % 3, train_rows, validation, ("a", "b", "c"), (0.5,) * 3, (0.3,) * 3
    )


@pytest.fixture(scope="module")
def live() -> LiveTeachers:
    networks = [
        build_model("wrn-10-1", num_classes=3, image_shape=(3, 16, 16), seed=seed)
        for seed in range(2)
    ]
    return LiveTeachers(networks, CPU, "fp32")


def job(augmentation: Augmentation, method: str = "kd", **settings: object) -> Job:
    recipe = Recipe(
        model="wrn-10-1",
        method=METHODS[method](**settings),
        augmentation=augmentation,
        epochs=2,
        batch_size=16,
        lr=0.05,
        precision="fp32",
    )
    return Job(recipe=recipe, data=DATA, seed=3, teachers=("a", "b"))


def key_of(augmentation: Augmentation, *, exact: bool = True) -> TeacherLogitsKey:
    return TeacherLogitsKey.of(job(augmentation), "fp32", exact)


def stored(
    key: TeacherLogitsKey, epoch: int, live: LiveTeachers, dataset: Dataset
) -> TeacherLogits:
    """Teacher logits after a way through a file."""
    teacher_logits = compute_teacher_logits(key, epoch, live, dataset, CPU)
    identity = key.identity(epoch)
    return from_arrow(pa.py_buffer(to_arrow(teacher_logits, identity)), identity)


@pytest.mark.parametrize(
    "augmentation",
    augmentations(),
    ids=lambda augmentation: "-".join(map(str, augmentation.to_dict().values())),
)
def test_shards_of_a_version_answer_for_every_seed(
    augmentation: Augmentation,
    live: LiveTeachers,
    dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In any order of the images: other seeds show the same version in other epochs."""
    if augmentation.by_batch:
        pytest.skip("its images depend on their batch, which versions refuse")
    monkeypatch.setattr(teacher_logits_key, "SHARD", 16)
    key = replace(key_of(augmentation), versioned=True, seed=7)
    versions = Versions(2, seed=7)
    shards = [
        compute_teacher_logits(key, 2, live, dataset, CPU, shard)
        for shard in range(len(key.shards(len(dataset.train))))
    ]
    answering = ShardedTeachers(shards, CPU)
    for seed in (3, 4):
        (epoch,) = (epoch for epoch in (1, 2) if versions.shown_in(epoch, seed) == 2)
        batches = epoch_batches(
            augmentation,
            dataset.images,
            dataset.labels,
            rows=dataset.train,
            mean=dataset.mean,
            seed=seed,
            epoch=epoch,
            batch_size=20,
            device=CPU,
            versions=versions,
        )
        for batch in batches:
            for part in batch.parts:
                torch.testing.assert_close(answering(part), live(part), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "augmentation",
    augmentations(),
    ids=lambda augmentation: "-".join(map(str, augmentation.to_dict().values())),
)
@pytest.mark.parametrize("exact", [True, False], ids=["fp32", "fp16"])
def test_stored_answers_are_the_live_ones(
    augmentation: Augmentation, exact: bool, live: LiveTeachers, dataset: Dataset
) -> None:
    """For every image of every part, in batches of another size where that makes no difference, for
    one worker and for two.
    """
    key = key_of(augmentation, exact=exact)
    teacher_logits = stored(key, 2, live, dataset)
    assert {part.dtype for part in teacher_logits.logits} == {
        np.dtype(np.float32 if exact else np.float16)
    }
    assert teacher_logits.error <= ERROR_BOUND and (teacher_logits.error == 0) == exact
    answering = StoredTeachers(teacher_logits, CPU)
    for rank, workers in ((0, 1), (0, 2), (1, 2)):
        batches = epoch_batches(
            augmentation,
            dataset.images,
            dataset.labels,
            rows=dataset.train,
            mean=dataset.mean,
            seed=3,
            epoch=2,
            batch_size=16 if augmentation.by_batch else 20,
            device=CPU,
            rank=rank,
            world_size=workers,
            drop_last=workers == 2,
        )
        for batch in batches:
            for part in batch.parts:
                torch.testing.assert_close(
                    answering(part), live(part), rtol=0, atol=1e-5 + teacher_logits.error
                )
                picked, answers = pick(part, live.networks[0], answering)
                torch.testing.assert_close(
                    answers, live(picked), rtol=0, atol=1e-5 + teacher_logits.error
                )


@pytest.mark.parametrize(
    "augmentation",
    augmentations(),
    ids=lambda augmentation: "-".join(map(str, augmentation.to_dict().values())),
)
def test_a_augmentation_that_claims_so_does_not_depend_on_the_batch(
    augmentation: Augmentation, dataset: Dataset
) -> None:
    def images(batch_size: int) -> list[torch.Tensor]:
        arguments = {
            "rows": dataset.train,
            "mean": dataset.mean,
            "seed": 3,
            "epoch": 1,
            "device": CPU,
        }
        batches = epoch_batches(
            augmentation, dataset.images, dataset.labels, batch_size=batch_size, **arguments
        )
        parts = [part for batch in batches for part in batch.parts]
        return [
            torch.cat([part.images for part in parts if part.number == number])[
                torch.cat([part.slots for part in parts if part.number == number]).argsort()  # type: ignore[misc]
            ]
            for number in range(augmentation.part_count)
        ]

    same = all(torch.equal(one, other) for one, other in zip(images(11), images(44), strict=True))
    assert same != augmentation.by_batch


@pytest.mark.parametrize(
    "augmentation",
    [Identity(), AUGMENTATIONS["additional"](pick="kl"), AUGMENTATIONS["mixup"]()],
    ids=lambda augmentation: augmentation.name,
)
@pytest.mark.parametrize(
    ("exact", "tolerance"), [(True, 1e-5), (False, 5e-3)], ids=["fp32", "fp16"]
)
def test_a_run_on_teacher_logits_is_a_run_on_live_teachers(
    augmentation: Augmentation, exact: bool, tolerance: float, live: LiveTeachers, dataset: Dataset
) -> None:
    key = key_of(augmentation, exact=exact)

    class FromFiles:
        networks = live.networks

        def of_epoch(self, epoch: int) -> StoredTeachers:
            return StoredTeachers(stored(key, epoch, live, dataset), CPU)

    records = [
        list(train(job(augmentation), dataset, teachers, worker=Worker(CPU)))
        for teachers in (live, FromFiles())
    ]
    for one, other in zip(*records, strict=True):
        assert other["train/loss"] == pytest.approx(one["train/loss"], rel=tolerance)
        assert other["val/nll"] == pytest.approx(one["val/nll"], rel=tolerance)


def test_images_that_were_changed_after_the_augmentation_have_no_answer(
    live: LiveTeachers, dataset: Dataset
) -> None:
    teacher_logits = stored(key_of(Identity()), 1, live, dataset)
    part = next(
        epoch_batches(
            Identity(), dataset.images, dataset.labels, seed=3, epoch=1, batch_size=4, device=CPU
        )
    ).parts[0]
    with pytest.raises(ValueError, match="only answer for images as their augmentation made them"):
        StoredTeachers(teacher_logits, CPU)(replace(part, images=1 - part.images, slots=None))


@pytest.mark.parametrize("scale", [3e2, 1e6, float("inf"), float("nan")])
def test_logits_that_half_precision_would_move_stay_in_float32(
    scale: float, dataset: Dataset
) -> None:
    class Loud(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)) * scale

    loud = LiveTeachers([Loud(), Loud()], CPU, "fp32")
    teacher_logits = stored(key_of(Identity(), exact=False), 1, loud, dataset)
    assert teacher_logits.logits[0].dtype == np.float32
    assert teacher_logits.error == 0
    expected = compute_teacher_logits(key_of(Identity()), 1, loud, dataset, CPU)
    np.testing.assert_array_equal(teacher_logits.logits[0], expected.logits[0])


def test_the_bound_is_checked_against_the_teachers_own_logits(dataset: Dataset) -> None:
    class Fine(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)) * 60

    fine = LiveTeachers([Fine(), Fine()], CPU, "fp32")
    half, exact = (
        stored(key_of(Identity(), exact=exact), 1, fine, dataset) for exact in (False, True)
    )
    assert half.logits[0].dtype == np.float16
    assert half.error == pytest.approx(
        np.abs(half.logits[0].astype(np.float32) - exact.logits[0]).max()
    )
    assert 0 < half.error <= ERROR_BOUND


def test_logits_of_a_part_are_in_the_order_of_the_epoch(
    live: LiveTeachers, dataset: Dataset
) -> None:
    teacher_logits = stored(key_of(AUGMENTATIONS["augmix"](consistency=True)), 1, live, dataset)
    whole = logits_of_part(teacher_logits, 0)
    assert whole.shape == (2, 44 * 3, 3)
    np.testing.assert_array_equal(whole[:, 5 * 3 + 1], teacher_logits.logits[0][5, 1])


@pytest.mark.parametrize(
    "other",
    [
        replace(key_of(Identity()), teachers=("b", "a")),
        replace(key_of(Identity()), augmentation=AUGMENTATIONS["crop"]()),
        replace(key_of(Identity()), seed=4),
        replace(key_of(Identity()), data=replace(DATA, digest="1" * 32)),
        replace(key_of(Identity()), data=replace(DATA, split=Split(validation=17))),
        replace(key_of(Identity()), precision="bf16"),
        replace(key_of(Identity()), exact=False),
        replace(key_of(Identity()), batch_size=16),
    ],
    ids=[
        "teachers",
        "augmentation",
        "seed",
        "data",
        "split",
        "arithmetic",
        "storage",
        "batch size",
    ],
)
def test_teacher_logits_of_something_else_are_refused(
    other: TeacherLogitsKey, live: LiveTeachers, dataset: Dataset
) -> None:
    key = key_of(Identity())
    assert other.id != key.id
    content = pa.py_buffer(
        to_arrow(compute_teacher_logits(key, 1, live, dataset, CPU), key.identity(1))
    )
    assert from_arrow(content, key.identity(1)).fit(2, 44, 3)
    with pytest.raises(ValueError, match="these are teacher logits of"):
        from_arrow(content, other.identity(1))
    with pytest.raises(ValueError, match="these are teacher logits of"):
        from_arrow(content, key.identity(2))


def test_a_key_leaves_out_what_makes_no_difference() -> None:
    one = job(Identity())
    other = replace(
        one, recipe=replace(one.recipe, batch_size=32, drop_last=True, lr=1.0, epochs=9), workers=2
    )
    assert TeacherLogitsKey.of(one, "fp32").id == TeacherLogitsKey.of(other, "fp32").id
    mixing = [job(AUGMENTATIONS["mixup"]()), job(AUGMENTATIONS["mixup"]())]
    mixing[1] = replace(mixing[1], recipe=replace(mixing[1].recipe, batch_size=32))
    assert TeacherLogitsKey.of(mixing[0], "fp32").id != TeacherLogitsKey.of(mixing[1], "fp32").id


@pytest.mark.parametrize("cut", [0, 7, 100, -200, -1])
def test_a_truncated_file_is_no_file_of_teacher_logits(
    cut: int, live: LiveTeachers, dataset: Dataset
) -> None:
    key = key_of(Identity())
    content = to_arrow(compute_teacher_logits(key, 1, live, dataset, CPU), key.identity(1))
    with pytest.raises(ValueError, match="not a file of teacher logits"):
        from_arrow(pa.py_buffer(content[:cut]), key.identity(1))


@pytest.mark.parametrize("wrong", [(3, 44, 3), (2, 43, 3), (2, 44, 4)])
def test_teacher_logits_fit_one_number_of_teachers_images_and_classes(
    wrong: tuple[int, int, int], live: LiveTeachers, dataset: Dataset
) -> None:
    assert not stored(key_of(Identity()), 1, live, dataset).fit(*wrong)
