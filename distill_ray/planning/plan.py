"""What a study will cost, estimated in advance: its jobs, the images they train on, and the time,
from a few timed steps.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from distill_ray.execution.machines import Machines
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.sharing import LIVE as LIVE_TEACHERS
from distill_ray.execution.sharing import (
    Sharing,
    confirm_sharing,
    distinct_augmentations,
    trial_sharing,
)
from distill_ray.job import Job, Recipe
from distill_ray.methods import Supervised
from distill_ray.planning.bench import LIVE, STUDENT, TEACHER_LOGITS, Bench, some_of
from distill_ray.planning.bench_record import Elsewhere, kept_bench
from distill_ray.planning.early_stopping import trained_share
from distill_ray.planning.plan_teacher_logits import (
    TIMED_IMAGES,
    TeacherLogitsPlan,
    jobs_by_logits,
    plan_teacher_logits,
    teacher_logits_key,
)
from distill_ray.planning.programs import Programs, time_programs
from distill_ray.planning.timed_epoch import epoch_seconds, timed_form
from distill_ray.resolve import (
    ANSWER,
    CONFIRM,
    SCREEN,
    SEARCH,
    TEACH,
    confirm_runs,
    data_for,
    learned_from,
)
from distill_ray.search.costs import CostMeter, exceeded
from distill_ray.search.history import counted
from distill_ray.stages.answer import Answers
from distill_ray.stages.screen import Screening, measure
from distill_ray.stages.state import StudyState
from distill_ray.study import StudyDefinition
from distill_ray.study.checks import GROUP
from distill_ray.study.compatibility import combinations
from distill_ray.training import (
    Dataset,
    LiveTeachers,
    TeacherLogitsKey,
    Worker,
    compute_teacher_logits,
    load_dataset,
    make_network,
    precision_of_teachers,
    share_as_programs,
)

TIMING_S = 15.0
"""Seconds of timing after which what was not timed yet is judged by similar jobs."""

TYPICAL_START_UP_S, LONGEST_START_UP_S = 6.0, 60.0
"""Seconds until a process is ready to train; one older than the second is no measure of it."""


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """A stage before it is run: its jobs, how many of them the store has, and what the others cost.

    `images` counts training images over all epochs, `job_seconds` the time of all jobs in sequence,
    each on one worker of the machine, and `seconds` that of the stage with as many jobs in parallel
    as fit there, start-up included. Early stopping makes the search shorter than this:
    `trained_share` says which part of its epochs is probably trained (None where nothing tells),
    and `likely_seconds` how long that takes. `teacher_logits` says what teacher logits cost in it,
    which is part of these times.
    """

    stage: str
    jobs: int
    done: int
    images: int
    job_seconds: float
    seconds: float
    teacher_logits: tuple[TeacherLogitsPlan, ...] = ()
    trained_share: float | None = None
    start_up: float = 0.0

    @property
    def likely_seconds(self) -> float:
        """The time of the stage, with what early stopping probably saves."""
        share = 1.0 if self.trained_share is None else self.trained_share
        return self.start_up + share * (self.seconds - self.start_up)


def plan_study(state: StudyState, elsewhere: Elsewhere | None = None) -> list[StagePlan]:
    """The plan of every stage that trains: what the store and the search have costs nothing. Starts
    no Ray, trains nothing.

    Students and their teachers take the time that `bench` has measured on the machine, if it has;
    everything else is timed here for some steps, for about `TIMING_S` in all, with the threads that
    a worker has. For machines `elsewhere` these times are scaled by what the student alone takes
    there and here.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(min(state.study.resources.cpus_per_worker, os.cpu_count() or 1))
    try:
        return _stages(state, elsewhere)
    finally:
        torch.set_num_threads(before)


