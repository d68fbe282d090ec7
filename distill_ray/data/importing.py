"""Other forms of data sets, written once as Parquet in the Hugging Face layout."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from distill_ray.data.decoding import check, decoder
from distill_ray.data.files import Folder
from distill_ray.data.finding import open_source
from distill_ray.data.parquet import SHARD, ParquetSource
from distill_ray.data.source import EncodedBatch, Part, Source, SplitName
from distill_ray.data.torchvision_sets import ORIGINALS, Original
from distill_ray.errors import RequestError
from distill_ray.node_cache import new_folder, writing
from distill_ray.registry import unknown_name

logger = logging.getLogger(__name__)

ROWS_PER_SHARD = 100_000
ROWS_PER_GROUP, BYTES_PER_GROUP = 1000, 64e6
"""A row group is written when it has so many rows or so many encoded bytes, whichever comes first.
"""
ROWS_PER_PAGE = 32
"""Rows after which a page is full if it has a megabyte: whoever reads needs memory for a page, not
for a row group.
"""


class LabelledImages(Protocol):
    """What can be written: a `Source`, or an `Original`."""

    label: str

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""

    def rows(self, split: SplitName) -> int:
        """The number of images in `split`."""

    def batches(self, split: SplitName) -> Iterator[EncodedBatch]:
        """The rows of `split` in order."""


def import_dataset(
    source: str,
    out: str | os.PathLike[str],
    *,
    label: str | None = None,
    root: str | os.PathLike[str] | None = None,
    download: bool = True,
    overwrite: bool = False,
) -> Source:
    """Write a data set as `train-00000-of-0000N.parquet` and `test-...` in the new folder `out`,
    and open it.

    Every image and label is checked on the way; no more than a row group of them is in memory. The
    folder appears when it is complete, or not at all. The class names are in the files, as Hugging
    Face metadata.

    Args:
        source: `cifar10`, `cifar100`, `svhn` or `fashion-mnist`, which torchvision reads and which
            are written as PNG; or a folder that `open_source` reads and that is not Parquet: an
            image tree, tar files as webdataset writes them, images that a table lists. Its images
            are kept byte for byte.
        label: The label column to write, where a folder has several.
        out: The folder to write, which must not exist, or be empty, unless `overwrite`.
        root: Where torchvision finds the original files, or puts them. Default: a folder in the
            cache.
        download: Whether torchvision may fetch original files that are not in `root`.
        overwrite: Whether to replace a data set that is in `out` already. A folder that holds
            anything else is never replaced.

    Raises:
        RequestError: there is no such source, it is not usable, or `out` exists or cannot be
            written.
        RunError: the download failed, or the disk is full.
    """
    target = Path(out).expanduser().absolute()
    _check_target(target, overwrite)
    images: LabelledImages = (
        Original(source, root, download=download) if source in ORIGINALS else _folder(source, label)
    )
    if isinstance(images, Source):
        for remark in images.remarks:
            logger.warning("%s: %s", images.location, remark)
    with writing(target, "choose another folder"), new_folder(target) as partial:
        for part, rows, batches in _parts(images):
            if rows:
                sizes = _write_part(images, part, rows, batches, partial)
                if len(sizes) > 1:
                    smallest, *_, largest = (
                        f"{width}x{height}" for width, height in sorted(sizes, key=math.prod)
                    )
                    logger.warning(
                        "%s: images from %s to %s; a study has to set data.size",
                        part,
                        smallest,
                        largest,
                    )
        if isinstance(images, Source):
            images.check_unchanged()
    return open_source(str(target))


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise RequestError(f"{target} exists; choose another folder, or ask to overwrite it")
    if not target.is_dir() or not all(SHARD.fullmatch(path.name) for path in target.iterdir()):
        raise RequestError(
            f"{target} holds something other than a data set and is not overwritten; choose "
            "another folder"
        )


def _folder(source: str, label: str | None) -> Source:
    if Folder.find(source) is None:
        raise RequestError(
            f"{unknown_name('data set', source, list(ORIGINALS))}, and no such folder exists"
        )
    images = open_source(source, label=label, named_by="SOURCE")
    if isinstance(images, ParquetSource):
        raise RequestError(f"{source} is Parquet already; a study reads it as it is")
    return images


def _parts(images: LabelledImages) -> Iterator[tuple[Part, int, Iterator[EncodedBatch]]]:
    """The splits that the data set comes with, each with its number of rows and these."""
    train = images.rows("train")
    if isinstance(images, Source) and images.validation_rows:
        first = train - images.validation_rows
        yield "train", first, images.batches("train", 0, first)
        yield "validation", images.validation_rows, images.batches("train", first)
    else:
        yield "train", train, images.batches("train")
    yield "test", images.rows("test"), images.batches("test")


def _write_part(
    images: LabelledImages,
    part: Part,
    rows: int,
    batches: Iterator[EncodedBatch],
    folder: Path,
) -> set[tuple[int, int]]:
    """Write the files of a part; the sizes of its images."""
    shards = -(-rows // ROWS_PER_SHARD)
    schema = _schema(images)
    sizes: set[tuple[int, int]] = set()
    groups = _row_groups(batches)
    group = next(groups, None)
    done = 0
    with decoder() as threads:
        for shard in range(shards):
            path = folder / f"{part}-{shard:05d}-of-{shards:05d}.parquet"
            with pq.ParquetWriter(
                path,
                schema,
                compression="zstd",
                write_page_checksum=True,
                write_batch_size=ROWS_PER_PAGE,
            ) as writer:
                while group is not None and done * shards // rows == shard:
                    for batch in group:
                        batch.check_labels(images.label, len(images.class_names))
                        sizes |= check(batch, threads)
                        done += len(batch.labels)
                    writer.write_table(
                        pa.Table.from_batches([_record_batch(batch, schema) for batch in group])
                    )
                    group = next(groups, None)
    return sizes


def _row_groups(batches: Iterator[EncodedBatch]) -> Iterator[Sequence[EncodedBatch]]:
    """`batches`, as many at a time as make a row group."""
    group: list[EncodedBatch] = []
    size = 0
    for batch in batches:
        group.append(batch)
        size += sum(len(encoded or b"") for encoded in batch.encoded)
        if size >= BYTES_PER_GROUP or sum(len(rows.labels) for rows in group) >= ROWS_PER_GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def _schema(images: LabelledImages) -> pa.Schema:
    features = {
        "img": {"_type": "Image"},
        images.label: {"_type": "ClassLabel", "names": list(images.class_names)},
    }
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([("img", image), (images.label, pa.int64())], metadata=metadata)


def _record_batch(batch: EncodedBatch, schema: pa.Schema) -> pa.RecordBatch:
    encoded = pa.array(batch.encoded, pa.binary())
    images = pa.StructArray.from_arrays(
        [encoded, pa.nulls(len(encoded), pa.string())], fields=list(schema.field("img").type)
    )
    return pa.record_batch([images, pa.array(batch.labels)], schema=schema)
