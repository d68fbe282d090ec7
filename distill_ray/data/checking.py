"""A look at every image of a data set: what is there, what is broken, and what is there twice."""

from __future__ import annotations

import itertools
import logging
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distill_ray.data.decoding import (
    UnreadableImageError,
    decoder,
    opened_image,
    orientation,
    upright_size,
)
from distill_ray.data.duplicates import (
    SMALLEST,
    are_alike,
    content_digest,
    fingerprint,
    near_pairs,
    thumbnail,
)
from distill_ray.data.source import EncodedBatch, Generated, Part, Source, SplitName
from distill_ray.errors import RequestError

logger = logging.getLogger(__name__)

ROWS = 128
"""Where a row cannot be read, so many from there on are asked for one by one."""

EXAMPLES = 5
"""So many cases of each kind are named."""

MOST_UNREADABLE = 200
"""Rows that cannot be read after which the rest of a split is not looked at."""

MOST_VERIFIED = 2000
"""Pairs of similar images that are compared in full."""

PATIENCE_S = 10.0
"""Seconds between two lines about how far the look has got."""


@dataclass
class SplitLook:
    """What was seen of a split. Arrays have an item for each sound image, in order."""

    part: Part
    split: SplitName
    """The split of the source whose rows these are, from `first` on."""
    first: int
    rows: int
    """Announced rows, broken ones among them."""
    numbers: array[int] = field(default_factory=lambda: array("q"))
    labels: array[int] = field(default_factory=lambda: array("q"))
    widths: array[int] = field(default_factory=lambda: array("i"))
    heights: array[int] = field(default_factory=lambda: array("i"))
    contents: array[int] = field(default_factory=lambda: array("Q"))
    fingerprints: array[int] = field(default_factory=lambda: array("Q"))
    modes: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    turned: int = 0
    broken: int = 0
    broken_examples: list[str] = field(default_factory=list)
    unread: int = 0
    """Rows that were not looked at, after too many that could not be read."""

    def sizes(self) -> dict[str, Any]:
        """Smallest, median and largest width and height, and how many different sizes there are."""
        if not self.widths:
            return {}
        widths, heights = np.array(self.widths), np.array(self.heights)
        order = np.argsort(widths.astype(np.int64) * heights, kind="stable")
        places = {"smallest": order[0], "median": order[len(order) // 2], "largest": order[-1]}
        sizes: dict[str, Any] = {
            name: [int(widths[place]), int(heights[place])] for name, place in places.items()
        }
        return sizes | {"different": len(np.unique(widths.astype(np.int64) << 32 | heights))}

    def class_counts(self, num_classes: int) -> list[int]:
        """The sound images of each class."""
        labels = np.array(self.labels, np.int64)
        counts: list[int] = np.bincount(labels, minlength=num_classes).tolist()
        return counts


@dataclass(frozen=True)
class Copies:
    """Images that are there twice: in two splits, or in one under different classes."""

    exact: int
    near: int
    examples: tuple[tuple[str, str], ...]
    """Pairs of images."""
    verified_all: bool = True
    """Whether all candidates for near duplicates were compared."""


@dataclass(frozen=True)
class DataCheck:
    """A data set, every image of which was looked at."""

    location: str
    label: str
    class_names: tuple[str, ...]
    remarks: tuple[str, ...]
    """What was left out, as the source says it."""
    looks: dict[Part, SplitLook]
    leaks: dict[tuple[Part, Part], Copies]
    """Images of the second split that the first one has too."""
    repeated: dict[Part, int]
    """Images of each split that it has already, byte for byte."""
    conflicts: dict[Part, Copies]
    """Among these, those whose class is another one each time."""


def check_data(source: Source) -> DataCheck:
    """Decode every image of `source`, some at a time, and keep some 50 bytes of each.

    Images that are broken are counted, and the others looked at all the same.
    """
    own, train = source.validation_rows, source.rows("train")
    looks: dict[Part, SplitLook] = {
        "train": SplitLook("train", "train", 0, train - own),
        "validation": SplitLook("validation", "train", train - own, own),
        "test": SplitLook("test", "test", 0, source.rows("test")),
    }
    looks = {part: look for part, look in looks.items() if look.rows}
    with decoder() as threads:
        for look in looks.values():
            _fill(look, source, threads)
        leaks = {
            (first, second): _copies(source, looks[first], looks[second])
            for first, second in itertools.combinations(looks, 2)
        }
    repeats = {split: _repeats(source, look) for split, look in looks.items()}
    return DataCheck(
        location=source.location,
        label=source.label,
        class_names=source.class_names,
        remarks=source.remarks,
        looks=looks,
        leaks=leaks,
        repeated={split: repeated for split, (repeated, _) in repeats.items()},
        conflicts={split: conflicts for split, (_, conflicts) in repeats.items()},
    )


def _fill(look: SplitLook, source: Source, threads: ThreadPoolExecutor) -> None:
    if isinstance(source, Generated):
        return
    last_shown = time.monotonic()
    for first, batch in _readable(source, look):
        results = threads.map(_look_at, batch.encoded)
        labels = batch.labels.tolist()
        for row, (result, label) in enumerate(zip(results, labels, strict=True)):
            if isinstance(result, str) or not 0 <= label < source.num_classes:
                reason = result if isinstance(result, str) else f"{source.label} is {label}"
                _note_broken(look, f"{batch.where(row)}: {reason}")
                continue
            look.numbers.append(first + row)
            look.labels.append(label)
            look.widths.append(result.size[0])
            look.heights.append(result.size[1])
            look.contents.append(result.content)
            look.fingerprints.append(result.fingerprint)
            look.modes[result.mode] += 1
            look.formats[result.format] += 1
            look.turned += result.turned
        if time.monotonic() - last_shown > PATIENCE_S:
            last_shown = time.monotonic()
            seen_rows = first + len(labels) - look.first
            logger.info("%s: %s of %s images looked at", look.part, seen_rows, look.rows)


@dataclass(frozen=True)
class _Seen:
    """One sound image."""

    size: tuple[int, int]
    mode: str
    format: str
    turned: bool
    content: int
    fingerprint: int


def _look_at(encoded: bytes | None) -> _Seen | str:
    """What one image is, or why it cannot be used."""
    if encoded is None:
        return "there is no image in this row"
    try:
        with opened_image(encoded) as image:
            size, turned = upright_size(image), orientation(image) != 1
            mode, kind = image.mode, image.format or ""
            return _Seen(
                size, mode, kind, turned, content_digest(encoded), fingerprint(thumbnail(image))
            )
    except UnreadableImageError as error:
        return f"the image cannot be decoded ({error})"


def _readable(source: Source, look: SplitLook) -> Iterator[tuple[int, EncodedBatch]]:
    """The rows of a split that can be read, some at a time, with the number of the first; what
    cannot is noted.
    """
    first, end = look.first, look.first + look.rows
    while first < end:
        try:
            for batch in _between(source, look.split, first, end):
                yield first, batch
                first += len(batch.labels)
        except RequestError:
            if not source.reopens:
                raise
        else:
            if first < end:
                _note_broken(look, f"{source.location}: {look.part} ends with row {first}")
            return
        # One of the next rows cannot be read: each of them alone
        for row in range(first, min(first + ROWS, end)):
            try:
                for batch in source.batches(look.split, row, row + 1):
                    yield row, batch
            except RequestError as error:
                _note_broken(look, str(error))
                if look.broken >= MOST_UNREADABLE:
                    look.unread = end - row - 1
                    return
        first += ROWS


def _between(source: Source, split: SplitName, first: int, last: int) -> Iterator[EncodedBatch]:
    return source.batches(split, first, last) if source.reopens else source.batches(split)


def _note_broken(look: SplitLook, reason: str) -> None:
    look.broken += 1
    if len(look.broken_examples) < EXAMPLES:
        look.broken_examples.append(reason)


def _copies(source: Source, ours: SplitLook, theirs: SplitLook) -> Copies:
    """Images of `theirs` that `ours` has too."""
    rows = _Rows(source)
    contents = np.array(ours.contents, np.uint64)
    is_exact = np.isin(np.array(theirs.contents, np.uint64), contents)
    examples = []
    for place in np.flatnonzero(is_exact)[:EXAMPLES]:
        other = int(np.flatnonzero(contents == np.uint64(theirs.contents[place]))[0])
        examples.append((rows.name(theirs, int(place)), rows.name(ours, other)))
    smaller_side = np.minimum(theirs.widths, theirs.heights)
    others = np.flatnonzero(~is_exact & (smaller_side >= SMALLEST))
    near, verified_all = _near(rows, ours, theirs, others, examples)
    return Copies(int(is_exact.sum()), near, tuple(examples), verified_all)


def _near(
    rows: _Rows,
    ours: SplitLook,
    theirs: SplitLook,
    places: np.ndarray,
    examples: list[tuple[str, str]],
) -> tuple[int, bool]:
    """How many of `theirs` at `places` look like one of `ours`, and whether all were compared."""
    known, where_known = np.unique(np.array(ours.fingerprints, np.uint64), return_index=True)
    prints = np.array(theirs.fingerprints, np.uint64)[places]
    own, which = np.unique(prints, return_inverse=True)
    candidates: dict[int, list[int]] = {}
    for mine, other in near_pairs(own, known).tolist():
        candidates.setdefault(mine, []).append(int(where_known[other]))
    compared = near = 0
    for place, mine in zip(places.tolist(), which.tolist(), strict=True):
        for other in candidates.get(mine, ()):
            if compared >= MOST_VERIFIED:
                return near, False
            compared += 1
            if are_alike(rows.thumbnail(theirs, place), rows.thumbnail(ours, other)):
                near += 1
                if len(examples) < EXAMPLES:
                    examples.append((rows.name(theirs, place), rows.name(ours, other)))
                break
    return near, True


def _repeats(source: Source, look: SplitLook) -> tuple[int, Copies]:
    """How many images a split has already, and those among them whose class is another one."""
    contents = np.array(look.contents, np.uint64)
    labels = np.array(look.labels, np.int64)
    _, first, which = np.unique(contents, return_index=True, return_inverse=True)
    repeated = len(contents) - len(first)
    differ = np.flatnonzero(labels != labels[first][which]) if repeated else ()
    rows = _Rows(source)
    examples = [
        (rows.name(look, int(place)), rows.name(look, int(first[which[place]])))
        for place in differ[:EXAMPLES]
    ]
    return repeated, Copies(len(differ), 0, tuple(examples))


class _Rows:
    """Single rows of a data set, read again."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._whole: dict[SplitName, Sequence[EncodedBatch]] = {}

    def name(self, look: SplitLook, place: int) -> str:
        batch, row = self._row(look, place)
        return batch.where(row)

    def thumbnail(self, look: SplitLook, place: int) -> np.ndarray:
        """The thumbnail of a sound image."""
        batch, row = self._row(look, place)
        with opened_image(batch.encoded[row] or b"") as image:
            return thumbnail(image)

    def _row(self, look: SplitLook, place: int) -> tuple[EncodedBatch, int]:
        number, split = look.numbers[place], look.split
        if self._source.reopens:
            return next(iter(self._source.batches(split, number, number + 1))), 0
        if split not in self._whole:
            self._whole[split] = list(self._source.batches(split))
        for batch in self._whole[split]:
            if number < len(batch.labels):
                return batch, number
            number -= len(batch.labels)
        raise RequestError(f"{self._source.location}: {split} has changed while it was looked at")
