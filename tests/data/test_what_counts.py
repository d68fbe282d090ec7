"""What counts as an image and as a class, and that what is left out is said."""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distill_ray.cli import main
from distill_ray.data import import_dataset, load_images, open_source
from distill_ray.data.source import Source
from distill_ray.errors import RequestError
from distill_ray.export.images import read_image
from distill_ray.tracking.preprocessing import ImagePreparation

Add = Callable[..., Path]


@pytest.fixture
def add(tmp_path: Path, encode: Callable[..., bytes], pictures: Callable[..., Any]) -> Add:
    """Adds a picture to the tree, or a file with other content."""

    def add(path: str, content: bytes | None = None, **picture: Any) -> Path:
        file = tmp_path / "tree" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(pictures(1, **picture)[0]) if content is None else content)
        return file

    return add


@pytest.fixture
def tree(add: Add) -> Path:
    """Two training images of cats and two of dogs, and one of each to test."""
    for number in (1, 2):
        for name in ("cat", "dog"):
            add(f"train/{name}/{number}.png", seed=number)
            add(f"test/{name}/1.png", seed=3)
    return add("train/dog/2.png").parents[2]


def is_as_before(tree: Path) -> Source:
    source = open_source(str(tree))
    assert source.class_names == ("cat", "dog")
    assert (source.rows("train"), source.rows("test")) == (4, 2)
    return source


@pytest.mark.parametrize(
    ("path", "remark"),
    [
        ("train/.ipynb_checkpoints/1.png", "hidden, or made by a tool"),
        ("train/cat/.ipynb_checkpoints/1-checkpoint.png", "hidden, or made by a tool"),
        ("train/__MACOSX/cat/._1.png", "hidden, or made by a tool"),
        ("test/dog/@eaDir/1.png", "hidden, or made by a tool"),
        ("train/cat/.1.png", "hidden, or made by a tool"),
        ("train/cat/3.heic", r"not images by their ending \(.heic\)"),
        ("train/cat/README", r"not images by their ending \(none\)"),
        ("train/3.png", "in no class folder"),
    ],
)
def test_what_is_left_out_is_said(
    tree: Path, add: Add, path: str, remark: str, caplog: pytest.LogCaptureFixture
) -> None:
    add(path)
    source = is_as_before(tree)
    (said,) = source.remarks
    assert f"such as {path}" in said
    with caplog.at_level(logging.WARNING):
        load_images(source, "train")
    assert re.search(f"left out 1 of the files below .*: {remark}", said)
    assert said in caplog.text


def test_several_files_are_counted_by_their_kind(tree: Path, add: Add) -> None:
    for number in range(3):
        add(f"train/cat/{number}.heic")
        add(f"train/.hidden/{number}.png")
    (tree / "train" / "wolf").mkdir()
    (tree / "train" / ".git").mkdir()
    assert sorted(remark.split(":")[0] for remark in is_as_before(tree).remarks) == [
        "left out 1 of the class folders of train, which hold no image",
        "left out 3 of the files below train",
        "left out 3 of the files below train",
    ]


def test_another_ending_of_jpeg(tree: Path, add: Add, encode: Callable[..., bytes]) -> None:
    add("train/cat/3.jfif", encode(np.zeros((6, 5, 3)), "JPEG"))
    assert open_source(str(tree)).rows("train") == 5


def test_without_images_it_says_what_was_there(add: Add) -> None:
    tree = add("train/cat/1.heic").parents[2]
    with pytest.raises(RequestError, match=r"no images in .*; left out 1 .* \(.heic\), such as"):
        open_source(str(tree))


@pytest.mark.parametrize("target", ["..", "../dog", "../..", "/"])
def test_links_to_folders_are_not_followed(tree: Path, target: str) -> None:
    for name in ("up", "again"):
        (tree / "train" / "cat" / name).symlink_to(target)
    (remark,) = is_as_before(tree).remarks
    assert "left out 2 of the files below train: links to folders" in remark


def test_a_class_folder_that_is_a_link_is_left_out_and_said(tree: Path) -> None:
    (tree / "train" / "wolf").symlink_to(tree / "train" / "dog")
    remarks = is_as_before(tree).remarks
    assert any("links to folders" in remark and "train/wolf" in remark for remark in remarks)


