"""The sections of a study file, declared once: reading, the JSON Schema and the reference page all
go by these dataclasses, and the rest of the package gets them with every default filled in.

A field without a `Doc` is no field of the file. One with a `Form` is written in a way of its own
and has a reader of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from distill_ray.augmentation import Augmentation
from distill_ray.job import Recipe, Split
from distill_ray.settings import Doc
from distill_ray.study.fields import to_file
from distill_ray.study.problems import Path, Problems, quoted
from distill_ray.study.recipes import flatten
from distill_ray.study.space import Label, SearchSpace

MAX_SEED = 2**31 - 1
Seed = Annotated[int, Ge(0), Le(MAX_SEED)]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NAME_RULE = "letters, digits and . _ -, first a letter or digit, at most 100 of them"

BASELINES = ("scratch", "default-kd")
STUDENT_ENSEMBLE = "student-ensemble"
BUILT_IN = (*BASELINES, STUDENT_ENSEMBLE)
"""Baselines that can be listed by name alone."""


@dataclass(frozen=True)
class Form:
    """How a field with a reader of its own is written, and its default, in words."""

    takes: str
    default: str = ""


def is_name(value: Any, path: Path, problems: Problems) -> bool:
    """Whether `value` can name a study or a group of teachers; a problem when not."""
    if isinstance(value, str) and NAME.fullmatch(value):
        return True
    problems.add(path, f"found {quoted(value)}, must be {NAME_RULE}")
    return False


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """Which images the study is about, and how the validation split is cut."""

    source: Annotated[
        str, Doc("digits, toy-spiral, toy-regression, or a data set's folder or URI")
    ] = "digits"
    validation: Annotated[
        int | None, Ge(1), Doc("images held out for model selection; unset: one tenth")
    ] = None
    train: Annotated[int | None, Ge(1), Doc("images to train on; unset: all others")] = None
    split: Annotated[Literal["stratified", "last"], Doc("how the validation images are chosen")] = (
        "stratified"
    )
    label: Annotated[str | None, Doc("label column, where a data set has several")] = None
    seed: Annotated[Seed, Doc("random seed of the stratified split")] = 0
    size: Annotated[
        int | None,
        Ge(1),
        Le(4096),
        Doc("side that images are resized and cropped to; unset: all already have one size"),
    ] = None
    memory_gb: Annotated[
        float,
        Ge(0),
        Doc(
            "memory of a node for the images of a split; a larger split stays on its disk and is "
            "read batch by batch"
        ),
    ] = 4.0

    def cut(self, rows: int) -> Split:
        """The split of a training file with that many rows."""
        validation = max(1, rows // 10) if self.validation is None else self.validation
        return Split(validation=validation, train=self.train, rule=self.split, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class GroupFields:
    """The ensemble: one group of identically trained networks, or a list of such groups. Any
    setting of a recipe can be given; `model` is required.
    """

    members: Annotated[int, Ge(1), Le(100), Doc("number of teachers, with consecutive seeds")] = 3
    seeds: Annotated[tuple[Seed, ...] | None, Doc("one teacher per seed, instead of members")] = (
        None
    )
    name: Annotated[str, Doc("name of the group, if there are several"), Form("text")] = ""


@dataclass(frozen=True, kw_only=True)
class TeacherGroup:
    """Members of the ensemble that are trained alike, one per seed. A `name` tells several groups
    apart.
    """

    recipe: Recipe
    seeds: tuple[int, ...]
    name: str = ""

    def to_file(self) -> dict[str, Any]:
        """The group as the study file writes it."""
        name = {"name": self.name} if self.name else {}
        seeds = {"members": len(self.seeds), "seeds": list(self.seeds)}
        settings = to_file(flatten(self.recipe))
        if self.recipe.epochs == 0:  # weights that are taken as they are
            del settings["epochs"]
        return {**name, **seeds, **settings}


@dataclass(frozen=True, kw_only=True)
class StudentFields:
    """The configuration every trial starts from. Any setting of a recipe can be given; `model` is
    required.
    """

    teachers: Annotated[
        tuple[str, ...],
        Doc("the teachers it learns from"),
        Form("names of groups of teachers", "all of them"),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Augmentations are ranked with the teachers alone, before any student is trained, by T.
    stddev: the standard deviation over groups of batches of the teachers' mean prediction (Wang et
    al. 2022, whose settings are the defaults), lower being better. If this section is absent,
    nothing is screened. Values are comparable only between screenings with the same batch_size.
    """

    candidates: Annotated[
        tuple[Augmentation, ...],
        Doc("the augmentations to measure"),
        Form("a list of augmentations", "the choices of augmentation in the search"),
    ]
    keep: Annotated[
        int | None, Ge(1), Doc("how many choices of augmentation the search keeps; unset: all")
    ] = None
    epochs: Annotated[int, Ge(1), Doc("passes over the images")] = 10
    images: Annotated[int | None, Ge(1), Doc("training images to measure on; unset: all")] = None
    batch_size: Annotated[int, Ge(1), Doc("images per batch; five batches make a group")] = 64


