"""Teacher logits: the logits of every teacher for every image of one epoch, computed once and read
by every student.

An augmentation is a pure function of (seed, epoch, position), so all students with the same
augmentation and seed see the same images, and one file can hold the raw logits of all teachers for
all images of an epoch. Temperature, weights and the rule that combines the teachers are applied to
them later and stay searchable.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from distill_ray.augmentation.augmentation import Augmentation, Part
from distill_ray.augmentation.epoch import epoch_batches
from distill_ray.device import as_tensor, to_device
from distill_ray.job import Data, Job, canonical_json
from distill_ray.training.dataset import Dataset
from distill_ray.training.on_device import fits, on_device
from distill_ray.training.teachers import LiveTeachers
from distill_ray.training.top_k import Tail, top_k, total_variation, with_even_tail

SCHEMA_VERSION = 1
"""Part of the identity of teacher logits. Raise it when a change of code changes what the same key
stands for.
"""

ERROR_BOUND = 2.0**-6
"""The largest rounding error of a logit in half precision, met up to a magnitude of 64; beyond
that, float32 is kept.
"""

TAIL_BOUND = 2.0**-6
"""The largest change of predictions by an even tail: total variation at temperature 1, averaged
over images and teachers.

Beyond it all classes are kept.
"""

BATCH = 128
"""Images at a time, where the augmentation does not depend on it; fixed, so that teacher logits do
not depend on who computes them.
"""


@dataclass(frozen=True, kw_only=True)
class TeacherLogitsKey:
    """Everything that decides the teacher logits of all epochs of a run. `batch_size` is None where
    the augmentation does not depend on it.

    `precision` is that of the teachers' forward passes, `exact` says that logits are always stored
    in float32, and `top_k` how many of the largest logits are stored per prediction, all if None.
    Whether a last, smaller batch is dropped does not matter, since its images are included.
    """

    teachers: tuple[str, ...]
    data: Data
    augmentation: Augmentation
    seed: int
    batch_size: int | None
    precision: str
    exact: bool = False
    top_k: int | None = None

    @classmethod
    def of(
        cls, job: Job, precision: str, exact: bool = False, top_k: int | None = None
    ) -> TeacherLogitsKey:
        """The key of the teacher logits that `job` needs."""
        augmentation = job.recipe.augmentation
        return cls(
            teachers=job.teachers,
            data=job.data,
            augmentation=augmentation,
            seed=job.seed,
            batch_size=job.recipe.batch_size if augmentation.by_batch else None,
            precision=precision,
            exact=exact,
            top_k=top_k,
        )

    def identity(self, epoch: int) -> str:
        """The key and the epoch as canonical JSON; it is written into the file and compared when
        that is read.
        """
        return canonical_json(self._values() | {"epoch": epoch})

    @property
    def id(self) -> str:
        """Twenty hexadecimal digits that stand for the key."""
        return hashlib.sha256(canonical_json(self._values()).encode()).hexdigest()[:20]

    def _values(self) -> dict[str, Any]:
        largest = {} if self.top_k is None else {"top_k": self.top_k}
        return largest | {
            "schema": SCHEMA_VERSION,
            "teachers": list(self.teachers),
            "data": self.data.identity,
            "augmentation": self.augmentation.to_dict(),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "precision": self.precision,
            "exact": self.exact,
        }


@dataclass(frozen=True, eq=False)
class TeacherLogits:
    """Raw logits for one epoch: for each part of the augmentation an array (positions, versions, N,
    K) of float16 or float32.

    `error` is the largest difference between a stored logit and the teacher's. Where only the
    largest logits of each prediction are kept, there are fewer than K, and `tails` has the rest for
    each part; it is empty otherwise.
    """

    logits: tuple[np.ndarray, ...]
    error: float
    tails: tuple[Tail, ...] = ()

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
    epoch: int,
    teachers: LiveTeachers,
    dataset: Dataset,
    device: torch.device,
) -> TeacherLogits:
    """Run the teachers on every image of `epoch` as the augmentation presents it.

    Logits become float16, except in parts where that would change one by more than `ERROR_BOUND`,
    or if the key asks for float32. If it asks for the largest only and spreading the others evenly
    would change predictions by more than `TAIL_BOUND`, all are kept. Raises `ValueError` for an
    augmentation whose images cannot be told apart by position.
    """
    batches = epoch_batches(
        key.augmentation,
        *on_device(dataset, device),
        rows=dataset.train,
        mean=dataset.mean,
        seed=key.seed,
        epoch=epoch,
        batch_size=key.batch_size or min(BATCH, len(dataset.train)),
        device=device,
    )
    pieces: dict[int, list[np.ndarray]] = {}
    tails: dict[int, list[Tail]] = {}
    error, moved, answered = 0.0, 0.0, 0
    for batch in batches:
        for part in batch.parts:
            if part.slots is None:
                raise ValueError(
                    f"augmentation {key.augmentation.name!r} does not show every image "
                    "equally often, so nothing can be stored"
                )
            answers = teachers(part)
            versions = len(part.images) // len(batch.positions)
            rows = answers.unflatten(1, (versions, -1)).permute(2, 1, 0, 3).contiguous().cpu()
            if key.top_k is not None and key.top_k < rows.shape[-1]:
                largest, tail = top_k(rows, key.top_k)
                moved += float(total_variation(rows, with_even_tail(largest, tail)).sum())
                answered += rows.shape[:-1].numel()
                if not moved <= TAIL_BOUND * answered:
                    return compute_teacher_logits(
                        replace(key, top_k=None), epoch, teachers, dataset, device
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
    )


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
            found: np.ndarray = (
                batch.column(name).flatten().to_numpy().reshape(batch.num_rows, *shape)
            )
            return found

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
        return TeacherLogits(parts, float(metadata["error"]), tails)
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
