"""Files of teachers' answers, and of what they are asked: a Parquet data set.

A folder has a file for each augmentation and version, with a row per image, part, copy and member:

    <augmentation>-<seed>/version-00001.parquet           row, version, part, copy, member, logits
    <augmentation>-<seed>/version-00001.images.parquet    row, version, part, copy, image

`row` is that of the image in the data set's training file, `logits` float32 (K,), `image` float32
(H * W * C,) in [0, 1]. The metadata of each file's schema has, under `distill_ray`, a JSON object
with what the answers are of: data, class names, teachers, augmentation, its seed, and the version;
and of images their shape and some pixels.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distill_ray.augmentation.augmentation import Batch
from distill_ray.errors import RequestError, first_line
from distill_ray.escaping import for_terminal
from distill_ray.stages.answer import Answers

if TYPE_CHECKING:
    from distill_ray.training import Dataset

FORMAT = 1
METADATA = b"distill_ray"

# --- What they are of, and what they show ---


def description(answers: Answers, version: int) -> dict[str, Any]:
    """What the answers are of, as JSON values."""
    from distill_ray.execution.train_job import cached_dataset

    return {
        "format": FORMAT,
        "data": answers.key.data.seen_by(answers.key.augmentation),
        "class_names": list(cached_dataset(answers.key.data).class_names),
        "teachers": list(answers.key.teachers),
        "augmentation": answers.key.augmentation.to_dict(),
        "augmentation_seed": answers.key.seed,
        "version": version,
    }


def shown_in(answers: Answers, version: int) -> dict[str, Any]:
    """How the images of a version are, as JSON values: their shape, and some pixels, by which it is
    known that the augmentation still makes the same ones when the answers come.
    """
    from distill_ray.execution.train_job import cached_dataset
    from distill_ray.training import probe_of

    dataset = cached_dataset(answers.key.data)
    pixels = probe_of(answers.key, version, dataset)
    return image_shape_in(dataset) | {"probe": base64.b64encode(pixels.tobytes()).decode()}


def image_shape_in(dataset: Dataset) -> dict[str, list[int]]:
    """Height, width and channels of the images, as a JSON value."""
    channels, height, width = dataset.image_shape
    return {"image_shape": [height, width, channels]}


def image_tables(answers: Answers, version: int, *, with_images: bool = True) -> Iterator[pa.Table]:
    """The images of a version as teachers see them, or their addresses alone: a row per image, part
    and copy.
    """
    for batch in _batches(answers, version):
        assert batch.rows is not None
        for part in batch.parts:
            copies = len(part.images) // len(batch.rows)
            copy, image = np.meshgrid(np.arange(copies), batch.rows.numpy(), indexing="ij")
            columns = address_columns(image, version, part.number, copy)
            if with_images:
                pixels = part.images.permute(0, 2, 3, 1).contiguous().numpy()
                columns["image"] = vectors(pixels)
            yield pa.table(columns)


def _batches(answers: Answers, version: int, images: int | None = None) -> Iterator[Batch]:
    """A version of the images as teachers see them, or of the first `images` of them."""
    from distill_ray.augmentation.epoch import version_batches
    from distill_ray.execution.train_job import cached_dataset

    dataset = cached_dataset(answers.key.data)
    yield from version_batches(
        answers.key.augmentation,
        dataset.whole_images,
        dataset.labels,
        version=version,
        seed=answers.key.seed,
        batch_size=256,
        device="cpu",
        rows=dataset.train,
        last=images,
        mean=dataset.mean,
        shape=dataset.image_shape[1:],
        strips=dataset.strips,
    )


def vectors(values: np.ndarray) -> pa.FixedSizeListArray:
    """A column of vectors, from (rows, ...)."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values[0].size)


def address_columns(
    image: np.ndarray, version: int, part: int, copy: np.ndarray
) -> dict[str, pa.Array]:
    """The columns that say which image a row is about."""
    return {
        "row": pa.array(image.ravel(), pa.int64()),
        "version": pa.array(np.full(image.size, version), pa.int32()),
        "part": pa.array(np.full(image.size, part), pa.int8()),
        "copy": pa.array(copy.ravel(), pa.int8()),
    }


# --- Writing ---


