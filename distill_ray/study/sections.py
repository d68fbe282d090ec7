"""The sections of a study, as the rest of the package sees them: resolved, with every default
filled in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from distill_ray.augmentation import Augmentation
from distill_ray.job import Recipe, Split
from distill_ray.settings import Setting
from distill_ray.study.recipes import flatten, to_file
from distill_ray.study.space import Label, SearchSpace

MAX_SEED = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """Which images the study is about, and how the validation split is cut."""

    source: Annotated[
        str, Setting("digits, toy-spiral, toy-regression, or a data set's folder or URI")
    ] = "digits"
    validation: Annotated[
        int | None, Setting("images held out for model selection; unset: one tenth", at_least=1)
    ] = None
    train: Annotated[int | None, Setting("images to train on; unset: all others", at_least=1)] = (
        None
    )
    split: Annotated[
        Literal["stratified", "last"], Setting("how the validation images are chosen")
    ] = "stratified"
    label: Annotated[str | None, Setting("label column, where a data set has several")] = None
    seed: Annotated[
        int, Setting("random seed of the stratified split", at_least=0, at_most=MAX_SEED)
    ] = 0
    size: Annotated[
        int | None,
        Setting(
            "side that images are resized and cropped to; unset: all already have one size",
            at_least=1,
            at_most=4096,
        ),
    ] = None
    memory_gb: Annotated[
        float,
        Setting(
            "memory of a node for the images of a split; a larger split stays on its disk and is read batch by batch",
            at_least=0,
        ),
    ] = 4.0

    def cut(self, rows: int) -> Split:
        """The split of a training file with that many rows."""
        validation = max(1, rows // 10) if self.validation is None else self.validation
        return Split(validation=validation, train=self.train, rule=self.split, seed=self.seed)


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
        named = {"name": self.name} if self.name else {}
        return (
            named
            | {"members": len(self.seeds), "seeds": list(self.seeds)}
            | to_file(flatten(self.recipe))
        )


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Which augmentations are measured with the teachers alone, before any student is trained, and
    on how many images.

    The defaults are those of Wang et al. 2022. Values can be compared only between screenings with
    the same `batch_size`.
    """

    candidates: tuple[Augmentation, ...]
    keep: Annotated[
        int | None,
        Setting("how many choices of augmentation the search keeps; unset: all", at_least=1),
    ] = None
    epochs: Annotated[int, Setting("passes over the images", at_least=1)] = 10
    images: Annotated[
        int | None, Setting("training images to measure on; unset: all", at_least=1)
    ] = None
    batch_size: Annotated[
        int, Setting("images per batch; five batches make a group", at_least=1)
    ] = 64

    def to_file(self) -> dict[str, Any]:
        """The section as the study file writes it."""
        return {
            "candidates": [augmentation.to_dict() for augmentation in self.candidates],
            "keep": self.keep,
            "epochs": self.epochs,
            "images": self.images,
            "batch_size": self.batch_size,
        }


@dataclass(frozen=True, kw_only=True)
class Asha:
    """Asynchronous successive halving: of the trials that reach a rung, one in `reduction`
    continues.
    """

    grace_epochs: Annotated[int, Setting("epochs that every trial runs", at_least=1)]
    reduction: Annotated[
        int, Setting("one in this many trials continues at each rung", at_least=2)
    ] = 3


@dataclass(frozen=True, kw_only=True)
class Search:
    """How the student is searched. `time_limit` is in seconds; no `scheduler` means that every
    trial runs to its end.
    """

    trials: Annotated[int, Setting("configurations to try", at_least=1)] = 20
    objectives: Mapping[str, str]
    sampler: Annotated[
        Literal["tpe", "random", "nsga2"], Setting("how configurations are suggested")
    ] = "tpe"
    seed: Annotated[
        int,
        Setting(
            "random seed of the sampler; default: the study's seed", at_least=0, at_most=MAX_SEED
        ),
    ]
    scheduler: Asha | None
    max_failed_trials: Annotated[
        int,
        Setting(
            "failed trials after which the search gives up; default: a quarter of the trials, at least 3",
            at_least=1,
        ),
    ]
    retries: Annotated[
        int,
        Setting(
            "how often a job (teacher, screening, trial or confirmation) is started again after one of its processes died; a "
            "trial that fails on its own account is never retried",
            at_least=0,
        ),
    ] = 1
    time_limit: float | None
    max_concurrent: Annotated[
        int | None, Setting("trials run in parallel; unset: as many as fit", at_least=1)
    ] = None
    warm_start: Annotated[
        tuple[str, ...],
        Setting(
            "earlier studies whose trials the sampler starts from: names, or NAME@STORE for another store"
        ),
    ] = ()
    try_first: tuple[Mapping[str, Label], ...]
    space: SearchSpace

    def to_file(self) -> dict[str, Any]:
        """The section as the study file writes it."""
        scheduler: str | dict[str, Any] = "none"
        if self.scheduler:
            scheduler = {
                "name": "asha",
                "grace_epochs": self.scheduler.grace_epochs,
                "reduction": self.scheduler.reduction,
            }
        return {
            "trials": self.trials,
            "objectives": dict(self.objectives),
            "sampler": self.sampler,
            "seed": self.seed,
            "scheduler": scheduler,
            "max_failed_trials": self.max_failed_trials,
            "retries": self.retries,
            "time_limit": None if self.time_limit is None else f"{self.time_limit:.3f}s",
            "max_concurrent": self.max_concurrent,
            "warm_start": list(self.warm_start),
            "try_first": [
                to_file({name: self.space[name].value(label) for name, label in trial.items()})
                for trial in self.try_first
            ],
            "space": self.space.to_file(),
        }


