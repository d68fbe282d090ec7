"""Running one job on several workers, data-parallel, through Ray Train."""

from __future__ import annotations

import tempfile
import threading
from typing import Any

import torch
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.util.queue import Queue

from distill_ray.errors import RunError, StoreError
from distill_ray.job import Job
from distill_ray.stages.cluster import ON_THE_HEAD, WorkerResources
from distill_ray.stages.execution import train_here
from distill_ray.stages.keeping import Epochs
from distill_ray.store import Store
from distill_ray.training import Worker
from distill_ray.training.loop import DivergedError


def train_on_workers(store: Store, job: Job, resources: WorkerResources) -> Epochs:
    """Train `job` with `TorchTrainer`: DDP over nccl on GPUs, over gloo on CPUs; yields the record of each epoch as it comes.

    The trainer runs in a thread beside the one that yields, and its workers hand their records over through a queue. When one
    of them dies all are started again, up to `resources.retries` times, and go on from the last checkpoint. Closing the
    generator tells them to stop after their epoch and waits until they have, so that a pruned trial gives back all it held.

    Raises what the job itself raised (`DivergedError`, `StoreError`), and `RunError` when workers died too often.
    """
    records, stop = (Queue(actor_options={"num_cpus": 0, "resources": ON_THE_HEAD}) for _ in range(2))
    per_worker = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "store": store,
            "job": job.to_dict(),
            "records": records,
            "stop": stop,
            "sharing": resources.sharing,
            "share": resources.share,
            "threads": max(1, int(resources.cpus)),
        },
        scaling_config=ScalingConfig(num_workers=job.workers, use_gpu=resources.gpus > 0, resources_per_worker=per_worker),
        run_config=RunConfig(name=job.id, storage_path=tempfile.gettempdir(), failure_config=FailureConfig(resources.retries)),
    )
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            failure.append(error)
        finally:
            records.put(None)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    epoch = 0
    try:
        while (record := records.get()) is not None:
            if isinstance(record, Exception):
                raise record
            if record["epoch"] > epoch:  # workers that were started again repeat those before
                epoch = record["epoch"]
                yield [record]
    finally:
        stop.put(True)
        thread.join()
        for queue in (records, stop):
            queue.shutdown(force=True)
    if failure:
        raise RunError(f"training on {job.workers} workers failed: {failure[0]}")


def _work(config: dict[str, Any]) -> None:
    if not config["stop"].empty():  # workers died while they were to stop
        return
    torch.set_num_threads(config["threads"])
    if (device := get_device()).type == "cuda":
        torch.cuda.set_device(device)
    worker = Worker.here()
    try:
        store, job = config["store"], Job.from_dict(config["job"])
        for (record,) in train_here(store, job, worker, sharing=config["sharing"], share=config["share"], pace=0):
            if worker.rank == 0:
                config["records"].put(record)
            stopped = torch.tensor([worker.rank == 0 and not config["stop"].empty()], device=worker.device)
            dist.broadcast(stopped, 0)
            if stopped.item():
                return
    except DivergedError as error:  # on all workers alike, and again if they were started again
        if worker.rank == 0:
            config["records"].put(error)
    except StoreError as error:
        config["records"].put(error)
        raise  # the others wait for this one, and have to be ended
