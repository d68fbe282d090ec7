"""What training costs on this machine: students alone, with live teachers and with teacher logits,
and the parts that make it up.
"""

from __future__ import annotations

import functools
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from distill_ray.augmentation import AUGMENTATIONS, Augmentation
from distill_ray.augmentation.epoch import epoch_batches
from distill_ray.errors import RequestError
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.run_job import run_job
from distill_ray.execution.sharing import LIVE as LIVE_TEACHERS
from distill_ray.execution.sharing import trial_sharing
from distill_ray.execution.teacher_cache import CachedTeachers, TeacherCache
from distill_ray.job import Data, Job, Recipe
from distill_ray.methods import METHODS, Supervised
from distill_ray.models.network import Network
from distill_ray.resolve import data_of, learned_from, teacher_runs
from distill_ray.store import Store
from distill_ray.study import StudyDefinition
from distill_ray.training import (
    Dataset,
    EpochTeachers,
    LiveTeachers,
    TeacherLogitsKey,
    Worker,
    load_dataset,
    make_network,
    precision_of_teachers,
    train,
)
from distill_ray.training._torch_internals import cpu_has_amx, cpu_has_avx512_bf16
from distill_ray.training.compiling import PAYS_BACK_STEPS, Compile
from distill_ray.training.device import device_name
from distill_ray.training.on_device import on_device

BATCHES, ON_A_GPU = 3, 100
"""Steps of the short epochs that are timed on a CPU, and on a GPU, where the start of an epoch
would count for too much.
"""

ROUNDS = 5
"""Short epochs of each kind, alternating, so that other work on the machine affects all alike.
Medians are reported.
"""

STUDENT, LIVE, TEACHER_LOGITS = "student alone", "with live teachers", "with teacher logits"


