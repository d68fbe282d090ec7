"""Files of teachers' answers, written anew with something changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distill_ray.stages.answer_files import METADATA


def rewritten(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Put the changed table in the place of the file's."""
    pq.write_table(change(pq.read_table(path)), path)


def described(name: str, value: Any) -> Callable[[pa.Table], pa.Table]:
    """Another value in the description."""

    def change(table: pa.Table) -> pa.Table:
        metadata = json.loads(table.schema.metadata[METADATA]) | {name: value}
        return table.replace_schema_metadata({METADATA: json.dumps(metadata)})

    return change


def another_row(table: pa.Table) -> pa.Table:
    """A row that no split has."""
    rows = table["row"].to_numpy().copy()
    rows[0] = 10_000
    return table.set_column(0, "row", pa.array(rows))
