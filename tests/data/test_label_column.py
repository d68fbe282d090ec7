"""Which column of a Parquet data set is learned: nothing is guessed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill_ray.data import load_images, open_source
from distill_ray.errors import RequestError

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, encode: Callable[..., bytes], pictures: Callable[..., Any]) -> Write:
    """Writes a shard of six pictures and these columns, which no metadata declare."""

    def write(name: str = "train", **columns: Any) -> Path:
        images = [encode(picture) for picture in pictures(6)]
        (tmp_path / "d").mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": images, **columns}), tmp_path / "d" / f"{name}.parquet")
        return tmp_path / "d"

    return write


ANIMALS = ["dog", "cat", "dog", "ant", "cat", "ant"]
FOLDS = [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_text_is_a_label(write: Write, kind: pa.DataType) -> None:
    folder = write(label=pa.array(ANIMALS, kind), fold=FOLDS)
    source = open_source(str(folder))
    assert (source.label, source.class_names) == ("label", ("ant", "cat", "dog"))
    assert load_images(source, "train").labels.tolist() == [2, 1, 2, 0, 1, 0]
    assert open_source(str(folder), label="fold").class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("label", "holds"),
    [
        ([0.5] * 6, "double"),
        ([[0], [1], [0, 1], [], [1], [0]], "list<.*>"),
        ([True, False] * 3, "bool"),
        ([{"a": 1}] * 6, "struct<.*>"),
        ([None] * 6, "null"),
        ([b"a", b"b"] * 3, "binary"),
    ],
)
def test_a_label_that_cannot_be_learned_is_not_replaced(
    write: Write, label: list[Any], holds: str
) -> None:
    folder = write(label=label, fold=FOLDS)
    with pytest.raises(
        RequestError, match=rf"column label of .* holds {holds}, neither .*name the .*: 'fold'"
    ):
        open_source(str(folder))
    assert open_source(str(folder), label="fold").num_classes == 3


@pytest.mark.parametrize(
    "columns",
    [
        {"fold": FOLDS, "weight": [0.5] * 6},
        {"fold": FOLDS, "tags": [["a"]] * 6},
        {"animal": ANIMALS, "fold": FOLDS},
        {"target": FOLDS, "fold": FOLDS},
        {"animal": ANIMALS, "breed": ANIMALS},
    ],
)
def test_without_a_column_called_label_one_must_be_named(
    write: Write, columns: dict[str, Any]
) -> None:
    folder = write(**columns)
    with pytest.raises(RequestError, match=r"data.label: .* (name one|name the one to learn): '"):
        open_source(str(folder))
    assert open_source(str(folder), label="fold" if "fold" in columns else "breed").rows("train")


def test_the_only_column_is_the_label(write: Write) -> None:
    assert open_source(str(write(animal=ANIMALS))).class_names == ("ant", "cat", "dog")


def test_a_declared_label_beside_one_that_is_called_so(
    tmp_path: Path, encode: Callable[..., bytes], pictures: Callable[..., Any]
) -> None:
    features = {"breed": {"_type": "ClassLabel", "names": ["a", "b", "c"]}}
    table = pa.table(
        {"image": [encode(image) for image in pictures(6)], "breed": FOLDS, "label": ANIMALS}
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(RequestError, match="declares 'breed' as labels and has a column label too"):
        open_source(str(tmp_path))
    assert open_source(str(tmp_path), label="label").class_names == ("ant", "cat", "dog")
    assert open_source(str(tmp_path), label="breed").class_names == ("a", "b", "c")


@pytest.mark.parametrize(("first", "last"), [(1, 3), (5, 7), (0, 2)])
def test_labels_that_do_not_count_from_0_add_no_empty_class(
    write: Write, first: int, last: int
) -> None:
    labels = [first, last, first + 1, last, first, last]
    source = open_source(str(write(label=labels)))
    assert source.class_names == tuple(str(number) for number in sorted(set(labels)))
    assert sorted(set(load_images(source, "train").labels.tolist())) == [0, 1, 2]


@pytest.mark.parametrize(("labels", "other"), [(ANIMALS, "'wolf'"), (FOLDS, "7")])
def test_a_class_that_only_the_test_split_has(write: Write, labels: list[Any], other: str) -> None:
    write(label=labels)
    folder = write("test", label=[*labels[:5], json.loads(other.replace("'", '"'))])
    with pytest.raises(RequestError, match=f"test has a label {other} that train does not have"):
        load_images(open_source(str(folder)), "train")


def test_text_that_names_no_class(
    tmp_path: Path, encode: Callable[..., bytes], pictures: Callable[..., Any]
) -> None:
    image = encode(pictures(1)[0])
    names = [f"{number}.png" for number in range(120)]
    pq.write_table(pa.table({"image": [image] * 120, "file": names}), tmp_path / "train.parquet")
    with pytest.raises(RequestError, match=r"file of .* has 120 different values in 120 rows"):
        load_images(open_source(str(tmp_path)), "train")


@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_metadata_that_are_too_deep_say_nothing(
    tmp_path: Path, encode: Callable[..., bytes], pictures: Callable[..., Any], depth: int
) -> None:
    deep = '{"info": {"features": ' + "[" * depth + "]" * depth + "}}"
    table = pa.table({"image": [encode(image) for image in pictures(6)], "label": FOLDS})
    pq.write_table(table.replace_schema_metadata({"huggingface": deep}), tmp_path / "train.parquet")
    assert open_source(str(tmp_path)).class_names == ("0", "1", "2")


@pytest.mark.parametrize("test", ["test", "validation"])
def test_shards_as_the_hub_converts_them(write: Write, tmp_path: Path, test: str) -> None:
    digest = write(label=ANIMALS)
    for split in ("train", test):
        folder = tmp_path / "hub" / split
        folder.mkdir(parents=True)
        for number in range(2):
            (folder / f"000{number}.parquet").write_bytes((digest / "train.parquet").read_bytes())
    source = open_source(str(tmp_path / "hub"))
    assert (source.rows("train"), source.rows("test")) == (12, 12)
    assert load_images(source, "train").labels.tolist() == [2, 1, 2, 0, 1, 0] * 2
    (tmp_path / "hub" / "train" / "0000.parquet").unlink()
    with pytest.raises(RequestError, match=r"train files are not one complete set \(0001.parquet"):
        open_source(str(tmp_path / "hub"))
