from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_ray.data import load_images, open_source
from distill_ray.data.files import Folder
from distill_ray.data.parquet import ParquetSource
from distill_ray.errors import RequestError, RunError


def decoded(cache: Path) -> Any:
    """The folders of decoded images, complete or not."""
    return [path for path in (cache / "images").iterdir() if path.is_dir()]


def test_decoded_once(small: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_images(open_source(str(small)), "train")
    monkeypatch.setattr(ParquetSource, "batches", lambda *_: pytest.fail("decoded again"))
    second = load_images(open_source(str(small)), "train")
    assert (first.images == second.images).all()
    assert (second.mean, second.std, second.digest) == (first.mean, first.std, first.digest)
    assert isinstance(second.images, np.memmap)
    assert len(decoded(cache)) == 1


def test_writing_to_the_pixels_changes_no_other_process(small: Path) -> None:
    mine, theirs = (load_images(open_source(str(small)), "train").images for _ in range(2))
    before = mine.copy()
    mine[:] = 0
    assert (theirs == before).all()


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "about.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "removed"])
def test_damage_is_repaired(small: Path, cache: Path, name: Any, damage: Any) -> None:
    expected = load_images(open_source(str(small)), "train")
    pixels = expected.images.copy()
    path = decoded(cache)[0] / name
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-2] ^= 1
    path.write_bytes(
        {"truncated": content[:-1], "flipped": content, "emptied": b"", "removed": b""}[damage]
    )
    if damage == "removed":
        path.unlink()
    again = load_images(open_source(str(small)), "train")
    assert (again.images == pixels).all()
    assert again.labels.tolist() == expected.labels.tolist()
    assert load_images(open_source(str(small)), "train").mean == expected.mean


def test_two_processes_decode_once(small: Path, cache: Path, tmp_path: Path) -> None:
    code = """
import sys, time, pathlib
from distill_ray.data import images, load_images, open_source
whole = images.decode_split
def slow(*arguments):
    with open(sys.argv[2], "a") as file:
        file.write("decoding\\n")
    time.sleep(1)
    return whole(*arguments)
images.decode_split = slow
source = open_source(sys.argv[1])
source.digest
pathlib.Path(sys.argv[2] + sys.argv[3]).touch()
while not all(pathlib.Path(sys.argv[2] + number).exists() for number in "01"):
    time.sleep(0.01)
print(load_images(source, "train").images.sum())
"""
    log = tmp_path / "log"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(small), str(log), number], stdout=subprocess.PIPE
        )
        for number in "01"
    ]
    sums = {process.communicate()[0] for process in started}
    assert sums == {f"{load_images(open_source(str(small)), 'train').images.sum()}\n".encode()}
    assert log.read_text() == "decoding\n"
    assert len(decoded(cache)) == 1


def test_a_killed_process_leaves_nothing_that_counts(small: Path, cache: Path) -> None:
    code = """
import sys, time
from distill_ray.data import load_images, open_source
from distill_ray.data.parquet import ParquetSource
whole = ParquetSource.batches
def stuck(self, split, first=0, last=None):
    yield next(whole(self, split))
    print("half way", flush=True)
    time.sleep(60)
ParquetSource.batches = stuck
load_images(open_source(sys.argv[1]), "train")
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(small)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"half way\n"
    process.kill()
    process.communicate()
    assert [".partial-" in path.name for path in decoded(cache)] == [True]
    assert len(load_images(open_source(str(small)), "train").images) == 8
    assert [".partial-" in path.name for path in decoded(cache)] == [False]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(
    small: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, number: Any
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        RunError,
        match=f"no space left to write {cache}/images; free some, or set DISTILL_RAY_CACHE",
    ):
        load_images(open_source(str(small)), "train")
    assert decoded(cache) == []


def test_a_cache_that_cannot_be_written(
    small: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file")
    with pytest.raises(
        RequestError, match=rf"cache folder {cache} cannot be made .*; set DISTILL_RAY_CACHE"
    ):
        load_images(open_source(str(small)), "train")
    elsewhere = tmp_path / "elsewhere"
    assert len(load_images(open_source(str(small)), "train", elsewhere).images) == 8
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(RequestError, match="is not yours to write; set DISTILL_RAY_CACHE"):
        load_images(open_source(str(small)), "train", elsewhere)


def test_the_default_cache_is_refused_when_it_is_somebody_elses(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISTILL_RAY_CACHE")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert len(load_images(open_source(str(small)), "train").images) == 8
    (folder,) = tmp_path.glob("distill_ray-*")
    assert folder.stat().st_mode & 0o777 == 0o700
    owner = os.getuid()
    folder.rename(tmp_path / f"distill_ray-{owner + 1}")
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(RequestError, match="is not yours to write"):
        load_images(open_source(str(small)), "train")


def test_a_column_name_is_never_a_path(
    tmp_path: Path, cache: Path, write_shard: Callable[..., Any], pictures: Callable[..., Any]
) -> None:
    name = "../../../escaped"
    write_shard(tmp_path / "d" / "train.parquet", pictures(2), **{name: [0, 1]})
    load_images(open_source(str(tmp_path / "d")), "train")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "d"]
    assert not (tmp_path.parent / "escaped").exists()


def test_unchanged_files_are_hashed_once(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = open_source(str(small)).digest
    hashed = []
    whole = Folder._file_digest
    monkeypatch.setattr(
        Folder, "_file_digest", lambda self, path: hashed.append(path) or whole(self, path)
    )
    assert open_source(str(small)).digest == digest
    assert hashed == []
    time.sleep(0.01)
    (small / "test-00000-of-00001.parquet").touch()
    assert open_source(str(small)).digest == digest
    assert len(hashed) == 3


def test_changed_data_are_decoded_again(
    small: Path, write_shard: Callable[..., Any], pictures: Callable[..., Any]
) -> None:
    first = load_images(open_source(str(small)), "train")
    shutil.rmtree(small)
    write_shard(small / "train.parquet", pictures(8, seed=5), label=[0] * 8)
    second = load_images(open_source(str(small)), "train")
    assert first.digest != second.digest
    assert (second.images == np.stack(pictures(8, seed=5))).all()
