"""Looking at a study writes nothing: its store may be one that can only be read."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill_ray.cli import main
from distill_ray.resolve import data_of
from distill_ray.stages.state import StudyState
from distill_ray.store import Store
from distill_ray.study import load_study

_read_only: list[str] = []
_CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if not _read_only:
        return
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
    changes = event in _CHANGES or (event == "open" and (arguments[2] or 0) & writes)
    if changes and isinstance(arguments[0], str | os.PathLike):
        path = os.fspath(arguments[0])
        if str(path).startswith(_read_only[0]):
            raise PermissionError(errno.EROFS, "read-only file system", path)


sys.addaudithook(_refuse)  # for good: a hook cannot be removed


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


@pytest.fixture
def read_only_store(finished_study: Any, tmp_path: Path) -> Iterator[Path]:
    """The finished study's store, in which every change fails as on a read-only file system."""
    store = tmp_path / "store"
    shutil.copytree(finished_study.store.uri, store)
    before = contents(store)
    _read_only.append(str(store))
    try:
        yield store
    finally:
        _read_only.clear()
    assert contents(store).keys() == before.keys()


@pytest.mark.parametrize(
    "words",
    [
        ["status", "FILE"],
        ["report", "FILE"],
        ["report", "FILE", "--json"],
        ["report", "FILE", "--set", "search.trials=9"],
        ["report", "FILE", "--set", "search.objectives={val/accuracy: max}"],
        ["logs", "FILE"],
        ["logs", "FILE", "teacher", "0"],
        ["compare", "FILE"],
        ["plan", "FILE"],
        ["plan", "FILE", "--set", "search.warm_start=[tiny]"],
        ["export", "FILE", "--out", "OUT"],
    ],
    ids=" ".join,
)
def test_looking_needs_no_writing(
    words: list[str], finished_study: Any, read_only_store: Path, tmp_path: Path
) -> None:
    places = {"FILE": str(finished_study.file), "OUT": str(tmp_path / "out")}
    command = [places.get(word, word) for word in words]
    assert main([*command, "--store", str(read_only_store)]) == 0


def test_running_is_refused_before_anything_is_done(
    finished_study: Any, read_only_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(finished_study.file), "--store", str(read_only_store)]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "report", "plan"])
def test_a_damaged_line_of_the_search_is_named(
    command: str, finished_study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished_study.store.uri, tmp_path / "store")
    journal = tmp_path / "store" / "studies" / "tiny" / "search.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[4] = b'{"op_code": "\n'
    journal.write_bytes(b"".join(lines))
    assert main([command, str(finished_study.file), "--store", str(tmp_path / "store")]) == 1
    err = capsys.readouterr().err
    assert f"{journal}, line 5: damaged" in err and "Traceback" not in err


@pytest.mark.parametrize("change", [b"cut short", None])
def test_a_damaged_record_is_left_where_it_lies(
    change: bytes | None,
    finished_study: Any,
    read_only_store: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run sets it aside and makes it anew; who looks can only say it."""
    file, study = str(finished_study.file), load_study(finished_study.file)
    _read_only.clear()
    store = Store.open(str(read_only_store), make=False)
    teacher = StudyState(study, data_of(study), store).teacher_ids[0]
    predictions = next(read_only_store.glob(f"jobs/{teacher}/**/predictions-validation.parquet"))
    content = predictions.read_bytes()
    predictions.write_bytes(change or bytes([content[0] ^ 1]) + content[1:])
    _read_only.append(str(read_only_store))
    main(["report", file, "--store", str(read_only_store)])
    err = capsys.readouterr().err
    assert "is damaged" in err and teacher in err
    assert "Traceback" not in err and "set aside" not in err
