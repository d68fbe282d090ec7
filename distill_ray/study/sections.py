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

from annotated_types import Ge, Gt, Le, Lt

from distill_ray.augmentation import Augmentation
from distill_ray.job import Recipe, Split
from distill_ray.settings import Doc
from distill_ray.study.fields import to_file
from distill_ray.study.problems import Path, Problems, quoted
from distill_ray.study.recipes import flatten
from distill_ray.study.space import Choice, Label, SearchSpace

MAX_SEED = 2**31 - 1
Seed = Annotated[int, Ge(0), Le(MAX_SEED)]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NAME_RULE = "letters, digits and . _ -, first a letter or digit, at most 100 of them"

BASELINES = ("scratch", "default-kd")
BASELINES_WITH_WEIGHTS = ("fine-tuned", "default-kd")
"""Those of a student that starts from drawn weights, and of one that starts from trained ones."""

STUDENT_ENSEMBLE = "student-ensemble"
BUILT_IN = ("scratch", "fine-tuned", "default-kd", STUDENT_ENSEMBLE)
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
        int | None,
        Ge(1),
        Doc(
            "images held out for model selection; unset: the data set's own validation split, or "
            "one tenth"
        ),
    ] = None
    test: Annotated[
        int | None,
        Ge(1),
        Doc(
            "images of the training split held out as test split, where the data set has none; "
            "unset: its own"
        ),
    ] = None
    train: Annotated[
        int | None,
        Ge(0),
        Doc("images to train on; 0 for unlabelled images alone; unset: all others"),
    ] = None
    split: Annotated[Literal["stratified", "last"], Doc("how the validation images are chosen")] = (
        "stratified"
    )
    label: Annotated[str | None, Doc("label column, where a data set has several")] = None
    imbalance: Annotated[
        float | None,
        Gt(1),
        Doc(
            "how many times the images of the rarest class the most frequent one has in training: "
            "classes are thinned exponentially in their order; unset: as they are"
        ),
    ] = None
    seed: Annotated[Seed, Doc("random seed of the stratified split, and of what is left out")] = 0
    size: Annotated[
        int | None,
        Ge(1),
        Le(4096),
        Doc("side that images are resized and cropped to; unset: all already have one size"),
    ] = None
    resize: Annotated[
        int | None,
        Ge(1),
        Le(4096),
        Doc(
            "shorter side that images are kept at, such as 256 with size: 224: random resized "
            "crops come from all of an image, other training crops from the square in its middle, "
            "and evaluation takes the middle of that; unset: size"
        ),
    ] = None
    unlabelled: Annotated[
        str | None,
        Doc(
            "folder or URI of images without labels, of which terms of the loss that need none "
            "learn too"
        ),
    ] = None
    unlabelled_ratio: Annotated[
        float | None,
        Gt(0),
        Doc("unlabelled images for each training image, as far as there are so many; unset: all"),
    ] = None
    class_weights: Annotated[
        Literal["balanced"] | None,
        Doc(
            "balanced: images count in cross-entropies with the labels by the inverse frequency of "
            "their class; unset: all alike"
        ),
    ] = None
    memory_gb: Annotated[
        float,
        Ge(0),
        Doc(
            "memory of a node for the images of a split, with what random resized crops need "
            "beyond their squares; what is larger stays on its disk and is read batch by batch"
        ),
    ] = 4.0

    @property
    def cuts_test(self) -> bool:
        """Whether test images are cut from the training split."""
        return self.test is not None

    def cut(self, rows: int, own: int = 0) -> Split:
        """The split of a training file with that many rows, of which the last `own` are a
        validation split that the data set came with.
        """
        rule: Literal["stratified", "last", "own"] = self.split
        if self.validation is not None:
            validation = self.validation
        elif own:
            validation, rule = own, "last" if rule == "last" else "own"
        else:
            validation = max(1, rows // 10)
        return Split(
            validation=validation,
            train=self.train,
            rule=rule,
            seed=self.seed,
            test=self.test,
            imbalance=self.imbalance,
        )


@dataclass(frozen=True, kw_only=True)
class GroupFields:
    """The ensemble: one group of identically trained networks, or a list of such groups. Any
    setting of a recipe can be given; `model` is required, or `from`. `calibrate` (Kim et al. 2025,
    https://arxiv.org/abs/2508.20224) changes what students learn from, and neither the teachers nor
    their screening, so that studies with and without it share teachers and cached logits. Report,
    `report --json`, MLflow (`calibration/temperature` of each such teacher) and model card have the
    temperatures.
    """

    members: Annotated[int, Ge(1), Le(100), Doc("number of teachers, with consecutive seeds")] = 3
    seeds: Annotated[tuple[Seed, ...] | None, Doc("one teacher per seed, instead of members")] = (
        None
    )
    calibrate: Annotated[
        bool,
        Doc(
            "whether students learn from each teacher's logits divided by a temperature that is "
            "fitted on the validation split, as for cNLL"
        ),
    ] = False
    name: Annotated[str, Doc("name of the group, if there are several"), Form("text")] = ""
    from_: Annotated[
        str | None,
        Doc(
            "in place of model and weights, a network that is in a store: STUDY[/CONTENDER][@STORE]"
            " or job ID[@STORE], such as older, older/scratch or older@s3://bucket/studies"
        ),
    ] = None
    answers: Annotated[
        str | None,
        Doc(
            "in place of model and weights, a folder with what teachers that are not here have "
            "answered, in the layout of `teacher-logits ask`; docs/versions.md"
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class TeacherGroup:
    """Members of the ensemble that are trained alike, one per seed. A `name` tells several groups
    apart; `source` is what `from` names, empty where it names nothing. Of teachers that are known
    by their answers alone, `seeds` are the numbers that these give the members.
    """

    recipe: Recipe
    seeds: tuple[int, ...]
    calibrate: bool = False
    name: str = ""
    source: str = field(default="", compare=False)

    def to_file(self) -> dict[str, Any]:
        """The group as the study file writes it."""
        name = {"name": self.name} if self.name else {}
        calibrate = {"calibrate": True} if self.calibrate else {}
        if self.recipe.answers_alone:
            members = {"members": len(self.seeds)}
            return {**name, **members, **calibrate, "answers": self.recipe.weights}
        seeds = {"members": len(self.seeds), "seeds": list(self.seeds)}
        settings = to_file(flatten(self.recipe))
        if self.recipe.epochs == 0:  # weights that are taken as they are
            del settings["epochs"]
        return {**name, **seeds, **calibrate, **settings}


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
    drop_behind: Annotated[
        bool,
        Doc("whether the search leaves out augmentations behind the best beyond chance (95 %)"),
    ] = False
    epochs: Annotated[int, Ge(1), Doc("passes over the images")] = 10
    images: Annotated[int | None, Ge(1), Doc("training images to measure on; unset: all")] = None
    batch_size: Annotated[int, Ge(1), Doc("images per batch; five batches make a group")] = 64


SchedulerName = Literal["asha", "hyperband", "median", "paired"]


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """What stops unpromising trials early. `asha`: asynchronous successive halving, in which of the
    trials that reach a rung one in `reduction` continues. `hyperband`: the same with three sets of
    rungs, the later of which begin later. `median`: a trial stops whose best value is worse than
    the median of the others at the same epoch. `paired`: a trial stops that is surely behind the
    best one epoch by epoch, and does not catch up in time; all trials see the same images in the
    same order, so that their difference has less noise than their ranks.
    """

    name: Annotated[SchedulerName, Doc("which scheduler")] = "asha"
    grace_epochs: Annotated[
        int, Ge(1), Doc("epochs that every trial runs; at least those of the warm-up and one more")
    ]
    reduction: Annotated[
        int | None,
        Ge(2),
        Doc("one in this many trials continues at each rung of asha and hyperband; default: 3"),
    ] = None

    def to_file(self) -> dict[str, Any]:
        """The scheduler as the study file writes it."""
        reduction = {} if self.reduction is None else {"reduction": self.reduction}
        return {"name": self.name, "grace_epochs": self.grace_epochs} | reduction


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How `cost/latency-ms` is measured: on the processor of the machine that drives the study,
    of the network as it is deployed, before any trial runs there.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "strict": True,
        "allow_inf_nan": False,
        "extra": "forbid",
    }

    engine: Annotated[Literal["torch", "onnxruntime"], Doc("what runs the network")] = "torch"
    precision: Annotated[
        Literal["fp32", "bf16", "int8"],
        Doc(
            "what it computes in; bf16, by torch's autocast, is for torch, and int8, as `export "
            "--format onnx-int8` has it, for onnxruntime"
        ),
    ] = "fp32"
    batch_size: Annotated[int, Ge(1), Doc("images that are answered together")] = 1
    threads: Annotated[int, Ge(1), Doc("threads of the engine")] = 1

    def to_file(self) -> dict[str, Any]:
        """The section as the study file writes it; float32 is not said, so that what was measured
        before there was a precision keeps its identity.
        """
        written = dict(vars(self))
        if self.precision == "fp32":
            del written["precision"]
        return written


@dataclass(frozen=True, kw_only=True)
class Stop:
    """When a search ends before it has had its trials."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "strict": True,
        "allow_inf_nan": False,
        "extra": "forbid",
    }

    patience: Annotated[
        int, Ge(1), Doc("trials in a row that improve nothing, after which the search ends")
    ]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a search may spend, over all runs of the study. Trials that are under way when it is
    spent come to their end.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "strict": True,
        "allow_inf_nan": False,
        "extra": "forbid",
    }

    epochs: Annotated[int | None, Ge(1), Doc("epochs of training, over all trials")] = None
    gpu_hours: Annotated[
        float | None, Gt(0), Doc("hours of trials times the GPUs that each of them has")
    ] = None
    kwh: Annotated[
        float | None, Gt(0), Doc("energy of all trials, where their devices count it")
    ] = None

    def to_file(self) -> dict[str, Any]:
        """The budget as the study file writes it; `kwh`, which came later, only where it is set."""
        return {name: value for name, value in vars(self).items() if name != "kwh" or value}


@dataclass(frozen=True, kw_only=True)
class Search:
    """How the student's settings are searched."""

    trials: Annotated[int, Ge(1), Doc("configurations to try")] = 20
    objectives: Annotated[
        Mapping[str, str],
        Doc(
            "what is optimised, as docs/metrics.md defines it; several give a Pareto front, ranked "
            "by the first, which is a metric"
        ),
        Form("metrics with their direction: {val/nll: min, val/accuracy: max}", "{val/nll: min}"),
    ]
    limits: Annotated[
        Mapping[str, float],
        Doc(
            "what a student may cost at most; one that costs more is not trained, and recorded as "
            "infeasible"
        ),
        Form("costs with their limits: {parameters: 500k, latency-ms: 5}", "none"),
    ]
    latency: Annotated[Latency, Doc("how cost/latency-ms is measured")] = Latency()
    sampler: Annotated[
        Literal["auto", "tpe", "gp", "cmaes", "random", "grid", "qmc", "nsga2", "nsga3"],
        Doc("how configurations are suggested; docs/search.md tells what auto chooses"),
    ] = "auto"
    seed: Annotated[Seed, Doc("random seed of the sampler; default: the study's seed")]
    scheduler: Annotated[
        EarlyStopping | None,  # None: every trial runs to its end
        Doc("what stops unpromising trials early"),
        Form(
            "asha, hyperband, median, paired, none, or {name: asha, grace_epochs: 3, reduction: 3}",
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
    study_time_limit: Annotated[
        float | None,  # in seconds
        Doc(
            "limit for a run of the whole study: the search ends when confirmations and report "
            "need what is left of it"
        ),
        Form("a length of time with its unit: 90s, 45m, 2h, 1h30m", "none"),
    ]
    stop: Annotated[Stop | None, Doc("when the search ends early; unset: never")] = None
    budget: Annotated[Budget | None, Doc("what the search may spend; unset: no limit")] = None
    max_concurrent: Annotated[
        int | None, Ge(1), Doc("trials run in parallel; unset: as many as fit")
    ] = None
    for_each: Annotated[
        str | None,
        Doc(
            "a setting, such as method, each of whose choices has a search of its own with an "
            "equal share of the trials, the best of which is confirmed; needs scheduler: none, the "
            "default with it; unset: one search for all"
        ),
    ] = None
    warm_start: Annotated[
        tuple[str, ...],
        Doc(
            "earlier studies whose trials the sampler starts from: names, or NAME@STORE for "
            "another store"
        ),
    ] = ()
    prior: Annotated[
        Mapping[str, Label],
        Doc("settings that are thought to be good; the first trials are drawn around them"),
        Form("settings of the space with a value: {temperature: 4, alpha: 0.9}", "none"),
    ]
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

    @property
    def each(self) -> tuple[Label, ...]:
        """The choices that have searches of their own; nothing without `for_each`."""
        if self.for_each is None:
            return ()
        dimension = self.space[self.for_each]
        assert isinstance(dimension, Choice)
        return dimension.labels

    @property
    def chosen_sampler(self) -> str:
        """The sampler that suggests configurations: the one that is named, or what `auto` means for
        this search.
        """
        return "tpe" if self.sampler == "auto" else self.sampler

    @property
    def asks_for_costs(self) -> bool:
        """Whether a cost is an objective or limited."""
        return bool(self.limits) or any(name.startswith("cost/") for name in self.objectives)

    @property
    def asks_for_latency(self) -> bool:
        """Whether the latency is an objective or limited."""
        return "latency-ms" in self.limits or "cost/latency-ms" in self.objectives

    def to_file(self) -> dict[str, Any]:
        """The section as the study file writes it; what has to do with costs only where it asks for
        such.
        """
        written = {name: to_file(value) for name, value in vars(self).items()}
        for name in ("limits", "stop", "budget", "prior", "study_time_limit"):
            if not getattr(self, name):
                del written[name]
        if self.prior:
            written["prior"] = to_file(self.space.values(self.prior))
        if not self.asks_for_latency:
            del written["latency"]
        if self.scheduler is None:
            written["scheduler"] = "none"
        if self.time_limit is not None:
            written["time_limit"] = f"{self.time_limit:.3f}s"
        if self.study_time_limit is not None:
            written["study_time_limit"] = f"{self.study_time_limit:.3f}s"
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
class ForeignSection:
    """Data sets whose images belong to no class of the study, to measure out-of-distribution
    detection on (AUROC, AUPR, FPR95; docs/metrics.md). Of each the test split is shown to teachers
    and students after training, or the training split where there is none. What they say is stored
    beside their predictions of the test split.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "strict": True,
        "allow_inf_nan": False,
        "extra": "forbid",
    }

    near: Annotated[
        tuple[str, ...],
        Doc("names, folders or URIs of sets much like the study's: other classes of the same kind"),
    ] = ()
    far: Annotated[tuple[str, ...], Doc("names, folders or URIs of sets unlike the study's")] = ()
    resize: Annotated[
        bool, Doc("whether images are brought to the size and channels of the study's")
    ] = False


@dataclass(frozen=True, kw_only=True)
class Confirm:
    """What is trained again over several seeds and evaluated on the test split, which is read only
    here.
    """

    seeds: Annotated[
        int, Ge(1), Le(100), Doc("training runs per candidate, each with its own seed")
    ] = 3
    top: Annotated[int, Ge(1), Doc("best configurations of the search to confirm")] = 1
    coverage: Annotated[
        float,
        Gt(0),
        Lt(1),
        Doc("how often sets of classes (conformal prediction) are to hold the right one"),
    ] = 0.9
    foreign: Annotated[
        ForeignSection | None, Doc("out-of-distribution images to tell from the test split")
    ] = None
    baselines: Annotated[
        Mapping[str, Recipe],
        Doc("what the best student is compared with, besides the teachers"),
        Form(
            f"a list of {', '.join(BUILT_IN)}, or {{name: {{setting: value}}}} with what differs "
            "from the student, or {name: {ensemble: [best], shares: []}}",
            "[scratch, default-kd]; of a student with weights [fine-tuned, default-kd]",
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
        foreign = {} if self.foreign is None else {"foreign": to_file(self.foreign)}
        return {
            "seeds": self.seeds,
            "top": self.top,
            "coverage": self.coverage,
            "baselines": baselines | to_file(self.ensembles),
        } | foreign


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
