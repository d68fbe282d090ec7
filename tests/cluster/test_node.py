"""What trials of one machine share: each file of the data set is read once, and a further trial
does not hold it once more.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

SIDE = 64
PIXELS = SIDE * SIDE * 3

pytestmark = pytest.mark.slow


def write_data(folder: Path, images: int) -> Path:
    """So many colour images of 64 by 64 pixels to train on, and a few for testing: noise in a
    corner, black elsewhere.
    """
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    flat = np.zeros((SIDE, SIDE, 3), np.uint8)
    for split, rows in (("train", images), ("test", 10)):
        encoded = []
        for _ in range(rows):
            flat[:24, :24] = generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(flat).save(file := io.BytesIO(), "PNG", compress_level=1)
            encoded.append({"bytes": file.getvalue(), "path": None})
        table = pa.table({"image": encoded, "label": [row % 10 for row in range(rows)]})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return folder


def side_by_side(data: Path, folder: Path, processes: int) -> list[dict[str, float]]:
    """What each of so many processes, which train a job at the same time and share a cache, has
    read and holds for itself.
    """
    environment = os.environ | {"DISTILL_RAY_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(data), str(folder / "store")]
    running = [
        subprocess.Popen(
            [*command, str(seed)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(processes)
    ]
    # All are there when the last one measures
    said = [process.stdout.readline() for process in running if process.stdout]
    for process in running:
        process.communicate("\n", timeout=60)
    return [json.loads(line) for line in said]


def test_files_are_read_by_one_process(tmp_path: Path) -> None:
    """One reads the Parquet (its digest, its shape, its pixels) and checks what it decoded, three
    map that, and read labels.
    """
    data = write_data(tmp_path / "data", 2_000)
    size = sum(path.stat().st_size for path in data.iterdir())
    said = side_by_side(data, tmp_path, 4)
    print(f"{size} bytes of Parquet, read:", [entry["read"] for entry in said])
    first, *others = sorted((entry["read"] for entry in said), reverse=True)
    assert size < first - 2_000 * PIXELS < 3.5 * size
    assert max(others) < 0.1 * size


def test_memory_of_a_trial_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """Ten times the images, 88 MB more: a process that trains on them holds no more for itself,
    apart from their order.
    """
    held = {}
    for images in (800, 8_000):
        place = tmp_path / str(images)
        place.mkdir()
        held[images] = max(
            entry["own"] for entry in side_by_side(write_data(place / "data", images), place, 2)
        )
    print({images: f"{own / 1e6:.0f} MB" for images, own in held.items()})
    assert held[8_000] - held[800] < 0.2 * 7_200 * PIXELS


def work(data: str, store: str, seed: int) -> dict[str, float]:
    """Train a job as a trial does, on all images, and say what the process has read from disks and
    holds for itself.
    """
    import psutil

    from distill_ray.augmentation import CropFlip
    from distill_ray.data import load_images, open_source
    from distill_ray.execution.resources import WorkerResources
    from distill_ray.execution.run_job import run_job
    from distill_ray.job import Data, Job, Recipe, Split
    from distill_ray.methods import Supervised
    from distill_ray.store import Store
    from distill_ray.training import load_dataset

    def read() -> int:
        return int(
            dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())[
                "rchar"
            ]
        )

    # So that all modules are imported
    load_images(open_source(str(write_data(Path(store, str(seed)), 20))), "train")
    before = read()
    source = open_source(data)
    job = Job(
        recipe=Recipe(
            model="mlp-4",
            method=Supervised(),
            augmentation=CropFlip(),
            epochs=1,
            batch_size=100,
            precision="fp32",
        ),
        data=Data(
            name="big",
            digest=source.digest,
            location=data,
            label="label",
            split=Split(validation=100),
        ),
        seed=seed,
    )
    load_dataset(job.data)
    bytes_read = read() - before
    for _ in run_job(Store.open(store), job, WorkerResources()):
        pass
    return {"read": bytes_read, "own": psutil.Process().memory_full_info().uss}


if __name__ == "__main__":
    print(json.dumps(work(sys.argv[1], sys.argv[2], int(sys.argv[3]))), flush=True)
    sys.stdin.readline()