def check_new(folder: Path) -> None:
    """Raise `RequestError` unless `folder` is not there yet, or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(
            f"{for_terminal(str(folder))} is there already and not empty; name a new folder"
        )


def new_place(folder: Path, answers: Answers) -> Path:
    """A new folder for the versions of these answers."""
    place = folder / f"{answers.name}-{answers.key.seed}"
    if place.exists():  # of other images, or with fewer logits of each
        place = folder / f"{place.name}-{answers.key.id}"
    _make_folder(place)
    return place


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_be_written(folder, error) from None


def _cannot_be_written(path: Path, error: OSError) -> RequestError:
    reason = error.strerror or first_line(error)
    return RequestError(f"{for_terminal(str(path))}: cannot be written ({reason})")


def write_tables(path: Path, described: Mapping[str, Any], tables: Iterable[pa.Table]) -> None:
    """Write tables of one schema, at least one, into a file, with what it is of as metadata. Raises
    `RequestError` where it cannot be written.
    """
    try:
        _write_tables(path, described, iter(tables))
    except OSError as error:
        raise _cannot_be_written(path, error) from None


def _write_tables(path: Path, described: Mapping[str, Any], remaining: Iterator[pa.Table]) -> None:
    metadata = {METADATA: json.dumps(described).encode()}
    first = next(remaining).replace_schema_metadata(metadata)
    with pq.ParquetWriter(
        path, first.schema, compression="zstd", write_page_checksum=True
    ) as writer:
        writer.write_table(first)
        for table in remaining:
            writer.write_table(table.replace_schema_metadata(metadata))


# --- Reading ---


def descriptions_in(folder: Path) -> dict[Path, dict[str, Any]]:
    """The files of answers for versions in `folder`, with what they are of. Raises `RequestError`
    where there are none.
    """
    paths = sorted(folder.rglob("version-*.parquet"))
    answered = [path for path in paths if not path.name.endswith(".images.parquet")]
    if not answered:
        raise RequestError(f"{folder}: found no files version-*.parquet of teachers' answers")
    described = {path: description_in(path) for path in answered}
    for path, of_version in described.items():
        known = of_version.get("version"), of_version.get("augmentation")
        if not isinstance(known[0], int) or not isinstance(known[1], dict):
            raise RequestError(
                f"{path}: not a file of teachers' answers for a version (its metadata says of "
                "which version and augmentation in no way that is known)"
            )
    return described


def description_in(path: Path) -> dict[str, Any]:
    """The description in a file. Raises `RequestError` where there is none."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        if METADATA not in metadata:
            raise ValueError(
                f"its metadata has no {METADATA.decode()!r}; write that of the file that was asked "
                "with the answers"
            )
        described = json.loads(metadata[METADATA])
        if described["format"] != FORMAT:
            raise ValueError(f"format {described['format']}, known is {FORMAT}")
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{path}: not a file of teachers' answers ({error})") from None
    return dict(described)


def file_of(wanted: dict[str, Any], descriptions: dict[Path, dict[str, Any]], folder: Path) -> Path:
    """The file with the answers that are described so. Raises `RequestError` where there is none,
    with what the nearest has instead.
    """
    name, version = wanted["augmentation"]["name"], wanted["version"]
    near = [path for path, described in descriptions.items() if described.get("version") == version]
    near = [
        path for path in near if descriptions[path].get("augmentation", {}).get("name") == name
    ] or near
    if not near:
        there = sorted({described["version"] for described in descriptions.values()})
        raise RequestError(f"{folder}: version {version} is missing (there are {there})")
    differing: list[str] = []
    for path in near:
        differing = [key for key, value in wanted.items() if descriptions[path].get(key) != value]
        if not differing:
            return path
    key = differing[0]
    raise RequestError(
        f"{near[-1]}: these are answers for other {key.replace('_', ' ')}: found "
        f"{json.dumps(descriptions[near[-1]].get(key))}, the study has {json.dumps(wanted[key])}"
    )


def read_logits(path: Path, answers: Answers, version: int, members: int) -> list[np.ndarray]:
    """The logits in a file, by part (images, copies, N, K) in the order of the training split.

    Raises `RequestError` where some are missing, there twice, or of something else.
    """
    from distill_ray.execution.train_job import cached_dataset

    _check_images(path, answers, version)
    dataset = cached_dataset(answers.key.data)
    names = ("row", "version", "part", "copy", "member")
    address, logits = read_columns(path, names, dataset.num_classes)
    if (others := address["version"] != version).any():
        found = address["version"][others][0]
        raise RequestError(f"{path}: holds answers for version {found}, expected {version}")
    return list(_by_part(path, address, logits, dataset.train, _copies(answers), members))


def _check_images(path: Path, answers: Answers, version: int) -> None:
    """Raise `RequestError` where the augmentation made other images than it does now."""
    from distill_ray.execution.train_job import cached_dataset
    from distill_ray.training import shows_the_same

    probe = description_in(path).get("probe")
    if probe is None:  # of a version that wrote none
        return
    try:
        pixels = np.frombuffer(base64.b64decode(probe), np.float16)
    except (TypeError, ValueError) as error:
        raise RequestError(f"{path}: its metadata's probe is damaged ({error})") from None
    if not shows_the_same(answers.key, version, 0, pixels, cached_dataset(answers.key.data)):
        raise RequestError(
            f"{path}: augmentation {answers.key.augmentation.name} made other images then than "
            "now; ask the teachers again"
        )


