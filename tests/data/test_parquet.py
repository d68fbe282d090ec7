from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill_ray.data import channel_statistics, load_images, open_source
from distill_ray.errors import RequestError


def refused(match: Any, folder: Any, split: Any = "train", **settings: Any) -> Any:
    with pytest.raises(RequestError, match=match) as caught:
        load_images(open_source(str(folder), **settings), split)
    assert "\n" not in str(caught.value)


def test_rows_keep_their_order_over_shards_and_row_groups(
    small: Path, pictures: Callable[..., Any]
) -> None:
    source = open_source(str(small))
    train, test = load_images(source, "train"), load_images(source, "test")
    assert (train.images == np.stack(pictures(12)[:8])).all()
    assert (test.images == np.stack(pictures(12)[8:])).all()
    assert train.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1] == source.labels("train").tolist()
    assert test.labels.tolist() == [0, 0, 1, 1]
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int64)
    assert source.class_names == train.class_names == ("cat", "dog")
    assert (source.rows("train"), source.rows("test"), source.num_classes, source.name) == (
        8,
        4,
        2,
        "small",
    )
    assert source.location == str(small)


def test_batches_are_bounded_and_counted_on(
    tmp_path: Path,
    write_shard: Callable[..., Any],
    encode: Callable[..., bytes],
    pictures: Callable[..., Any],
) -> None:
    images = [encode(pictures(1)[0])] * 2500
    images[2400] = b"not an image"
    write_shard(tmp_path / "d" / "train.parquet", images, label=[0] * 2500)
    assert (
        max(len(batch.encoded) for batch in open_source(str(tmp_path / "d")).batches("train"))
        == 128
    )
    refused(
        r"train\.parquet, row 2400: the image cannot be decoded \(not one of PNG", tmp_path / "d"
    )


def test_a_relative_path_is_made_absolute(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside").mkdir()
    for path in ("small", "./small/", "beside/../small"):
        source = open_source(path)
        assert (source.name, source.digest) == ("small", open_source(str(small)).digest)
        monkeypatch.chdir("/")
        assert open_source(source.location).rows("train") == 8
        monkeypatch.chdir(tmp_path)


def test_a_uri_is_the_same_data(small: Path) -> None:
    assert open_source(small.as_uri()).digest == open_source(str(small)).digest
    assert load_images(open_source(small.as_uri()), "test").labels.tolist() == [0, 0, 1, 1]


def test_the_digest_is_of_the_content(small: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(small, tmp_path / "elsewhere")
    assert open_source(str(moved)).digest == open_source(str(small)).digest
    (moved / "train-00000-of-00002.parquet").rename(moved / "kept")
    (moved / "train-00001-of-00002.parquet").rename(moved / "train-00000-of-00002.parquet")
    (moved / "kept").rename(moved / "train-00001-of-00002.parquet")
    assert open_source(str(moved)).digest != open_source(str(small)).digest


def test_which_label_column(
    tmp_path: Path, write_shard: Callable[..., Any], pictures: Callable[..., Any]
) -> None:
    images = pictures(4)
    write_shard(
        tmp_path / "c" / "train.parquet", images, coarse_label=[0, 0, 1, 1], fine_label=[0, 1, 0, 1]
    )
    source = open_source(str(tmp_path / "c"))
    assert (source.label, source.label_columns) == ("fine_label", ("coarse_label", "fine_label"))
    coarse = open_source(str(tmp_path / "c"), label="coarse_label")
    assert load_images(coarse, "train").labels.tolist() == [0, 0, 1, 1]
    assert load_images(source, "train").labels.tolist() == [0, 1, 0, 1]
    refused(
        r"data.label: unknown label column 'fine_lable'; did you mean 'fine_label'",
        tmp_path / "c",
        label="fine_lable",
    )
    refused(r"data.label: column img of .* holds struct", tmp_path / "c", label="img")
    write_shard(tmp_path / "s" / "train.parquet", images, animal=[0, 0, 1, 1], size=[0, 1, 0, 1])
    refused("data.label: .* has several label columns, name one: 'animal', 'size'", tmp_path / "s")
    write_shard(tmp_path / "f" / "train.parquet", images, names=None, label=[0.0, 1.0, 0.5, 1.0])
    for asked in (None, "label"):
        refused(
            "data.label: column label of .* holds double, neither integers nor text; there is no",
            tmp_path / "f",
            label=asked,
        )


def test_without_class_names_labels_are_counted(
    tmp_path: Path, write_shard: Callable[..., Any], pictures: Callable[..., Any]
) -> None:
    write_shard(
        tmp_path / "d" / "train.parquet",
        pictures(4),
        names=None,
        image_column="image",
        label=[0, 1, 2, 1],
    )
    assert open_source(str(tmp_path / "d")).class_names == ("0", "1", "2")
    source = open_source(str(tmp_path / "d"))
    assert load_images(source, "train").labels.tolist() == [0, 1, 2, 1]
    write_shard(tmp_path / "f" / "train.parquet", pictures(4), names=None, label=[3, 1, 2**40, 1])
    source = open_source(str(tmp_path / "f"))
    assert source.class_names == ("1", "3", "1099511627776")
    assert load_images(source, "train").labels.tolist() == [1, 0, 2, 0]
    write_shard(tmp_path / "i" / "train.parquet", pictures(100), names=None, label=list(range(100)))
    refused("label of .* has 100 different values in 100 rows, so it names no", tmp_path / "i")
    write_shard(tmp_path / "n" / "train.parquet", pictures(2), names=None, label=[0, -1])
    refused("label is -1 in some rows, but classes count from 0", tmp_path / "n")


def test_images_in_a_plain_binary_column(
    tmp_path: Path, encode: Callable[..., bytes], pictures: Callable[..., Any]
) -> None:
    (tmp_path / "d").mkdir()
    images = [encode(image) for image in pictures(3)]
    pq.write_table(
        pa.table({"image": images, "label": [0, 1, 0]}), tmp_path / "d" / "train.parquet"
    )
    assert (
        load_images(open_source(str(tmp_path / "d")), "train").images == np.stack(pictures(3))
    ).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2, 0], r"row 2: label is 2, but the 2 classes are 0 to 1"),
        ([0, -1, 0, 0], r"row 1: label is -1"),
        ([0, 0, 1, None], r"row 3: label is missing"),
    ],
)
def test_wrong_labels_name_their_row(
    tmp_path: Path,
    write_shard: Callable[..., Any],
    pictures: Callable[..., Any],
    labels: Any,
    message: Any,
) -> None:
    write_shard(tmp_path / "d" / "train.parquet", pictures(4), label=labels, row_group_size=2)
    refused(message, tmp_path / "d")


