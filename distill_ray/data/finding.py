"""How a study file's `data.source` is resolved to a data set."""

from __future__ import annotations

from pathlib import Path

from distill_ray.data.source import PART_NAMES, SOURCES, Source
from distill_ray.errors import RequestError
from distill_ray.registry import unknown_name


def open_source(
    name_or_path: str,
    *,
    label: str | None = None,
    cuts_test: bool = False,
    named_by: str = "data.source",
) -> Source:
    """Find a data set: a name such as `digits` or `toy-spiral`, a folder, or a pyarrow file system
    URI such as `s3://bucket/folder`.

    A folder holds Parquet in the Hugging Face layout (`train-00000-of-00002.parquet`,
    `test-...`, or `train/0000.parquet`), image files that a table lists (`train/metadata.csv`,
    `train.csv`) or an image tree (`train/<class>/*.png`, `test/<class>/...`; with the classes at
    its top, all images are training images). A validation split may be called `validation`,
    `valid`, `val` or `dev`. Only names, schemas and row counts are read; the digest is computed
    when it is first asked for.

    Args:
        name_or_path: The name, folder or URI.
        label: The label column; see `choose_label`.
        cuts_test: Whether test images are to be cut from the training split, so that no test split
            is needed. Otherwise a validation split is taken for it where there is none.
        named_by: The field or argument that names it, which messages begin with; empty where the
            caller says that.

    Raises:
        RequestError: nothing is there, it cannot be read, or it has no such label column.
    """
    import distill_ray.data.digits
    import distill_ray.data.toy  # noqa: F401  (they register their names)

    if name_or_path in SOURCES:
        return SOURCES[name_or_path](label)
    from distill_ray.data.files import Folder
    from distill_ray.data.image_folder import ENDINGS, ImageTree, holds_classes
    from distill_ray.data.listed_images import ListedImages, tables_of
    from distill_ray.data.parquet import ParquetSource, holds_parquet
    from distill_ray.data.tar_shards import TarShards, shards_of

    place = f"{named_by}: " if named_by else ""
    folder = Folder.find(name_or_path)
    if folder is None and "/" in name_or_path:
        raise RequestError(
            f"{place}there is no folder {name_or_path}; name the one that holds the data set"
        )
    if folder is None:
        raise RequestError(
            f"{place}{unknown_name('data set', name_or_path, SOURCES)}, and no such folder exists"
        )
    names = [entry.base_name for entry in folder.entries()]
    if "data" in names and holds_parquet(folder.below("data")):  # a repository of the Hub
        folder = folder.below("data")
    if holds_parquet(folder):
        return ParquetSource(folder, label, cuts_test)
    if shards_of(folder):
        return TarShards(folder, label, cuts_test)
    if tables := tables_of(folder, label):
        return ListedImages(folder, tables, label, cuts_test)
    named = {name for accepted in PART_NAMES.values() for name in accepted} & set(names)
    if named or holds_classes(folder):
        return ImageTree(folder, label, cuts_test)
    content = ", ".join(sorted(names)[:8]) or "nothing"
    if any(name.lower().endswith(ENDINGS) for name in names):
        raise RequestError(
            f"{place}{folder.location} has images without labels (found: {content}); put those of "
            "each class into a folder train/CLASS, or write a table train/metadata.csv. Images "
            "that teachers are to label belong to `data: {unlabelled: FOLDER}`, beside a source"
        )
    raise RequestError(
        f"{place}{folder.location} holds neither train-*.parquet and test-*.parquet nor the "
        f"folders train and test, nor folders of images (found: {content}); name the folder that "
        "does"
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
