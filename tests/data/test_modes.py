"""Image files of every kind in one tree, and what a repository of the Hub looks like."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyarrow import fs

from distill_ray.data import load_images, open_source
from distill_ray.data.checking import check_data
from distill_ray.errors import RequestError

RED = (200, 40, 40)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def square(mode: str) -> Image.Image:
    """Eight by eight red pixels, or grey ones of the same brightness."""
    return Image.new("RGB", (8, 8), RED).convert(mode)


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.full((8, 8), 88 * 256 + 77, np.uint16))


FILES = {
    "a/red.PNG": saved(square("RGB"), "PNG"),
    "a/deeper/still/palette.Gif": saved(square("P"), "GIF"),
    "a/alpha.png": saved(square("RGBA"), "PNG"),
    "b/cmyk.JPG": saved(square("CMYK"), "JPEG", quality=95),
    "b/photo.JpEg": saved(square("RGB"), "JPEG", quality=95),
    "b/lossless.webp": saved(square("RGB"), "WEBP", lossless=True),
    "c/grey.png": saved(square("L"), "PNG"),
    "c/deep.tiff": saved(sixteen_bits(), "TIFF"),
    "c/deep.png": saved(sixteen_bits(), "PNG"),
    "c/bits.bmp": saved(Image.new("1", (8, 8), 1), "BMP"),
    "c/alpha-grey.png": saved(square("LA"), "PNG"),
}


def test_every_kind_of_file_is_the_same_colour(tmp_path: Path) -> None:
    for name, content in FILES.items():
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    source = open_source(str(tmp_path))
    images = load_images(source, "train").images[:].astype(int)
    means = dict(
        zip(sorted(FILES), images.mean(axis=(1, 2)).round().astype(int).tolist(), strict=True)
    )
    for name, mean in means.items():
        if name == "c/bits.bmp":
            expected: Any = (255, 255, 255)
        elif name.startswith("c/"):
            expected = (88, 88, 88)  # the luminance of the red; the high byte of the deep ones
        else:
            expected = RED
        assert np.abs(np.subtract(mean, expected)).max() <= 6, name
    look = check_data(source).looks["train"]
    assert look.broken == 0
    assert {"I;16", "CMYK", "RGBA", "LA", "1", "RGB", "L"} <= set(look.modes)


def test_a_repository_of_the_hub(
    tmp_path: Path, write_shard: Callable[..., Path], pictures: Callable[..., Any]
) -> None:
    images = pictures(5)
    shard = "train-00000-of-00001-a09b74b3ef9c3b56.parquet"
    write_shard(tmp_path / "data" / shard, images[:3], label=[0, 1, 0])
    write_shard(tmp_path / "data" / "validation-00000-of-00001.parquet", images[3:], label=[1, 0])
    (tmp_path / "README.md").write_text("a data set")
    source = open_source(str(tmp_path))
    assert (source.rows("train"), source.rows("test")) == (3, 2)
    assert open_source(source.location).digest == source.digest
    assert (load_images(source, "train").images == np.stack(images[:3])).all()


def test_hf_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(RequestError, match=r"pip install 'distill-ray\[hf\]'"):
        open_source("hf://datasets/ylecun/mnist")


def test_hf_that_does_not_answer_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its errors are those of the package that asks it, which need not be OSErrors."""

    class UnreachableError(Exception):
        pass

    def from_uri(uri: str) -> None:
        raise UnreachableError("Name or service not known")

    monkeypatch.setattr(fs, "FileSystem", SimpleNamespace(from_uri=from_uri))
    with pytest.raises(RequestError, match=r"'hf://datasets/ylecun/mnist' cannot be reached: Name"):
        open_source("hf://datasets/ylecun/mnist")
