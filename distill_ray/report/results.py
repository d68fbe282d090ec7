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
from distill_ray.events import JobState
from distill_ray.job import Computation, differences
from distill_ray.records import Predictions
from distill_ray.study import Published
from distill_ray.task import Task

if TYPE_CHECKING:
    from distill_ray.report.table import Row

ENSEMBLE = "ensemble"
TEACHER = "teacher"
SCRATCH = "scratch"
DEFAULT_KD = "default-kd"
BEST = "best"
"""Names of contenders. Several configurations found by the search are `best-1`, `best-2`, ..., the
first being the best.
"""

Value = str | int | float | bool
"""A setting of a recipe, by the name that `Recipe.params` gives it."""


@dataclass(frozen=True)
class ScreenRow:
    """One augmentation of the screening: what was measured with the teachers alone, and whether the
    search had it.

    `t_stddev` and `entropy` (nats) are None when it was not measured, and `remark` says why.
    `searched` is None where the augmentation was none of the search's choices.
    """

    augmentation: str
    t_stddev: float | None
    entropy: float | None
    searched: bool | None
    remark: str = ""


@dataclass(frozen=True, eq=False)
class Contender:
    """One row of the table: a network or an ensemble, once per seed.

    `name` is one of the names above, or another baseline's; `label` is what people read. `params`
    are the settings of its recipe, `parameters` counts the weights of what is deployed (of all
    members for the ensemble). `seeds`, `validation`, `test` and `job_ids` go together by position;
    `test` is empty as long as the test split has not been read. An ensemble is one run, with the
    seed and the jobs of its members in `seeds` and `job_ids`. `members` counts the networks behind
    one run, and `averaged` says that it is a mean of what other contenders predict, of one alone
    perhaps: no job of its own. `t_stddev` is what the screening measured of the augmentation it
    was trained with, if it did, and it learned from teachers. `diversity` says, run by run, how
    much the members or heads inside one network disagree on the validation split (see
    `metrics.diversity`), for methods whose students have such.
    """

    name: str
    label: str
    params: Mapping[str, Value]
    parameters: int
    seeds: tuple[int, ...]
    validation: tuple[Predictions, ...]
    test: tuple[Predictions, ...] = ()
    job_ids: tuple[str, ...] = ()
    members: int = 1
    averaged: bool = False
    t_stddev: float | None = None
    diversity: tuple[Mapping[str, float], ...] = ()

    @property
    def found(self) -> bool:
        """Whether the search found this configuration."""
        return re.fullmatch(rf"{BEST}(-\d+)?", self.name) is not None

    @property
    def is_teacher(self) -> bool:
        """Whether its runs are teachers: all of them, or those of a named group."""
        return self.name == TEACHER or self.name.startswith(f"{TEACHER}-")


@dataclass(frozen=True)
class TrialRow:
    """One trial of the search.

    `params` are the searched settings alone; a conditional one is absent where it does not apply.
    `values` maps objective to value and is empty unless the trial has finished; `epochs` holds the
    metrics reported after each epoch (`epoch` among them, from 1), in order. `reason` says why a
    trial failed or was pruned. `t_stddev` is what the screening measured of its augmentation.
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
    """The student to deploy: its job, its recipe's settings, and the temperature that calibrates it
    (fitted on validation).
    """

    job_id: str
    params: Mapping[str, Value]
    temperature: float


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """Everything that a report says about a study.

    `objectives` maps each objective to `min` or `max`, the first being the one that ranks. `data`
    says in words what the study learned from, `log_scale` names the searched settings that were
    drawn on a logarithmic scale, `warm_start` counts the trials of earlier studies that the search
    was given. `computations` counts the jobs that each kind of device, with its precision and
    threads, has computed. Credentials in URIs (`user:password@`) are taken out of the study file,
    the command and the tracking URI.
    """

    name: str
    digest: str
    study_file: str
    created: str
    status: Literal["running", "finished", "failed"]
    objectives: Mapping[str, Literal["min", "max"]]
    stages: tuple[StageRow, ...] = ()
    trials: tuple[TrialRow, ...] = ()
    contenders: tuple[Contender, ...] = ()
    warm_start: Mapping[str, int] = field(default_factory=dict)
    champion: Champion | None = None
    screening: tuple[ScreenRow, ...] = ()
    published: Published | None = None
    data: str = ""
    class_names: tuple[str, ...] = ()
    task: Task = "classification"
    log_scale: frozenset[str] = frozenset()
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
    def best(self) -> Contender | None:
        """The best configuration that the search found, if it was confirmed."""
        return next((contender for contender in self.contenders if contender.found), None)

    @property
    def split(self) -> Literal["test", "validation"]:
        """The split to compare on: test as soon as a contender was evaluated there."""
        return "test" if any(contender.test for contender in self.contenders) else "validation"
