"""A job: one fully resolved training run, and the identity that its result is stored under.

Teachers, trials and confirmations are all jobs. Two jobs with the same `id` are the same run, in
whatever study they occur, so the second one is never trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from distill_ray.augmentation import AUGMENTATIONS, Augmentation, CropFlip
from distill_ray.augmentation.versions import Versions
from distill_ray.methods import METHODS, Method, Supervised
from distill_ray.models.preprocessing import Preprocessing
from distill_ray.models.timm_preprocessing import completed
from distill_ray.settings import Doc, check

if TYPE_CHECKING:
    import numpy as np

SCHEMA_VERSION = 3
"""Part of every job's identity. Raise it when a change of code changes what the same job computes.
"""


FOR_WEIGHTS = ("weights", "freeze", "layer_decay", "classes", "preprocessing")
"""The fields of a recipe that are about trained weights."""

ANSWERS = "answers"
"""In the place of an architecture: a teacher whose network is not here, known by its answers."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained: everything the user chooses, apart from data, seed and teachers."""

    model: Annotated[str, Doc("architecture, such as wrn-16-2; docs/models.md lists them")]
    method: Annotated[Method, Doc("what the network learns from, and how")] = Supervised()
    augmentation: Annotated[
        Augmentation, Doc("the augmentation: how training images are augmented")
    ] = CropFlip()
    epochs: Annotated[int, Ge(1), Doc("passes over the training split")] = 12
    batch_size: Annotated[int, Ge(1), Doc("images per step, over all workers together")] = 64
    accumulate: Annotated[
        int,
        Ge(1),
        Doc(
            "batches whose gradients make one step of the optimizer, as a batch of so many times "
            "the images would but for batch statistics and losses that compare images"
        ),
    ] = 1
    lr: Annotated[float, Gt(0), Doc("peak learning rate")] = 0.1
    optimizer: Annotated[
        Literal["sgd", "adam", "adamw"],
        Doc("momentum and nesterov apply to sgd only; adamw decays weights apart from gradients"),
    ] = "sgd"
    momentum: Annotated[float, Ge(0), Lt(1), Doc("SGD momentum")] = 0.9
    nesterov: Annotated[bool, Doc("Nesterov momentum")] = True
    weight_decay: Annotated[
        float,
        Ge(0),
        Doc("L2 penalty, whose gradient counts towards clip_norm; decoupled decay for adamw"),
    ] = 5e-4
    decay_norms: Annotated[
        bool, Doc("whether weight_decay also applies to normalisation layers and biases")
    ] = True
    schedule: Annotated[Literal["cosine", "step"], Doc("how the learning rate decays")] = "cosine"
    schedule_every: Annotated[
        Literal["step", "epoch"], Doc("how often the cosine schedule is updated")
    ] = "step"
    final_lr: Annotated[float, Ge(0), Doc("learning rate at the end of the cosine schedule")] = 0.0
    warmup_epochs: Annotated[float, Ge(0), Doc("epochs of linear warm-up from 0")] = 0.0
    milestones: Annotated[
        tuple[Annotated[int, Ge(1)], ...],
        Doc("epochs after which the step schedule multiplies lr by decay"),
    ] = ()
    decay: Annotated[float, Gt(0), Le(1), Doc("factor of the step schedule at each milestone")] = (
        0.1
    )
    clip_norm: Annotated[
        float | None, Gt(0), Doc("limit of the global gradient norm; unset: none")
    ] = None
    drop_last: Annotated[bool, Doc("drop the last, smaller batch of each epoch")] = False
    label_smoothing: Annotated[
        float,
        Ge(0),
        Lt(1),
        Doc(
            "share of a label's probability that is spread evenly over all classes, in "
            "cross-entropies with the labels"
        ),
    ] = 0.0
    sync_batch_norm: Annotated[
        bool,
        Doc(
            "whether several workers normalise over the whole batch; otherwise each over its share"
        ),
    ] = False
    ema: Annotated[
        float | None,
        Gt(0),
        Lt(1),
        Doc(
            "decay per step of a moving average of the weights, which is what is validated, kept "
            "and exported, such as 0.999; unset: none"
        ),
    ] = None
    versions: Annotated[
        int | None,
        Ge(1),
        Doc(
            "augmented versions of every image, shown in turn, so that all seeds and trials share "
            "their teacher logits; unset: a new one in every epoch"
        ),
    ] = None
    augmentation_seed: Annotated[int, Ge(0), Doc("seed of the versions")] = 0
    keep: Annotated[
        Literal["last", "best-accuracy", "best-nll"],
        Doc("which epoch's weights are kept, judged on the validation split"),
    ] = "last"
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        Doc(
            "precision of forward passes in training; auto: bf16 where the device is faster in it "
            "with such a network and images of that size, or what the environment variable "
            "DISTILL_RAY_PRECISION says"
        ),
    ] = "auto"
    weights: Annotated[
        str | None,
        Doc(
            "file of trained weights to start from, safetensors or what torch.save wrote of a "
            "state dict, or pretrained: those of torchvision or timm; docs/bring-your-own.md has "
            "what is understood; unset: drawn weights"
        ),
    ] = None
    freeze: Annotated[
        int,
        Ge(0),
        Doc("epochs at the beginning in which weights from a file stay, all but the classifier"),
    ] = 0
    layer_decay: Annotated[
        float | None,
        Gt(0),
        Le(1),
        Doc(
            "factor of lr from each block of a network with weights from a file to the block "
            "before it, such as 0.75; unset: 1"
        ),
    ] = None
    classes: Annotated[
        tuple[str, ...],
        Doc(
            "names of the classes that the outputs of the weights are for, in their order, where "
            "it is not that of the data; outputs for other classes are dropped"
        ),
    ] = ()
    preprocessing: Annotated[
        Preprocessing | None, Doc("how the network wants images; unset: as they are")
    ] = None

    def __post_init__(self) -> None:
        # Only weights that are taken as they are, a teacher's, have no epochs.
        given = self.weights is not None and self.epochs == 0
        check(replace(self, epochs=1) if given else self)
        for name in ("freeze", "layer_decay", "classes"):
            if self.weights is None and getattr(self, name):
                raise ValueError(f"{name} is for trained weights, and weights are not given")

    def prepared(self, channels: int) -> Preprocessing | None:
        """How images with so many channels are prepared: as the recipe says, and with trained
        weights of a library, as that does.
        """
        if self.weights is None:
            return self.preprocessing
        return completed(self.preprocessing, self.model, channels)

    @property
    def answers_alone(self) -> bool:
        """Whether it stands for a teacher that is known by its answers alone. These are pinned in
        `weights`, and have no network here.
        """
        return self.model == ANSWERS

    @property
    def image_versions(self) -> Versions | None:
        """The versions of the images; None where every epoch shows new ones."""
        if self.versions is None:
            return None
        return Versions(self.versions, self.augmentation_seed)

    def to_dict(self) -> dict[str, Any]:
        """Every setting as a JSON value; those for trained weights, and for versions, only where
        there are such.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {
            "method": self.method.to_dict(),
            "augmentation": self.augmentation.to_dict(),
            "milestones": list(self.milestones),
            "classes": list(self.classes),
            "preprocessing": self.preprocessing and self.preprocessing.to_dict(),
        }
        without = set() if self.weights else set(FOR_WEIGHTS)
        if self.preprocessing is not None:
            without -= {"preprocessing"}
        if self.versions is None:
            without |= {"versions", "augmentation_seed"}
        return {name: value for name, value in values.items() if name not in without}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """The inverse of `to_dict`."""
        method, augmentation = dict(values["method"]), dict(values["augmentation"])
        preprocessing = values.get("preprocessing")
        return cls(
            **_tuples(values)
            | {
                "method": METHODS[method.pop("name")](**_tuples(method)),
                "augmentation": AUGMENTATIONS[augmentation.pop("name")](**_tuples(augmentation)),
                "preprocessing": preprocessing and Preprocessing.from_dict(preprocessing),
            }
        )

    def params(self) -> dict[str, str | int | float | bool]:
        """The settings flat, by the names they have in a study file: what MLflow, the search and
        the report show.

        The method's settings stand beside the common ones (`temperature`); the augmentation's carry
        its field (`augmentation.padding`).
        """
        flat: dict[str, Any] = {}
        for name, value in self.to_dict().items():
            if name in ("method", "augmentation"):
                flat[name] = value.pop("name")
                prefix = "" if name == "method" else "augmentation."
                flat |= {prefix + key: setting for key, setting in value.items()}
            else:
                flat[name] = value
        return {
            name: value if isinstance(value, str | int | float | bool) else json.dumps(value)
            for name, value in flat.items()
        }


@dataclass(frozen=True, kw_only=True)
class Split:
    """How the validation split is cut from the training split. Either `stratified` by class with a
    seed, or the `last` images, or the data set's `own`. Where it has no test split, `test` images
    are cut off too. With `imbalance` the others are thinned to a long tail, see
    `data.split.long_tail`.
    """

    validation: int
    train: int | None = None
    rule: Literal["stratified", "last", "own"] = "stratified"
    seed: int = 0
    test: int | None = None
    imbalance: float | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result of a job; `test` and `imbalance` only where they do."""
        unsaid = [name for name in ("test", "imbalance") if getattr(self, name) is None]
        return {name: value for name, value in asdict(self).items() if name not in unsaid}

    def training_images(self, rows: int, labels: Callable[[], np.ndarray]) -> int:
        """How many of so many rows are trained on. Their `labels` are asked for only where classes
        are thinned.
        """
        left = rows - self.validation - (self.test or 0)
        train = left if self.train is None else self.train
        if self.imbalance is None or train == 0:
            return train
        from distill_ray.data.split import cut_rows  # NumPy, which reading a study does without

        return len(cut_rows(labels(), **asdict(self)).train)


