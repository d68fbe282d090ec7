"""Work whose peak memory a test asks for, in MB: `python memory.py import TREE OUT` and
`python memory.py train SET VALIDATION MEMORY_GB`. Prints JSON with that of this process and of the
largest process that it started.
"""

from __future__ import annotations

import json
import resource
import sys

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


work, folder, *rest = sys.argv[1:]
if work == "import":
    import_dataset(folder, rest[0])
    result = {}
else:
    result = {"weights": train(folder, int(rest[0]), float(rest[1]))}
for name, processes in (("own", resource.RUSAGE_SELF), ("others", resource.RUSAGE_CHILDREN)):
    result[name] = resource.getrusage(processes).ru_maxrss / 1024
print(json.dumps(result))
