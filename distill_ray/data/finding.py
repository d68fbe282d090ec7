"""How a study file's `data.source` is resolved to a data set."""

from __future__ import annotations

from pathlib import Path

from distill_ray.data.source import SOURCES, SPLIT_NAMES, Source
from distill_ray.errors import RequestError
from distill_ray.registry import unknown_name


def open_source(name_or_path: str, *, label: str | None = None) -> Source:
    """Find a data set: a name such as `digits` or `toy-spiral`, a folder, or a pyarrow file system
    URI such as `s3://bucket/folder`.

    A folder holds either Parquet in the Hugging Face layout (`train-00000-of-00002.parquet`,
    `test-...`, or `train/0000.parquet`) or an image tree (`train/<class>/*.png`,
    `test/<class>/...`). Where there is no test split, the one called `validation`, `valid` or `val`
    is taken for it. `label` picks the label column; see `choose_label`. Only names, schemas and row
    counts are read; the digest is computed when it is first asked for.

    Raises:
        RequestError: nothing is there, it cannot be read, or it has no such label column.
    """
    import distill_ray.data.digits
    import distill_ray.data.toy  # noqa: F401  (they register their names)

    if name_or_path in SOURCES:
        return SOURCES[name_or_path](label)
    from distill_ray.data.files import Folder
    from distill_ray.data.image_folder import ImageTree
    from distill_ray.data.parquet import ParquetSource, holds_parquet

    folder = Folder.find(name_or_path)
    if folder is None and "/" in name_or_path:
        raise RequestError(
            f"data.source: there is no folder {name_or_path}; name the one that holds the data set"
        )
    if folder is None:
        raise RequestError(
            f"data.source: {unknown_name('data set', name_or_path, SOURCES)}, and no such folder "
            "exists"
        )
    if holds_parquet(folder):
        return ParquetSource(folder, label)
    names = [entry.base_name for entry in folder.entries()]
    if {name for accepted in SPLIT_NAMES.values() for name in accepted} & set(names):
        return ImageTree(folder, label)
    content = ", ".join(sorted(names)[:8]) or "nothing"
    raise RequestError(
        f"data.source: {folder.location} holds neither train-*.parquet and test-*.parquet nor the "
        f"folders train and test (found: {content}); name the folder that does"
    )


def is_elsewhere(name_or_path: str) -> bool:
    """Whether this is the address of a data set that is not on this machine: a URI, or a path that
    does not exist here.
    """
    if "/" not in name_or_path:
        return False
    try:
        return not Path(name_or_path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False