@dataclass(frozen=True, kw_only=True)
class Unlabelled:
    """Images without labels that are trained on too: so many of those in a folder, chosen by
    `seed`.
    """

    digest: str
    location: str
    images: int
    seed: int

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result of a job, as JSON values."""
        return {"digest": self.digest, "images": self.images, "seed": self.seed}


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images a job learns from: `digest` says what they are, `location` only where they were
    found.

    With a `size` they are resized and cropped to squares of that side, or of the side `resize`, of
    which training crops and the middle have `size`. `memory_gb` is what a node's memory may
    hold of a split. With `class_weights` the labels count by the inverse frequency of their class.
    """

    name: str
    digest: str
    location: str
    label: str
    split: Split
    size: int | None = None
    resize: int | None = None
    memory_gb: float = 4.0
    unlabelled: Unlabelled | None = None
    class_weights: Literal["balanced"] | None = None

    @property
    def labelled(self) -> Data:
        """The same without images that have no label."""
        return replace(self, unlabelled=None)

    @property
    def crop(self) -> int | None:
        """Side of the crops that networks see, where images are kept larger."""
        return None if self.resize is None else self.size

    @property
    def cuts_test(self) -> bool:
        """Whether test images are cut from the training split."""
        return self.split.test is not None

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result of a job, as JSON values."""
        sized: dict[str, Any] = {} if self.size is None else {"size": self.size}
        sized |= {} if self.resize is None else {"resize": self.resize}
        sized |= {} if self.unlabelled is None else {"unlabelled": self.unlabelled.identity}
        sized |= {} if self.class_weights is None else {"class_weights": self.class_weights}
        return {"digest": self.digest, "label": self.label, "split": self.split.identity} | sized

    def seen_by(self, augmentation: Augmentation) -> dict[str, Any]:
        """What decides the images that `augmentation` makes, as JSON values: `identity`, and
        whether it crops from what lies outside the squares too.
        """
        whole = self.size is not None and augmentation.crops_whole
        return self.identity | ({"whole": True} if whole else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Data:
        """The inverse of `dataclasses.asdict`."""
        more = values.get("unlabelled")
        unlabelled = more and Unlabelled(**more)
        return cls(**dict(values) | {"split": Split(**values["split"]), "unlabelled": unlabelled})


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run. `id` is a hash of all that decides its result, and of nothing else."""

    recipe: Recipe
    data: Data
    seed: int
    teachers: tuple[str, ...] = ()
    calibrated: tuple[str, ...] = ()
    """Those of its teachers whose logits are divided by a temperature first, which is fitted to
    what they predict for the validation split.
    """
    workers: int = 1

    @property
    def takes_weights(self) -> bool:
        """Whether it takes trained weights as they are, or answers, and trains nothing."""
        return self.recipe.weights is not None and self.recipe.epochs == 0

    @property
    def id(self) -> str:
        """Twenty hexadecimal digits, the same on every machine and in every study."""
        data = self.data.seen_by(self.recipe.augmentation)
        identity = self.to_dict() | {"data": data, "schema": SCHEMA_VERSION}
        if self.recipe.weights is not None and not self.recipe.answers_alone:
            # By their content, whatever their file is called
            content = self.recipe.weights.rpartition("@")[2]
            identity["recipe"] = identity["recipe"] | {"weights": content}
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:20]

    def to_dict(self) -> dict[str, Any]:
        """The job as JSON values; `calibrated` only where there are such teachers."""
        calibrated = {"calibrated": list(self.calibrated)} if self.calibrated else {}
        return {
            "recipe": self.recipe.to_dict(),
            "data": asdict(self.data),
            "seed": self.seed,
            "teachers": list(self.teachers),
            "workers": self.workers,
        } | calibrated

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Job:
        """The inverse of `to_dict`."""
        return cls(
            recipe=Recipe.from_dict(values["recipe"]),
            data=Data.from_dict(values["data"]),
            seed=values["seed"],
            teachers=tuple(values["teachers"]),
            calibrated=tuple(values.get("calibrated", ())),
            workers=values["workers"],
        )


