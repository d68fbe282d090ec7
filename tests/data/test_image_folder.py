from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_ray.data import load_images, open_source
from distill_ray.errors import RequestError


@pytest.fixture
def tree(tmp_path: Path, encode: Callable[..., bytes], pictures: Callable[..., Any]) -> Any:
    """Six training and two test images of dogs and cats, one of them in a deeper folder."""
    files = [
        "train/dog/b.png",
        "train/cat/2.png",
        "train/cat/10.png",
        "train/dog/a/z.PNG",
        "train/dog/c.png",
        "train/cat/3.png",
    ]
    for name, image in zip([*files, "test/dog/1.png", "test/cat/1.png"], pictures(8), strict=True):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image))
    (tmp_path / "tree" / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "tree" / "train" / "cat" / ".hidden.png").write_text("not an image")
    (tmp_path / "tree" / "train" / "stray.png").write_text("not in a class")
    return tmp_path / "tree"


def test_classes_and_rows_are_sorted_by_name(tree: Path, pictures: Callable[..., Any]) -> None:
    source = open_source(str(tree))
    images = pictures(8)
    train = load_images(source, "train")
    assert source.class_names == ("cat", "dog")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1] == source.labels("train").tolist()
    assert (train.images == np.stack([images[i] for i in (2, 1, 5, 3, 0, 4)])).all()
    assert load_images(source, "test").labels.tolist() == [0, 1]
    assert (source.rows("train"), source.rows("test"), source.label) == (6, 2, "label")


def test_a_class_whose_name_begins_with_another(
    tmp_path: Path, encode: Callable[..., bytes], pictures: Callable[..., Any]
) -> None:
    for name in ("a-b", "a"):
        (tmp_path / "tree" / "train" / name).mkdir(parents=True)
        (tmp_path / "tree" / "train" / name / "1.png").write_bytes(encode(pictures(1)[0]))
    assert open_source(str(tmp_path / "tree")).class_names == ("a", "a-b")


def test_the_digest_counts_class_and_content(tree: Path) -> None:
    digest = open_source(str(tree)).digest
    (tree / "train" / "cat" / "2.png").rename(tree / "train" / "cat" / "20.png")
    assert open_source(str(tree)).digest == digest
    (tree / "train" / "cat" / "20.png").rename(tree / "train" / "dog" / "0.png")
    assert open_source(str(tree)).digest != digest


def test_errors_name_the_file(tree: Path) -> None:
    with pytest.raises(RequestError, match="unknown label column 'labels'; did you mean 'label'"):
        open_source(str(tree), label="labels")
    (tree / "train" / "dog" / "b.png").write_text("nonsense")
    with pytest.raises(RequestError, match=r"tree/train/dog/b.png: the image cannot be decoded"):
        load_images(open_source(str(tree)), "train")
    (tree / "test" / "dog").rename(tree / "test" / "wolf")
    with pytest.raises(RequestError, match="test has a class 'wolf' that train does not have"):
        open_source(str(tree))


def test_a_tree_without_images(tmp_path: Path) -> None:
    (tmp_path / "tree" / "train" / "cat").mkdir(parents=True)
    with pytest.raises(RequestError, match="no images in train/<class>/"):
        open_source(str(tmp_path / "tree"))
