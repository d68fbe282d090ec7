"""Answers over many classes: the largest logits as they are, the others by their mass, with an
error that is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from distill_ray.augmentation import AUGMENTATIONS, Identity
from distill_ray.augmentation.epoch import epoch_batches
from distill_ray.job import Data, Job, Recipe, Split
from distill_ray.methods import METHODS
from distill_ray.training import (
    Dataset,
    LiveTeachers,
    StoredTeachers,
    TeacherLogits,
    TeacherLogitsKey,
    Worker,
    compute_teacher_logits,
    from_arrow,
    to_arrow,
    train,
)
from distill_ray.training.top_k import TAIL_BOUND, Tail, top_k, total_variation, with_even_tail
from support.logits import logits_of_part

CPU = torch.device("cpu")
DATA = Data(
    name="noise", digest="0" * 32, location="noise", label="label", split=Split(validation=4)
)
KEY = TeacherLogitsKey(
    teachers=("a", "b"),
    data=DATA,
    augmentation=Identity(),
    seed=3,
    batch_size=None,
    precision="fp32",
    top_k=9,
)
CLASSES = 40


class Sure(nn.Module):
    """Says clearly what it sees in noise; `sharpness` scales its logits."""

    def __init__(self, seed: int, sharpness: float) -> None:
        super().__init__()
        self.weight = (
            torch.randn(16, CLASSES, generator=torch.Generator().manual_seed(seed)) * sharpness
        )

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1) - 0.5) @ self.weight


def sure(sharpness: float = 8.0) -> LiveTeachers:
    return LiveTeachers([Sure(0, sharpness), Sure(1, sharpness)], CPU, "fp32")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 1)).astype(np.uint8)
    names = tuple(map(str, range(CLASSES)))
    return Dataset(
        images, np.arange(64) % CLASSES, np.arange(60), np.arange(60, 64), names, (0.5,), (0.3,)
    )


def through_a_file(teacher_logits: TeacherLogits, key: TeacherLogitsKey = KEY) -> TeacherLogits:
    return from_arrow(pa.py_buffer(to_arrow(teacher_logits, key.identity(1))), key.identity(1))


def hostile(count: int) -> Iterator[Tensor]:
    """Logits (count, 50): flat, peaked, with ties, and huge."""
    generator = torch.Generator().manual_seed(0)
    for scale in (0.0, 0.1, 2.0, 10.0, 300.0):
        yield torch.randn(count, 50, generator=generator, dtype=torch.float64) * scale
    yield torch.randint(0, 3, (count, 50), generator=generator).double()


@pytest.mark.parametrize("k", [1, 7, 49])
def test_at_temperature_1_what_is_kept_is_exact_and_the_others_are_even(k: int) -> None:
    for logits in hostile(20):
        largest, tail = top_k(logits, k)
        p, q = logits.softmax(-1), with_even_tail(largest, tail).double().softmax(-1)
        kept = tail.classes.long()
        torch.testing.assert_close(q.gather(1, kept), p.gather(1, kept), rtol=1e-5, atol=1e-9)
        others = q.scatter(1, kept, 0.0)
        torch.testing.assert_close(
            others.sum(1), p.scatter(1, kept, 0.0).sum(1), rtol=1e-4, atol=1e-7
        )
        torch.testing.assert_close(
            others, (others > 0) * (others.sum(1) / (50 - k))[:, None], rtol=1e-4, atol=1e-9
        )


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.5, 4.0, 20.0])
@pytest.mark.parametrize("k", [1, 7, 30])
def test_the_error_is_at_most_the_mass_of_the_others(k: int, temperature: float) -> None:
    """The teacher's own at temperature 1 below it, that of the even tail above it."""
    for logits in hostile(200):
        largest, tail = top_k(logits, k)
        even = with_even_tail(largest, tail).double()
        measured = 1.0 if temperature <= 1 else temperature
        mass = 1 - (even / measured).softmax(-1).gather(1, tail.classes.long()).sum(1)
        assert (total_variation(logits, even, temperature) <= mass + 1e-5).all()


def test_total_variation_is_half_the_distance() -> None:
    p, q = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.25, 0.25, 0.5]])
    assert total_variation((p + 1e-30).log(), q.log()).item() == pytest.approx(0.5)


def test_stored_answers_are_those_of_the_teachers(dataset: Dataset) -> None:
    live = sure()
    teacher_logits = through_a_file(compute_teacher_logits(KEY, 1, live, dataset, CPU))
    assert (
        teacher_logits.logits[0].shape == (60, 1, 2, 9)
        and teacher_logits.logits[0].dtype == np.float16
    )
    assert (
        teacher_logits.fit(2, 60, CLASSES)
        and not teacher_logits.fit(2, 60, 9)
        and not teacher_logits.fit(3, 60, CLASSES)
    )
    answering = StoredTeachers(teacher_logits, CPU)
    for batch in epoch_batches(
        Identity(),
        dataset.images,
        dataset.labels,
        rows=dataset.train,
        seed=3,
        epoch=1,
        batch_size=7,
        device=CPU,
    ):
        part = batch.parts[0]
        wanted, found = live(part), answering(part)
        assert found.shape == wanted.shape and found.dtype == torch.float32
        kept = wanted.topk(9, -1).indices
        torch.testing.assert_close(
            found.gather(-1, kept),
            wanted.gather(-1, kept),
            rtol=0,
            atol=teacher_logits.error + 1e-6,
        )
        torch.testing.assert_close(
            found.logsumexp(-1), wanted.logsumexp(-1), rtol=0, atol=2 * teacher_logits.error
        )
        places = batch.positions
        np.testing.assert_array_equal(logits_of_part(teacher_logits, 0)[:, places], found.numpy())


