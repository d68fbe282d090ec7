from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    folder = tmp_path / "cache"
    monkeypatch.setenv("DISTILL_RAY_CACHE", str(folder))
    return folder


@pytest.fixture
def shared_data() -> Any:
    folder = Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the images in ../shared/data")
    return folder


@pytest.fixture
def encode() -> Any:
    def encode(pixels: Any, kind: Any = "PNG") -> Any:
        file = io.BytesIO()
        Image.fromarray(np.asarray(pixels, np.uint8)).save(file, kind)
        return file.getvalue()

    return encode


@pytest.fixture
def write_shard(encode: Callable[..., bytes]) -> Any:
    """Writes one Parquet file of images (arrays, encoded bytes or None) and label columns."""

    def write(
        path: Any,
        images: Any,
        names: Any = ("cat", "dog"),
        image_column: Any = "img",
        row_group_size: Any = None,
        **labels: Any,
    ) -> Any:
        path.parent.mkdir(parents=True, exist_ok=True)
        encoded = [encode(image) if isinstance(image, np.ndarray) else image for image in images]
        struct = pa.array(
            [{"bytes": image, "path": None} for image in encoded],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
        features = {image_column: {"_type": "Image"}} | {
            name: {"_type": "ClassLabel", "names": list(names)} for name in labels if names
        }
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = pa.table(
            {image_column: struct, **{name: pa.array(values) for name, values in labels.items()}}
        )
        pq.write_table(
            table.replace_schema_metadata(metadata),
            path,
            row_group_size=row_group_size,
            write_page_checksum=True,
        )
        return path

    return write


@pytest.fixture
def pictures() -> Any:
    """`count` random images of one size."""

    def pictures(
        count: Any, height: Any = 6, width: Any = 5, channels: Any = 3, seed: Any = 0
    ) -> Any:
        shape = (count, height, width) if channels == 1 else (count, height, width, channels)
        return list(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))

    return pictures


@pytest.fixture
def small(tmp_path: Path, write_shard: Callable[..., Any], pictures: Callable[..., Any]) -> Any:
    """A data set of 8 training images in two shards and 4 test images."""
    folder = tmp_path / "small"
    images = pictures(12)
    write_shard(
        folder / "train-00000-of-00002.parquet", images[:5], label=[0, 1, 0, 1, 0], row_group_size=2
    )
    write_shard(folder / "train-00001-of-00002.parquet", images[5:8], label=[1, 0, 1])
    write_shard(folder / "test-00000-of-00001.parquet", images[8:], label=[0, 0, 1, 1])
    return folder