def test_mixed_sizes_name_both(
    tmp_path: Path, write_shard: Callable[..., Any], pictures: Callable[..., Any]
) -> None:
    write_shard(
        tmp_path / "d" / "train.parquet", [*pictures(3), *pictures(1, height=7)], label=[0, 1, 0, 1]
    )
    refused(
        r"row 3: the image is 5x7, but .*train\.parquet, row 0 is 5x6; set data.size",
        tmp_path / "d",
    )


@pytest.mark.parametrize("first", ["grey", "colour"])
def test_one_colour_image_makes_all_of_them_rgb(
    tmp_path: Path, write_shard: Callable[..., Any], pictures: Callable[..., Any], first: Any
) -> None:
    grey, colour = pictures(1100, channels=1), pictures(2, seed=1)
    images = [*grey, *colour] if first == "grey" else [*colour, *grey]
    write_shard(tmp_path / "d" / "train.parquet", images, label=[0] * len(images))
    loaded = load_images(open_source(str(tmp_path / "d")), "train").images
    expected = np.stack(
        [image if image.ndim == 3 else np.repeat(image[:, :, None], 3, 2) for image in images]
    )
    assert (loaded == expected).all()


def test_test_images_are_like_training_images(
    tmp_path: Path, write_shard: Callable[..., Any], pictures: Callable[..., Any]
) -> None:
    grey, colour = pictures(3, channels=1), pictures(3)

    def dataset(name: Any, train: Any, test: Any) -> Any:
        write_shard(tmp_path / name / "train.parquet", train, label=[0, 1, 0])
        write_shard(tmp_path / name / "test.parquet", test, label=[0, 1, 0])
        return tmp_path / name

    for name, train in (("colour", colour), ("mixed", [grey[0], *colour[1:]])):
        test = load_images(open_source(str(dataset(name, train, grey))), "test").images
        assert (test == np.repeat(np.stack(grey)[..., None], 3, 3)).all()
    assert load_images(open_source(str(dataset("grey", grey, grey))), "test").images.shape == (
        3,
        6,
        5,
        1,
    )
    refused(
        r"test.parquet, row 2: the image has colours",
        dataset("new", grey, [*grey[:2], colour[0]]),
        "test",
    )
    refused(
        r"row 0: the image is 5x9, but .*train.parquet, row 0 is 5x6",
        dataset("size", colour, pictures(3, 9)),
        "test",
    )


def test_grey_stays_one_channel_and_alpha_is_dropped(
    tmp_path: Path, write_shard: Callable[..., Any], pictures: Callable[..., Any]
) -> None:
    write_shard(tmp_path / "g" / "train.parquet", pictures(3, channels=1), label=[0, 1, 0])
    assert load_images(open_source(str(tmp_path / "g")), "train").images.shape == (3, 6, 5, 1)
    write_shard(tmp_path / "a" / "train.parquet", pictures(3, channels=4), label=[0, 1, 0])
    loaded = load_images(open_source(str(tmp_path / "a")), "train").images
    assert (loaded == np.stack(pictures(3, channels=4))[..., :3]).all()


