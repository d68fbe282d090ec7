"""The node-local cache: decoded images and digests, shared by every process of a user on one
machine.

Nothing in it is precious; deleting it costs only the time to decode again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from distill_ray.errors import RequestError, RunError

VARIABLE = "DISTILL_RAY_CACHE"

T = TypeVar("T")


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The cache folder: `cache_dir`, else the environment variable DISTILL_RAY_CACHE, else a
    per-user temporary folder.

    Raises:
        RequestError: it cannot be made or written, or a temporary folder of that name belongs to
        somebody else.
    """
    chosen = cache_dir or os.environ.get(VARIABLE)
    root = (
        Path(chosen).expanduser().absolute()
        if chosen
        else Path(tempfile.gettempdir(), f"distill_ray-{_user()}")
    )
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        owned = bool(chosen) or not hasattr(os, "getuid") or root.stat().st_uid == os.getuid()
        usable = os.access(root, os.R_OK | os.W_OK | os.X_OK)
    except OSError as error:
        raise RequestError(
            f"cache folder {root} cannot be made ({error.strerror}); set {VARIABLE} to one that can"
        ) from error
    if not (owned and usable):
        raise RequestError(
            f"cache folder {root} is not yours to write; set {VARIABLE} to a folder that is"
        )
    return root


def remembered_digest(facts: str, compute: Callable[[], str]) -> str:
    """The digest of data described by `facts` (such as paths, sizes and times), computed when they
    are new or have changed.

    Processes that ask at the same time wait for the one that computes. A cache that cannot be used
    costs only the time to compute.
    """
    key = hashlib.sha256(facts.encode(errors="surrogateescape")).hexdigest()[:32]
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError, RequestError, NotImplementedError):
            path = cache_root() / "digests" / key
            if known := _digest_in(path):
                return known
            path.parent.mkdir(exist_ok=True)
            held.enter_context(FileLock(path.with_suffix(".lock")))
            if known := _digest_in(path):
                return known
        digest = compute()
        with contextlib.suppress(OSError, RequestError):
            partial = cache_root() / "digests" / f"{key}.{os.getpid()}"
            partial.write_text(digest, "ascii")
            partial.replace(partial.with_name(key))
    return digest


def _digest_in(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        known = path.read_text("ascii", errors="replace")
        return known if len(known) == 32 else ""
    return ""


def made_once(folder: Path, read: Callable[[], T | None], make: Callable[[], None]) -> T:
    """What `read` finds in a folder of the cache; where that is None, after `make` has made it.

    Processes that ask at the same time wait for the one that makes it.

    Raises:
        RequestError: the folder cannot be written, or does not keep what is written to it.
        RunError: the disk is full.
    """
    content = read()
    if content is None:
        with writing(folder.parent, f"set {VARIABLE} to a folder on another disk"):
            folder.parent.mkdir(exist_ok=True)
            with FileLock(folder.with_suffix(".lock")):
                content = read()
                if content is None:
                    for left_over in folder.parent.glob(f"{folder.name}.partial-*"):
                        shutil.rmtree(left_over)
                    make()
                    content = read()
    if content is None:
        raise RequestError(
            f"cache folder {folder.parent.parent} does not keep what is written to it; set "
            f"{VARIABLE} to one that does"
        )
    return content


def facts(folder: Path, names: Iterable[str]) -> str:
    """Changes whenever one of these files of `folder` does."""
    files = [(folder / name).stat() for name in names]
    return repr(
        [
            str(folder),
            *((file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns) for file in files),
        ]
    )


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, which becomes `folder` when the block ends well and disappears
    when it does not.
    """
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}-{os.urandom(4).hex()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in partial.iterdir():
            _flush_to_disk(path)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def writing(folder: Path, advice: str) -> Iterator[None]:
    """Turns errors of writing to `folder` into one line for the user, ending in `advice`.

    Raises:
        RunError: the disk is full.
        RequestError: the folder cannot be written at all.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RunError(f"no space left to write {folder}; free some, or {advice}") from error
        raise RequestError(
            f"{folder} cannot be written ({error.strerror or error}); {advice}"
        ) from error


def _flush_to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