@dataclass(frozen=True, kw_only=True)
class Asha:
    """Asynchronous successive halving: of the trials that reach a rung, one in `reduction`
    continues.
    """

    name: Annotated[Literal["asha"], Doc("the only scheduler there is")] = "asha"
    grace_epochs: Annotated[
        int, Ge(1), Doc("epochs that every trial runs; at least those of the warm-up and one more")
    ]
    reduction: Annotated[int, Ge(2), Doc("one in this many trials continues at each rung")] = 3


@dataclass(frozen=True, kw_only=True)
class Search:
    """How the student's settings are searched."""

    trials: Annotated[int, Ge(1), Doc("configurations to try")] = 20
    objectives: Annotated[
        Mapping[str, str],
        Doc(
            "what is optimised, as docs/metrics.md defines it; several give a Pareto front, ranked "
            "by the first"
        ),
        Form("metrics with their direction: {val/nll: min, val/accuracy: max}", "{val/nll: min}"),
    ]
    sampler: Annotated[
        Literal["tpe", "random", "nsga2"], Doc("how configurations are suggested")
    ] = "tpe"
    seed: Annotated[Seed, Doc("random seed of the sampler; default: the study's seed")]
    scheduler: Annotated[
        Asha | None,  # None: every trial runs to its end
        Doc("what stops unpromising trials early"),
        Form(
            "asha, none, or {name: asha, grace_epochs: 3, reduction: 3}",
            "asha with one objective, none with several",
        ),
    ]
    max_failed_trials: Annotated[
        int,
        Ge(1),
        Doc(
            "failed trials after which the search gives up; default: a quarter of the trials, at "
            "least 3"
        ),
    ]
    time_limit: Annotated[
        float | None,  # in seconds
        Doc("limit for the whole search"),
        Form("a length of time with its unit: 90s, 45m, 2h, 1h30m", "none"),
    ]
    max_concurrent: Annotated[
        int | None, Ge(1), Doc("trials run in parallel; unset: as many as fit")
    ] = None
    warm_start: Annotated[
        tuple[str, ...],
        Doc(
            "earlier studies whose trials the sampler starts from: names, or NAME@STORE for "
            "another store"
        ),
    ] = ()
    try_first: Annotated[
        tuple[Mapping[str, Label], ...],
        Doc("configurations of the first trials, in place of the sampler's"),
        Form("a list of configurations: [{temperature: 4, augmentation: crop}]", "[]"),
    ]
    space: Annotated[
        SearchSpace,
        Doc("settings of the student that trials draw"),
        Form(
            "setting: {uniform | log | int: [low, high]} or {choice: [...]}; see below",
            "temperature {log: [1, 20]}, alpha {uniform: [0.1, 1]}, where the method has them",
        ),
    ]

    def to_file(self) -> dict[str, Any]:
        """The section as the study file writes it."""
        written = {name: to_file(value) for name, value in vars(self).items()}
        if self.scheduler is None:
            written["scheduler"] = "none"
        if self.time_limit is not None:
            written["time_limit"] = f"{self.time_limit:.3f}s"
        written["try_first"] = [
            {name: to_file(value) for name, value in self.space.values(trial).items()}
            for trial in self.try_first
        ]
        return written


@dataclass(frozen=True, kw_only=True)
class MeanOf:
    """The mean prediction of several networks: of one contender's runs, or of several contenders,
    seed by seed.
    """

    of: Annotated[tuple[str, ...], Doc("names of contenders")]
    shares: Annotated[
        tuple[Annotated[float, Ge(0)], ...],
        Doc("their weights, or those of the runs, in any unit; empty: all equal"),
    ] = ()

    def to_file(self) -> dict[str, Any]:
        """The mean as the study file writes it."""
        return {"ensemble": list(self.of), "shares": list(self.shares)}