@dataclass(frozen=True, kw_only=True)
class Confirm:
    """What is trained again over several seeds and judged on the test split.

    `ensembles` need no training of their own: they are means of what others predict. `learns_from`
    names the groups of teachers of those baselines that do not learn from the same as the student.
    """

    seeds: Annotated[
        int, Setting("training runs per candidate, each with its own seed", at_least=1, at_most=100)
    ] = 3
    top: Annotated[int, Setting("best configurations of the search to confirm", at_least=1)] = 1
    baselines: Mapping[str, Recipe]
    ensembles: Mapping[str, MeanOf] = field(default_factory=dict)
    learns_from: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def found(self) -> tuple[str, ...]:
        """The names of the contenders that the search finds, the best first."""
        return (
            ("best",) if self.top == 1 else tuple(f"best-{rank}" for rank in range(1, self.top + 1))
        )

    def to_file(self) -> dict[str, Any]:
        """The section as the study file writes it."""
        baselines = {
            name: to_file(flatten(recipe))
            | ({"teachers": list(self.learns_from[name])} if name in self.learns_from else {})
            for name, recipe in self.baselines.items()
        }
        baselines |= {
            name: {"ensemble": list(mean.of), "shares": list(mean.shares)}
            for name, mean in self.ensembles.items()
        }
        return {"seeds": self.seeds, "top": self.top, "baselines": baselines}


@dataclass(frozen=True, kw_only=True)
class MeanOf:
    """The mean prediction of several networks: of one contender's runs, or of several contenders,
    seed by seed.

    `of` names contenders; `shares` are their weights (or those of the runs), in any unit, all equal
    when empty.
    """

    of: tuple[str, ...]
    shares: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published table, printed beside the measured one.

    `difference` says how their experiment differs from this study. Numbers are as the report shows
    them: accuracy, ece, oe and cece in percent. A row's `measured` names the contender that
    corresponds to it, if one does.
    """

    source: Annotated[str, Setting("where it was published")]
    difference: Annotated[str, Setting("how that experiment differs from this study")]
    rows: tuple[PublishedRow, ...]

    def to_file(self) -> dict[str, Any]:
        """The section as the study file writes it."""
        rows = {
            row.name: ({"measured": row.measured} if row.measured else {}) | dict(row.values)
            for row in self.rows
        }
        return {"source": self.source, "difference": self.difference, "rows": rows}


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One line of a published table."""

    name: str
    values: Mapping[str, float]
    measured: str = ""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one job gets."""

    workers_per_teacher: Annotated[
        int, Setting("data-parallel processes that train one teacher", at_least=1)
    ] = 1
    workers_per_trial: Annotated[
        int, Setting("data-parallel processes that train one student", at_least=1)
    ] = 1
    cpus_per_worker: Annotated[int, Setting("CPU cores per worker", at_least=1)] = 1
    gpus_per_worker: Annotated[
        float, Setting("GPUs per worker; a fraction lets several share one", at_least=0)
    ] = 0
    teacher_logits: Annotated[
        Literal["auto", "stored", "live"],
        Setting(
            "cached teacher logits: cached once for all trials with the same augmentation, or computed live; auto: whichever "
            "costs less"
        ),
    ] = "auto"
    teacher_logits_precision: Annotated[
        Literal["fp16", "fp32"],
        Setting(
            "precision of stored teacher logits; fp16 is not used where it would change a logit by more than 1/64"
        ),
    ] = "fp16"
    teacher_logits_top_k: Annotated[
        int | None,
        Setting(
            "number of most likely classes kept per cached prediction, the rest lumped together; unset: all up to 500 classes, "
            "else one eighth where the method allows it",
            at_least=1,
        ),
    ] = None
    teacher_logits_gb: Annotated[
        float,
        Setting(
            "disk space for all teacher logits in the store; the least recently used are evicted first",
            at_least=0,
        ),
    ] = 20.0
    compile: Annotated[
        Literal["auto", "always", "never"],
        Setting(
            "torch.compile for training on one worker, on GPUs with CUDA graphs; auto: only on a GPU, for jobs of at least "
            "10,000 steps"
        ),
    ] = "auto"
