"""Walking and removing folders of this machine without ever leaving them.

A link to a folder is never entered: what lies behind it belongs to somebody else, and two such
links can make a walk endless.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def walk(folder: str | os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
    """Everything below `folder` that is no folder, however deep, links among it. Nothing if there
    is no such folder.
    """
    pending = [os.fspath(folder)]
    while pending:
        # What others remove meanwhile is not there
        with contextlib.suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    yield entry


def remove(path: Path, root: Path) -> None:
    """Remove the file, link or folder `path`, which lies below `root`, if there is one.

    A link goes, what it leads to stays. A folder may stay if others write into it meanwhile.

    Raises:
        ValueError: a link to a folder lies between `root` and `path`, or `path` is elsewhere.
        OSError: it cannot be removed.
    """
    if ".." in path.parts or root not in path.parents:
        raise ValueError(f"{path} is not below {root}")
    for parent in path.parents:
        if parent == root:
            break
        if parent.is_symlink():
            raise ValueError(f"{parent} is a link; nothing is removed behind it")
    if path.is_symlink() or not path.is_dir():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
        return
    while path.is_dir():
        try:
            shutil.rmtree(path)
        except FileNotFoundError:  # somebody else is removing it too
            continue
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:  # somebody else is writing into it
                raise
            return