def _copies(answers: Answers) -> list[int]:
    """How many copies of an image each part of the augmentation has."""
    (batch,) = _batches(answers, 1, images=1)
    return [len(part.images) for part in batch.parts]


def _by_part(
    path: Path,
    address: dict[str, np.ndarray],
    logits: np.ndarray,
    rows: np.ndarray,
    copies_of: list[int],
    members: int,
) -> Iterator[np.ndarray]:
    check_range(path, "part", address["part"], len(copies_of))
    check_range(path, "copy", address["copy"], max(copies_of))
    for part, copies in enumerate(copies_of):
        chosen = address["part"] == part
        some = {name: values[chosen] for name, values in address.items()}
        names = [f"part {part}, copy {copy}" for copy in range(copies)]
        copy = some["copy"].clip(max=copies - 1)
        ordered = in_order(path, some, logits[chosen], rows, members, names, copy, "training split")
        yield ordered.reshape(len(rows), copies, members, -1)


def read_columns(
    path: Path, names: Sequence[str], classes: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The whole numbers in the columns of these names, and the logits, float32 (rows, classes).

    Raises `RequestError` where they are not there, no numbers, or probabilities: the softmax of
    these is a teacher that is sure of nothing, which no accuracy shows.
    """
    numbers = dict.fromkeys(names, pa.int64())
    wanted = pa.schema(numbers | {"logits": pa.list_(pa.float32())})
    try:
        table = pq.read_table(path, columns=wanted.names, page_checksum_verification=True)
        table = table.select(wanted.names).cast(wanted)
        if nulls := [name for name in wanted.names if table[name].null_count]:
            raise ValueError(f"column {nulls[0]} has empty fields")
        address = {name: table[name].to_numpy() for name in numbers}
        column = table["logits"].combine_chunks()
        if not len(column):
            raise ValueError("it has no rows")
        lengths = set(column.value_lengths().unique().to_pylist())
        logits = column.flatten().to_numpy(zero_copy_only=False)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read ({first_line(error)})") from None
    if lengths != {classes}:
        raise RequestError(f"{path}: logits have {sorted(lengths)} numbers, expected {classes}")
    logits = logits.reshape(-1, classes)
    if not np.isfinite(logits).all():
        row = address["row"][~np.isfinite(logits).all(1)][0]
        raise RequestError(
            f"{path}: the logits for row {row} are not finite; a probability of 0 needs a floor, "
            "such as 1e-6, before its logarithm"
        )
    if classes > 1 and (logits >= 0).all() and np.allclose(logits.sum(1), 1, atol=0.01):
        raise RequestError(
            f"{path}: the logits of each row add up to 1, as probabilities do; answer with logits "
            "or the logarithms of probabilities"
        )
    return address, logits


def in_order(
    path: Path,
    address: dict[str, np.ndarray],
    logits: np.ndarray,
    rows: np.ndarray,
    members: int,
    copies: Sequence[str] = ("",),
    copy: np.ndarray | int = 0,
    split: str = "split",
) -> np.ndarray:
    """Logits (n, K) in the order of `rows`, of their copies, and of the members: (rows * copies *
    members, K). `copies` has what each is called in errors, and `copy` (n,) which of them it is.

    Raises `RequestError` unless each is there once, and nothing else.
    """
    row, member = address["row"], address["member"]
    check_range(path, "member", member, members)
    image = np.searchsorted(rows, row).clip(max=len(rows) - 1)
    if (foreign := rows[image] != row).any():
        raise RequestError(f"{path}: row {row[foreign][0]} is no image of the {split}")
    slots = (image * len(copies) + copy) * members + member
    counts = np.bincount(slots, minlength=len(rows) * len(copies) * members)
    if (counts != 1).any():
        wrong = int(np.flatnonzero(counts != 1)[0])
        before, of_member = divmod(wrong, members)
        of_row, of_copy = divmod(before, len(copies))
        where = [f"row {rows[of_row]}", copies[of_copy], f"member {of_member}"]
        fault = "missing" if counts[wrong] == 0 else "there twice"
        raise RequestError(f"{path}: {', '.join(filter(None, where))} is {fault}")
    ordered = np.empty_like(logits)
    ordered[slots] = logits
    return ordered


def check_range(path: Path, name: str, values: np.ndarray, count: int) -> None:
    """Raise `RequestError` unless all values of a column are from 0 to `count - 1`."""
    outside = (values < 0) | (values >= count)
    if outside.any():
        raise RequestError(f"{path}: {name} {values[outside][0]}, expected 0 to {count - 1}")