def test_links_to_files_and_a_linked_split_are_followed(tree: Path, tmp_path: Path) -> None:
    digest = open_source(str(tree)).digest
    (tree / "train" / "cat" / "1.png").rename(tmp_path / "one.png")
    (tree / "train" / "cat" / "1.png").symlink_to(tmp_path / "one.png")
    (tree / "test").rename(tmp_path / "elsewhere")
    (tree / "test").symlink_to(tmp_path / "elsewhere")
    assert is_as_before(tree).digest == digest


@pytest.mark.parametrize("kind", ["pipe", "dangling", "loop", "folder"])
def test_what_is_no_file_is_left_out(tree: Path, kind: str) -> None:
    path = tree / "train" / "cat" / "3.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere" if kind == "dangling" else path)
    remarks = is_as_before(tree).remarks
    assert len(remarks) == (0 if kind == "folder" else 1)


@pytest.mark.timeout(60, method="thread")  # what waits inside pyarrow hears no signal
@pytest.mark.parametrize(
    "name",
    ["train/0000.parquet", "train.parquet", "train.csv", "train/metadata.csv", "train-000.tar"],
)
def test_a_pipe_is_no_table_and_no_shard(tree: Path, name: str) -> None:
    """Who opened it would wait for ever."""
    os.mkfifo(tree / name)
    is_as_before(tree)


