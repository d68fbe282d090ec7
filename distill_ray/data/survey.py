"""A cheap look at a data set: what `validate` says of it, and what it refuses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from distill_ray.data.decoding import (
    UnreadableImageError,
    is_grey,
    opened_image,
    orientation,
    upright_size,
)
from distill_ray.data.source import EncodedBatch, Generated, Source, SplitName
from distill_ray.errors import RequestError

PLACES, ROWS = 8, 8
"""Images that are opened: so many rows at so many places of the training split."""


def survey(
    source: Source,
    size: int | None,
    resize: int | None = None,
    counts: Mapping[str, int] | None = None,
    crops_whole: Mapping[str, bool] | None = None,
) -> list[str]:
    """Sentences about the images of `source`, of which a few are opened and none decoded.

    Args:
        source: the data set.
        size: the side of the squares that are made of images.
        resize: their side before networks see their middle.
        counts: how many images a study has for what; by default, how many there are.
        crops_whole: whether augmentations of a study, by name, crop from whole images.

    Raises:
        RequestError: an image that was opened cannot be used, or they differ in size and `size` is
            None.
    """
    if counts is None:
        own = source.validation_rows
        train, test = source.rows("train") - own, source.rows("test")
        counts = {"training": train, "validation": own, "test": test}
    numbers = [f"{count:,} {use}" for use, count in counts.items() if count]
    classes = f" of {source.num_classes} classes" if source.class_names else ""
    kind = "inputs" if isinstance(source, Generated) else "images"
    listed = " and ".join(filter(None, [", ".join(numbers[:-1]), *numbers[-1:]]))
    sentences = [f"{listed} {kind}{classes}", *source.remarks]
    if isinstance(source, Generated):
        return sentences
    opened = turned = grey = 0
    sizes: dict[tuple[int, int], str] = {}
    for batch in _sample(source, "train"):
        for row, encoded in enumerate(batch.encoded):
            try:
                if encoded is None:
                    raise UnreadableImageError("there is none in this row")
                with opened_image(encoded) as image:
                    sizes.setdefault(upright_size(image), batch.where(row))
                    turned += orientation(image) != 1
                    grey += is_grey(image)
            except UnreadableImageError as error:
                raise RequestError(
                    f"{batch.where(row)}: the image cannot be decoded ({error}); replace it, or "
                    "download the data set again"
                ) from None
            opened += 1
    if len(sizes) > 1 and size is None:
        (first, example), (second, other), *_ = sizes.items()
        raise RequestError(
            f"data.size: images differ in size ({example} is {first[0]}x{first[1]}, {other} is "
            f"{second[0]}x{second[1]}); set it to the side of the squares to make of them"
        )
    if sizes:
        smallest, largest = min(sizes, key=_area), max(sizes, key=_area)
        to = "" if smallest == largest else f" to {largest[0]}x{largest[1]}"
        kept = resize or size
        made = "" if size is None else f", resized and cropped to {kept}x{kept}"
        if resize is not None:
            made += f", of which networks see {size}x{size}"
        colours = {0: "in colour", opened: "grey"}.get(grey, "grey and in colour")
        sentences.append(
            f"{smallest[0]}x{smallest[1]}{to} pixels, {colours}{made} ({opened} images opened)"
        )
        whole = [name for name, crops in (crops_whole or {}).items() if crops]
        if whole and size is not None and any(width != height for width, height in sizes):
            others = [name for name, crops in (crops_whole or {}).items() if not crops]
            rest = f"; {' and '.join(others)} from these squares" if others else ""
            sentences.append(
                f"training crops of {' and '.join(whole)} come from whole images, also from what "
                f"the squares leave out{rest}"
            )
    if turned:
        sentences.append(
            f"{turned} of {opened} images opened are turned upright, as their EXIF orientation says"
        )
    return sentences


def sampled_sizes(source: Source) -> list[tuple[int, int]]:
    """Width and height, once upright, of some images from all over the training split."""
    sizes = []
    for batch in _sample(source, "train"):
        for encoded in batch.encoded:
            with contextlib.suppress(UnreadableImageError), opened_image(encoded or b"") as image:
                sizes.append(upright_size(image))
    return sizes


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _sample(source: Source, split: SplitName) -> Iterator[EncodedBatch]:
    """Some rows from all over a split; from its beginning where rows cannot be asked for."""
    rows = source.rows(split)
    if source.reopens and rows > PLACES * ROWS:
        for place in range(PLACES):
            first = (rows - ROWS) * place // (PLACES - 1)
            yield from source.batches(split, first, first + ROWS)
        return
    for batch in source.batches(split):
        end = PLACES * ROWS
        yield EncodedBatch(batch.encoded[:end], batch.labels[:end], batch.where)
        return
