"""Teacher logits: the logits of every teacher for every image of one epoch, or of one version of
the images, computed once and read by every student.

An augmentation is a pure function of (seed, epoch, position), so all students with the same
augmentation and seed see the same images, and one file can hold the raw logits of all teachers for
all images of an epoch. With versions it is one of (seed, version, place in the training split), for
students of any seed, and each version is stored in shards. Temperature, weights and the rule that
combines the teachers are applied to logits later and stay searchable.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from distill_ray.augmentation.augmentation import Batch, Part
from distill_ray.augmentation.epoch import epoch_batches, version_batches
from distill_ray.device import as_tensor, to_device
from distill_ray.training.dataset import Dataset
from distill_ray.training.on_device import fits, on_device
from distill_ray.training.teacher_logits_key import TeacherLogitsKey
from distill_ray.training.teachers import LiveTeachers
from distill_ray.training.top_k import TAIL_BOUND, Tail, top_k, total_variation, with_even_tail

ERROR_BOUND = 2.0**-6
"""The largest rounding error of a logit in half precision, met up to a magnitude of 64; beyond
that, float32 is kept.
"""

BATCH = 128
"""Images at a time, where the augmentation does not depend on it; fixed, so that teacher logits do
not depend on who computes them.
"""

MANY = 2048
"""Images of an epoch or a shard from which on teachers become programs, which pays back after some
ten batches. Whoever computes a piece does the same, so that its logits are too.
"""

PROBED, GRID = 8, 4
"""How many images of a shard are probed, and at how many rows and columns of pixels."""

PROBE_BOUND = 2.0**-5
"""How far a pixel may be from where a probe found it: devices round differently."""


@dataclass(frozen=True, eq=False)
class TeacherLogits:
    """Raw logits for one epoch, or one shard of a version: for each part of the augmentation an
    array (positions, copies, N, K) of float16 or float32.

    `error` is the largest difference between a stored logit and the teacher's. Where only the
    largest logits of each prediction are kept, there are fewer than K, and `tails` has the rest for
    each part; it is empty otherwise. `probe` has some pixels of the images of a shard, float16, by
    which it is known again that the augmentation still makes the same ones.
    """

    logits: tuple[np.ndarray, ...]
    error: float
    tails: tuple[Tail, ...] = ()
    probe: np.ndarray | None = None

    def all_classes(self, number: int) -> np.ndarray:
        """The logits of a part for every class, float32 (positions, copies, N, K)."""
        kept = as_tensor(self.logits[number]).float()
        if not self.tails:
            return np.asarray(kept)
        return np.asarray(with_even_tail(kept, self.tails[number]))

    def fit(self, teachers: int, positions: int, classes: int) -> bool:
        """Whether the logits are of so many teachers, positions and classes."""
        if self.tails:
            return all(
                part.shape == (positions, part.shape[1], teachers, part.shape[3])
                and tail.fits(part.shape, classes)
                for part, tail in zip(self.logits, self.tails, strict=True)
            )
        return all(
            part.shape == (positions, part.shape[1], teachers, classes) for part in self.logits
        )


def compute_teacher_logits(
    key: TeacherLogitsKey,
    number: int,
    teachers: LiveTeachers,
    dataset: Dataset,
    device: torch.device,
    shard: int | None = None,
) -> TeacherLogits:
    """Run the teachers on every image of epoch or version `number` as the augmentation presents it,
    or on those of a `shard`.

    Logits become float16, except in parts where that would change one by more than `ERROR_BOUND`,
    or if the key asks for float32. If it asks for the largest only and spreading the others evenly
    would change predictions by more than `TAIL_BOUND`, all are kept. Raises `ValueError` for an
    augmentation whose images cannot be told apart by position.
    """
    batches = _batches(key, number, dataset, device, shard)
    first, last = _places(key, dataset, shard)
    many = _as_programs(key, last - first)
    pieces: dict[int, list[np.ndarray]] = {}
    tails: dict[int, list[Tail]] = {}
    error, moved, answered = 0.0, 0.0, 0
    probe = None
    for batch in batches:
        if probe is None and key.versioned:
            probe = _probe(batch)
        for part in batch.parts:
            if part.slots is None:
                raise ValueError(
                    f"augmentation {key.augmentation.name!r} does not show every image "
                    "equally often, so nothing can be stored"
                )
            is_full = len(batch.positions) == (key.batch_size or BATCH)
            answers = teachers.of_many(part) if many and is_full else teachers(part)
            copies = len(part.images) // len(batch.positions)
            rows = answers.unflatten(1, (copies, -1)).permute(2, 1, 0, 3).contiguous().cpu()
            if key.top_k is not None and key.top_k < rows.shape[-1]:
                largest, tail = top_k(rows, key.top_k)
                moved += float(total_variation(rows, with_even_tail(largest, tail)).sum())
                answered += rows.shape[:-1].numel()
                if not moved <= TAIL_BOUND * answered:
                    return compute_teacher_logits(
                        replace(key, top_k=None), number, teachers, dataset, device, shard
                    )
                rows = largest
                tails.setdefault(part.number, []).append(tail)
            if not key.exact:
                halves = rows.half()
                off = float((halves.float() - rows).abs().max())
                if off <= ERROR_BOUND:
                    rows, error = halves, max(error, off)
            pieces.setdefault(part.number, []).append(rows.numpy())
    return TeacherLogits(
        tuple(np.concatenate(pieces[number]) for number in sorted(pieces)),
        error,
        tuple(Tail.joined(tails[number]) for number in sorted(tails)),
        probe,
    )


def given_teacher_logits(
    key: TeacherLogitsKey,
    number: int,
    shard: int,
    logits: Sequence[np.ndarray],
    dataset: Dataset,
) -> TeacherLogits:
    """Logits that were computed elsewhere, for each part float32 (positions, copies, N, K), as a
    shard of a version.
    """
    error, kept = 0.0, []
    for part in logits:
        with np.errstate(over="ignore"):  # beyond half precision: kept as they are
            halves = part.astype(np.float16)
        off = float(np.abs(halves.astype(np.float32) - part).max())
        exact = key.exact or not off <= ERROR_BOUND
        error = error if exact else max(error, off)
        kept.append(part.astype(np.float32) if exact else halves)
    first = next(_batches(key, number, dataset, torch.device("cpu"), shard, PROBED))
    return TeacherLogits(tuple(kept), error, probe=_probe(first))


def share_as_programs(key: TeacherLogitsKey, images: int) -> float:
    """The share of so many images, in an epoch or a version, for which teachers on a CPU become
    programs.
    """
    pieces = [last - first for first, last in key.shards(images)]
    return sum(piece for piece in pieces if _as_programs(key, piece)) / images


def _as_programs(key: TeacherLogitsKey, images: int) -> bool:
    """Whether teachers become programs for a piece of so many images."""
    return images >= MANY and not key.exact


def _places(key: TeacherLogitsKey, dataset: Dataset, shard: int | None) -> tuple[int, int]:
    """Where the images of a shard begin and end, or those of all."""
    count = len(dataset.train)
    return (0, count) if shard is None else key.shards(count)[shard]


def _batches(
    key: TeacherLogitsKey,
    number: int,
    dataset: Dataset,
    device: torch.device,
    shard: int | None = None,
    images: int | None = None,
) -> Iterator[Batch]:
    """The images that teachers answer for, or the first `images` of them."""
    count = len(dataset.train)
    first, last = _places(key, dataset, shard)
    last = last if images is None else min(last, first + images)
    where = on_device(dataset, device)
    settings: dict[str, Any] = {"rows": dataset.train, "mean": dataset.mean}
    settings |= {"seed": key.seed, "device": device, "shape": dataset.image_shape[1:]}
    settings |= {"strips": dataset.strips}
    if key.versioned:
        return version_batches(
            key.augmentation,
            *where,
            version=number,
            batch_size=BATCH,
            first=first,
            last=last,
            **settings,
        )
    size = key.batch_size or min(BATCH, count)
    return epoch_batches(key.augmentation, *where, epoch=number, batch_size=size, **settings)


def shows_the_same(
    key: TeacherLogitsKey, number: int, shard: int, probe: np.ndarray, dataset: Dataset
) -> bool:
    """Whether the augmentation still makes the images of a shard that `probe` was taken of, and not
    others since its code was changed.
    """
    batch = next(_batches(key, number, dataset, torch.device("cpu"), shard, PROBED))
    now = _probe(batch)
    return now.shape == probe.shape and bool(np.abs(now - probe).max() <= PROBE_BOUND)


def probe_of(key: TeacherLogitsKey, number: int, dataset: Dataset) -> np.ndarray:
    """Some pixels of a version's first images, for `shows_the_same` of its first shard."""
    return _probe(next(_batches(key, number, dataset, torch.device("cpu"), 0, PROBED)))


