"""Splits as people name them, a validation split that is there, and a data set without a test
split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_ray.data import import_dataset, load_images, open_source
from distill_ray.data.split import cut_rows
from distill_ray.errors import RequestError
from distill_ray.job import Split
from distill_ray.resolve import data_of
from distill_ray.study import load_study
from distill_ray.training import load_dataset, load_split

STUDY = """
name: named
data: {{source: {folder}, {data}}}
teachers: {{model: mlp-4, epochs: 1, batch_size: 4}}
student: {{model: mlp-4, epochs: 1, batch_size: 4}}
"""


@pytest.fixture
def tree(tmp_path: Path, encode: Callable[..., bytes]) -> Callable[..., Path]:
    """Writes grey images of two classes, so many per class and split; each has a number as value,
    counted in the order of the arguments.
    """

    def tree(**splits: int) -> Path:
        value = 0
        for split, count in splits.items():
            for name in ("cat", "dog"):
                folder = tmp_path / "tree" / split / name
                folder.mkdir(parents=True)
                for number in range(count):
                    image = np.full((4, 4), value)
                    (folder / f"{number}.png").write_bytes(encode(image))
                    value += 1
        return tmp_path / "tree"

    return tree


def resolved(tree: Path, tmp_path: Path, data: str = "seed: 0") -> Any:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.format(folder=tree, data=data))
    return data_of(load_study(str(file)))


def values(images: Any) -> list[int]:
    return images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev"])
def test_a_validation_split_that_is_there_is_used(
    name: str, tree: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tree(train=5, test=2, **{name: 3})
    data = resolved(folder, tmp_path)
    assert data.split == Split(validation=6, rule="own")
    dataset = load_dataset(data)
    assert values(dataset.images[dataset.train]) == list(range(10))
    assert values(dataset.images[dataset.validation]) == list(range(14, 20))
    assert values(load_split(data, "test").images) == list(range(10, 14))
    cut = load_dataset(resolved(folder, tmp_path, "validation: 2"))
    assert (len(cut.train), len(cut.validation)) == (14, 2)
    with pytest.raises(RequestError, match=r"data.test: found 2, and .* has a test split"):
        resolved(folder, tmp_path, "test: 2")


def test_without_a_test_split_the_study_says_how_many_images_make_one(
    tree: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tree(train=10)
    with pytest.raises(RequestError, match=r"no test split, which confirm needs; data\.test: 2"):
        resolved(folder, tmp_path)
    data = resolved(folder, tmp_path, "test: 4, validation: 4")
    dataset, test = load_dataset(data), load_split(data, "test")
    shown = [values(dataset.images[rows]) for rows in (dataset.train, dataset.validation)]
    shown.append(values(test.images))
    assert sorted(value for each in shown for value in each) == list(range(20))
    assert [len(each) for each in shown] == [12, 4, 4]
    assert test.labels.tolist() == [value >= 10 for value in shown[2]] == [0, 0, 1, 1]
    on_disk = load_split(type(data)(**{**vars(data), "memory_gb": 0.0}), "test")
    assert values(on_disk.images[:]) == shown[2]
    assert values(on_disk.images[np.array([3, 1])]) == [shown[2][3], shown[2][1]]


def test_a_validation_split_alone_is_the_test_split_unless_test_images_are_cut(
    tree: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tree(train=10, val=3)
    assert open_source(str(folder)).rows("test") == 6
    data = resolved(folder, tmp_path, "test: 4")
    dataset = load_dataset(data)
    assert values(dataset.images[dataset.validation]) == list(range(20, 26))
    assert (len(dataset.train), len(load_split(data, "test").images)) == (16, 4)


def test_parquet_and_import_keep_the_validation_split(
    tree: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tree(train=4, dev=2, test=1)
    imported = import_dataset(str(folder), tmp_path / "parquet")
    assert {path.name.partition("-")[0] for path in (tmp_path / "parquet").iterdir()} == {
        "train",
        "validation",
        "test",
    }
    assert (imported.rows("train"), imported.validation_rows, imported.rows("test")) == (12, 4, 2)
    loaded, original = (
        load_images(imported, "train"),
        load_images(open_source(str(folder)), "train"),
    )
    assert (loaded.images == original.images).all() and (loaded.labels == original.labels).all()
    assert resolved(tmp_path / "parquet", tmp_path).split.rule == "own"


@pytest.mark.parametrize("rule", ["stratified", "last", "own"])
@pytest.mark.parametrize("train", [None, 20])
@pytest.mark.parametrize("test", [None, 10])
def test_every_cut_is_without_overlap(rule: Any, train: int | None, test: int | None) -> None:
    labels = np.arange(60) % 5
    cut = cut_rows(labels, **asdict(Split(validation=10, train=train, rule=rule, test=test)))
    rows = np.concatenate(cut)
    assert len(np.unique(rows)) == len(rows)
    assert [len(part) for part in cut] == [train or 50 - (test or 0), 10, test or 0]
    if rule != "stratified":
        assert cut.validation.tolist() == list(range(50, 60))
    if rule != "last":
        assert {len(np.unique(labels[part])) for part in cut if len(part)} == {5}
