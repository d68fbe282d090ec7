"""What a study file asks for, validated and resolved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from distill_ray.augmentation import Augmentation
from distill_ray.errors import RequestError
from distill_ray.job import Recipe, canonical_json
from distill_ray.study.document import Document
from distill_ray.study.fields import to_file
from distill_ray.study.problems import Path, Problems
from distill_ray.study.recipes import COMMON, flatten, short_texts
from distill_ray.study.sections import (
    Confirm,
    DataSection,
    Published,
    Resources,
    Screen,
    Search,
    TeacherGroup,
)
from distill_ray.study.space import Choice, Label


@dataclass(frozen=True, kw_only=True)
class StudyDefinition:
    """What is to be found out, and within which bounds. Two studies with the same `digest` ask for
    the same.

    `student` is the recipe that trials start from, and `learns_from` the groups of teachers that it
    learns from, all when empty. Seeds are derived from `seed` so that no student starts from the
    weights of a teacher: teachers count from it, trials have `trial_seed`, confirmations
    `confirm_seeds`. `weight_files` has the path of each file of trained weights that recipes name.
    """

    name: str
    data: DataSection
    teachers: tuple[TeacherGroup, ...]
    student: Recipe
    search: Search
    confirm: Confirm
    resources: Resources
    seed: int
    learns_from: tuple[str, ...] = ()
    screen: Screen | None = None
    published: Published | None = None
    weight_files: Mapping[str, str] = field(default_factory=dict, compare=False)
    overrides: tuple[str, ...] = field(default=(), compare=False)
    document: Document = field(compare=False, repr=False)

    @property
    def path(self) -> str:
        """The study file, as it was named."""
        return self.document.source

    @property
    def source_text(self) -> str:
        """The text of the study file."""
        return self.document.text

    @property
    def trial_seed(self) -> int:
        """The seed that all trials share, so that they differ by their configuration alone."""
        return self.seed + 1000

    @property
    def confirm_seeds(self) -> tuple[int, ...]:
        """The seeds that every confirmed candidate is trained with."""
        return tuple(self.seed + 2000 + index for index in range(self.confirm.seeds))

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of what the study asks for, whatever the file's comments,
        order or defaults, and whatever it quotes of others.
        """
        asked = {name: section for name, section in self.to_dict().items() if name != "published"}
        return hashlib.sha256(canonical_json(asked).encode()).hexdigest()[:16]

    @property
    def student_augmentations(self) -> list[Augmentation]:
        """The student's augmentation, and those that the search chooses from."""
        augmentations = [self.student.augmentation]
        for dimension in self.search.space.dimensions:
            if isinstance(dimension, Choice) and dimension.name == "augmentation":
                augmentations += dimension.values
        return augmentations

    @property
    def trained_augmentations(self) -> list[Augmentation]:
        """The augmentations of all networks that the study trains."""
        groups = [group.recipe for group in self.teachers if group.recipe.epochs]
        others = [recipe.augmentation for recipe in (*groups, *self.confirm.baselines.values())]
        return [*self.student_augmentations, *others]

    @cached_property
    def augmentation_texts(self) -> Mapping[Augmentation, str]:
        """What people read for the augmentations that the search chooses from or the screening
        measures.
        """
        chosen = [
            value
            for dimension in self.search.space.dimensions
            if isinstance(dimension, Choice)
            for value in dimension.values
        ]
        augmentations = [
            *(value for value in chosen if isinstance(value, Augmentation)),
            *(self.screen.candidates if self.screen else ()),
        ]
        return short_texts(dict.fromkeys(augmentations))

    def shown(self, drawn: Mapping[str, Label]) -> dict[str, Label]:
        """What a trial has drawn, as people read it: augmentations by `augmentation_texts`."""
        values = self.search.space.values(drawn)
        return {
            name: self.augmentation_texts[value] if isinstance(value, Augmentation) else drawn[name]
            for name, value in values.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """The study as a study file with nothing left out, in JSON values."""
        written = {
            "name": self.name,
            "data": to_file(self.data),
            "teachers": to_file(self.teachers),
            "student": self._student(),
            "search": to_file(self.search),
            "confirm": to_file(self.confirm),
            "resources": to_file(self.resources),
            "seed": self.seed,
        }
        for name, section in (("screen", self.screen), ("published", self.published)):
            if section is not None:
                written[name] = to_file(section)
        return written

    def _student(self) -> dict[str, Any]:
        """The student section. Where the method is searched, a setting here holds for every method,
        so defaults stay out.
        """
        settings = flatten(self.student)
        if any(dimension.name == "method" for dimension in self.search.space.dimensions):
            settings = {
                name: settings[name] for name in (*COMMON, "method", "augmentation")
            } | dict(self.search.space.fixed)
        teachers = {"teachers": list(self.learns_from)} if self.learns_from else {}
        return {**to_file(settings), **teachers}

    def error(self, problems: Iterable[tuple[str, str]]) -> RequestError:
        """The error for `(field, message)` pairs that show only later, `("student.batch_size",
        "...")`, with their lines.
        """
        collected = Problems(self.path, self.document.origins)
        for name, message in problems:
            collected.add(_located(name), message)
        return collected.error()


def members(groups: Sequence[TeacherGroup], names: Sequence[str] = ()) -> list[int]:
    """The places, in the whole ensemble, of the teachers in the groups of these names; of all
    teachers without names.
    """
    places: list[int] = []
    first = 0
    for group in groups:
        if not names or group.name in names:
            places += range(first, first + len(group.seeds))
        first += len(group.seeds)
    return places


def _located(name: str) -> Path:
    return tuple(int(part) if part.isdecimal() else part for part in name.split("."))