@dataclass(frozen=True, kw_only=True)
class Confirm:
    """What is trained again over several seeds and evaluated on the test split, which is read only
    here.
    """

    seeds: Annotated[
        int, Ge(1), Le(100), Doc("training runs per candidate, each with its own seed")
    ] = 3
    top: Annotated[int, Ge(1), Doc("best configurations of the search to confirm")] = 1
    baselines: Annotated[
        Mapping[str, Recipe],
        Doc("what the best student is compared with, besides the teachers"),
        Form(
            f"a list of {', '.join(BUILT_IN)}, or {{name: {{setting: value}}}} with what differs "
            "from the student, or {name: {ensemble: [best], shares: []}}",
            "[scratch, default-kd]",
        ),
    ]
    # `ensembles` need no training of their own: they are means of what others predict.
    ensembles: Mapping[str, MeanOf] = field(default_factory=dict)
    # The groups of teachers of those baselines that do not learn from the same as the student.
    learns_from: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def best_names(self) -> tuple[str, ...]:
        """The names of the contenders that the search finds, the best first."""
        if self.top == 1:
            return ("best",)
        return tuple(f"best-{rank}" for rank in range(1, self.top + 1))

    def to_file(self) -> dict[str, Any]:
        """The section as the study file writes it."""
        baselines = {name: to_file(flatten(recipe)) for name, recipe in self.baselines.items()}
        for name, groups in self.learns_from.items():
            baselines[name]["teachers"] = list(groups)
        return {
            "seeds": self.seeds,
            "top": self.top,
            "baselines": baselines | to_file(self.ensembles),
        }


@dataclass(frozen=True)
class PublishedRow:
    """One line of a published table; `measured` names the contender that corresponds to it, or is
    empty.
    """

    name: str
    values: Mapping[str, float]
    measured: str = ""


@dataclass(frozen=True)
class Published:
    """A published table, printed beside the measured one. Numbers are as the report shows them:
    accuracy, ece, oe and cece in percent.
    """

    source: Annotated[str, Doc("where it was published")]
    difference: Annotated[str, Doc("how that experiment differs from this study")]
    rows: Annotated[
        tuple[PublishedRow, ...],
        Doc("the table, line by line"),
        Form("{name: {metric: value, measured: contender}}"),
    ]

    def to_file(self) -> dict[str, Any]:
        """The section as the study file writes it."""
        rows = {}
        for row in self.rows:
            measured = {"measured": row.measured} if row.measured else {}
            rows[row.name] = measured | dict(row.values)
        return {"source": self.source, "difference": self.difference, "rows": rows}


@dataclass(frozen=True, kw_only=True)
class TeacherLogitsSection:
    """How students get the teachers' logits."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "strict": True,
        "allow_inf_nan": False,
        "extra": "forbid",
    }

    mode: Annotated[
        Literal["auto", "cached", "live"],
        Doc(
            "cached once for all trials with the same augmentation, or computed live; auto: "
            "whichever costs less"
        ),
    ] = "auto"
    precision: Annotated[
        Literal["fp16", "fp32"],
        Doc(
            "precision of cached logits; fp16 is not used where it would change a logit by more "
            "than 1/64"
        ),
    ] = "fp16"
    gb: Annotated[
        float,
        Ge(0),
        Doc(
            "disk space for all cached logits in the store; the least recently used are evicted "
            "first"
        ),
    ] = 20.0
    top_k: Annotated[
        int | None,
        Ge(1),
        Doc(
            "number of most likely classes kept per cached prediction, the rest lumped together; "
            "unset: all up to 500 classes, else one eighth where the method allows it"
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The resources of one job."""

    workers_per_teacher: Annotated[
        int, Ge(1), Doc("data-parallel processes that train one teacher")
    ] = 1
    workers_per_trial: Annotated[
        int, Ge(1), Doc("data-parallel processes that train one student")
    ] = 1
    cpus_per_worker: Annotated[int, Ge(1), Doc("CPU cores per worker")] = 1
    gpus_per_worker: Annotated[
        float, Ge(0), Doc("GPUs per worker; a fraction lets several share one")
    ] = 0
    teacher_logits: Annotated[
        TeacherLogitsSection, Doc("how students get the teachers' logits")
    ] = TeacherLogitsSection()
    compile: Annotated[
        Literal["auto", "always", "never"],
        Doc(
            "torch.compile for training on one worker, on GPUs with CUDA graphs; auto: only on a "
            "GPU, for jobs of at least 10,000 steps"
        ),
    ] = "auto"
    retries: Annotated[
        int,
        Ge(0),
        Doc(
            "how often a job (teacher, screening, trial or confirmation) is started again after "
            "one of its processes died; a trial that fails on its own account is never retried"
        ),
    ] = 1
