"""The files of trained weights that a study names: found, and pinned by their content.

A recipe names its weights `NAME@DIGEST`, with the first digits of the SHA-256 of the file, so that
a job is another one when the file changes, and the same wherever the file lies.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path as FilePath

from distill_ray.errors import RequestError
from distill_ray.job import Recipe
from distill_ray.study.problems import Path, Problems

PINNED = re.compile(r"[^/@]+@[0-9a-f]{16}")
"""Weights by name and content, which the store must have already."""

PRETRAINED = "pretrained"
"""The weights that the library of the network offers, which are downloaded."""


def check_weights_file(value: str, path: Path, problems: Problems) -> None:
    """Note a problem when `value` names no file that can be read."""
    if value == PRETRAINED or PINNED.fullmatch(value):
        return
    file = FilePath(value).expanduser()
    if file.is_dir():
        problems.add(path, f"found {value!r}, a folder; name the file of weights in it")
    elif not file.is_file():
        problems.add(path, f"found {value!r}, and there is no such file")


def pinned(recipe: Recipe, files: dict[str, str]) -> Recipe:
    """`recipe` with its weights named by content; `files` gets the path that each name stands for.

    Raises `RequestError` when the file cannot be read, or pretrained weights cannot be downloaded.
    """
    if recipe.weights is None or PINNED.fullmatch(recipe.weights):
        return recipe
    file, title = FilePath(recipe.weights).expanduser(), ""
    if recipe.weights == PRETRAINED:
        from distill_ray.models.pretrained import pretrained_file

        file = pretrained_file(recipe.model)
        title = f"{recipe.model.rpartition('/')[2]}{file.suffix}"
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise RequestError(f"weights {recipe.weights}: {error.strerror}") from None
    name = f"{(title or file.name).replace('@', '-')}@{digest[:16]}"
    files[name] = str(file.absolute())
    return replace(recipe, weights=name)