@dataclass(frozen=True, kw_only=True)
class Computation:
    """What computed the result of a job. It is no part of the job's identity: the same job gives
    the same bits only where all of this is the same, and on a GPU not even there.

    `precision` is that of forward passes in training, fp32 or bf16; `device` the name of the
    processor or GPU; `threads` those of each worker; `torch` the version. A job that was resumed on
    another machine names the one that finished it.
    """

    precision: str
    device: str
    threads: int
    workers: int
    torch: str


def differences(computations: Mapping[Computation, int]) -> list[str]:
    """In what the computations of several jobs differ, given how many jobs each has computed: a
    line for each field, such as `precision: bf16 (3 jobs), fp32 (5 jobs)`.
    """
    lines = []
    for field in fields(Computation):
        counts: dict[str, int] = {}
        for computation, jobs in computations.items():
            value = str(getattr(computation, field.name))
            counts[value] = counts.get(value, 0) + jobs
        if len(counts) > 1:
            values = [
                f"{value} ({jobs} job{'s' * (jobs > 1)})" for value, jobs in sorted(counts.items())
            ]
            lines.append(f"{field.name}: {', '.join(values)}")
    return lines


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal text, 4 and 4.0 too."""
    return json.dumps(_whole(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _whole(value: Any) -> Any:
    """`value` with every float that is a whole number as an int."""
    if isinstance(value, Mapping):
        return {name: _whole(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
