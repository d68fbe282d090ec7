"""`data: {imbalance: 10}`: other jobs, thinner classes, and weights that make up for them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight

from distill_ray.errors import RequestError
from distill_ray.job import Data
from distill_ray.resolve import data_of, image_counts, search_name, source_of, teacher_runs
from distill_ray.stages.mlflow_observer import data_sets
from distill_ray.study import StudyDefinition, load_study
from distill_ray.testing.jobs import train_to_end
from distill_ray.training import load_dataset

TINY = Path(__file__).parents[1] / "tiny.yaml"
LONG = ("data={source: digits, validation: 200, imbalance: 10}", "teachers.batch_size=32")


@pytest.fixture
def encode() -> Callable[..., bytes]:
    def encode(pixels: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    return encode


def study_of(*overrides: str) -> tuple[StudyDefinition, Data]:
    study = load_study(TINY, overrides)
    return study, data_of(study)


def test_it_is_part_of_the_identity() -> None:
    plain, here = study_of()
    long, there = study_of("data.imbalance=10")
    assert "imbalance" not in here.identity["split"] and there.identity["split"]["imbalance"] == 10
    ids = [[run.job.id for run in teacher_runs(plain, data)] for data in (here, there)]
    assert not set(ids[0]) & set(ids[1])
    assert search_name(plain, here, ids[0]) != search_name(long, there, ids[0])


def test_classes_become_rarer_in_their_order_and_balanced_weights_make_up_for_it() -> None:
    study, data = study_of(*LONG, "data.class_weights=balanced")
    dataset = load_dataset(data)
    labels = dataset.labels[dataset.train]
    counts = np.bincount(labels)
    assert (np.diff(counts) <= 0).all() and counts[0] == pytest.approx(10 * counts[-1], rel=0.1)
    assert len(dataset.validation) == 200
    expected = compute_class_weight("balanced", classes=np.arange(10), y=labels)
    np.testing.assert_allclose(dataset.balanced_weights, expected, rtol=1e-6)
    job = teacher_runs(study, data)[0].job
    assert job.data.class_weights == "balanced"
    _, outcome = train_to_end(job, dataset)
    assert np.isfinite(outcome.log_probabilities).all()


def test_everybody_counts_the_images_that_are_trained_on(
    tmp_path: Path, encode: Callable[..., bytes]
) -> None:
    """Of classes that are not equally frequent too: a class that is rare already keeps all."""
    sizes = {"many": 60, "few": 8, "some": 30}
    for split in ("train", "test"):
        for name, count in sizes.items():
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                file = tmp_path / split / name / f"{number}.png"
                file.write_bytes(encode(np.full((8, 8), number, np.uint8)))
    section = f"data={{source: {tmp_path}, validation: 20, imbalance: 4}}"
    study, data = study_of(section, "teachers.batch_size=16", "student.batch_size=16")
    dataset = load_dataset(data)
    trained, source = len(dataset.train), source_of(study)
    # 6, 48 and 24 are left, 26 on average, of which 26, 26 / 2 and 26 / 4 may stay
    counts = dict(zip(dataset.class_names, np.bincount(dataset.labels[dataset.train]), strict=True))
    assert counts == {"few": 6, "many": 13, "some": 6}
    assert image_counts(study, source) == {
        "training": trained, "validation": 20, "test": 98, "unused": 78 - trained
    }  # fmt: skip
    assert [each.rows for each in data_sets(data)] == [trained, 20, 98]
    with pytest.raises(RequestError, match=f"only {trained} images; set it to at most {trained}"):
        study_of(section, f"student.batch_size={trained + 1}", "teachers.batch_size=16")
    study_of(section, f"student.batch_size={trained}", "teachers.batch_size=16")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.imbalance=1", "data.imbalance: found 1, must be .*above 1"),
        ("data.imbalance=strong", "data.imbalance: found 'strong', must be a number"),
    ],
)
def test_wrong_values(override: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load_study(TINY, [override])


def test_batches_larger_than_what_is_left_are_refused() -> None:
    with pytest.raises(RequestError, match=r"student\.batch_size: found 32, .*training"):
        study_of("data.imbalance=1000")
