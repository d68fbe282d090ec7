"""Networks of the user's own, from a Python file that the command line names by `--extension`.

A study file cannot name such a file: it stays data, which may be read, checked and shown wherever
it comes from. Every function or class of `nets.py` that returns a `torch.nn.Module` is the model
`nets/NAME`; recipes hold it as `nets/NAME@DIGEST`, so that a job is another one when the file
changes. The text of the file goes to workers with their tasks.
"""

from __future__ import annotations

import hashlib
import re
import socket
import sys
import types
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_ray.errors import RequestError, first_line
from distill_ray.models.family import FAMILIES, ModelFamily

MAX_BYTES = 1_000_000
"""A larger file is not one that somebody wrote. It travels with every task."""

PINNED = re.compile(r"(\w+)/(\w+)@([0-9a-f]{16})")
"""A model of such a file, as recipes name it."""


@dataclass(frozen=True)
class ModuleFile:
    """A Python file with networks: its name without `.py`, and its text."""

    name: str
    text: str

    @property
    def digest(self) -> str:
        """The first digits of the SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


_loaded: dict[str, tuple[ModuleFile, types.ModuleType]] = {}
"""What this process has run, by digest; of two files with one name the later one is meant."""


def read_module_file(path: str) -> ModuleFile:
    """The file at `path`. Raises `RequestError` when it cannot be a Python module."""
    file = Path(path).expanduser()
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise RequestError(f"--extension {path}: name a Python file, such as nets.py")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise RequestError(f"--extension {path}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise RequestError(f"--extension {path}: larger than 1 MB; name the file of the networks")
    try:
        return ModuleFile(file.stem, content.decode())
    except UnicodeDecodeError:
        raise RequestError(f"--extension {path}: not UTF-8 text") from None


def load_module_files(files: Iterable[ModuleFile]) -> None:
    """Run the files in this process, each once, and make their networks known.

    Raises `RequestError` with the place when one cannot be run here.
    """
    for file in files:
        if file.digest not in _loaded:
            _loaded[file.digest] = file, _run(file)
            FAMILIES.register(f"{file.name}@{file.digest}")(_family(file))
        else:
            _loaded[file.digest] = _loaded.pop(file.digest)  # the latest of its name


def loaded_module_files() -> tuple[ModuleFile, ...]:
    """The files that this process has run."""
    return tuple(file for file, _ in _loaded.values())


def module_file_of(model: str) -> ModuleFile | None:
    """The file that has the network called `model`, if it is one of this process's files."""
    pinned = PINNED.fullmatch(model)
    file, _ = _loaded.get(pinned[3] if pinned else "", (None, None))
    return file


def pinned_model(name: str) -> str:
    """`name` as a recipe holds it: with the digest of the file where it is one of a file.

    Raises `ValueError` for a network of a file that is not there, or not that one.
    """
    stem, slash, factory = name.partition("/")
    if not slash:
        return name
    factory, _, digest = factory.partition("@")
    files = [file for file in loaded_module_files() if file.name == stem]
    if digest and digest not in [file.digest for file in files]:
        raise ValueError(
            f"model {name!r} is of a file {stem}.py with the digest {digest}; "
            f"name it: --extension {stem}.py"
        )
    if not files:
        return name
    return f"{stem}/{factory}@{digest or files[-1].digest}"


def factory_of(digest: str, factory: str) -> Any:
    """What makes the network called `factory` in the file with that digest."""
    _, module = _loaded[digest]
    return getattr(module, factory)


def _run(file: ModuleFile) -> types.ModuleType:
    file_name = f"{file.name}.py"
    module = types.ModuleType(f"{file.name}_{file.digest}")
    module.__file__ = file_name
    sys.modules[module.__name__] = module  # where dataclasses and the like look themselves up
    try:
        exec(compile(file.text, file_name, "exec"), module.__dict__)
    except Exception as error:  # whatever the file does
        del sys.modules[module.__name__]
        raise RequestError(
            f"extension {file_name}{_line(error, file_name)}: cannot be loaded on "
            f"{socket.gethostname()}: {type(error).__name__}: {first_line(error)}{_remedy(error)}"
        ) from None
    return module


def _line(error: Exception, file_name: str) -> str:
    """`:12` for the line of the file where the error arose."""
    lines = [error.lineno] if isinstance(error, SyntaxError) else []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file_name:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f":{lines[-1]}" if lines else ""


def _remedy(error: Exception) -> str:
    if not isinstance(error, ImportError):
        return ""
    return "; a file travels alone: install what it imports on every machine, or put it inside"


def _family(file: ModuleFile) -> ModelFamily:
    module = _loaded[file.digest][1]
    names = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]

    def arguments(factory: str) -> dict[str, Any]:
        if factory not in names:
            raise ValueError(f"{file.name}.py makes no {factory!r} (it has: {', '.join(names)})")
        return {"digest": file.digest, "factory": factory}

    return ModelFamily(
        pattern=f"{file.name}/name",
        expression=rf"{file.name}/(\w+)@{file.digest}",
        examples=tuple(f"{file.name}/{name}@{file.digest}" for name in names),
        builder="distill_ray.models.own_architecture:own_architecture",
        arguments=arguments,
        help=f"What {file.name}.py defines.",
    )