@dataclass(frozen=True)
class Bench:
    """What was measured. Times are seconds for a batch of `batch_size` images, medians over the
    rounds.

    `steps` holds a training step of each kind, including making the images and the optimiser step,
    and `cpu` its CPU time in this process, which other work on the machine disturbs less. `ratios`
    are medians over the rounds too, of CPU times where one thread of a CPU does everything.
    `teachers` is the time of a forward pass through all teachers, `augmentations` the time to make
    the images of each augmentation. `per_trial` is what a job costs in its process beyond its
    epochs, `memory` the peak resident size of this process in bytes, `teacher_logits` the bytes per
    epoch of the study's training split.
    """

    machine: str
    device: str
    threads: int
    batch_size: int
    rounds: int
    steps: dict[str, float]
    cpu: dict[str, float]
    ratios: dict[str, float]
    teachers: float
    augmentations: dict[str, float]
    per_trial: float
    memory: int
    teacher_logits: int

    @property
    def images_per_second(self) -> dict[str, float]:
        """Of each kind of step."""
        return {name: self.batch_size / seconds for name, seconds in self.steps.items()}

    @property
    def augmentation_shares(self) -> dict[str, float]:
        """The share of each augmentation in a training step of the student alone, which waits for
        it.

        A GPU makes images beside the steps, so that this is what they would take of it if they were
        made within.
        """
        rest = self.steps[STUDENT] - (
            self.augmentations["of the student"] if self.device == "cpu" else 0.0
        )
        return {name: seconds / (seconds + rest) for name, seconds in self.augmentations.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        derived = {
            "images_per_second": self.images_per_second,
            "augmentation_shares": self.augmentation_shares,
        }
        return asdict(self) | derived


Loop = Callable[[Recipe, Network, Sequence[Network], Dataset, torch.device], Iterator[float]]
"""Another training loop, given the student's recipe, the student, its teachers and the data. It
yields without end: the seconds of a step in each epoch.
"""


def bench_study(study: StudyDefinition, others: Mapping[str, Loop] | None = None) -> Bench:
    """Time the student of `study` on some of its images; teachers have the weights they start from,
    which cost the same.

    Writes only into a temporary folder. `others` are timed beside the package's own loop.
    """
    torch.set_num_threads(study.resources.cpus_per_worker)
    data = data_of(study)
    dataset = load_dataset(data)
    resources = WorkerResources.of(study, LIVE_TEACHERS)
    worker = resources.worker()
    compile = study.resources.compile
    steps = len(dataset.train) // study.student.batch_size * study.student.epochs
    if compile == "auto" and worker.device.type == "cuda" and steps >= PAYS_BACK_STEPS:
        compile = "always"  # as the study's own jobs are, which have more steps than these
    runs = teacher_runs(study, data)
    if any(run.job.recipe.answers_alone for run in runs):
        raise RequestError(
            "bench times teachers, and some of this study are known by their answers alone; `plan` "
            "does without"
        )
    jobs = {run.job.id: run.job for run in runs}
    learned = learned_from(study, [run.job.id for run in runs])
    recipe = replace(study.student, epochs=ROUNDS + 1, warmup_epochs=0.0, milestones=(), lr=1e-3)
    method = recipe.method if recipe.method.needs_teachers else METHODS["kd"]()
    job = Job(
        recipe=replace(recipe, method=method),
        data=data,
        seed=study.trial_seed,
        teachers=tuple(learned),
    )
    alone = replace(job, recipe=replace(recipe, method=Supervised()), teachers=())
    few = some_of(
        dataset, (ON_A_GPU if worker.device.type == "cuda" else BATCHES) * recipe.batch_size
    )
    batches = max(1, len(few.train) // recipe.batch_size)
    answering = precision_of_teachers(
        [jobs[each].recipe for each in learned], dataset.image_shape, worker.device
    )
    teachers = LiveTeachers(
        [make_network(jobs[each], dataset) for each in learned], worker.device, answering
    )

    with tempfile.TemporaryDirectory(prefix="distill-ray-bench-") as folder:
        store = Store.open(folder)
        per_trial = statistics.median(
            _beside_epochs(store, alone, data, seed, resources) for seed in range(3)
        )
        epochs: dict[str, Iterator[float]] = {
            STUDENT: _per_step(alone, few, None, worker, compile, batches)
        }
        sharing = trial_sharing(study)
        key = TeacherLogitsKey.of(
            job, answering, sharing.exact, sharing.largest(job.recipe, dataset.num_classes)
        )
        answers: list[float] = []
        size = 0
        if not method.live_teachers(recipe.augmentation):
            teacher_logits = TeacherCache(
                store, key, few, lambda: teachers, worker=worker, epochs=ROUNDS + 1, limit=1e12
            )
            for epoch in range(1, ROUNDS + 2):
                answers.append(
                    _seconds(functools.partial(teacher_logits.of_epoch, epoch)) / batches
                )
            size = (
                sum(size for _, size, _ in store.tree("teacher_logits"))
                // (ROUNDS + 1)
                * len(dataset.train)
                // len(few.train)
            )
            epochs[TEACHER_LOGITS] = _per_step(
                job,
                few,
                CachedTeachers(teacher_logits, lambda: teachers, worker),
                worker,
                compile,
                batches,
            )
        epochs[LIVE] = _per_step(job, few, teachers, worker, compile, batches)
        for name, loop in (others or {}).items():
            networks: Any = [
                make_network(each, dataset) for each in (alone, *(jobs[name] for name in learned))
            ]
            epochs[name] = loop(recipe, networks[0], networks[1:], few, worker.device)
        augmentations = _augmentations(study, dataset)
        times: dict[str, list[float]] = {name: [] for name in (*epochs, *augmentations)}
        cpu: dict[str, list[float]] = {name: [] for name in epochs}
        for turn in range(ROUNDS + 1):
            for name, running in epochs.items():
                begun = time.process_time()
                times[name].append(next(running))
                cpu[name].append((time.process_time() - begun) / batches)
            for name, augmentation in augmentations.items():
                times[name].append(
                    _seconds(_making(augmentation, few, recipe.batch_size, turn, worker)) / batches
                )
    medians = {name: statistics.median(seconds[1:]) for name, seconds in times.items()}
    return Bench(
        machine=machine_name(),
        device=torch.cuda.get_device_name() if worker.device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        batch_size=recipe.batch_size,
        rounds=ROUNDS,
        steps={name: medians[name] for name in epochs},
        cpu={name: statistics.median(seconds[1:]) for name, seconds in cpu.items()},
        ratios=_ratios(
            cpu if worker.device.type == "cpu" and torch.get_num_threads() == 1 else times
        ),
        teachers=statistics.median(answers[1:])
        if answers
        else max(medians[LIVE] - medians[STUDENT], 1e-6),
        augmentations={name: medians[name] for name in augmentations},
        per_trial=per_trial,
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * (1 if sys.platform == "darwin" else 1024),
        teacher_logits=size,
    )


def _ratios(times: dict[str, list[float]]) -> dict[str, float]:
    """What the steps are worth against each other: medians of the ratios within each round but the
    first.
    """

    def ratio(one: str, other: str) -> float:
        return statistics.median(
            a / b for a, b in zip(times[one][1:], times[other][1:], strict=True)
        )

    own = (STUDENT, TEACHER_LOGITS, LIVE)
    ratios = {}
    for other in times:
        if other not in own:
            for name in own[1:]:
                if name in times:
                    ratios[f"images/s {name} over {other}"] = ratio(other, name)
    if TEACHER_LOGITS in times:
        ratios[f"step {TEACHER_LOGITS} over {STUDENT}"] = ratio(TEACHER_LOGITS, STUDENT)
    return ratios


def some_of(dataset: Dataset, images: int) -> Dataset:
    """`dataset` with about `images` training images, spread over the split, and as large a part of
    the validation images.
    """
    taken = min(images, len(dataset.train))
    share = taken / len(dataset.train)
    return replace(
        dataset,
        train=dataset.train[:: len(dataset.train) // taken][:taken],
        validation=dataset.validation[: max(1, round(share * len(dataset.validation)))],
    )


def _per_step(
    job: Job,
    dataset: Dataset,
    teachers: EpochTeachers | None,
    worker: Worker,
    compile: Compile,
    batches: int,
) -> Iterator[float]:
    """The seconds of a step in one epoch after another, validation left out."""
    one = replace(dataset, validation=dataset.validation[:1])
    for record in train(job, one, teachers, worker=worker, compile=compile):
        yield record["seconds"] / batches


def _augmentations(study: StudyDefinition, dataset: Dataset) -> dict[str, Augmentation]:
    """The student's augmentation, and every other with one part that can present such images."""
    channels, height, width = dataset.image_shape
    augmentations = {"of the student": study.student.augmentation}
    for name, augmentation in ((name, AUGMENTATIONS[name]()) for name in AUGMENTATIONS):
        try:
            augmentation.check_images(channels, height, width)
        except ValueError:
            continue
        if augmentation.part_count == 1:
            augmentations[name] = augmentation
    return augmentations


def _making(
    augmentation: Augmentation, dataset: Dataset, batch_size: int, epoch: int, worker: Worker
) -> Callable[[], None]:
    def make() -> None:
        batches = epoch_batches(
            augmentation,
            *on_device(dataset, worker.device),
            rows=dataset.train,
            mean=dataset.mean,
            shape=dataset.image_shape[1:],
            strips=dataset.strips,
            seed=0,
            epoch=epoch,
            batch_size=batch_size,
            device=worker.device,
        )
        for _ in batches:
            pass
        if worker.device.type == "cuda":
            torch.cuda.synchronize()

    return make


def _beside_epochs(
    store: Store, job: Job, data: Data, seed: int, resources: WorkerResources
) -> float:
    """What a job of one step takes, without its epoch."""
    size = job.recipe.batch_size
    split = replace(data.split, train=size, rule="last")
    short = replace(
        job, recipe=replace(job.recipe, epochs=1), data=replace(data, split=split), seed=seed
    )
    batches: list[Any] = []
    seconds = _seconds(lambda: batches.extend(run_job(store, short, resources)))
    return seconds - float(batches[0][0]["seconds"])


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def machine_name() -> str:
    """The processor as the operating system calls it, and what bears on speed."""
    model = device_name(torch.device("cpu"))
    bf16 = "no AMX"
    if cpu_has_amx():
        bf16 = "AMX"
    elif cpu_has_avx512_bf16():
        bf16 = "AVX512-BF16"
    return f"{model}, {bf16}, torch {torch.__version__}, NumPy {np.__version__}"
