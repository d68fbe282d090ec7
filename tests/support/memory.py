"""Work whose peak memory a test asks for, in MB: `python memory.py import TREE OUT` and
`python memory.py train SET VALIDATION MEMORY_GB`. Prints JSON with that of this process and of the
largest process that it started.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from pathlib import Path

import psutil

from distill_ray.data import import_dataset, open_source


def train(folder: str, validation: int, memory_gb: float) -> str:
    """Train a small network for an epoch and test it; the digest of its weights.

    Importing torch takes more memory than importing images does, so that is done here.
    """
    import torch

    from distill_ray.augmentation import CutMix
    from distill_ray.execution.run_job import evaluate_on_test
    from distill_ray.execution.train_job import train_here
    from distill_ray.job import Data, Job, Recipe, Split
    from distill_ray.records import WEIGHTS, find_job
    from distill_ray.store import Store
    from distill_ray.training import Worker

    data = Data(
        name="d",
        digest=open_source(folder).digest,
        location=folder,
        label="label",
        split=Split(validation=validation),
        size=96,
        memory_gb=memory_gb,
    )
    recipe = Recipe(
        model="mlp-8",
        augmentation=CutMix(),
        epochs=1,
        batch_size=64,
        precision="fp32",
        lr=0.001,
    )
    job, store = Job(recipe=recipe, data=data, seed=0), Store.open(f"{folder}-store-{memory_gb}")
    for _ in train_here(store, job, Worker(torch.device("cpu"))):
        pass
    evaluate_on_test(store, job, torch.device("cpu"))
    record = find_job(store, job.id)
    assert record is not None
    return str(record.record.files[WEIGHTS]["sha256"])


def high_water(process: int | str) -> float:
    """The peak memory of a process in MB, 0 when it has ended. Not `ru_maxrss`, which a process
    takes over from the one that it was forked from.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+)", status)
    return int(found[1]) / 1024 if found else 0.0


class Children(threading.Thread):
    """Looks at the processes that this one starts, again and again."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0

    def run(self) -> None:
        while True:
            for child in psutil.Process().children():
                self.peak = max(self.peak, high_water(child.pid))
            time.sleep(0.02)


children = Children()
children.start()
work, folder, *rest = sys.argv[1:]
result: dict[str, str | float] = {}
if work == "import":
    import_dataset(folder, rest[0])
else:
    result["weights"] = train(folder, int(rest[0]), float(rest[1]))
result["own"], result["others"] = high_water("self"), children.peak
print(json.dumps(result))