def test_files_that_change_while_they_are_read(
    tree: Path, add: Add, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(str(tree))
    assert source.digest
    whole = type(source).batches

    def changed(self: Any, *arguments: Any) -> Any:
        add("train/cat/1.png", seed=9)
        return whole(self, *arguments)

    monkeypatch.setattr(type(source), "batches", changed)
    with pytest.raises(RequestError, match=r"train/cat/1.png has changed while the data set was"):
        load_images(source, "train")
    assert not [path for path in (cache / "images").iterdir() if path.is_dir()]


def test_a_shard_that_changes_while_it_is_imported(
    tree: Path, add: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distill_ray.data.image_folder import ImageTree

    whole = ImageTree.batches

    def changed(self: Any, *arguments: Any) -> Any:
        add("test/dog/1.png", seed=9)
        return whole(self, *arguments)

    monkeypatch.setattr(ImageTree, "batches", changed)
    with pytest.raises(RequestError, match="has changed while the data set was read"):
        import_dataset(str(tree), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def oriented(pixels: np.ndarray, kind: str, orientation: int) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    settings = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    settings |= {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(pixels).save(file, kind, exif=exif, **settings)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(
    tmp_path: Path, pictures: Callable[..., Any], kind: str, orientation: int
) -> None:
    from PIL import ImageOps

    pixels = np.kron(pictures(1, 6, 5)[0], np.ones((8, 8, 1), np.uint8))
    encoded = oriented(pixels, kind, orientation)
    for split in ("train", "test"):
        path = tmp_path / "tree" / split / "cat" / f"1.{kind.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))))
    height, width = (48, 40) if orientation < 5 else (40, 48)
    images = load_images(open_source(str(tmp_path / "tree")), "train").images
    assert images.shape == (1, height, width, 3)
    assert (images[0] == expected).all()
    assert (read_image(path, ImagePreparation(height, width, 3)) == expected).all()

    small = load_images(open_source(str(tmp_path / "tree")), "train", size=10).images
    assert (read_image(path, ImagePreparation(10, 10, 3, fit=True)) == small[0]).all()
    middle = expected[4:44] if orientation < 5 else expected[:, 4:44]
    resized = np.asarray(Image.fromarray(middle).resize((10, 10), Image.Resampling.BILINEAR), int)
    assert np.abs(small[0] - resized).mean() < (6 if kind == "JPEG" else 1)


def test_exif_that_is_damaged_says_nothing(
    tmp_path: Path, encode: Callable[..., bytes], pictures: Callable[..., Any]
) -> None:
    whole = encode(pictures(1)[0], "JPEG")
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12garbage"
    content = whole[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + whole[2:]
    for split in ("train", "test"):
        path = tmp_path / "tree" / split / "cat" / "1.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    assert load_images(open_source(str(tmp_path / "tree")), "train").images.shape == (1, 6, 5, 3)


def test_a_grey_palette_has_no_colours(tmp_path: Path, pictures: Callable[..., Any]) -> None:
    model, grey = ImagePreparation(6, 5, 1), pictures(1, channels=1)[0]
    image = Image.fromarray(grey).convert("P")
    colour = Image.fromarray(pictures(1)[0]).quantize(16)
    for name, palette in (("grey", image), ("colour", colour)):
        path = tmp_path / name / "train" / "cat" / "1.png"
        path.parent.mkdir(parents=True)
        palette.save(path)
        assert Image.open(path).mode == "P"
    images = load_images(open_source(str(tmp_path / "grey")), "train").images
    assert (images[..., 0] == grey).all() and images.shape[3] == 1
    assert (read_image(tmp_path / "grey/train/cat/1.png", model)[..., 0] == grey).all()
    assert load_images(open_source(str(tmp_path / "colour")), "train").images.shape[3] == 3
    with pytest.raises(RequestError, match="has colours"):
        read_image(tmp_path / "colour/train/cat/1.png", model)


STUDY = """
name: photographs
data: {{source: {tree}, validation: 2, {more}}}
teachers: {{model: wrn-10-1, seeds: [0], epochs: 1, batch_size: 2}}
student: {{batch_size: 2, model: wrn-10-1, method: kd, epochs: 1}}
search: {{trials: 1, space: {{temperature: {{log: [1, 20]}}}}}}
"""


def validated(tree: Path, capsys: pytest.CaptureFixture[str], more: str = "") -> tuple[int, str]:
    file = tree.parent / "study.yaml"
    file.write_text(STUDY.format(tree=tree, more=more))
    code = main(["validate", str(file)])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_validate_looks_at_the_data(
    tree: Path, add: Add, capsys: pytest.CaptureFixture[str]
) -> None:
    add("train/cat/.hidden.png")
    code, text = validated(tree, capsys)
    assert code == 0, text
    assert "2 training, 2 validation and 2 test images of 2 classes" in text
    assert "left out 1 of the files below train: hidden" in text
    assert "5x6 pixels, in colour (4 images opened)" in text
    add("train/cat/3.png", oriented(np.zeros((9, 7, 3), np.uint8), "PNG", 6))
    code, text = validated(tree, capsys)
    assert code == 2
    assert "data.size: images differ in size" in text and "3.png is 9x7" in text
    code, text = validated(tree, capsys, "size: 8")
    assert code == 0
    assert "5x6 to 9x7 pixels, in colour, resized and cropped to 8x8" in text
    assert "1 of 5 images opened are turned upright" in text
    assert "whole images" not in text
    code, text = validated(tree, capsys, "size: 6, resize: 8")
    assert "resized and cropped to 8x8, of which networks see 6x6" in text


def test_validate_says_what_random_resized_crops_come_from(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of squares there is nothing to say, nor of images that stay as they are."""

    def said(*settings: str, more: str = "size: 8") -> str:
        file = tree.parent / "study.yaml"
        file.write_text(STUDY.format(tree=tree, more=more))
        words = [word for setting in settings for word in ("--set", setting)]
        assert main(["validate", str(file), *words]) == 0
        (line,) = re.findall(
            r"^  training crops of .*$", capsys.readouterr().out, re.MULTILINE
        ) or [""]
        return line.strip()

    of_students = "student.augmentation=random-resized-crop"
    of_teachers = "teachers.augmentation=crop-flip"
    ends = "come from whole images, also from what the squares leave out"
    assert said() == said(of_students, more="") == ""
    assert said(of_students).startswith(f"training crops of random-resized-crop {ends}; ")
    assert said(of_students, of_teachers).endswith(f"{ends}; crop-flip from these squares")
    searched = "search.space.augmentation={choice: [photo, random-resized-crop]}"
    assert said(of_students, searched, of_teachers.replace("crop-flip", "photo")) == (
        f"training crops of random-resized-crop and photo {ends}"
    )
    for path in tree.rglob("*.png"):
        with Image.open(path) as image:
            image.crop((0, 0, 5, 5)).save(path)
    assert said(of_students) == ""


def test_validate_refuses_a_single_class(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "test"):
        (tree / split / "dog").rename(tree / split / ".dog")
    code, text = validated(tree, capsys)
    assert code == 2
    assert "has only one class, so there is nothing to learn" in text


def test_validate_says_that_data_are_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = validated(tmp_path / "nowhere", capsys)
    assert code == 0 and "is not on this machine, so it was not looked at" in text


def test_validate_refuses_an_image_that_is_none(
    tree: Path, add: Add, capsys: pytest.CaptureFixture[str]
) -> None:
    add("train/dog/2.png", b"not an image")
    code, text = validated(tree, capsys)
    assert code == 2 and "train/dog/2.png: the image cannot be decoded (not one of PNG" in text
