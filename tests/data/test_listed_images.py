"""Images whose labels are in a table beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_ray.data import load_images, open_source
from distill_ray.data.checking import check_data
from distill_ray.data.listed_images import ListedImages
from distill_ray.errors import RequestError

ROWS = [("2.png", "dog", 7), ("sub/1.png", "cat", 8), ("0.png", "dog", 9)]


@pytest.fixture
def write(tmp_path: Path, encode: Callable[..., bytes], pictures: Callable[..., Any]) -> Any:
    """Writes the images of `ROWS` into the folder of a split."""

    def write(split: str) -> Path:
        for (name, *_), image in zip(ROWS, pictures(3), strict=True):
            path = tmp_path / "set" / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(image))
        return tmp_path / "set"

    return write


def table(rows: Any = ROWS, header: str = "file_name,label,age") -> str:
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"


def check(source: Any, images: Any) -> None:
    assert isinstance(source, ListedImages)
    assert source.class_names == ("cat", "dog")
    loaded = load_images(source, "train")
    assert loaded.labels.tolist() == [1, 0, 1] == source.labels("train").tolist()
    assert (loaded.images == np.stack(images)).all()


def test_metadata_in_the_folders_of_the_splits(
    write: Callable[..., Path], pictures: Callable[..., Any]
) -> None:
    folder = write("train")
    (folder / "train" / "metadata.csv").write_text(table())
    write("val")
    lines = [json.dumps({"file_name": name, "label": label}) for name, label, _ in ROWS[:2]]
    (folder / "val" / "metadata.jsonl").write_text("\n".join(lines))
    source = open_source(str(folder))
    check(source, pictures(3))
    assert (source.rows("train"), source.rows("test")) == (3, 2)
    assert open_source(str(folder), cuts_test=True).validation_rows == 2
    assert check_data(source).looks["train"].broken == 0
    digest = source.digest
    (folder / "train" / "metadata.csv").write_text(table([*ROWS[:2], ("0.png", "cat", 9)]))
    assert open_source(str(folder)).digest != digest


def test_tables_beside_the_folders_and_another_label(
    write: Callable[..., Path], pictures: Callable[..., Any]
) -> None:
    folder = write("train")
    (folder / "train.csv").write_text(table(header="image,label,age"))
    check(open_source(str(folder)), pictures(3))
    assert open_source(str(folder), label="age").class_names == ("7", "8", "9")
    rows = [(f"train/{name}", *others) for name, *others in ROWS]
    (folder / "train.csv").write_text(table(rows, "path,label,age"))
    check(open_source(str(folder)), pictures(3))


def test_a_table_without_a_label_does_not_take_the_place_of_class_folders(
    tmp_path: Path, encode: Callable[..., bytes], pictures: Callable[..., Any]
) -> None:
    for name in ("cat", "dog"):
        path = tmp_path / "train" / name / "1.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(encode(pictures(1)[0]))
    captions = "file_name,caption\ncat/1.png,a cat\ndog/1.png,a dog\n"
    (tmp_path / "train" / "metadata.csv").write_text(captions)
    source = open_source(str(tmp_path))
    assert not isinstance(source, ListedImages)
    assert source.class_names == ("cat", "dog")
    assert isinstance(open_source(str(tmp_path), label="caption"), ListedImages)


def test_text_that_is_not_utf_8(write: Callable[..., Path]) -> None:
    folder = write("train")
    for name, content in (
        ("metadata.csv", b"file_name,la\xffbel\n2.png,cat\n"),
        ("metadata.jsonl", b'{"file_name": "2.png", "label": "c\xbft"}\n'),
    ):
        (folder / "train" / name).write_bytes(content)
        with pytest.raises(RequestError, match=f"{name} cannot be read as a table"):
            open_source(str(folder))
        (folder / "train" / name).unlink()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (table([("../x.png", "cat", 1)]), r"metadata.csv, row 0: '../x.png' is no path below"),
        (table([("/etc/passwd", "cat", 1)]), "is no path below"),
        (table([("none.png", "cat", 1)]), "row 0: none.png is no file"),
        (table([("link/2.png", "cat", 1)]), "link/2.png lies behind a link to a folder"),
        (table([("2.png", "cat", 1), ("0.png", "", 1)]), "row 1: label is missing"),
        (table(header="name,label,age"), "no column names the files"),
        ("", "cannot be read as a table"),
        ("file_name,label\n2.png,cat,5\n", "cannot be read as a table"),
    ],
)
def test_what_is_wrong_is_named(
    write: Callable[..., Path], tmp_path: Path, content: str, message: str
) -> None:
    folder = write("train")
    (folder / "train" / "metadata.csv").write_text(content)
    (folder / "train" / "link").symlink_to(folder / "train")
    with pytest.raises(RequestError, match=message):
        print(open_source(str(folder)).num_classes)
