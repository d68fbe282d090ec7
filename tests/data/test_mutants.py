"""Ten thousand damaged data sets, stores and exported folders: each command ends in time, in few
words, with exit code 0, 1 or 2, and touches nothing outside the store.

    uv run pytest --no-cov -n0 -m slow tests/data/test_mutants.py

`DISTILL_RAY_MUTANTS` sets their number, `DISTILL_RAY_MUTANT_SEED` where they begin.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from distill_ray.cli import main
from distill_ray.data import load_images, open_source
from distill_ray.errors import DistillRayError
from distill_ray.export import FORMATS
from distill_ray.store import Store, _seal

FIRST = int(os.environ.get("DISTILL_RAY_MUTANT_SEED", "0"))
NUMBER = int(os.environ.get("DISTILL_RAY_MUTANTS", "10000"))
LIMIT_S = 60
"""Seconds after which a command hangs."""
LIMIT_OF_ALL_S = 2 * 3600

STUDY = """
name: mutant
data: {{source: {folder}, validation: 2, size: {size}}}
teachers: {{model: wrn-10-1, seeds: [0], epochs: 1, batch_size: 2}}
student: {{batch_size: 2, model: wrn-10-1, method: kd, epochs: 1}}
search: {{trials: 1, space: {{temperature: {{log: [1, 20]}}}}}}
"""
VALUES: list[Any] = [
    *(None, True, 0, -1, 10**400, 1e308, float("nan"), "", "..", "/etc/passwd", "a\0b", "\x1b[31m"),
    *("../../x", [], {}, [[]], {"path": ".."}, "x" * 3000, "\ud800", "jobs", 2**63),
]
NAMES = [
    *(".hidden", ".ipynb_checkpoints", "__MACOSX", "cat", "dog", "Cat ", "a\nb", "\x1b[31m", "é"),
    *("x" * 200, "train", "test", "-", "~", "%", "0000.parquet", "1.png", "a.PNG", "b.jfif"),
]


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """Interrupts what hangs."""

    def hangs(number: int, frame: FrameType | None) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def check(command: list[str], seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    """Run a command and judge how it ends and what it prints."""
    signal.alarm(LIMIT_S)
    code = main(command)
    signal.alarm(0)
    output = "".join(capfd.readouterr())
    assert code in (0, 1, 2), f"mutant {seed}: exit {code}"
    for word in ("Traceback", "unexpectedly", "\x1b[31m"):
        assert word not in output, f"mutant {seed}: {word!r} in {output[:2000]}"
    assert len(output) < 20_000, f"mutant {seed} prints {len(output)} characters"


def changed(content: bytes, draw: random.Random, first: int = 0) -> bytes:
    """One to four bytes from `first` on are others, and a fifth of the files is cut short."""
    result = bytearray(content or b"x")
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(draw.choice([0, min(first, len(result) - 1)]), len(result))
        result[place] = draw.choice([draw.randrange(256), result[place] ^ 1, 0, 255])
    if draw.random() < 0.2:
        del result[draw.randrange(len(result) + 1) :]
    return bytes(result)


def encoded(draw: random.Random) -> bytes:
    side = draw.choice([(6, 5), (6, 5), (6, 5), (1, 1), (40, 3)])
    shape = draw.choice([side, (*side, 3), (*side, 3), (*side, 4)])
    kind = "PNG" if len(shape) == 3 and shape[2] == 4 else draw.choice(["PNG", "JPEG", "GIF"])
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = draw.randrange(10)
    Image.fromarray(np.full(shape, draw.randrange(256), np.uint8)).save(file, kind, exif=exif)
    return file.getvalue()


def make_tree(folder: Path, draw: random.Random) -> None:
    """A small tree of images in which up to six things are not as they should be."""
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for number in range(3 if split == "train" else 1):
                path = folder / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encoded(draw))
    for _ in range(draw.randint(0, 6)):
        everything = sorted(path for path in folder.rglob("*") if not path.is_symlink())
        path = draw.choice(everything)
        new = (path if path.is_dir() else path.parent) / draw.choice(NAMES)
        if os.path.lexists(new):
            continue
        match draw.randrange(7):
            case 0 | 1:
                if path.is_file():
                    path.write_bytes(changed(path.read_bytes(), draw))
            case 2:
                new.symlink_to(draw.choice(["..", ".", "/", "nowhere", str(folder), str(path)]))
            case 3:
                os.mkfifo(new)
            case 4:
                new.mkdir()
            case 5:
                new.write_bytes(draw.choice([b"", b"text", encoded(draw)]))
            case 6:
                with contextlib.suppress(OSError):  # a folder of that name is there
                    path.rename(new if path.is_file() else path.with_name(new.name))


def make_shards(folder: Path, draw: random.Random) -> None:
    """A Parquet file of columns of many kinds, of which some bytes are others."""
    columns: dict[str, Any] = {
        "image": [encoded(draw) for _ in range(6)],
        "label": draw.choice([[0, 1] * 3, ["a", "b"] * 3, [0.5] * 6, [None] * 6, [5, -1] * 3]),
    }
    for _ in range(draw.randrange(3)):
        columns[draw.choice(["fold", "fine_label", "img", "x\x1b[31m"])] = draw.choice(
            [[0, 1, 2] * 2, ["a", "b", "c"] * 2, [[1]] * 6, [b"x"] * 6, [True] * 6]
        )
    features: Any = {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    for _ in range(draw.randrange(3)):
        features = draw.choice([features, draw.choice(VALUES), {"label": features}])
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    file = io.BytesIO()
    table = pa.table(columns)
    if draw.random() < 0.7:
        table = table.replace_schema_metadata(metadata)
    pq.write_table(table, file, row_group_size=2, compression=draw.choice(["none", "zstd"]))
    content = file.getvalue()
    if draw.random() < 0.8:
        footer = len(content) - int.from_bytes(content[-8:-4], "little") - 8
        content = changed(content, draw, footer)
    folder.mkdir()
    for name in ("train", "test"):
        (folder / f"{name}.parquet").write_bytes(content)


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_OF_ALL_S)
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("make", "share"), [(make_tree, 0.3), (make_shards, 0.3)])
def test_mutated_data_sets(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], make: Any, share: float
) -> None:
    folder, study = tmp_path / "data", tmp_path / "study.yaml"
    for seed in range(FIRST, FIRST + round(NUMBER * share)):
        draw = random.Random(seed)
        make(folder, draw)
        study.write_text(STUDY.format(folder=folder, size=draw.choice(["null", "8"])))
        check(["validate", str(study)], seed, capfd)
        try:
            signal.alarm(LIMIT_S)
            images = load_images(open_source(str(folder)), "train", size=8)
            assert images.labels.max() < images.num_classes
        except DistillRayError as error:
            assert "\n" not in str(error), f"mutant {seed}"
        finally:
            signal.alarm(0)
        shutil.rmtree(folder)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)


def damage_files(folder: Path, draw: random.Random) -> None:
    """Damage up to four files: bytes, values, under a right seal where there is one, and links."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".db")
    for path in draw.sample(files, min(len(files), draw.randint(1, 4))):
        content = path.read_bytes()
        match draw.randrange(6):
            case 0 | 1 if content:
                path.write_bytes(changed(content, draw))
            case 2 if path.suffix == ".json":
                manifest = json.loads(content)
                is_sealed = manifest.pop("sha256", None) is not None
                owner, key = manifest, draw.choice(sorted(manifest) or ["x"])
                while isinstance(owner.get(key), dict) and owner[key] and draw.random() < 0.8:
                    owner, key = owner[key], draw.choice(sorted(owner[key]))
                owner[key] = draw.choice(VALUES)
                seal = {"sha256": _seal(manifest)} if is_sealed else {}
                path.write_text(json.dumps(manifest | seal))
            case 3:
                lines = content.splitlines(keepends=True) or [b""]
                line = draw.choice([b"{", b"[]\n", b'{"op_code": 99}\n', b"\xff\n", b"null\n"])
                lines.insert(draw.randrange(len(lines) + 1), line)
                path.write_bytes(b"".join(lines))
            case 4:
                path.unlink()
                path.symlink_to(draw.choice(["..", "nowhere", "/", folder.parent / "outside"]))
            case _:
                path.unlink()


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_OF_ALL_S)
@pytest.mark.timeout(7200)
def test_mutated_stores(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], finished_study: Any
) -> None:
    store, outside = tmp_path / "store", tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    os.utime(outside / "precious", (0, 0))
    for seed in range(FIRST, FIRST + round(NUMBER * 0.2)):
        draw = random.Random(seed)
        shutil.copytree(finished_study.store.uri, store)
        Store.open(str(store))
        damage_files(store, draw)
        command = draw.choice([["status", finished_study.file], ["gc", "--yes"], ["gc"]])
        if draw.random() < 0.1:
            command = ["report", finished_study.file]
        check([*map(str, command), "--store", str(store)], seed, capfd)
        assert [path.name for path in outside.iterdir()] == ["precious"]
        shutil.rmtree(store)
    assert (outside / "precious").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_OF_ALL_S)
@pytest.mark.timeout(7200)
def test_mutated_exports(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], finished_study: Any
) -> None:
    export = ["export", str(finished_study.file), "--store", finished_study.store.uri]
    for name in FORMATS:
        assert main([*export, "--format", name, "--out", str(tmp_path / name)]) == 0
    image, folder = tmp_path / "image.png", tmp_path / "folder"
    Image.fromarray(np.full((8, 8), 128, np.uint8)).save(image)
    for seed in range(FIRST, FIRST + round(NUMBER * 0.2)):
        draw = random.Random(seed)
        shutil.copytree(tmp_path / draw.choice(FORMATS), folder)
        damage_files(folder, draw)
        check(["predict", str(folder), str(image)], seed, capfd)
        shutil.rmtree(folder)
