"""Tar files as webdataset writes them, read as it reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from distill_ray.data import load_images, open_source
from distill_ray.data.tar_shards import TarShards
from distill_ray.errors import RequestError


@pytest.fixture
def write(tmp_path: Path, encode: Callable[..., bytes]) -> Callable[..., Path]:
    """Writes samples into a tar file by the library: images, and what else each sample has."""

    def write(name: str, images: Any, **others: Any) -> Path:
        folder = tmp_path / "shards"
        folder.mkdir(exist_ok=True)
        with webdataset.TarWriter(str(folder / name)) as writer:
            for number, image in enumerate(images):
                values = {ending: each[number] for ending, each in others.items()}
                sample = {"__key__": f"some/key{number:03d}", "input.png": encode(image)}
                writer.write(sample | values)
        return folder

    return write


def test_rows_are_those_of_the_library(
    write: Callable[..., Path], pictures: Callable[..., Any]
) -> None:
    images = pictures(9)
    write("train-000000.tar", images[:4], cls=[3, 0, 3, 7])
    write("train-000001.tar", images[4:7], cls=[0, 7, 0])
    folder = write("val-000000.tar", images[7:], cls=[7, 3])
    source = open_source(str(folder))
    assert isinstance(source, TarShards)
    assert (source.class_names, source.label) == (("0", "3", "7"), "cls")
    train = load_images(source, "train")
    assert (train.images == np.stack(images[:7])).all()
    assert train.labels.tolist() == [1, 0, 1, 2, 0, 2, 0] == source.labels("train").tolist()
    assert load_images(source, "test").labels.tolist() == [2, 1]
    shards = [str(folder / f"train-00000{number}.tar") for number in (0, 1)]
    theirs = [
        (sample["input.png"], int(sample["cls"]))
        for sample in webdataset.WebDataset(shards, shardshuffle=False)
    ]
    ours = []
    for batch in source.batches("train", 0, 7):
        labels = [int(source.class_names[label]) for label in batch.labels]
        ours += list(zip(batch.encoded, labels, strict=True))
    assert ours == theirs
    some = [encoded for batch in source.batches("train", 3, 6) for encoded in batch.encoded]
    assert some == [encoded for encoded, _ in theirs[3:6]]


def test_labels_in_json(write: Callable[..., Path], pictures: Callable[..., Any]) -> None:
    values = [{"label": name, "shot": 5, "by": ["x"]} for name in ("dog", "cat", "dog")]
    folder = write("train.tar", pictures(3), json=values)
    source = open_source(str(folder))
    assert (source.class_names, source.label_columns) == (("cat", "dog"), ("label", "shot"))
    assert open_source(str(folder), label="shot").class_names == ("5",)


def test_what_is_wrong_is_named(write: Callable[..., Path], pictures: Callable[..., Any]) -> None:
    folder = write("train-0.tar", pictures(2), txt=["a caption", "another"])
    with pytest.raises(RequestError, match="no column of integers or text to learn"):
        open_source(str(folder))
    write("train-0.tar", pictures(2), cls=["cat", ""])
    with pytest.raises(RequestError, match=r"train-0.tar, some/key001: cls is missing"):
        open_source(str(folder))
    whole = (write("train-0.tar", pictures(3), cls=[0, 1, 0]) / "train-0.tar").read_bytes()
    for content in (b"", b"no tar file at all", *(whole[:end] for end in (700, 1024, 1600, 3000))):
        (folder / "train-0.tar").write_bytes(content)
        with pytest.raises(RequestError, match=r"train-0.tar (cannot be read as|ends too early)"):
            load_images(open_source(str(folder)), "train")
