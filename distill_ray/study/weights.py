"""The files of trained weights that a study names: found, and pinned by their content.

A recipe names its weights `NAME@DIGEST`, with the first digits of the SHA-256 of the file, so that
a job is another one when the file changes, and the same wherever the file lies. Teachers that are
known by their answers alone are named so too, by what they answer for the validation split: which
versions of the training images they have answered for besides is no part of who they are. With
them the name counts too, as the content of that file is not all that they have answered.
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

ANSWERED = "validation.parquet"
"""The file in a folder of answers that says whose they are: those for the validation split."""


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
    Answers in place of weights are a folder, named by the content of one of its files.

    Raises `RequestError` when the file cannot be read, or pretrained weights cannot be downloaded.
    """
    if recipe.weights is None or PINNED.fullmatch(recipe.weights):
        return recipe
    named, title = FilePath(recipe.weights).expanduser(), ""
    file = named / ANSWERED if recipe.answers_alone else named
    if recipe.weights == PRETRAINED:
        from distill_ray.models.pretrained import pretrained_file

        named = file = pretrained_file(recipe.model)
        title = f"{recipe.model.rpartition('/')[2]}{file.suffix}"
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise RequestError(f"weights {recipe.weights}: {error.strerror}") from None
    name = f"{(title or named.absolute().name).replace('@', '-')}@{digest[:16]}"
    files[name] = str(named.absolute())
    return replace(recipe, weights=name)
