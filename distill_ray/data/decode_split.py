"""A whole split decoded into two files of the node's cache, by processes that each take a run of
its rows: pixels and labels, or what lies outside the squares.

Neither the encoded nor the decoded split is ever in memory: a process reads some rows, decodes them
and writes them to their place in the file, so that what it needs does not depend on how many there
are. Small splits are decoded where they are asked for.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from distill_ray.data.decoding import (
    ColourFoundError,
    Shape,
    cores,
    decode,
    decode_strips,
    decoder,
)
from distill_ray.data.finding import open_source
from distill_ray.data.source import EncodedBatch, Source, SplitName
from distill_ray.data.statistics import PixelSums
from distill_ray.errors import DistillRayError, Failure, RequestError, RunError

IMAGES, LABELS = "images.npy", "labels.npy"
STRIPS, MARGINS = "strips", "margins.npy"

ROWS_PER_PROCESS = 4096
"""Fewer rows are decoded sooner than another process has started."""

PROCESS_BYTES = 250e6
"""What a decoding process takes where encoded images are of the size of ImageNet's, with a margin:
measured are 173 MB.
"""

CHUNK = 1 << 22


@dataclass(frozen=True)
class DecodeTask:
    """The rows from `first` to before `last` of a split of `rows`, to be decoded into the files in
    `folder`: the images, or their strips.
    """

    location: str
    label: str
    cuts_test: bool
    split: SplitName
    rows: int
    first: int
    last: int
    shape: Shape
    folder: str
    strips: bool = False


@dataclass(frozen=True)
class DecodedRows:
    """What a task has written: a checksum for each file, and over its pixels their number, sums and
    sums of squares.
    """

    first: int
    last: int
    images: int
    labels: int
    sums: tuple[int, list[int], list[int]]


@dataclass(frozen=True)
class DecodedStrips:
    """What a task has written of strips: a checksum for each file, and where its strips are."""

    first: int
    last: int
    strips: int
    margins: int
    begin: int
    bytes: int


def decode_split(
    source: Source, split: SplitName, shape: Shape, folder: Path, memory: float
) -> list[DecodedRows]:
    """Write `images.npy` (N, H, W, C) uint8 and `labels.npy` (N,) int64 into `folder`; returns what
    the processes did, in order.

    As many processes decode as there are cores, if `memory` bytes are enough for all of them.

    Raises:
        RequestError: a row is not usable; the message names it.
        ColourFoundError: an image has colour, and `shape` has one channel.
        RunError: a process was killed.
        OSError: the files cannot be written.
    """
    rows = source.rows(split)
    _lay_out(folder / IMAGES, "|u1", (rows, shape.height, shape.width, shape.channels))
    _lay_out(folder / LABELS, "<i8", (rows,))
    tasks = _tasks(source, split, shape, folder, memory)
    return [DecodedRows(**part) for part in _done(tasks, source)]


def decode_strips_of_split(
    source: Source, split: SplitName, shape: Shape, folder: Path, memory: float
) -> list[DecodedStrips]:
    """Write `strips` and `margins.npy` (N,) int64 into `folder`: what lies outside the squares of
    that shape, see `distill_ray.data.decoding.strips_of`. Returns and raises as `decode_split`.

    Each process writes the strips of its rows one after the other, beginning where those of all
    rows before would end if they had their greatest length. What is left in between is a hole,
    which takes no space on the disk.
    """
    _lay_out(folder / MARGINS, "<i8", (source.rows(split),))
    (folder / STRIPS).touch()
    tasks = [replace(task, strips=True) for task in _tasks(source, split, shape, folder, memory)]
    return [DecodedStrips(**part) for part in _done(tasks, source)]


def _tasks(
    source: Source, split: SplitName, shape: Shape, folder: Path, memory: float
) -> list[DecodeTask]:
    """One for each process, or one for this process where `source` cannot be opened in others or
    has few rows.
    """
    rows = source.rows(split)
    processes = (
        min(cores(), rows // ROWS_PER_PROCESS, max(1, int(memory / PROCESS_BYTES)))
        if source.reopens
        else 0
    )
    bounds = [rows * number // max(1, processes) for number in range(max(1, processes) + 1)]
    return [
        DecodeTask(
            source.location,
            source.label,
            source.cuts_test,
            split,
            rows,
            first,
            last,
            shape,
            str(folder),
        )
        for first, last in itertools.pairwise(bounds)
    ]


def _done(tasks: list[DecodeTask], source: Source) -> list[dict[str, Any]]:
    """What came of the tasks, in order."""
    if source.reopens and tasks[0].rows >= ROWS_PER_PROCESS:
        return sorted(_in_processes(tasks), key=lambda part: part["first"])
    with decoder() as threads:
        return [_do(task, source, threads) for task in tasks]


def is_undamaged(folder: Path, parts: Iterable[DecodedRows], row_bytes: int) -> bool:
    """Whether the files in `folder` hold what was written when they were decoded. Reads them piece
    by piece.
    """
    with (folder / IMAGES).open("rb") as images, (folder / LABELS).open("rb") as labels:
        _skip_header(images)
        _skip_header(labels)
        return all(
            _crc(images, (part.last - part.first) * row_bytes) == part.images
            and _crc(labels, (part.last - part.first) * 8) == part.labels
            for part in parts
        )


def are_undamaged(folder: Path, parts: Iterable[DecodedStrips]) -> bool:
    """As `is_undamaged`, for strips and margins."""
    with (folder / STRIPS).open("rb") as strips, (folder / MARGINS).open("rb") as margins:
        _skip_header(margins)
        for part in parts:
            strips.seek(part.begin)
            if _crc(strips, part.bytes) != part.strips:
                return False
            if _crc(margins, (part.last - part.first) * 8) != part.margins:
                return False
    return True


def _do(task: DecodeTask, source: Source, threads: ThreadPoolExecutor) -> dict[str, Any]:
    decode_task = _decode_strips if task.strips else _decode
    return asdict(decode_task(task, source, threads))


def _decode(task: DecodeTask, source: Source, threads: ThreadPoolExecutor) -> DecodedRows:
    shape = task.shape
    sums = PixelSums(shape.channels)
    images_crc, labels_crc = 0, 0
    with (
        Path(task.folder, IMAGES).open("rb+") as images,
        Path(task.folder, LABELS).open("rb+") as labels,
    ):
        images.seek(_skip_header(images) + task.first * shape.height * shape.width * shape.channels)
        labels.seek(_skip_header(labels) + task.first * 8)
        for batch in _batches(task, source):
            batch.check_labels(task.label, source.num_classes)
            pixels, classes = decode(batch, shape, threads), batch.labels.astype("<i8")
            sums.add(pixels)
            images.write(pixels.data)
            labels.write(classes.data)
            images_crc, labels_crc = (
                zlib.crc32(pixels.data, images_crc),
                zlib.crc32(classes.data, labels_crc),
            )
    return DecodedRows(task.first, task.last, images_crc, labels_crc, sums.values())


def _decode_strips(task: DecodeTask, source: Source, threads: ThreadPoolExecutor) -> DecodedStrips:
    side, channels = task.shape.height, task.shape.channels
    begin = task.first * 2 * side * side * channels
    strips_crc, margins_crc, size = 0, 0, 0
    with (
        Path(task.folder, STRIPS).open("rb+") as strips,
        Path(task.folder, MARGINS).open("rb+") as margins,
    ):
        strips.seek(begin)
        margins.seek(_skip_header(margins) + task.first * 8)
        for batch in _batches(task, source):
            decoded = decode_strips(batch, side, channels, threads)
            for _, pixels in decoded:
                strips.write(pixels.data)
                strips_crc = zlib.crc32(pixels.data, strips_crc)
                size += pixels.size
            widths = np.array([margin for margin, _ in decoded], "<i8")
            margins.write(widths.data)
            margins_crc = zlib.crc32(widths.data, margins_crc)
    return DecodedStrips(task.first, task.last, strips_crc, margins_crc, begin, size)


def _batches(task: DecodeTask, source: Source) -> Iterator[EncodedBatch]:
    """The rows of a task. Raises `RequestError` where there are more or fewer than announced."""
    done = task.first
    last = None if task.last == task.rows else task.last
    for batch in (
        source.batches(task.split, task.first, last)
        if source.reopens
        else source.batches(task.split)
    ):
        done += len(batch.labels)
        if done <= task.last:  # others are only counted
            yield batch
    if done != task.last:
        raise RequestError(
            f"{source.location}: the {task.split} split holds {done} rows, not the {task.rows} it "
            "announces; download it again"
        )


def _in_processes(tasks: list[DecodeTask]) -> Iterator[dict[str, Any]]:
    """The parts of all tasks, as they are done. Each process ends when this one does; the first
    failure ends them all.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
    with contextlib.ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(len(tasks)))
        answers = {}
        for task in tasks:
            process = stack.enter_context(
                subprocess.Popen(
                    command,
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                )
            )
            stack.callback(process.kill)
            assert process.stdin is not None and process.stdout is not None
            # If it is gone already, its answer says so
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(asdict(task)).encode() + b"\n")
            answers[threads.submit(process.stdout.read)] = process
        for answer in as_completed(answers):
            try:
                content = json.loads(answer.result())
            except ValueError:
                status = answers[answer].wait()
                cause = ", perhaps because memory ran out" if status == -9 else ""
                raise RunError(
                    f"{tasks[0].location}: a process that decoded its images ended with status "
                    f"{status}{cause}; run the same command again"
                ) from None
            if "colour" in content:
                raise ColourFoundError(content["colour"])
            if "fault" in content:
                raise Failure(**content).error()
            yield content


