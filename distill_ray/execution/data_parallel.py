"""Running one job on several workers, data-parallel, through Ray Train."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from ray.exceptions import RayError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from distill_ray.errors import DistillRayError, Failure, RequestError, RunError, first_line
from distill_ray.execution.checkpoint_writer import RecordBatches
from distill_ray.execution.cluster import ON_THE_HEAD
from distill_ray.execution.messages import Epochs
from distill_ray.execution.placement_group import resource_tag
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.train_job import train_here
from distill_ray.job import Job
from distill_ray.store import Store
from distill_ray.training import Worker
from distill_ray.training.loop import DivergedError

STOP, GO_ON, WAIT = range(3)

ANSWER_TIMEOUT_S = 60.0
"""Seconds after which a worker that waits for an answer lets the others know that it still does."""


def train_on_workers(store: Store, job: Job, resources: WorkerResources) -> RecordBatches:
    """Train `job` with `TorchTrainer`: DDP over nccl on GPUs, over gloo on CPUs; yields the record
    of each epoch as it comes.

    The trainer runs in a thread beside the one that yields, and its workers send their messages
    through a queue. After each epoch they wait to be asked for the next, so that a pruned trial
    trains no further. When one of them dies all are started again, up to `resources.retries` times,
    and resume from the last checkpoint. Closing the generator tells them to stop and waits until
    they have: a pruned trial has then freed all its resources.

    Raises:
        RunError: the job failed, or its workers died too often.
        StoreError: the store cannot be used, or, as `DamagedError`, a record in it was damaged.
        ChildProcessError: the process that leads the workers died, or one through which they
            communicate. Another attempt may succeed.
    """
    folder = tempfile.mkdtemp(prefix="distill-ray-train-")
    messages, answers = _queues()
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "store": store,
            "job": job,
            "resources": resources,
            "messages": messages,
            "answers": answers,
        },
        scaling_config=ScalingConfig(
            num_workers=job.workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker=_resources_per_worker(job, resources),
        ),
        run_config=RunConfig(
            name=job.id, storage_path=folder, failure_config=FailureConfig(resources.retries)
        ),
    )
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            failure.append(error)
        finally:
            messages.put(None)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    epoch = 0
    try:
        # Each message is either the epochs of the first worker, or what went wrong in one of them
        while (message := messages.get()) is not None:
            if isinstance(message, Failure):
                raise message.error()
            (record,) = message.records
            if record["epoch"] > epoch:  # workers that were started again repeat those before
                epoch = record["epoch"]
                yield [record]
            answers.put(GO_ON)
    except RayError as error:
        raise ChildProcessError("the queue of the workers died") from error
    finally:
        # Stop the workers, and wait until they have freed what they hold
        with contextlib.suppress(RayError):
            answers.put(STOP)
        thread.join()
        for queue in (messages, answers):
            queue.shutdown(force=True)
        shutil.rmtree(folder, ignore_errors=True)
    if failure:
        raise explained(failure[0], job.workers) from failure[0]


def explained(error: BaseException, workers: int) -> Exception:
    """What it means that the trainer ended with an error.

    Workers say of themselves what goes wrong in the job. So it is either that they died too often,
    or the machine's fault, as where the process that leads them was killed.
    """
    cause = error.controller_failure if isinstance(error, ControllerError) else error
    if isinstance(error, ControllerError | RayError):
        return ChildProcessError(f"a process that leads the workers died: {first_line(cause)}")
    return RunError(f"training on {workers} workers failed: {error}")


def _queues() -> tuple[Queue, Queue]:
    """One for messages and one for answers, on the head, outside the placement group of the trial,
    which has room for the trial alone.
    """
    no_group: Any = None
    outside = PlacementGroupSchedulingStrategy(placement_group=no_group)
    options = {"num_cpus": 0, "resources": ON_THE_HEAD, "scheduling_strategy": outside}
    return Queue(actor_options=options), Queue(actor_options=options)


def _resources_per_worker(job: Job, resources: WorkerResources) -> dict[str, float]:
    amounts = {"CPU": resources.cpus, "memory": resource_tag(job.id)}
    return amounts | ({"GPU": resources.gpus} if resources.gpus else {})


def _work(config: dict[str, Any]) -> None:
    """What each worker does: trains, and tells of it where it is the first or has failed."""
    resources: WorkerResources = config["resources"]
    try:
        resources.prepare()
    except RequestError as error:
        config["messages"].put(Failure.of(error))
        raise
    if (device := get_device()).type == "cuda":
        torch.cuda.set_device(device)
    worker, messages, answers = resources.worker(), config["messages"], config["answers"]
    if not _go_on(worker, lambda: _left_over(answers)):
        return
    try:
        epochs = train_here(
            config["store"],
            config["job"],
            worker,
            sharing=resources.sharing,
            share=resources.share,
            stops=range(1, config["job"].recipe.epochs + 1),
        )
        for records in epochs:
            if worker.rank == 0:
                messages.put(Epochs(records))
            if not _go_on(worker, lambda: _answer(answers)):
                return
    except DivergedError as error:  # on all workers alike, and again if they were started again
        if worker.rank == 0:
            messages.put(Failure.of(error))
    except DistillRayError as error:
        messages.put(Failure.of(error))
        raise  # the others wait for this one, and have to be ended
    # Any other error may come from a worker that died while this one waited for it. All are then
    # started again.


def _go_on(worker: Worker, ask: Callable[[], int]) -> bool:
    """What the first worker is told when it asks, for all of them.

    It passes on that it waits as well: an answer may take as long as a database is away, and a
    collective operation does not.
    """
    while True:
        answer = torch.tensor([ask() if worker.rank == 0 else WAIT], device=worker.device)
        dist.broadcast(answer, 0)
        if answer.item() != WAIT:
            return answer.item() == GO_ON


def _answer(answers: Queue) -> int:
    try:
        answer: int = answers.get(timeout=ANSWER_TIMEOUT_S)
    except Empty:
        return WAIT
    if answer == STOP:
        answers.put(STOP)  # for workers that are started again
    return answer


def _left_over(answers: Queue) -> int:
    """`STOP` if the job was given up while its workers started; other answers were for workers that
    have died since.
    """
    if STOP in [answers.get() for _ in range(answers.qsize())]:
        answers.put(STOP)
        return STOP
    return GO_ON