def test_images_that_cannot_be_decoded(
    tmp_path: Path,
    write_shard: Callable[..., Any],
    encode: Callable[..., bytes],
    pictures: Callable[..., Any],
) -> None:
    whole = encode(pictures(1, 40, 40)[0])
    for number, broken in enumerate(
        [b"", whole[:-200], whole[:300] + b"\xff" + whole[301:], encode(pictures(1)[0], "PCX")]
    ):
        write_shard(tmp_path / f"{number}" / "train.parquet", [whole, broken], label=[0, 1])
        refused("row 1: the image cannot be decoded", tmp_path / f"{number}")
    write_shard(tmp_path / "none" / "train.parquet", [whole, None], label=[0, 1])
    refused("row 1: there is no image in this row", tmp_path / "none")


def test_more_than_sixteen_bits_are_refused(
    tmp_path: Path, write_shard: Callable[..., Any]
) -> None:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.int32)).save(file, "TIFF")
    write_shard(tmp_path / "d" / "train.parquet", [file.getvalue()], label=[0])
    refused(r"row 0: .* \(images of mode I are not supported; convert", tmp_path / "d")


def test_folders_that_hold_no_data_set(tmp_path: Path, small: Path) -> None:
    known = "digits, toy-regression, toy-regression-outside, toy-spiral, toy-spiral-grid"
    refused(
        rf"unknown data set 'digts'; did you mean 'digits'\? \(known: {known}\), and no such "
        "folder exists",
        "digts",
    )
    refused(f"there is no folder {tmp_path}/none; name the one", tmp_path / "none")
    refused("is a file; name the folder", small / "test-00000-of-00001.parquet")
    (tmp_path / "empty").mkdir()
    refused(r"holds neither train-\*.parquet .* \(found: nothing\)", tmp_path / "empty")
    refused("found: .*small", tmp_path)
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "a.PNG").touch()
    refused(
        r"loose has images without labels \(found: a.PNG\); put those of each class into a folder "
        r"train/CLASS, .*unlabelled: FOLDER",
        tmp_path / "loose",
    )
    (small / "train-00001-of-00002.parquet").unlink()
    refused(r"train files are not one complete set \(train-00000-of-00002.parquet\)", small)
    (small / "train-00000-of-00002.parquet").unlink()
    refused("has no train split", small)
    (small / "test-00000-of-00001.parquet").rename(small / "some.parquet")
    refused("none of its Parquet files is named", small)
    refused("cannot be reached", "s4://bucket/folder")
    refused("a data set's URI must not hold a password; put", "s3://name:password@bucket/folder")
    refused("'~nobody-of-this-name' cannot be reached", "~nobody-of-this-name")


def test_shards_must_agree(
    small: Path, write_shard: Callable[..., Any], pictures: Callable[..., Any]
) -> None:
    write_shard(small / "train-00001-of-00002.parquet", pictures(3), category=[0, 1, 0])
    refused("train-00001-of-00002.parquet: column label is missing", small)
    write_shard(small / "train-00001-of-00002.parquet", pictures(3), label=["a", "b", "c"])
    refused("train-00001-of-00002.parquet: column label is missing or not of the type", small)
    write_shard(
        small / "train-00001-of-00002.parquet", pictures(3), names=("dog", "cat"), label=[0, 1, 0]
    )
    refused(
        "train-00001-of-00002.parquet: the classes of label are not those of "
        ".*train-00000-of-00002",
        small,
    )


def test_truncated_parquet_names_the_file(small: Path) -> None:
    path = small / "train-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    refused("train-00001-of-00002.parquet cannot be read as Parquet", small)


def test_fewer_rows_than_announced(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill_ray.data.parquet.ParquetSource.rows", lambda *_: 9)
    refused("the train split holds 8 rows, not the 9 it announces", small)


def test_a_damaged_page_is_noticed(
    tmp_path: Path, write_shard: Callable[..., Any], pictures: Callable[..., Any]
) -> None:
    path = write_shard(tmp_path / "d" / "train.parquet", pictures(20, 30, 30), label=[0, 1] * 10)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused("train.parquet cannot be read as Parquet", tmp_path / "d")


def test_statistics_are_exact(small: Path) -> None:
    images = load_images(open_source(str(small)), "train")
    scaled = images.images.astype(np.float64) / 255
    assert images.mean == pytest.approx(scaled.mean((0, 1, 2)), rel=1e-14)
    assert images.std == pytest.approx(scaled.std((0, 1, 2)), rel=1e-13)
    assert channel_statistics(images.images) == (images.mean, images.std)
    assert channel_statistics(np.full((2, 3, 3, 1), 51, np.uint8)) == ((0.2,), (1 / 255,))
