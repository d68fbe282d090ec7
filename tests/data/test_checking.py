"""`distill-ray data check`: what is counted, and what is found wrong."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from distill_ray.cli import main
from distill_ray.data import load_images, open_source
from distill_ray.data.checking import check_data
from distill_ray.data.duplicates import near_pairs
from distill_ray.data.findings import findings
from distill_ray.errors import RequestError


def photo(place: int, *, side: int = 96) -> Image.Image:
    """A square of a photograph, another one for each place."""
    pixels = load_sample_image(("china.jpg", "flower.jpg")[place % 2])
    top, left = 40 * (place // 2), 60 * (place // 2)
    return Image.fromarray(pixels[top : top + side, left : left + side])


def saved(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, **({"format": "JPEG", "quality": 95} | options))
    return file.getvalue()


def write_tree(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Six photographs to train on, four to test: one a copy, one compressed anew, one resized."""
    train = {f"train/{'ab'[i % 2]}/{i}.jpg": saved(photo(i)) for i in range(6)}
    test = {
        "test/a/copy.jpg": saved(photo(0)),
        "test/b/compressed.jpg": saved(photo(1), quality=40),
        "test/a/resized.png": saved(photo(2).resize((61, 61)), format="PNG"),
        "test/b/other.jpg": saved(photo(7)),
    }
    return write_tree(tmp_path / "photos", train | test)


def test_copies_across_splits_are_found_byte_for_byte_and_to_the_eye(tree: Path) -> None:
    checked = check_data(open_source(str(tree)))
    leak = checked.leaks["train", "test"]
    assert (leak.exact, leak.near) == (1, 2)
    pairs = {Path(copy).name: Path(original).name for copy, original in leak.examples}
    assert pairs == {"copy.jpg": "0.jpg", "compressed.jpg": "1.jpg", "resized.png": "2.jpg"}


def test_the_command_counts_and_ends_with_1_for_a_leak(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(tree)]) == 1
    printed = capsys.readouterr().out
    assert "2 classes by label" in printed
    assert "61x61 to 96x96" in printed
    assert "of 4 images of test, train has 1 byte for byte and 2 as near duplicates" in printed
    assert main(["data", "check", str(tree), "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["leaks"] == [{"splits": ["train", "test"], "exact": 1, "near": 2}]
    assert content["splits"]["train"]["classes"] == {"a": 3, "b": 3}
    assert content["splits"]["test"]["formats"] == {"JPEG": 3, "PNG": 1}
    (tree / "test" / "a" / "copy.jpg").unlink()
    (tree / "test" / "a" / "resized.png").unlink()
    assert main(["data", "check", str(tree)]) == 0  # near duplicates alone are only a warning


def test_broken_files_are_named_and_the_others_counted(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (tree / "train/a/0.jpg").read_bytes()
    (tree / "train/a/0.jpg").write_bytes(whole[: len(whole) // 2])
    (tree / "train/b/text.png").write_text("no image")
    (tree / "train/b/gone.jpg").symlink_to("nowhere")
    checked = check_data(open_source(str(tree)))
    look = checked.looks["train"]
    assert (look.rows, len(look.numbers), look.broken) == (7, 5, 2)
    assert [Path(each.split(":")[0]).name for each in look.broken_examples] == ["0.jpg", "text.png"]
    assert main(["data", "check", str(tree)]) == 1
    printed = capsys.readouterr().out
    assert "error: 2 of 7 images of train cannot be used" in printed
    assert "links to folders or to nothing" in printed


def test_a_file_that_may_not_be_read_hides_nothing_else(tree: Path) -> None:
    (tree / "train/a/secret.jpg").symlink_to("/proc/self/mem")  # a file, but reading it fails
    source = open_source(str(tree))
    look = check_data(source).looks["train"]
    assert (look.rows, len(look.numbers), look.broken) == (7, 6, 1)
    assert "train/a/secret.jpg cannot be read" in look.broken_examples[0]
    with pytest.raises(RequestError, match=r"train/a/secret.jpg cannot be read"):
        load_images(source, "train", size=32)


def test_a_damaged_shard_hides_nothing_else(
    tmp_path: Path, write_shard: Callable[..., Path], pictures: Callable[..., Any]
) -> None:
    folder = tmp_path / "shards"
    images = pictures(12, height=20, width=20)
    first = write_shard(
        folder / "train-00000-of-00002.parquet", images[:6], label=[0, 1] * 3, row_group_size=3
    )
    write_shard(folder / "train-00001-of-00002.parquet", [*images[6:8], None], label=[0, 1, 1])
    content = bytearray(first.read_bytes())
    content[600] ^= 255  # within a page of the first row group
    first.write_bytes(content)
    look = check_data(open_source(str(folder))).looks["train"]
    assert look.rows == 9
    assert list(look.numbers) == [3, 4, 5, 6, 7]
    assert look.broken == 4
    assert any("there is no image in this row" in each for each in look.broken_examples)


def test_classes_that_are_rare_missing_or_contradicted(
    tmp_path: Path, encode: Callable[..., bytes], pictures: Callable[..., Any]
) -> None:
    images = [encode(image) for image in pictures(25)]
    files = {f"train/common/{number}.png": image for number, image in enumerate(images[:22])}
    files |= {"train/rare/0.png": images[0], "train/rare/1.png": images[23]}
    files |= {"test/common/0.png": images[24]}
    texts = [
        finding.text
        for finding in findings(check_data(open_source(str(write_tree(tmp_path / "t", files)))))
    ]
    assert any("22 images of 'common', 2 of 'rare'" in text for text in texts)
    assert any("1 class has fewer than 10 images to train on, the fewest 2" in t for t in texts)
    assert any("1 images of train are there under another class too" in text for text in texts)
    assert any("test has no image of 1 of the 2 classes: 'rare'" in text for text in texts)


def test_fingerprints_are_compared_as_if_each_with_each() -> None:
    generator = np.random.default_rng(0)
    first = np.unique(generator.integers(0, 2**64, 300, dtype=np.uint64))
    noise = np.zeros(300, np.uint64)
    for _ in range(5):
        noise |= np.uint64(1) << generator.integers(0, 64, 300, dtype=np.uint64)
    second = np.unique(first ^ noise[: len(first)])
    expected = np.argwhere(np.bitwise_count(first[:, None] ^ second[None]) <= 4)
    assert len(expected) > 10
    assert near_pairs(first, second).tolist() == expected.tolist()


@pytest.mark.parametrize("path", ["nowhere/at/all", "nowhere", "."])
def test_what_is_no_data_set_is_a_wrong_request(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "check", path]) == 2
