"""Sets that do not fit into memory: the same pixels whoever decodes them, and no more memory than
is asked for.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional

from distill_ray.data import decode_split, load_images, open_source
from distill_ray.data.decoding import cores
from distill_ray.data.pixels import PixelsOnDisk
from distill_ray.errors import RequestError, RunError

SUPPORT = Path(__file__).parents[1] / "support"
INTERRUPTED = SUPPORT / "interrupted_decoding.py"


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets three processes decode, however few rows and cores there are."""
    monkeypatch.setattr(decode_split, "ROWS_PER_PROCESS", 1)
    monkeypatch.setattr(decode_split, "cores", lambda: 3)


@pytest.fixture
def photographs(tmp_path: Path, encode: Callable[..., bytes]) -> Any:
    """Makes a folder of JPEG of many sizes, 60 to 200 pixels a side, some grey: two shards of
    several row groups.
    """

    def smooth(rng: Any) -> Any:
        side = [int(number) for number in rng.integers(60, 200, 2)]
        image = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize(
            side, Image.Resampling.BICUBIC
        )
        return np.asarray(image.convert("L") if rng.random() < 0.1 else image)

    def make(write_shard: Callable[..., Any], count: Any = 60) -> Any:
        rng = np.random.default_rng(0)
        images = [encode(smooth(rng), "JPEG") for _ in range(count)]
        half = count // 2 + 5
        labels = [number % 3 % 2 for number in range(count)]
        write_shard(
            tmp_path / "d" / "train-00000-of-00002.parquet",
            images[:half],
            label=labels[:half],
            row_group_size=7,
        )
        write_shard(
            tmp_path / "d" / "train-00001-of-00002.parquet",
            images[half:],
            label=labels[half:],
            row_group_size=100,
        )
        return tmp_path / "d", images, labels

    return make


