"""The search space: what is drawn, in which order, under which conditions, and the recipe that
comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import optuna
import pytest
import yaml
from annotated_types import Ge, Gt, Le

from distill_ray.augmentation import CropFlip, Flip, Identity
from distill_ray.errors import RequestError
from distill_ray.methods import METHODS, EnsembleKD, Supervised
from distill_ray.study import Choice, Condition, Label, Range, SearchSpace, StudyDefinition

Load = Callable[..., StudyDefinition]

STUDY = """\
name: x
teachers: {model: wrn-10-1}
student: {model: wrn-10-1, epochs: 12, lr: 0.2, temperature: 8, alpha: 0.5}
search:
  space:
"""


class Recorder:
    """A trial that draws the lower limit, or a given label, and remembers what it was asked."""

    def __init__(self, **choices: Label) -> None:
        self.choices = choices
        self.asked: list[tuple[Any, ...]] = []

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        self.asked.append((name, low, high, step, log))
        return low

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        self.asked.append((name, low, high, step, log))
        return low

    def suggest_categorical(self, name: str, choices: Sequence[Label]) -> Any:
        self.asked.append((name, tuple(choices)))
        return self.choices.get(name, choices[0])


def test_every_kind_of_dimension_is_drawn_as_optuna_draws_it(load: Load) -> None:
    space = load(
        STUDY + "    temperature: {log: [1, 20]}\n"
        "    alpha: {uniform: [0, 1], step: 0.25}\n"
        "    epochs: {int: [4, 12], step: 4}\n"
        "    batch_size: {int: [16, 256], log: true}\n"
        "    lr: {int: [1, 2]}\n"
        "    nesterov: {choice: [true, false]}\n"
        "    milestones: {choice: [[], [1, 2]]}\n"
        "    schedule: {choice: [step, cosine]}\n"
        "    augmentation: {choice: [identity, {name: crop-flip, padding: 2}, crop-flip]}\n"
    ).search.space
    trial = Recorder(augmentation="crop-flip(padding=2)", milestones="[1, 2]", schedule="step")
    drawn = space.suggest(trial)
    assert trial.asked == [
        ("temperature", 1.0, 20.0, None, True),
        ("alpha", 0.0, 1.0, 0.25, False),
        ("epochs", 4, 12, 4, False),
        ("batch_size", 16, 256, 1, True),
        ("lr", 1, 2, 1, False),
        ("nesterov", (True, False)),
        ("milestones", ("[]", "[1, 2]")),
        ("schedule", ("step", "cosine")),
        ("augmentation", ("identity", "crop-flip(padding=2)", "crop-flip")),
    ]
    assert [type(value) for value in trial.asked[2][1:4]] == [int, int, int]
    recipe = space.recipe(load(STUDY + "    lr: {log: [0.1, 1]}\n").student, drawn)
    assert (recipe.method, recipe.epochs, recipe.batch_size) == (
        EnsembleKD(temperature=1, alpha=0),
        4,
        16,
    )
    assert (recipe.lr, type(recipe.lr)) == (1.0, float)
    assert (recipe.augmentation, recipe.milestones, recipe.nesterov, recipe.schedule) == (
        CropFlip(padding=2),
        (1, 2),
        True,
        "step",
    )


def test_what_is_not_searched_stays_as_the_student_has_it(load: Load) -> None:
    study = load(STUDY + "    alpha: {uniform: [0.1, 1]}\n")
    recipe = study.search.space.recipe(study.student, {"alpha": 0.7})
    assert recipe.method == EnsembleKD(temperature=8, alpha=0.7)
    assert (recipe.lr, recipe.epochs) == (0.2, 12)


def test_a_condition_is_decided_before_it_is_asked(load: Load) -> None:
    space = load(
        STUDY + "    lr: {log: [0.1, 1], when: {schedule: cosine, keep: [last, best-nll]}}\n"
        "    schedule: {choice: [cosine, step], when: {keep: last}}\n"
        "    keep: {choice: [last, best-nll, best-accuracy]}\n"
    ).search.space
    assert [dimension.name for dimension in space.dimensions] == ["keep", "schedule", "lr"]
    assert space["lr"].when == (
        Condition(field="schedule", labels=("cosine",)),
        Condition(field="keep", labels=("last", "best-nll")),
    )
    assert list(space.suggest(Recorder())) == ["keep", "schedule", "lr"]
    assert list(space.suggest(Recorder(schedule="step"))) == ["keep", "schedule"]
    assert list(space.suggest(Recorder(keep="best-nll"))) == ["keep"]


def test_settings_are_drawn_only_for_the_methods_and_augmentations_that_have_them(
    load: Load,
) -> None:
    space = load(
        STUDY + "    temperature: {log: [1, 20]}\n"
        "    method: {choice: [kd, supervised]}\n"
        "    augmentation: {choice: [identity, crop-flip]}\n"
        "    augmentation.padding: {int: [1, 4]}\n"
    ).search.space
    assert space.suggest(Recorder()) == {
        "method": "kd",
        "temperature": 1.0,
        "augmentation": "identity",
    }
    assert space.suggest(Recorder(method="supervised", augmentation="crop-flip")) == {
        "method": "supervised",
        "augmentation": "crop-flip",
        "augmentation.padding": 1,
    }


def test_a_condition_names_an_augmentation_or_one_of_its_settings(load: Load) -> None:
    space = (
        STUDY
        + "    augmentation: {choice: [flip, crop-flip, {name: crop-flip, padding: 2}]}\n"
        + "    lr: {log: [0.1, 1], when: {augmentation: WHAT}}\n"
    )

    def labels(augmentation: str) -> tuple[Label, ...]:
        return load(space.replace("WHAT", augmentation)).search.space["lr"].when[0].labels

    assert labels("crop-flip") == ("crop-flip",)
    assert labels("{name: crop-flip, padding: 2}") == ("crop-flip(padding=2)",)
    assert labels("[flip, crop-flip(padding=2)]") == ("flip", "crop-flip(padding=2)")


def test_a_condition_names_every_variant_of_a_augmentation_that_is_not_there_as_such(
    load: Load,
) -> None:
    space = (
        "    augmentation: {choice: [flip, {name: crop-flip, padding: 1}, {name: crop-flip, "
        "padding: 2}]}\n"
    )
    space += "    lr: {log: [0.1, 1], when: {augmentation: crop-flip}}\n"
    assert load(STUDY + space).search.space["lr"].when[0].labels == (
        "crop-flip(padding=1)",
        "crop-flip(padding=2)",
    )


def test_another_method_drops_what_it_lacks(load: Load) -> None:
    study = load(STUDY + "    method: {choice: [kd, supervised]}\n")
    assert study.search.space.recipe(study.student, {"method": "supervised"}).method == Supervised()
    assert study.search.space.recipe(study.student, {"method": "kd"}).method == EnsembleKD(
        temperature=8, alpha=0.5
    )


@dataclass(frozen=True, kw_only=True)
class Sharp(EnsembleKD):
    """A method that shares settings with `kd`, with other defaults."""

    name = "sharp"
    temperature: Annotated[float, Gt(0)] = 1.0
    alpha: Annotated[float, Ge(0), Le(1)] = 0.2


def test_another_method_keeps_what_the_student_says_and_not_the_defaults_of_the_first(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS._members, "sharp", Sharp)
    study = load(
        STUDY.replace(", alpha: 0.5", "") + "    method: {choice: [kd, sharp]}\n",
        "confirm.baselines={b: {method: sharp}}",
    )
    recipe = study.search.space.recipe(study.student, {"method": "sharp"})
    assert recipe.method == study.confirm.baselines["b"].method == Sharp(temperature=8, alpha=0.2)
    said = load(STUDY.replace("alpha: 0.5", "alpha: 0.9") + "    method: {choice: [kd, sharp]}\n")
    assert said.search.space.recipe(said.student, {"method": "sharp"}).method == Sharp(
        temperature=8, alpha=0.9
    )
    assert load(yaml.safe_dump(said.to_dict())) == said


def test_settings_for_a_method_that_only_trials_have(load: Load) -> None:
    text = STUDY.replace("temperature: 8", "method: supervised, temperature: 8")
    study = load(text + "    method: {choice: [kd, supervised]}\n")
    assert study.student.method == Supervised()
    assert study.search.space.recipe(study.student, {"method": "kd"}).method == EnsembleKD(
        temperature=8, alpha=0.5
    )


def test_a_drawn_augmentation_replaces_that_of_the_student_and_its_settings(load: Load) -> None:
    text = STUDY.replace("epochs: 12", "epochs: 12, augmentation: {name: crop-flip, padding: 3}")
    study = load(
        text
        + "    augmentation: {choice: [identity, crop-flip]}\n    augmentation.padding: {int: [1, "
        "2]}\n"
    )
    space = study.search.space
    assert space.recipe(study.student, {"augmentation": "crop-flip"}).augmentation == CropFlip()
    assert space.recipe(
        study.student, {"augmentation": "crop-flip", "augmentation.padding": 2}
    ).augmentation == CropFlip(padding=2)
    assert space.recipe(study.student, {"augmentation": "identity"}).augmentation == Identity()
    assert space.recipe(study.student, {}).augmentation == CropFlip(padding=3)


def test_settings_of_a_augmentation_that_is_not_searched(load: Load) -> None:
    study = load(STUDY + "    augmentation.padding: {int: [1, 4]}\n")
    assert study.search.space.recipe(
        study.student, {"augmentation.padding": 3}
    ).augmentation == CropFlip(padding=3)


@pytest.mark.parametrize(
    ("dimension", "value", "label"),
    [
        (Range(name="t", low=1, high=20), 4, 4.0),
        (Range(name="t", low=1, high=20), 20, 20.0),
        (Range(name="t", low=1, high=20), 20.1, None),
        (Range(name="t", low=1, high=20), True, None),
        (Range(name="t", low=1, high=20), "4", None),
        (Range(name="t", low=0, high=1, step=0.1), 0.3, 0.3),
        (Range(name="t", low=0, high=1, step=0.1), 0.35, None),
        (Range(name="t", low=4, high=12, step=4, whole=True), 8, 8),
        (Range(name="t", low=4, high=12, step=4, whole=True), 6, None),
        (Range(name="t", low=4, high=12, whole=True), 6.5, None),
        (
            Choice(name="t", values=(Flip(), CropFlip(padding=1))),
            CropFlip(padding=1),
            "crop-flip(padding=1)",
        ),
        (Choice(name="t", values=(Flip(), CropFlip(padding=1))), CropFlip(), None),
        (Choice(name="t", values=((), (1, 2))), (1, 2), "[1, 2]"),
    ],
)
def test_labels(dimension: Range | Choice, value: object, label: Label | None) -> None:
    found = dimension.label(value)
    assert (found, type(found)) == (label, type(label))
    if found is not None:
        assert dimension.value(found) == value


def test_optuna_draws_from_the_space_and_tries_first_what_it_is_told(load: Load) -> None:
    study = load(
        STUDY + "    temperature: {log: [1, 20]}\n"
        "    method: {choice: [kd, supervised]}\n"
        "    augmentation: {choice: [identity, {name: crop-flip, padding: 2}]}\n"
        "  try_first: [{method: kd, temperature: 4, augmentation: {name: crop-flip, padding: 2}}]\n"
    )
    space: SearchSpace = study.search.space
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    search.enqueue_trial(dict(study.search.try_first[0]))
    trials = [search.ask() for _ in range(20)]
    drawn = [space.suggest(trial) for trial in trials]
    assert drawn[0] == {"method": "kd", "temperature": 4.0, "augmentation": "crop-flip(padding=2)"}
    assert drawn == [trial.params for trial in trials]
    assert {"temperature" in draw for draw in drawn} == {True, False}
    for draw in drawn:
        params = space.recipe(study.student, draw).params()
        assert params["method"] == draw["method"]
        assert params.get("temperature") == draw.get("temperature")


def test_a_condition_on_the_method_decides_whose_values_are_allowed(load: Load) -> None:
    """`dist` combines teachers in fewer ways than `kd`."""
    methods = "    method: {choice: [kd, dist]}\n"
    confident = "    combine: {choice: [mean-softmax, confident]"
    space = load(f"{STUDY}{methods}{confident}, when: {{method: kd}}}}\n").search.space
    assert space.dimensions[1].values == ("mean-softmax", "confident")
    for condition in ("", ", when: {method: [kd, dist]}", ", when: {standardise: true}"):
        text = (
            f"{STUDY}{methods}    standardise: {{choice: [true, false]}}\n"
            f"{confident}{condition}}}\n"
        )
        with pytest.raises(
            RequestError, match="'confident', must be one of mean-softmax, mean-loss"
        ):
            load(text)
