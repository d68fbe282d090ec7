"""What a report is made from: the results of a study as pure data, collected by the stages and
shown by this package.

A study that is still running has fewer stages, trials and contenders, and perhaps no champion;
everything here is allowed to be missing, and the report shows what there is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from distill_ray.addresses import masked_text
from distill_ray.data.foreign import Kind
from distill_ray.events import JobState
from distill_ray.job import Computation, differences
from distill_ray.metrics.judgement import Judgement
from distill_ray.records import Predictions
from distill_ray.study import Published
from distill_ray.task import Task

if TYPE_CHECKING:
    from distill_ray.report.table import Row

ENSEMBLE = "ensemble"
TEACHER = "teacher"
SCRATCH = "scratch"
FINE_TUNED = "fine-tuned"
DEFAULT_KD = "default-kd"
BEST = "best"
"""Names of contenders. Several configurations found by the search are `best-1`, `best-2`, ..., the
first being the best.
"""

BASELINES = (DEFAULT_KD, FINE_TUNED, SCRATCH)
"""What the best student is judged against: the first of them that a study has."""

Value = str | int | float | bool
"""A setting of a recipe, by the name that `Recipe.params` gives it."""


@dataclass(frozen=True)
class ScreenRow:
    """One augmentation of the screening: what was measured with the teachers alone, and whether the
    search had it.

    `t_stddev` and `entropy` (nats) are None when it was not measured, and `remark` says why.
    `searched` is None where the augmentation was none of the search's choices. `interval` is the
    95 % interval of T. stddev over images and teachers, `over_images` and `over_teachers` are its
    standard errors, and `behind` says that it is higher than the lowest beyond chance.
    """

    augmentation: str
    t_stddev: float | None
    entropy: float | None
    searched: bool | None
    remark: str = ""
    interval: tuple[float, float] | None = None
    over_images: float | None = None
    over_teachers: float | None = None
    behind: bool | None = None


@dataclass(frozen=True, eq=False)
class Contender:
    """One row of the table: a network or an ensemble, once per seed.

    `name` is one of the names above, or another baseline's; `label` is what people read. `params`
    are the settings of its recipe, `parameters` counts the weights of what is deployed (of all
    members for the ensemble), None where a teacher is known by its answers alone. `seeds`,
    `validation`, `test` and `job_ids` go together by position; `test` is empty as long as the test
    split has not been read. `judged` has, by foreign set and for `test`, what each run says of
    those images beyond the class. An ensemble is one run, with the seed and the jobs of its members
    in `seeds` and `job_ids`. `members` counts the networks behind one run, and `averaged` says that
    it is a mean of what other contenders predict, of one alone perhaps: no job of its own.
    `t_stddev` is what the screening measured of the augmentation it was trained with, if it did,
    and it learned from teachers. `diversity` says, run by run, how much the members or heads inside
    one network disagree on the validation split (see `metrics.diversity`), for methods whose
    students have such. `costs` are those of one run, as far as they are known, as `cost/<name>`,
    summed over the members of an ensemble. `trial` is the number of the trial whose configuration
    the search found, `source` names the earlier studies that given teachers were taken from, where
    all of them were.
    """

    name: str
    label: str
    params: Mapping[str, Value]
    parameters: int | None
    seeds: tuple[int, ...]
    validation: tuple[Predictions, ...]
    test: tuple[Predictions, ...] = ()
    job_ids: tuple[str, ...] = ()
    members: int = 1
    averaged: bool = False
    t_stddev: float | None = None
    diversity: tuple[Mapping[str, float], ...] = ()
    costs: Mapping[str, float] = field(default_factory=dict)
    trial: int | None = None
    source: str = ""
    judged: Mapping[str, tuple[Judgement, ...]] = field(default_factory=dict)

    @property
    def found(self) -> bool:
        """Whether the search found this configuration."""
        return re.fullmatch(rf"{BEST}(-\d+)?", self.name) is not None

    @property
    def is_teacher(self) -> bool:
        """Whether its runs are teachers: all of them, or those of a named group."""
        return self.name == TEACHER or self.name.startswith(f"{TEACHER}-")


@dataclass(frozen=True)
class CalibratedTeacher:
    """A teacher whose logits are divided by `temperature` before students learn from them.

    `group` is the name of its group, or the network's. `from_prior` says that its predictions on
    the validation split determine no temperature, so that the prior keeps it near 1.
    """

    job_id: str
    group: str
    seed: int
    temperature: float
    from_prior: bool


@dataclass(frozen=True)
class TrialRow:
    """One trial of the search.

    `params` are the searched settings alone; a conditional one is absent where it does not apply.
    `values` maps objective to value and is empty unless the trial has finished; `epochs` holds the
    metrics reported after each epoch (`epoch` among them, from 1), in order. `reason` says why a
    trial failed, was pruned or is infeasible. `t_stddev` is what the screening measured of its
    augmentation, `costs` what the search asked of its costs, as `cost/<name>`.
    """

    number: int
    state: JobState
    params: Mapping[str, Value]
    values: Mapping[str, float] = field(default_factory=dict)
    epochs: tuple[Mapping[str, float], ...] = ()
    job_id: str = ""
    seconds: float | None = None
    reason: str = ""
    t_stddev: float | None = None
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StageRow:
    """One stage: how long it took, how many jobs the study trained in it (`done`), and how many
    others had trained (`reused`).

    `joules` is the energy that its jobs' devices used, None where they do not report it.
    """

    stage: str
    seconds: float
    done: int
    reused: int
    joules: float | None = None


@dataclass(frozen=True)
class Champion:
    """The student to deploy: its job, its recipe's settings, and, fitted on validation, the
    temperature that calibrates it and the thresholds of its sets of classes by conformal score
    (infinite where the split is too small).
    """

    job_id: str
    params: Mapping[str, Value]
    temperature: float
    thresholds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """Everything that a report says about a study.

    `objectives` maps each objective to `min` or `max`, the first being the one that ranks. `data`
    says in words what the study learned from, `log_scale` names the searched settings that were
    drawn on a logarithmic scale, `ranges` the numbers that were drawn with their bounds, `limits`
    what a student may cost, `warm_start` counts the trials of earlier studies that the search was
    given. `teacher_images` says how many images teachers have answered for, by stage. `coverage` is
    what sets of classes are to cover, `foreign` maps foreign sets to their kind, `for_each` is the
    setting whose choices had searches of their own. `calibrated` has the teachers of groups with
    `calibrate: true`. `computations` counts the jobs that each kind
    of device, with its precision and threads, has computed. Credentials in URIs (`user:password@`)
    are taken out of the study file, the command and the tracking URI.
    """

    name: str
    digest: str
    study_file: str
    created: str
    status: Literal["running", "finished", "failed"]
    objectives: Mapping[str, Literal["min", "max"]]
    stages: tuple[StageRow, ...] = ()
    teacher_images: Mapping[str, int] = field(default_factory=dict)
    trials: tuple[TrialRow, ...] = ()
    contenders: tuple[Contender, ...] = ()
    calibrated: tuple[CalibratedTeacher, ...] = ()
    warm_start: Mapping[str, int] = field(default_factory=dict)
    champion: Champion | None = None
    screening: tuple[ScreenRow, ...] = ()
    published: Published | None = None
    data: str = ""
    class_names: tuple[str, ...] = ()
    task: Task = "classification"
    log_scale: frozenset[str] = frozenset()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    coverage: float = 0.9
    foreign: Mapping[str, Kind] = field(default_factory=dict)
    for_each: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    seeds: tuple[int, ...] = ()
    machine: str = ""
    computations: Mapping[Computation, int] = field(default_factory=dict)
    command: str = ""
    tracking_uri: str = ""

    def __post_init__(self) -> None:
        for name in ("study_file", "command", "tracking_uri"):
            object.__setattr__(self, name, masked_text(getattr(self, name)))

    def contender(self, name: str) -> Contender | None:
        """The contender called `name`, if it is there."""
        return next((contender for contender in self.contenders if contender.name == name), None)

    @cached_property
    def rows(self) -> list[Row]:
        """The table: one row per contender, with all its metrics; fitted and computed once."""
        from distill_ray.report.table import rows_of

        return rows_of(self)

    @property
    def computed_differently(self) -> list[str]:
        """In what the computations of the jobs differ, so that equal jobs would give other bits."""
        return differences(self.computations)

    @property
    def baselines(self) -> list[str]:
        """What the best student is judged against, the first that is there: where each choice had a
        search of its own, the same choice with the settings of a baseline, then the usual ones.
        """
        best, name = self.best, self.for_each
        if best is None or name is None:
            return list(BASELINES)
        same = [
            student.name
            for student in self.contenders
            if not (student.found or student.is_teacher or student.averaged)
            and student.params.get(name) == best.params.get(name)
        ]
        return list(dict.fromkeys([*same, *BASELINES]))

    @property
    def best(self) -> Contender | None:
        """The best configuration that the search found, if it was confirmed."""
        return next((contender for contender in self.contenders if contender.found), None)

    @property
    def split(self) -> Literal["test", "validation"]:
        """The split to compare on: test as soon as a contender was evaluated there."""
        return "test" if any(contender.test for contender in self.contenders) else "validation"
