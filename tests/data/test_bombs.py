"""Small files that unpack to much: refused before they take the memory."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from distill_ray.data import load_images, open_source
from distill_ray.data.decoding import MAX_PIXELS
from distill_ray.data.source import MAX_ENCODED
from distill_ray.errors import RequestError

MEMORY = """
import re, sys
from distill_ray.cli import main
code = main(sys.argv[1:])
# Not ru_maxrss, which a process takes over from the one that started it
print(code, int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""

STUDY = """
name: bomb
data: {{source: {folder}, validation: 1, size: 16}}
teachers: {{model: wrn-10-1, seeds: [0], epochs: 1, batch_size: 1}}
student: {{batch_size: 1, model: wrn-10-1, method: kd, epochs: 1}}
search: {{trials: 1, space: {{temperature: {{log: [1, 20]}}}}}}
"""


def png(width: int, height: int) -> bytes:
    """A PNG of zeros, without ever having its pixels in memory."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return len(content).to_bytes(4, "big") + kind + content + check.to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    packer = zlib.compressobj(1)
    line = bytes(1 + 3 * width)
    content = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", content)
        + chunk(b"IEND", b"")
    )


def jpeg(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "JPEG")
    content = file.getvalue()
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + content[at + 4 :]


def gif(width: int, height: int) -> bytes:
    size = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    return b"GIF89a" + size + b"\x80\0\0" + bytes(6) + b",\0\0\0\0" + size + b"\0\x02\x02L\x01\0;"


BOMBS: dict[str, Callable[[], bytes]] = {
    "png": lambda: png(13_000, 13_000),
    "jpg": lambda: jpeg(65_000, 65_000),
    "gif": lambda: gif(60_000, 60_000),
    "ppm": lambda: b"P6 20000 20000 255\n",
    "wide.png": lambda: png(MAX_PIXELS + 1, 1),
}


def validated(folder: Path) -> tuple[int, int, str]:
    """Exit code, peak memory in MB and output of `validate` in a process of its own."""
    (folder.parent / "study.yaml").write_text(STUDY.format(folder=folder))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, "validate", str(folder.parent / "study.yaml")],
        capture_output=True,
        text=True,
        check=True,
    )
    code, peak = done.stdout.splitlines()[-1].split()
    return int(code), int(peak), done.stdout + done.stderr


@pytest.mark.parametrize("name", BOMBS)
def test_an_image_of_too_many_pixels(tmp_path: Path, encode: Any, name: str) -> None:
    content = BOMBS[name]()
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            path = tmp_path / "tree" / split / label / f"1.{name}"
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
    code, peak, text = validated(tmp_path / "tree")
    assert code == 2 and "more than the 50 million that are decoded; make it smaller" in text
    assert peak < 250, text
    with pytest.raises(RequestError, match="more than the 50 million that are decoded"):
        load_images(open_source(str(tmp_path / "tree")), "train", size=16)


def test_the_largest_images_are_decoded(tmp_path: Path) -> None:
    largest = png(MAX_PIXELS // 100, 100)
    for split in ("train", "test"):
        path = tmp_path / "tree" / split / "cat" / "1.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(largest)
    assert not load_images(open_source(str(tmp_path / "tree")), "train", size=16).images.any()


CONTENTS: dict[str, Callable[[], list[bytes]]] = {
    "different": lambda: [bytes(20_000_000 - number) for number in range(20)],
    "alike": lambda: [bytes(60_000_000)] * 10,
    "one": lambda: [b"x"] * 50 + [bytes(400_000_000)] + [b"x"] * 49,
    "small": lambda: [bytes(100_000 + number) for number in range(3000)],
}


@pytest.mark.parametrize(
    ("name", "compression"), [*((name, "zstd") for name in CONTENTS), ("small", "gzip")]
)
def test_zeros_in_place_of_images(tmp_path: Path, name: str, compression: str) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    contents = CONTENTS[name]()
    table = pa.table({"image": contents, "label": [0, 1] * (len(contents) // 2)})
    pq.write_table(table, folder / "train.parquet", compression=compression)
    (folder / "test.parquet").hardlink_to(folder / "train.parquet")
    code, peak, text = validated(folder)
    assert code == 2 and ("unpacks from" in text or "cannot be decoded" in text), text
    assert peak < 300, text


@pytest.mark.parametrize("where", ["tree", "parquet"])
def test_an_image_of_too_many_bytes(tmp_path: Path, where: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(
        f"distill_ray.data.{'parquet' if where == 'parquet' else 'image_folder'}.MAX_ENCODED", 1000
    )
    assert MAX_ENCODED > 1000
    content = png(8, 8) + bytes(1000)
    if where == "tree":
        (tmp_path / "train" / "cat").mkdir(parents=True)
        (tmp_path / "train" / "cat" / "1.png").write_bytes(content)
    else:
        table = pa.table({"image": [png(8, 8), content], "label": [0, 1]})
        pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(RequestError, match=r"(1.png|row 1).* has more than 0 MB; replace it"):
        load_images(open_source(str(tmp_path)), "train")


def test_batches_are_bounded_in_bytes_too(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("distill_ray.data.parquet.BYTES_PER_BATCH", 1000)
    images = [bytes([number]) * 300 for number in range(50)]
    pq.write_table(pa.table({"image": images, "label": [0] * 50}), tmp_path / "train.parquet")
    batches = list(open_source(str(tmp_path)).batches("train", 3, 47))
    assert [content for batch in batches for content in batch.encoded] == images[3:47]
    assert max(sum(map(len, batch.encoded)) for batch in batches) <= 1200
    assert [batch.where(0).rpartition(" ")[2] for batch in batches[:2]] == ["3", "6"]
    assert sum(len(batch.labels) for batch in batches) == 44