def _stages(state: StudyState, elsewhere: Elsewhere | None) -> list[StagePlan]:
    study, plan = state.study, _Plan(state, elsewhere)
    wanted = study.resources

    to_teach = [run.job for run in state.teachers if state.record(run) is None]
    taught = len(state.teachers) - len(to_teach)
    stages = [plan.stage(TEACH, to_teach, taught, wanted.workers_per_teacher)]
    if state.screenings:
        stages.append(plan.screen_stage())

    asked = [answers for answers in state.answers() if not state.is_answered_elsewhere(answers)]
    if asked:
        stages.append(plan.answer_stage(asked))

    ended = len(counted(state.history)) if state.history else 0
    left = 0 if state.search_is_over else study.search.trials - ended
    kinds = _kinds_of_trials(state) if left else []
    trials = list(itertools.islice(itertools.cycle(kinds), left))
    sharing, drawn = trial_sharing(study), distinct_augmentations(study)
    search = plan.stage(SEARCH, trials, ended, wanted.workers_per_trial, sharing, drawn)
    at_once = max(1, plan.places // wanted.workers_per_trial)
    share = trained_share(study, left, at_once)
    stages.append(dataclasses.replace(search, trained_share=share))

    sharing = confirm_sharing(study)
    slowest = max(kinds, key=lambda job: plan.seconds(job, sharing)).recipe if kinds else None
    to_confirm, confirmed = _to_confirm(state, slowest or study.student)
    stages.append(plan.stage(CONFIRM, to_confirm, confirmed, wanted.workers_per_trial, sharing))
    return stages


def _kinds_of_trials(state: StudyState) -> list[Job]:
    """Trials that stand for those of the search, in equal shares: the student, or one of each
    network and method that the search draws. What exceeds a limit is not trained.
    """
    study, space = state.study, state.study.search.space
    recipes = [study.student]
    if {dimension.name for dimension in space.dimensions} & {"model", "method"}:
        drawn = (space.recipe(study.student, labels) for labels in combinations(space))
        one_of_each = {(recipe.model, recipe.method.name): recipe for recipe in drawn}
        meter = CostMeter(study, state.data, state.store)
        within = [
            recipe
            for recipe in one_of_each.values()
            if not exceeded(meter.known(recipe), study.search.limits)
        ]
        recipes = within or recipes
    return [
        Job(
            recipe=recipe,
            data=data_for(recipe, state.data),
            seed=study.trial_seed,
            teachers=tuple(
                learned_from(study, state.teacher_ids) if recipe.method.needs_teachers else ()
            ),
        )
        for recipe in recipes
    ]


def _to_confirm(state: StudyState, best: Recipe) -> tuple[list[Job], int]:
    """The jobs that confirm is missing, and the number of those that are finished.

    What the search will find is not known, nor whether the store has it: it counts as `best`, the
    one of its kinds that takes longest, as larger networks tend to win.
    """
    study, runs = state.study, list(state.confirmations)
    confirmed_roles = set[str]()
    if not state.search_is_over:
        recipes = [best] * study.confirm.top
        runs = confirm_runs(study, state.data, state.teacher_ids, recipes)
        confirmed_roles = {run.role for run in runs} - set(study.confirm.baselines)
    missing = [run.job for run in runs if run.role in confirmed_roles or state.record(run) is None]
    return missing, len(runs) - len(missing)


@dataclasses.dataclass(frozen=True)
class _Timed:
    """What the time of an epoch depends on: the recipe, and whether these teachers answer live in
    each step or have their logits stored.
    """

    recipe: Recipe
    teachers: tuple[str, ...]
    live: bool

    @property
    def step(self) -> str:
        """The step of `bench` that this is made of."""
        if self.live:
            return LIVE
        return TEACHER_LOGITS if self.teachers else STUDENT


class _Plan:
    """What is needed to estimate the stages of a study, and the timings so far."""

    def __init__(self, state: StudyState, elsewhere: Elsewhere | None) -> None:
        self.state = state
        self.study = state.study
        self.elsewhere = elsewhere
        self.bench = elsewhere.bench if elsewhere else kept_bench(state.store, self.study)
        self.dataset = load_dataset(state.data.labelled)
        resources = WorkerResources.of(self.study, LIVE_TEACHERS)
        self.worker = resources.worker()
        gpus = torch.cuda.device_count() if self.worker.device.type == "cuda" else 0
        machine = Machines({"CPU": os.cpu_count() or 1, "GPU": gpus})
        self.places = int(elsewhere.workers(resources) if elsewhere else machine.workers(resources))
        # Teachers of one recipe take the same time, whatever their weights
        here = [run.job for run in state.teachers if not run.job.recipe.answers_alone]
        of_recipe = {job.recipe: job for job in here}
        made = {recipe: make_network(job, self.dataset) for recipe, job in of_recipe.items()}
        self.networks = {job.id: made[job.recipe] for job in here}
        self.recipes = {run.job.id: run.job.recipe for run in state.teachers}
        self.programs_of: dict[tuple[str, ...], Programs] = {}
        self.start_up = LOADING_S
        self.ray_runs = False
        self.timed: dict[_Timed, float] = {}
        self.timing = 0.0

    def answering(self, teachers: Sequence[str]) -> LiveTeachers:
        """The teachers with these ids, untrained."""
        recipes = (self.recipes[teacher] for teacher in teachers)
        precision = precision_of_teachers(recipes, self.dataset.image_shape, self.worker.device)
        networks = [self.networks[teacher] for teacher in teachers]
        return LiveTeachers(networks, self.worker.device, precision)

    def programs(self, teachers: tuple[str, ...]) -> Programs:
        """What these teachers take as programs, timed once. A GPU has none."""
        if self.bench is not None and self.bench.device != "cpu":
            return Programs()
        if teachers not in self.programs_of:
            answering, shape = self.answering(teachers), self.dataset.image_shape
            self.programs_of[teachers] = time_programs(answering, shape, self.worker.device)
        return self.programs_of[teachers]

    def seconds(self, job: Job, sharing: Sharing) -> float:
        """The time of a job on one worker. Where teacher logits are stored all of them are there
        already; teachers that answer live are part of it.
        """
        if not job.recipe.epochs:
            return 0.0  # weights as they are: to time a network that is not trained takes a while
        live = bool(job.teachers) and not sharing.stores_for(job.recipe)
        kind = _Timed(timed_form(job.recipe), job.teachers, live)
        if kind not in self.timed:
            seconds = None
            if self.bench is not None:
                seconds = _benched_seconds(self.bench, kind.step, job, self.study, self.dataset)
            self.timed[kind] = seconds or self._alike(kind) or self._time(kind, job, sharing)
        return self.timed[kind] * job.recipe.epochs

    def _time(self, kind: _Timed, job: Job, sharing: Sharing) -> float:
        begun = time.perf_counter()
        teachers: LiveTeachers | TeacherLogitsKey
        if kind.live:
            teachers = self.answering(job.teachers)
        else:
            teachers = teacher_logits_key(job, sharing, self.dataset.num_classes)
        few_epochs = dataclasses.replace(job, recipe=kind.recipe)
        seconds = epoch_seconds(few_epochs, self.dataset, teachers, self.worker)
        self.timing += time.perf_counter() - begun
        return seconds * self.scale

    @functools.cached_property
    def scale(self) -> float:
        """How long the student alone takes where the plan is for, as a multiple of here."""
        if self.elsewhere is None:
            return 1.0
        recipe = timed_form(dataclasses.replace(self.study.student, method=Supervised()))
        alone = Job(recipe=recipe, data=self.state.data.labelled, seed=self.study.trial_seed)
        there = _benched_seconds(self.elsewhere.bench, STUDENT, alone, self.study, self.dataset)
        here = epoch_seconds(alone, self.dataset, self.answering(()), self.worker)
        return 1.0 if there is None else there / here

    def _alike(self, kind: _Timed) -> float | None:
        """An epoch's time by the most similar job so far: one of the same network, with live
        teachers or without as this, or else one that gets its teachers' logits as this does. None
        while there is time for timing, and where there is no such job.
        """
        if self.timing < TIMING_S:
            return None
        of_network = [
            seconds
            for other, seconds in self.timed.items()
            if (other.recipe.model, other.live) == (kind.recipe.model, kind.live)
        ]
        others = [seconds for other, seconds in self.timed.items() if other.step == kind.step]
        return max(of_network, default=max(others, default=None))

    def stage(
        self,
        name: str,
        jobs: list[Job],
        done: int,
        workers: int,
        sharing: Sharing = LIVE_TEACHERS,
        drawn: float = 1.0,
    ) -> StagePlan:
        """A stage that trains `jobs`, of which `done` others are finished; each has `drawn` one of
        so many augmentations.
        """
        teacher_logits = self._teacher_logits(jobs, sharing, drawn)
        total = sum(self.seconds(job, sharing) for job in jobs)
        total += sum(logits.seconds for logits in teacher_logits if logits.stored)
        images = sum(job.recipe.epochs * self._images_of(job) for job in jobs)
        start_up = self._start_up(len(jobs))
        seconds = start_up + self._in_parallel(total, len(jobs), workers)
        return StagePlan(
            name,
            len(jobs) + done,
            done,
            images,
            total,
            seconds,
            teacher_logits,
            start_up=start_up,
        )

    def _teacher_logits(
        self, jobs: list[Job], sharing: Sharing, drawn: float
    ) -> tuple[TeacherLogitsPlan, ...]:
        """What those of the jobs that learn from teachers need of them in their stage: what is
        stored of versions is the answer stage's.
        """
        asking = [
            job for job in jobs if job.recipe.versions is None or not sharing.stores_for(job.recipe)
        ]
        return tuple(
            plan_teacher_logits(
                alike,
                sharing,
                self.dataset,
                self.answering(alike[0].teachers),
                self.worker,
                self.bench,
                drawn,
                functools.partial(self.programs, alike[0].teachers),
            )
            for alike in jobs_by_logits(asking, sharing, self.dataset.num_classes)
        )

    def _images_of(self, job: Job) -> int:
        """The images that a job trains on in an epoch."""
        unlabelled = job.data.unlabelled
        return len(self.dataset.train) + (0 if unlabelled is None else unlabelled.images)

    def screen_stage(self) -> StagePlan:
        """The stage that measures augmentations."""
        screenings, train = self.state.screenings, len(self.dataset.train)
        missing = [asked for asked in screenings if self.state.screened(asked) is None]
        images, total = 0, 0.0
        for screening in missing:
            answered = screening.epochs * min(screening.images or train, train)
            teachers = self.answering(screening.teachers)
            seconds_of_image = _measured_seconds(screening, self.dataset, teachers, self.worker)
            total += answered * seconds_of_image * self.scale
            images += answered
        done = len(screenings) - len(missing)
        seconds = self._start_up(len(missing)) + self._in_parallel(total, len(missing))
        return StagePlan(SCREEN, len(screenings), done, images, total, seconds)

    def answer_stage(self, asked: list[Answers]) -> StagePlan:
        """The stage in which teachers answer for versions, ahead of the students."""
        pieces, missing, images, total = 0, 0, 0, 0.0
        making: dict[tuple[str, ...], float] = {}
        for answers in asked:
            left = answers.missing(self.state.store)
            pieces, missing = pieces + len(answers.pieces), missing + len(left)
            if left:
                images += answers.images_of(left)
                as_programs = share_as_programs(answers.key, answers.images)
                teachers = answers.key.teachers
                programs = self.programs(teachers) if as_programs else Programs()
                making[teachers] = max(programs.making, making.get(teachers, 0.0))
                seconds = programs.seconds(self._answering_seconds(answers), as_programs)
                total += answers.images_of(left) * seconds
        # Each process makes programs of its own
        total += sum(making.values()) * min(self.places, missing)
        seconds = self._start_up(missing) + self._in_parallel(total, missing)
        return StagePlan(ANSWER, pieces, pieces - missing, images, total, seconds)

    def _answering_seconds(self, answers: Answers) -> float:
        """The time in which the teachers answer for an image, layer by layer."""
        if self.bench is not None:
            return self.bench.teachers / self.bench.batch_size
        teachers = self.answering(answers.key.teachers)
        few = some_of(self.dataset, TIMED_IMAGES)
        for _ in range(2):  # the first warms up
            begun = time.perf_counter()
            compute_teacher_logits(answers.key, 1, teachers, few, self.worker.device)
        return (time.perf_counter() - begun) / len(few.train)

    def _in_parallel(self, total: float, jobs: int, workers: int = 1) -> float:
        """The time of jobs that take `total` one after the other, with as many in parallel as fit,
        each on so many `workers`.
        """
        return total / max(1, min(self.places // workers, jobs))

    def _start_up(self, jobs: int) -> float:
        """The time until a stage with so many jobs trains: Ray starts once, with processes that
        later stages take over; those of a stage load what is new in it.
        """
        if not jobs:
            return 0.0
        starts = 1 if self.ray_runs else 3
        self.ray_runs = True
        return starts * self.start_up


def _start_up_seconds() -> float:
    """The time in which a process loads torch and what training needs, for one that just has."""
    status = Path("/proc/self/stat")
    if not status.exists():
        return TYPICAL_START_UP_S
    begun = int(status.read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - begun
    return age if age < LONGEST_START_UP_S else TYPICAL_START_UP_S


LOADING_S = _start_up_seconds()
"""What this process took until here; later its age has more in it, such as networks that `init`
times.
"""


def _benched_seconds(
    bench: Bench, step: str, job: Job, study: StudyDefinition, dataset: Dataset
) -> float | None:
    """An epoch's time by one of the steps that were measured; None for another network.

    Validation was not measured: to predict takes about a third of a training step.
    """
    recipe = dataclasses.replace(study.student, epochs=job.recipe.epochs, method=job.recipe.method)
    known = job.recipe == recipe and recipe.method in (study.student.method, Supervised())
    if not known or step not in bench.steps:
        return None
    return (
        bench.steps[step] * len(dataset.train) + bench.steps[STUDENT] / 3 * len(dataset.validation)
    ) / bench.batch_size


def _measured_seconds(
    screening: Screening, dataset: Dataset, teachers: LiveTeachers, worker: Worker
) -> float:
    """The time that a screening takes for an image, judged from two groups."""
    if screening.augmentation.crops_whole and dataset.strips is not None:
        dataset.strips()  # decoding is done once, and is not what is timed
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
