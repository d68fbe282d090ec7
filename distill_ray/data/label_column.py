"""Which column of a Parquet data set is learned, and what its values mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from distill_ray.data.source import USUAL_LABELS, Part, pick_label
from distill_ray.errors import RequestError

MOST_CLASSES = 0.5
"""Share of the rows that may be classes of their own, in a data set of `ENOUGH_ROWS` or more; a
column with more different values is an identifier, a file name or a text.
"""
ENOUGH_ROWS = 100


def choose_label(
    asked: str | None,
    schema: pa.Schema,
    features: Mapping[str, Any],
    *,
    image: str,
    location: str,
) -> tuple[str, tuple[str, ...]]:
    """The column to learn, and all that could be.

    Those are the columns that the Hugging Face metadata declare as ClassLabel or, if there are
    none, all of integers or text. Of several one must be called `label` or `fine_label`, or be
    asked for. Nothing is guessed: a column of another type whose name says that it holds the labels
    is not replaced by one that can be learned.

    Args:
        asked: The column of the study file, if it names one.
        schema: Columns and types.
        features: What the metadata say of the columns.
        image: The column of the images.
        location: Names the data set in messages.

    Raises:
        RequestError: there is no such column, it cannot be learned, or several could be meant.
    """
    others = [name for name in schema.names if name != image]
    usable = [name for name in others if _is_label(schema.field(name).type)]
    declared = [name for name in usable if class_label_names(features.get(name))]
    named = [name for name in USUAL_LABELS if name in others]

    def refuse(name: str) -> RequestError:
        return RequestError(
            f"data.label: column {name} of {location} holds {schema.field(name).type}, neither "
            f"integers nor text; {_choice(usable)}"
        )

    if asked in schema.names and asked not in usable:
        raise refuse(str(asked))
    if asked is not None:
        return pick_label(asked, usable, location), tuple(usable)
    candidates = declared or usable
    for name in named[:1]:
        if name not in usable:
            raise refuse(name)
        if name not in candidates:
            raise RequestError(
                f"data.label: {location} declares {', '.join(map(repr, declared))} as labels and "
                f"has a column {name} too; {_choice([*declared, name])}"
            )
    if len(candidates) == 1 and not declared and not named and len(others) > 1:
        raise RequestError(
            f"data.label: {location} has no column that is called label or declared as one; "
            f"{_choice(candidates)}"
        )
    return pick_label(None, candidates, location), tuple(candidates)


def class_label_names(feature: object) -> tuple[str, ...]:
    """The names of the classes that a Hugging Face feature declares."""
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def values_of(column: pa.Array) -> np.ndarray:
    """The labels of a column as they are in the file: int64, or text."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_integer(column.type):
        return np.asarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64)
    return np.asarray(column.cast(pa.large_string()).to_numpy(zero_copy_only=False), object)


def classes_in(
    values_of_parts: Mapping[Part, set[Any]], rows: int, column: str, location: str
) -> list[Any]:
    """The values that are classes, sorted, where no metadata name them: those of the training split
    or, without one, of the test split.

    Raises:
        RequestError: they are no labels, or another split has some that the training split lacks.
    """
    train = values_of_parts["train"]
    values = sorted(train or values_of_parts["test"])
    for part, others in values_of_parts.items():
        if train and others - train:
            raise RequestError(
                f"{location}: {part} has a {column} {min(others - train)!r} that train does not "
                "have; correct it or remove its rows"
            )
    if values and not isinstance(values[0], str) and values[0] < 0:
        raise RequestError(
            f"{location}: {column} is {values[0]} in some rows, but classes count from 0; correct "
            "it or remove these rows"
        )
    if rows >= ENOUGH_ROWS and len(values) > MOST_CLASSES * rows:
        raise RequestError(
            f"data.label: {column} of {location} has {len(values)} different values in {rows} "
            "rows, so it names no classes; name another column"
        )
    return values


def _is_label(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_label(kind.value_type)
    return bool(
        pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    )


def _choice(columns: Sequence[str]) -> str:
    if not columns:
        return "there is no other column to learn"
    return f"name the one to learn: {', '.join(map(repr, columns))}"