def test_processes_decode_what_one_would(
    photographs: Callable[..., Any],
    write_shard: Callable[..., Any],
    several: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, _, labels = photographs(write_shard)
    together = load_images(open_source(str(folder)), "train", tmp_path / "together", size=48)
    monkeypatch.setattr(decode_split, "ROWS_PER_PROCESS", 10**9)
    alone = load_images(open_source(str(folder)), "train", tmp_path / "alone", size=48)
    assert together.images.shape == (60, 48, 48, 3)
    assert (together.images == alone.images).all()
    assert together.labels.tolist() == alone.labels.tolist() == labels
    assert (together.mean, together.std) == (alone.mean, alone.std)
    whole = np.asarray(alone.images, np.float64) / 255
    assert alone.mean == pytest.approx(whole.mean((0, 1, 2)))


@pytest.mark.parametrize("size", [20, 48, 90])
def test_size_takes_the_square_in_the_middle(
    photographs: Callable[..., Any], write_shard: Callable[..., Any], size: Any, tmp_path: Path
) -> None:
    folder, encoded, _ = photographs(write_shard, 20)
    images = load_images(open_source(str(folder)), "train", size=size).images
    for row, content in enumerate(encoded):
        (tmp_path / "one.jpg").write_bytes(content)
        original = Image.open(tmp_path / "one.jpg").convert("RGB")
        square = functional.center_crop(original, [min(original.size)] * 2)
        expected = np.asarray(
            functional.resize(square, [size, size], functional.InterpolationMode.BILINEAR), int
        )
        # At the edge, what lies beyond the square counts too
        off = np.abs(images[row] - expected)[1:-1, 1:-1].mean()
        # Otherwise the middle lies between two pixels
        if (original.width - original.height) % 2 == 0:
            # Large JPEG are decoded at a half
            assert off <= (0.5 if min(original.size) < 4 * size else 4)


def test_images_of_the_size_are_left_alone(small: Path, pictures: Callable[..., Any]) -> None:
    square = np.stack([image[:5] for image in pictures(8)])
    assert load_images(open_source(str(small)), "train").images.shape == (8, 6, 5, 3)
    images = load_images(open_source(str(small)), "train", size=5).images
    assert images.shape == (8, 5, 5, 3)
    assert np.abs(images.astype(int) - square).mean() > 0  # resampled from between the rows


@pytest.mark.parametrize(
    ("first", "last"), [(0, 60), (0, 3), (5, 38), (36, 41), (40, 60), (59, 60)]
)
def test_reading_can_begin_at_any_row(
    photographs: Callable[..., Any],
    write_shard: Callable[..., Any],
    tmp_path: Path,
    first: Any,
    last: Any,
) -> None:
    folder, encoded, labels = photographs(write_shard)
    tree = tmp_path / "tree"
    for row, content in enumerate(encoded):
        path = tree / "train" / str(labels[row]) / f"{row:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    in_order = [row for label in (0, 1) for row in range(60) if labels[row] == label]
    for source, rows in ((open_source(str(folder)), range(60)), (open_source(str(tree)), in_order)):
        batches = list(source.batches("train", first, last))
        assert [content for batch in batches for content in batch.encoded] == [
            encoded[row] for row in rows[first:last]
        ]
        assert [label for batch in batches for label in batch.labels] == [
            labels[row] for row in rows[first:last]
        ]
    assert [batch.where(0) for batch in open_source(str(folder)).batches("train", 36, 37)] == [
        f"{folder}/train-00001-of-00002.parquet, row 1"
    ]


def test_what_a_process_finds_wrong_names_its_row(
    tmp_path: Path,
    write_shard: Callable[..., Any],
    pictures: Callable[..., Any],
    encode: Callable[..., bytes],
    several: None,
) -> None:
    images = [encode(image) for image in pictures(40)]
    images[33] = b"not an image"
    write_shard(tmp_path / "d" / "train.parquet", images, label=[0, 1] * 20, row_group_size=6)
    with pytest.raises(RequestError, match=r"train\.parquet, row 33: the image cannot be decoded"):
        load_images(open_source(str(tmp_path / "d")), "train")
    write_shard(tmp_path / "e" / "train.parquet", pictures(9), label=[0, 1, 1] * 2 + [0, 7, 0])
    with pytest.raises(RequestError, match=r"row 7: label is 7, but the 2 classes are 0 to 1"):
        load_images(open_source(str(tmp_path / "e")), "train")


def test_colour_found_by_a_process_makes_all_rgb(
    tmp_path: Path, write_shard: Callable[..., Any], pictures: Callable[..., Any], several: None
) -> None:
    write_shard(
        tmp_path / "d" / "train.parquet",
        [*pictures(20, channels=1), *pictures(4)],
        label=[0, 1] * 12,
    )
    assert load_images(open_source(str(tmp_path / "d")), "train").images.shape == (24, 6, 5, 3)


def test_a_killed_process_is_said(small: Path, cache: Path) -> None:
    ended = subprocess.run(
        [sys.executable, INTERRUPTED, str(small), "child"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.startswith(
        f"RunError {small}: a process that decoded its images ended with status -9"
    ), ended
    assert [path.name for path in (cache / "images").iterdir() if path.is_dir()] == []


def test_processes_end_with_the_one_that_started_them(small: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, INTERRUPTED, str(small), "parent"], stdout=subprocess.PIPE, text=True
    )
    children = [int(parent.stdout.readline()) for _ in range(3)]
    parent.kill()
    parent.communicate()
    for child in children:
        os.kill(child, signal.SIGCONT)
    limit = time.monotonic() + 60
    while any(is_running(child) for child in children):
        assert time.monotonic() < limit
        time.sleep(0.1)


def is_running(process: Any) -> Any:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def on_disk(tmp_path: Path) -> Any:
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 3, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    return images, PixelsOnDisk(tmp_path / "images.npy")


@pytest.mark.parametrize(
    "rows", [[], [0], [49], [3, 4, 5, 9, 8, 9], range(50), [7] * 5, [*range(10, 30), 2]]
)
def test_rows_on_the_disk_are_those_of_the_array(on_disk: Any, rows: Any) -> None:
    images, pixels = on_disk
    wanted = np.array(rows, np.int64)
    assert pixels[wanted].dtype == np.uint8
    assert (pixels[wanted] == images[wanted]).all()
    assert pixels[wanted].shape == (len(rows), 4, 3, 3)
    assert (len(pixels), pixels.shape, pixels.nbytes) == (50, images.shape, images.nbytes)
    assert (pixels[:7] == images[:7]).all() and (pixels[45:99] == images[45:]).all()


def test_rows_that_are_not_there_are_refused(on_disk: Any, tmp_path: Path) -> None:
    _, pixels = on_disk
    for rows in ([50], [-1], [0, 77]):
        with pytest.raises(IndexError, match="rows must be 0 to 49"):
            pixels[np.array(rows)]
    os.truncate(tmp_path / "images.npy", 1000)
    with pytest.raises(RunError, match="has become shorter; run the same command again"):
        pixels[np.array([40])]
    with pytest.raises(ValueError, match="not as long as it says"):
        PixelsOnDisk(tmp_path / "images.npy")


def test_a_large_split_stays_on_the_disk(small: Path) -> None:
    source = open_source(str(small))
    mapped = load_images(source, "train", memory=8 * 6 * 5 * 3)
    left = load_images(source, "train", memory=8 * 6 * 5 * 3 - 1)
    assert isinstance(mapped.images, np.memmap) and isinstance(left.images, PixelsOnDisk)
    assert (left.images[np.arange(8)] == mapped.images).all()


def test_the_validation_split_stands_in_for_a_test_split(
    small: Path, tmp_path: Path, encode: Callable[..., bytes], pictures: Callable[..., Any]
) -> None:
    (small / "test-00000-of-00001.parquet").rename(small / "validation-00000-of-00001.parquet")
    assert open_source(str(small)).rows("test") == 4
    for name in ("train/cat/1.png", "val/cat/1.png", "val/cat/2.png"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(pictures(1)[0]))
    assert open_source(str(tmp_path / "tree")).rows("test") == 2


def peak(*arguments: Any) -> Any:
    """What `support/memory.py` prints for these arguments."""
    environment = os.environ | {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, SUPPORT / "memory.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data_set(
    tmp_path: Path, encode: Callable[..., bytes]
) -> None:
    """Importing, decoding, training and testing, with a set of a thousand and one of five thousand
    photographs: left on the disk, and mapped.
    """
    rng = np.random.default_rng(0)
    originals = []
    for _ in range(100):
        width, height = (int(number) for number in rng.integers(200, 400, 2))
        image = np.asarray(
            Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize((width, height)), int
        )
        originals.append(encode((image + rng.integers(-40, 40, image.shape)).clip(0, 255), "JPEG"))
    peaks = {}
    for count in (1_000, 5_000):
        tree = tmp_path / f"tree-{count}"
        for split, share in (("train", count), ("val", count // 5)):
            for number in range(share):
                path = tree / split / f"class-{number % 10}" / f"{number:05}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(originals[number % 100])
        out = str(tmp_path / f"set-{count}")
        peaks[count] = {
            "import": peak("import", tree, out),
            "train": peak("train", out, str(count // 10), "0.004"),
            "mapped": peak("train", out, str(count // 10), "4.0"),
        }
        assert peaks[count]["train"]["weights"] == peaks[count]["mapped"]["weights"]
    pixels = 4_000 * 96 * 96 * 3 / 2**20
    encoded = sum(map(len, originals)) * 40 / 2**20
    print(
        json.dumps(peaks, indent=1),
        f"{pixels:.0f} MB of pixels, {encoded:.0f} MB encoded, {cores()} cores",
    )
    few, many = peaks[1_000], peaks[5_000]
    assert many["import"]["own"] - few["import"]["own"] < 0.5 * encoded
    assert many["train"]["own"] - few["train"]["own"] < 0.2 * pixels
    assert many["train"]["others"] < decode_split.PROCESS_BYTES / 2**20
    assert many["mapped"]["own"] - few["mapped"]["own"] > 0.7 * pixels  # so that the test can fail