def test_the_file_is_smaller(dataset: Dataset) -> None:
    key = replace(KEY, top_k=None)
    small, whole = (
        len(to_arrow(compute_teacher_logits(each, 1, sure(), dataset, CPU), each.identity(1)))
        for each in (KEY, key)
    )
    assert whole - small > 60 * 2 * (2 * CLASSES - 4 * 9 - 4) - 2000


@pytest.mark.parametrize("sharpness", [1.0, float("nan")])
def test_where_the_tail_matters_all_classes_are_kept(sharpness: float, dataset: Dataset) -> None:
    live = sure(sharpness)
    teacher_logits = through_a_file(compute_teacher_logits(KEY, 1, live, dataset, CPU))
    assert teacher_logits.tails == () and teacher_logits.fit(2, 60, CLASSES)
    whole = compute_teacher_logits(replace(KEY, top_k=None), 1, live, dataset, CPU)
    np.testing.assert_array_equal(teacher_logits.logits[0], whole.logits[0])


def test_the_bound_holds_for_what_is_kept(dataset: Dataset) -> None:
    met = set()
    for sharpness in (2.0, 3.0, 4.0, 6.0, 8.0):
        teacher_logits = compute_teacher_logits(
            replace(KEY, exact=True), 1, sure(sharpness), dataset, CPU
        )
        whole = compute_teacher_logits(
            replace(KEY, exact=True, top_k=None), 1, sure(sharpness), dataset, CPU
        )
        off = float(
            total_variation(
                *(torch.from_numpy(logits_of_part(each, 0)) for each in (teacher_logits, whole))
            ).mean()
        )
        assert off <= TAIL_BOUND
        met.add(bool(teacher_logits.tails))
    assert met == {True, False}


def test_a_tail_of_another_shape_is_noticed(dataset: Dataset) -> None:
    teacher_logits = compute_teacher_logits(KEY, 1, sure(), dataset, CPU)
    tail = teacher_logits.tails[0]
    short = replace(teacher_logits, tails=(Tail(tail.classes[:, :, :, :5], tail.rest, CLASSES),))
    assert not short.fit(2, 60, CLASSES)


def test_the_number_kept_is_part_of_the_key() -> None:
    whole = replace(KEY, top_k=None)
    assert len({KEY.id, whole.id, replace(KEY, top_k=8).id}) == 3
    assert "top_k" not in whole.identity(1)


@pytest.mark.parametrize(
    "method",
    sorted(
        name
        for name in METHODS
        if METHODS[name].even_tail and not METHODS[name]().live_teachers(Identity())
    ),
)
def test_methods_that_say_so_learn_as_from_all_classes(method: str, dataset: Dataset) -> None:
    """The losses of the first steps, at temperature 1, are those with live teachers but for what
    the bound allows.
    """
    made = METHODS[method](temperature=1.0)
    augmentation = AUGMENTATIONS["additional"]() if method == "augmented-kd" else Identity()
    recipe = Recipe(
        model="mlp-16",
        method=made,
        augmentation=augmentation,
        epochs=1,
        batch_size=20,
        lr=1e-3,
    )
    job, live = Job(recipe=recipe, data=DATA, seed=3, teachers=("a", "b")), sure(12.0)
    key = TeacherLogitsKey.of(job, "fp32", False, 9)

    class Stored:
        networks = ()

        def of_epoch(self, epoch: int) -> StoredTeachers:
            teacher_logits = compute_teacher_logits(key, epoch, live, dataset, CPU)
            assert teacher_logits.tails
            return StoredTeachers(teacher_logits, CPU)

    one, other = (
        next(train(job, dataset, teachers, worker=Worker(CPU)))["train/loss"]
        for teachers in (live, Stored())
    )
    assert other == pytest.approx(one, rel=0.02)
    assert other != one


def test_endd_and_picks_want_all_classes() -> None:
    kd, picking = METHODS["kd"], AUGMENTATIONS["additional"](pick="kl")
    assert kd().needs_all_classes(Identity()) is None
    assert METHODS["endd"]().needs_all_classes(Identity()) == "method 'endd'"
    assert "'additional', which picks" in kd().needs_all_classes(picking)
    assert kd(standardise=True).needs_all_classes(Identity()) == "standardise"
    assert kd(combine="confident").needs_all_classes(Identity()) == "combine 'confident'"
