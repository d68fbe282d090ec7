"""What a study will cost, estimated in advance: its jobs, the images they train on, and the time,
from a few timed steps.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence

import torch

from distill_ray.execution.machines import Machines
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.sharing import LIVE as LIVE_TEACHERS
from distill_ray.execution.sharing import Sharing, confirm_sharing, trial_sharing
from distill_ray.job import Job, Recipe
from distill_ray.methods import Supervised
from distill_ray.planning.bench import LIVE, STUDENT, Bench
from distill_ray.planning.bench_record import kept_bench
from distill_ray.planning.plan_teacher_logits import TeacherLogitsPlan, plan_teacher_logits
from distill_ray.resolve import CONFIRM, SCREEN, SEARCH, TEACH, confirm_runs, learned_from
from distill_ray.search.history import counted
from distill_ray.stages.screen import Screening, measure
from distill_ray.stages.state import StudyState
from distill_ray.study import Study
from distill_ray.study.checks import GROUP
from distill_ray.training import (
    Dataset,
    LiveTeachers,
    Worker,
    load_dataset,
    make_network,
    precision_of_teachers,
    train,
)

TIMED_BATCHES = 4


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """A stage before it is run: its jobs, how many of them the store has, and what the others cost.

    `images` counts training images over all epochs, `job_seconds` the time of all jobs in sequence,
    each on one worker of this machine, and `seconds` that of the stage with as many jobs in
    parallel as fit here. Early stopping makes the search shorter than this. `teacher_logits` says
    what teacher logits cost in it, which is part of these times.
    """

    stage: str
    jobs: int
    done: int
    images: int
    job_seconds: float
    seconds: float
    teacher_logits: TeacherLogitsPlan | None = None


def plan_study(state: StudyState) -> list[StagePlan]:
    """The plan of every stage that trains: what the store and the search have costs nothing. Starts
    no Ray, trains nothing.

    Students and their teachers take the time that `bench` has measured here, if it has; everything
    else is timed for some steps.
    """
    study, data = state.study, state.data
    bench = kept_bench(state.store, study)
    dataset = load_dataset(data)
    resources = WorkerResources.of(study, LIVE_TEACHERS)
    worker = resources.worker()
    gpus = torch.cuda.device_count() if worker.device.type == "cuda" else 0
    places = int(Machines({"CPU": os.cpu_count() or 1, "GPU": gpus}).workers(resources))
    teachers, ids = state.teachers, state.teacher_ids
    networks = {run.job.id: make_network(run.job, dataset) for run in teachers}
    recipes = {run.job.id: run.job.recipe for run in teachers}
    per_epoch: dict[tuple[Recipe, tuple[str, ...]], float] = {}

    def answering(teachers: Sequence[str]) -> LiveTeachers:
        precision = precision_of_teachers((recipes[teacher] for teacher in teachers), worker.device)
        return LiveTeachers([networks[teacher] for teacher in teachers], worker.device, precision)

    def seconds(job: Job) -> float:
        timed = dataclasses.replace(job.recipe, epochs=2, warmup_epochs=0.0, milestones=())
        if (timed, job.teachers) not in per_epoch:
            alike = dataclasses.replace(job, recipe=timed)
            known = _benched_seconds(bench, job, study, dataset) if bench is not None else None
            per_epoch[timed, job.teachers] = known or _epoch_seconds(
                alike, dataset, answering(job.teachers), worker
            )
        return per_epoch[timed, job.teachers] * job.recipe.epochs

    def stage(
        name: str, jobs: list[Job], done: int, workers: int, sharing: Sharing | None = None
    ) -> StagePlan:
        total = sum(map(seconds, jobs))
        teacher_logits = None
        if sharing and (learning := [job for job in jobs if job.teachers]):
            teacher_logits = plan_teacher_logits(
                learning, sharing, dataset, answering(learning[0].teachers), worker, bench
            )
            total = max(total - teacher_logits.spared, 0.0)
        beside = max(1, min(places // workers, len(jobs)))
        images = sum(job.recipe.epochs for job in jobs) * len(dataset.train)
        return StagePlan(
            name, len(jobs) + done, done, images, total, total / beside, teacher_logits
        )

    def screen_stage(asked: Sequence[Screening]) -> StagePlan:
        missing = [screening for screening in asked if state.screened(screening) is None]
        shown = [
            screening.epochs * min(screening.images or len(dataset.train), len(dataset.train))
            for screening in missing
        ]
        total = sum(
            images * _measured_seconds(screening, dataset, answering(screening.teachers), worker)
            for screening, images in zip(missing, shown, strict=True)
        )
        beside = max(1, min(places, len(missing)))
        return StagePlan(
            SCREEN, len(asked), len(asked) - len(missing), sum(shown), total, total / beside
        )

    trial = Job(
        recipe=study.student,
        data=data,
        seed=study.trial_seed,
        teachers=tuple(learned_from(study, ids)),
    )
    ended = len(counted(state.history)) if state.history else 0
    trials = 0 if state.search_is_over else study.search.trials - ended
    confirmations = list(state.confirmations)
    # What it will find is not known, nor whether the store has it: it counts as the student
    if not state.search_is_over:
        confirmations = confirm_runs(study, data, ids, [study.student] * study.confirm.top)
    guessed = (
        set()
        if state.search_is_over
        else {run.role for run in confirmations} - set(study.confirm.baselines)
    )
    to_teach = [run.job for run in teachers if state.record(run) is None]
    to_confirm = [
        run.job for run in confirmations if run.role in guessed or state.record(run) is None
    ]
    confirmed = len(confirmations) - len(to_confirm)
    wanted = study.resources
    return [
        stage(TEACH, to_teach, len(teachers) - len(to_teach), wanted.workers_per_teacher),
        *([screen_stage(state.screenings)] if state.screenings else []),
        stage(SEARCH, [trial] * trials, ended, wanted.workers_per_trial, trial_sharing(study)),
        stage(CONFIRM, to_confirm, confirmed, wanted.workers_per_trial, confirm_sharing(study)),
    ]


def _benched_seconds(bench: Bench, job: Job, study: Study, dataset: Dataset) -> float | None:
    """An epoch's time by the steps that were measured, with live teachers where there are any; None
    for another network.

    Validation was not measured: to predict takes about a third of a training step.
    """
    recipe = dataclasses.replace(study.student, epochs=job.recipe.epochs, method=job.recipe.method)
    known = job.recipe == recipe and recipe.method in (study.student.method, Supervised())
    if not known:
        return None
    step = bench.steps[LIVE if job.teachers else STUDENT]
    return (
        step * len(dataset.train) + bench.steps[STUDENT] / 3 * len(dataset.validation)
    ) / bench.batch_size


def _measured_seconds(
    screening: Screening, dataset: Dataset, teachers: LiveTeachers, worker: Worker
) -> float:
    """The time that a screening takes for an image, judged from two groups."""
    images = min(len(dataset.train), 2 * GROUP * screening.batch_size)
    epochs = -(-2 * GROUP // -(-images // screening.batch_size))
    begun = time.perf_counter()
    measure(
        dataclasses.replace(screening, images=images, epochs=epochs),
        dataset,
        teachers,
        worker.device,
    )
    return (time.perf_counter() - begun) / (images * epochs)


def _epoch_seconds(job: Job, dataset: Dataset, teachers: LiveTeachers, worker: Worker) -> float:
    """An epoch's time, judged from the second of two epochs over a few batches."""
    rows = min(len(dataset.train), TIMED_BATCHES * job.recipe.batch_size)
    share = rows / len(dataset.train)
    few = dataclasses.replace(
        dataset,
        train=dataset.train[:: len(dataset.train) // rows][:rows],
        validation=dataset.validation[: max(1, round(share * len(dataset.validation)))],
    )
    *_, last = train(job, few, teachers if job.teachers else None, worker=worker)
    return last["seconds"] / share
