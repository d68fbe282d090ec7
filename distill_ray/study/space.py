"""The search space: which settings of the student are drawn, from what, and when."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from distill_ray.augmentation import Augmentation
from distill_ray.job import Recipe
from distill_ray.study.fields import to_file
from distill_ray.study.recipes import augmentation_text, change

Label = str | int | float | bool
"""What the search shows for a value: the value itself, or one line of text for an augmentation or a
list.
"""


class Trial(Protocol):
    """The part of an Optuna trial that a search space needs."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number of the range."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """A whole number of the range."""

    def suggest_categorical(self, name: str, choices: Sequence[Label]) -> Any:
        """One of the choices."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Holds when choice `field` is active and its label is one of `labels`."""

    field: str
    labels: tuple[Label, ...]


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, both included: of any kind or whole, evenly or by their
    logarithm, at all or in steps.
    """

    name: str
    low: float
    high: float
    whole: bool = False
    log: bool = False
    step: float | None = None
    when: tuple[Condition, ...] = ()

    @property
    def limits(self) -> tuple[float, float]:
        """Values between which all others lie."""
        return self.low, self.high

    def suggest(self, trial: Trial) -> Label:
        """The value that `trial` draws."""
        if self.whole:
            return trial.suggest_int(
                self.name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log
            )
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    def label(self, value: Any) -> Label | None:
        """`value` as the search writes it, or `None` when it cannot be drawn."""
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not self.low <= value <= self.high
        ):
            return None
        if self.whole and value != int(value):
            return None
        if self.step:
            steps = (value - self.low) / self.step
            if abs(steps - round(steps)) > 1e-8:
                return None
        return int(value) if self.whole else float(value)

    def value(self, label: Label) -> Any:
        """The setting that `label` stands for."""
        return label

    def described(self) -> str:
        """The range on one line, `log [1, 20]`."""
        step = f" step {self.step:g}" if self.step else ""
        return f"{self._kind()} [{self.low:g}, {self.high:g}]{step}"

    def _kind(self) -> str:
        if self.whole:
            return "log int" if self.log else "int"
        return "log" if self.log else "uniform"

    def to_file(self) -> dict[str, Any]:
        """The range as the study file writes it."""
        kind = "int" if self.whole else self._kind()
        written: dict[str, Any] = {kind: [self.low, self.high]}
        if self.whole and self.log:
            written["log"] = True
        if self.step:
            written["step"] = self.step
        return written


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of some settings."""

    name: str
    values: tuple[Any, ...]
    when: tuple[Condition, ...] = ()

    @property
    def limits(self) -> tuple[Any, ...]:
        """Values between which all others lie, where they are numbers."""
        return self.values

    @cached_property
    def labels(self) -> tuple[Label, ...]:
        """The label of each value, in order."""
        return tuple(label_of(value) for value in self.values)

    def suggest(self, trial: Trial) -> Label:
        """The label of the value that `trial` draws."""
        chosen: Label = trial.suggest_categorical(self.name, self.labels)
        return chosen

    def label(self, value: Any) -> Label | None:
        """The label of `value`, or `None` when it is none of the choices."""
        return next(
            (
                label
                for label, choice in zip(self.labels, self.values, strict=True)
                if choice == value
            ),
            None,
        )

    def value(self, label: Label) -> Any:
        """The setting that `label` stands for. Raises `ValueError` for any other label."""
        return self.values[self.labels.index(label)]

    def described(self) -> str:
        """The choices on one line."""
        return ", ".join(map(str, self.labels))

    def to_file(self) -> dict[str, Any]:
        """The choices as the study file writes them."""
        return {"choice": [to_file(value) for value in self.values]}


Dimension = Range | Choice


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """What a trial draws, in an order in which every condition is decided before it is asked.

    `fixed` holds the settings of methods that the student section names, also those that only
    another method in the space has.
    """

    dimensions: tuple[Dimension, ...]
    fixed: Mapping[str, Any]

    def suggest(self, trial: Trial) -> dict[str, Label]:
        """Draw the active dimensions from an Optuna trial: label by name, exactly what Optuna has
        in `trial.params`.
        """
        drawn: dict[str, Label] = {}
        for dimension in self.dimensions:
            if self.is_active(dimension, drawn):
                drawn[dimension.name] = dimension.suggest(trial)
        return drawn

    def is_active(self, dimension: Dimension, drawn: Mapping[str, Label]) -> bool:
        """Whether `dimension` is drawn after these values."""
        return all(
            condition.field in drawn and drawn[condition.field] in condition.labels
            for condition in dimension.when
        )

    def without(self, name: str, values: Collection[Any]) -> SearchSpace:
        """The space without some values of choice `name`, and without the dimensions that are drawn
        only with them.
        """
        dropped: dict[str, set[Label]] = {name: {label_of(value) for value in values}}
        kept: list[Dimension] = []
        for dimension in self.dimensions:
            when = tuple(
                replace(
                    condition,
                    labels=tuple(
                        label
                        for label in condition.labels
                        if label not in dropped.get(condition.field, ())
                    ),
                )
                for condition in dimension.when
            )
            if not all(condition.labels for condition in when):
                dropped[dimension.name] = (
                    set(dimension.labels) if isinstance(dimension, Choice) else set()
                )
            elif isinstance(dimension, Choice) and dimension.name == name:
                remaining = tuple(
                    value for value in dimension.values if label_of(value) not in dropped[name]
                )
                kept.append(replace(dimension, values=remaining, when=when))
            else:
                kept.append(replace(dimension, when=when))
        return replace(self, dimensions=tuple(kept))

    def recipe(self, base: Recipe, drawn: Mapping[str, Label]) -> Recipe:
        """The student's recipe for what a trial has drawn. Raises `ValueError` when the settings do
        not fit each other.
        """
        return change(base, {**self.fixed, **self.values(drawn)})

    def most_epochs(self, base: Recipe) -> int:
        """The most epochs that a trial can have."""
        return int(self._most("epochs", base.epochs))

    def most_warmup_epochs(self, base: Recipe) -> float:
        """The most epochs of warm-up that a trial can have."""
        return self._most("warmup_epochs", base.warmup_epochs)

    def _most(self, field: str, otherwise: float) -> float:
        otherwise = self.fixed.get(field, otherwise)
        for dimension in self.dimensions:
            if dimension.name == field:
                return max(*map(float, dimension.limits), otherwise if dimension.when else 0)
        return otherwise

    def values(self, drawn: Mapping[str, Label]) -> dict[str, Any]:
        """The settings that the labels of a trial stand for."""
        return {name: self[name].value(label) for name, label in drawn.items()}

    def __getitem__(self, name: str) -> Dimension:
        """The dimension of that name. Raises `KeyError` when there is none."""
        return {dimension.name: dimension for dimension in self.dimensions}[name]

    def to_file(self) -> dict[str, Any]:
        """The space as the study file writes it."""
        written = {}
        for dimension in self.dimensions:
            when = {condition.field: list(condition.labels) for condition in dimension.when}
            written[dimension.name] = dimension.to_file() | ({"when": when} if when else {})
        return written


def label_of(value: Any) -> Label:
    """The label of a setting: itself, or text for an augmentation (`cutout(size=8)`) and for a list
    (`[3, 6]`).
    """
    if isinstance(value, Augmentation):
        return augmentation_text(value)
    label: Label = str(list(value)) if isinstance(value, tuple) else value
    return label