def _probe(batch: Batch) -> np.ndarray:
    """Some pixels of the first images of a batch, float16 (parts * images * channels * pixels,)."""
    images = min(PROBED, len(batch.positions))
    pixels = []
    for part in batch.parts:
        height, width = part.images.shape[2:]
        rows, columns = max(1, height // GRID), max(1, width // GRID)
        pixels.append(part.images[:images, :, rows // 2 :: rows, columns // 2 :: columns])
    return torch.cat([some.flatten() for some in pixels]).half().cpu().numpy()


def to_arrow(teacher_logits: TeacherLogits, identity: str) -> bytes:
    """An Arrow IPC file with a row per position and a column per part; three per part where only
    the largest logits are kept.
    """
    columns = {}
    shapes = []
    for number, part in enumerate(teacher_logits.logits):
        columns[f"part{number}"] = _column(part)
        shapes.append(part.shape[1:])
    for number, tail in enumerate(teacher_logits.tails):
        columns[f"classes{number}"] = _column(tail.classes.numpy())
        columns[f"rest{number}"] = _column(tail.rest.numpy())
    metadata = {
        "identity": identity,
        "shapes": json.dumps(shapes),
        "error": repr(teacher_logits.error),
    }
    if teacher_logits.tails:
        metadata["num_classes"] = str(teacher_logits.tails[0].num_classes)
    if teacher_logits.probe is not None:
        metadata["probe"] = base64.b64encode(teacher_logits.probe.tobytes()).decode()
    batch = pa.RecordBatch.from_pydict(columns, metadata=metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as file:
        file.write_batch(batch)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def from_arrow(content: pa.Buffer, identity: str) -> TeacherLogits:
    """The teacher logits in the content of a file, memory-mapped or not, without a copy.

    Raises `ValueError` when it is no such file, or when it holds teacher logits of something else.
    """
    try:
        with pa.ipc.open_file(content) as file:
            batch = file.get_batch(0)
        metadata = {
            name.decode(): value.decode() for name, value in (batch.schema.metadata or {}).items()
        }
        if metadata["identity"] != identity:
            raise ValueError(f"these are teacher logits of {metadata['identity']}")

        def values(name: str, shape: list[int]) -> np.ndarray:
            logits: np.ndarray = (
                batch.column(name).flatten().to_numpy().reshape(batch.num_rows, *shape)
            )
            return logits

        shapes = dict(enumerate(json.loads(metadata["shapes"])))
        parts = tuple(values(f"part{number}", shape) for number, shape in shapes.items())
        tails: tuple[Tail, ...] = ()
        if "num_classes" in metadata:
            tails = tuple(
                Tail(
                    as_tensor(values(f"classes{number}", shape)),
                    as_tensor(values(f"rest{number}", shape[:-1])),
                    int(metadata["num_classes"]),
                )
                for number, shape in shapes.items()
            )
        probe = None
        if "probe" in metadata:
            probe = np.frombuffer(base64.b64decode(metadata["probe"]), np.float16)
        return TeacherLogits(parts, float(metadata["error"]), tails, probe)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ValueError(f"not a file of teacher logits ({error})") from None


def _column(values: np.ndarray) -> pa.FixedSizeListArray:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values[0].size)


class StoredTeachers:
    """Teachers that answer from teacher logits, by the slots that the augmentation gave its
    images. They have no `networks`.

    On a GPU the teacher logits lie there if they take no more than a quarter of what is free; else
    batch by batch goes there.
    """

    networks = ()

    def __init__(self, teacher_logits: TeacherLogits, device: torch.device) -> None:
        size = sum(part.nbytes for part in teacher_logits.logits)
        size += sum(tail.classes.nbytes + tail.rest.nbytes for tail in teacher_logits.tails)
        kept = device if device.type != "cuda" or fits(size, device) else torch.device("cpu")
        self._device = device
        self._rows = [as_tensor(part).flatten(0, 1).to(kept) for part in teacher_logits.logits]
        self._tails = [tail.flatten().to(kept) for tail in teacher_logits.tails]

    def __call__(self, part: Part) -> Tensor:
        """Raw logits, float32 (N, B, K). Raises `ValueError` for images that the augmentation did
        not make, which have no slot.
        """
        if part.slots is None:
            raise ValueError(
                "stored teachers can only answer for images as their augmentation made them"
            )
        rows = self._rows[part.number]
        slots = to_device(part.slots, rows.device)
        answers = to_device(rows.index_select(0, slots), self._device).float()
        if self._tails:
            answers = with_even_tail(answers, self._tails[part.number].at(slots).sent(self._device))
        return answers.transpose(0, 1).contiguous()


class ShardedTeachers:
    """Teachers that answer from the shards of a version."""

    networks = ()

    def __init__(self, shards: Sequence[TeacherLogits], device: torch.device) -> None:
        # All shards but the last have as many images
        self._images = len(shards[0].logits[0])
        self._copies = [part.shape[1] for part in shards[0].logits]
        self._shards = [StoredTeachers(shard, device) for shard in shards]

    def __call__(self, part: Part) -> Tensor:
        """As `StoredTeachers`."""
        if len(self._shards) == 1 or part.slots is None:
            return self._shards[0](part)
        size = self._images * self._copies[part.number]
        of_shard = part.slots // size
        pieces, places = [], []
        for shard in of_shard.unique().tolist():
            inside = (of_shard == shard).nonzero()[:, 0]
            within = part.slots.index_select(0, inside) - shard * size
            pieces.append(self._shards[shard](replace(part, slots=within)))
            places.append(inside)
        order = to_device(torch.cat(places).argsort(), pieces[0].device)
        return torch.cat(pieces, dim=1).index_select(1, order)