def serve() -> None:
    """The main function of a decoding process: a task comes as a line on stdin, its result or error
    goes to stdout.
    """
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    task = DecodeTask(**request | {"shape": Shape(**request["shape"])})
    answer: dict[str, Any]
    try:
        source = open_source(task.location, label=task.label, cuts_test=task.cuts_test)
        with decoder(1) as thread:
            answer = _do(task, source, thread)
    except ColourFoundError as error:
        answer = {"colour": str(error)}
    except (DistillRayError, OSError) as error:
        answer = asdict(Failure.of(error))
    except Exception as error:
        reason = f"{task.location} could not be decoded: {type(error).__name__}: {error}"
        answer = asdict(Failure.of(RunError(reason)))
    sys.stdout.write(json.dumps(answer))


def _end_with_parent() -> None:
    """The parent process holds this one's stdin open as long as it lives."""
    sys.stdin.read()
    os._exit(1)


def _lay_out(path: Path, kind: str, shape: tuple[int, ...]) -> None:
    """A file for that many numbers with all its space allocated, so that a full disk is noticed
    before the work.
    """
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": kind, "fortran_order": False, "shape": shape}
        )
        end = file.tell() + int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
        file.flush()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, end)
        else:
            file.truncate(end)


def _skip_header(file: BinaryIO) -> int:
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    return file.tell()


def _crc(file: BinaryIO, count: int) -> int:
    crc = 0
    while count and (piece := file.read(min(count, CHUNK))):
        crc = zlib.crc32(piece, crc)
        count -= len(piece)
    return crc
