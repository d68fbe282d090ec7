"""A job: one fully resolved training run, and the identity that its result is stored under.

Teachers, trials and confirmations are all jobs. Two jobs with the same `id` are the same run, in
whatever study they occur, so the second one is never trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from distill_ray.augmentation import AUGMENTATIONS, Augmentation, CropFlip
from distill_ray.methods import METHODS, Method, Supervised
from distill_ray.models.preprocessing import Preprocessing
from distill_ray.settings import Doc, check

SCHEMA_VERSION = 3
"""Part of every job's identity. Raise it when a change of code changes what the same job computes.
"""


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
    ema: Annotated[
        float | None,
        Gt(0),
        Lt(1),
        Doc(
            "decay per step of a moving average of the weights, which is what is validated, kept "
            "and exported, such as 0.999; unset: none"
        ),
    ] = None
    keep: Annotated[
        Literal["last", "best-accuracy", "best-nll"],
        Doc("which epoch's weights are kept, judged on the validation split"),
    ] = "last"
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        Doc(
            "precision of forward passes in training; auto: bf16 where the device is faster in it, "
            "or what the environment variable DISTILL_RAY_PRECISION says"
        ),
    ] = "auto"
    weights: Annotated[
        str | None,
        Doc(
            "file of trained weights to start from, safetensors or what torch.save wrote of a "
            "state dict; docs/bring-your-own.md has what is understood; unset: drawn weights"
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
        Preprocessing | None, Doc("how the weights want images; unset: as they are")
    ] = None

    def __post_init__(self) -> None:
        # Only weights that are taken as they are, a teacher's, have no epochs.
        given = self.weights is not None and self.epochs == 0
        check(replace(self, epochs=1) if given else self)
        if self.weights is None and (self.classes or self.preprocessing):
            name = "classes" if self.classes else "preprocessing"
            raise ValueError(f"{name} is for trained weights, and weights are not given")

    def to_dict(self) -> dict[str, Any]:
        """Every setting as a JSON value; those for trained weights only where there are such."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {
            "method": self.method.to_dict(),
            "augmentation": self.augmentation.to_dict(),
            "milestones": list(self.milestones),
            "classes": list(self.classes),
            "preprocessing": self.preprocessing and self.preprocessing.to_dict(),
        }
        without = () if self.weights else ("weights", "classes", "preprocessing")
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
    seed, or the `last` images.
    """

    validation: int
    train: int | None = None
    rule: Literal["stratified", "last"] = "stratified"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images a job learns from: `digest` says what they are, `location` only where they were
    found.

    With a `size` they are resized and cropped to squares. `memory_gb` is what a node's memory may
    hold of a split.
    """

    name: str
    digest: str
    location: str
    label: str
    split: Split
    size: int | None = None
    memory_gb: float = 4.0

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result of a job, as JSON values."""
        sized = {} if self.size is None else {"size": self.size}
        return {"digest": self.digest, "label": self.label, "split": asdict(self.split)} | sized

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Data:
        """The inverse of `dataclasses.asdict`."""
        return cls(**dict(values) | {"split": Split(**values["split"])})


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run. `id` is a hash of all that decides its result, and of nothing else."""

    recipe: Recipe
    data: Data
    seed: int
    teachers: tuple[str, ...] = ()
    workers: int = 1

    @property
    def id(self) -> str:
        """Twenty hexadecimal digits, the same on every machine and in every study."""
        identity = self.to_dict() | {"data": self.data.identity, "schema": SCHEMA_VERSION}
        if self.recipe.weights is not None:  # by their content, whatever their file is called
            content = self.recipe.weights.rpartition("@")[2]
            identity["recipe"] = identity["recipe"] | {"weights": content}
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:20]

    def to_dict(self) -> dict[str, Any]:
        """The job as JSON values."""
        return {
            "recipe": self.recipe.to_dict(),
            "data": asdict(self.data),
            "seed": self.seed,
            "teachers": list(self.teachers),
            "workers": self.workers,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Job:
        """The inverse of `to_dict`."""
        return cls(
            recipe=Recipe.from_dict(values["recipe"]),
            data=Data.from_dict(values["data"]),
            seed=values["seed"],
            teachers=tuple(values["teachers"]),
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
