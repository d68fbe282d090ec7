"""Whatever a study file holds, it is a study or it is refused with a message: nothing else ever
comes out.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
from collections.abc import Iterable
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill_ray.errors import RequestError
from distill_ray.study import StudyDefinition
from distill_ray.study.document import Document, parse_document
from distill_ray.study.parse import read_study
from distill_ray.study.problems import Problems

LIKE_ANYWHERE = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
"""The same examples on every machine, however slow it is."""

VALID: dict[str, Any] = {
    "name": "x",
    "data": {
        "source": "digits",
        "validation": 200,
        "train": None,
        "split": "last",
        "label": None,
        "seed": 0,
    },
    "teachers": [
        {"model": "wrn-10-1", "members": 2, "augmentation": {"name": "crop-flip", "padding": 2}},
        {"model": "wrn-10-1", "seeds": [5, 6], "schedule": "step", "milestones": [3, 6]},
    ],
    "student": {
        "model": "wrn-10-1",
        "method": "kd",
        "temperature": 4,
        "alpha": 0.9,
        "augmentation": "flip",
        "epochs": 12,
    },
    "search": {
        "trials": 12,
        "objectives": {"val/nll": "min"},
        "sampler": "tpe",
        "scheduler": {"name": "asha", "grace_epochs": 2, "reduction": 2},
        "time_limit": "2h",
        "study_time_limit": "4h",
        "try_first": [{"temperature": 4, "method": "kd", "augmentation": "flip"}],
        "space": {
            "method": {"choice": ["kd", "supervised"]},
            "temperature": {"log": [1, 20], "when": {"method": "kd"}},
            "lr": {"uniform": [0.1, 0.5], "step": 0.1},
            "epochs": {"int": [4, 12], "log": True},
            "augmentation": {"choice": ["flip", "crop-flip"]},
            "augmentation.padding": {"int": [1, 4], "when": {"augmentation": ["crop-flip"]}},
        },
    },
    "confirm": {"seeds": 3, "top": 1, "baselines": {"scratch": {}, "hot": {"temperature": 20}}},
    "resources": {"workers_per_trial": 1, "gpus_per_worker": 0.5},
    "seed": 0,
}

WORDS = [
    "kd",
    "flip",
    "crop-flip",
    "none",
    "asha",
    "min",
    "max",
    "val/nll",
    "wrn-10-1",
    "",
    "x",
    "\x85",
    "é",
    "1e3",
    "2h",
    "last",
    "name",
]
KEYS = [
    "model",
    "method",
    "when",
    "choice",
    "log",
    "int",
    "step",
    "uniform",
    "name",
    "augmentation.padding",
    "temperature",
    "seeds",
    "",
    "a.b",
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, -1, 10**400, 2**63]),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in `value`."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return [path] + [place for key, inner in items for place in places(inner, (*path, key))]


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A valid study with one to four values replaced, added or removed."""
    study = copy.deepcopy(VALID)
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from([place for place in places(study) if place] or [("name",)]))
        target: Any = study
        for key in path[:-1]:
            target = target[key]
        how = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if how == "remove":
            del target[path[-1]]
        elif how == "add" and isinstance(target, dict):
            target[draw(st.sampled_from(KEYS))] = draw(VALUES)
        else:
            target[path[-1]] = draw(VALUES)
    return study


class Extreme:
    """A trial that draws one end of everything."""

    def __init__(self, upper: bool) -> None:
        self.upper = upper

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return high if self.upper else low

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return high if self.upper else low

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return choices[-1 if self.upper else 0]


def outcome(given: Any) -> StudyDefinition | None:
    """The study in a text, or in the values of one; `None` when it is refused as it should be."""
    try:
        if isinstance(given, str):
            return read_study(parse_document(given, "x.yaml"))
        return read_study(Document("x.yaml", "", given, {}, Problems("x.yaml", {})))
    except RequestError as error:
        for line in str(error).splitlines():
            assert line.startswith("x.yaml:")
            assert len(line) < 1000
        return None


def check_study(study: StudyDefinition) -> None:
    """Everything that is promised of a study that was not refused."""
    resolved = json.loads(json.dumps(study.to_dict(), allow_nan=False))
    assert outcome(resolved) == study
    for upper in (False, True):
        drawn = study.search.space.suggest(Extreme(upper))
        params = study.search.space.recipe(study.student, drawn).params()
        for name, value in drawn.items():
            if isinstance(value, float):
                assert math.isclose(float(params[name]), value)
    for trial in study.search.try_first:
        study.search.space.recipe(study.student, trial)


def test_the_unmutated_study_is_valid() -> None:
    study = outcome(yaml.safe_dump(VALID))
    assert study is not None
    check_study(study)


@settings(LIKE_ANYWHERE, max_examples=60)
@given(mutated())
def test_a_mutated_study_is_a_study_or_refused(values: Any) -> None:
    study = outcome(values)
    if study is not None:
        check_study(study)


@pytest.mark.slow
@settings(LIKE_ANYWHERE, max_examples=1000)
@given(mutated())
def test_thousands_of_mutated_studies_are_studies_or_refused(values: Any) -> None:
    study = outcome(values)
    if study is not None:
        check_study(study)


@settings(LIKE_ANYWHERE, max_examples=80)
@given(st.text(max_size=60) | VALUES.map(lambda value: yaml.safe_dump(value)))
def test_any_text_is_a_study_or_refused(text: str) -> None:
    outcome(text)


@settings(LIKE_ANYWHERE, max_examples=60)
@given(
    st.integers(0, 1500), st.text(alphabet="{}[]:,&*!|>'\"-?#%@ \n\t<=a1~", min_size=1, max_size=5)
)
def test_a_study_with_something_typed_into_it_is_a_study_or_refused(place: int, typed: str) -> None:
    text = yaml.safe_dump(VALID)
    outcome(text[:place] + typed + text[place:])


@settings(LIKE_ANYWHERE, max_examples=40)
@given(
    st.lists(
        st.sampled_from(sorted({".".join(map(str, place)) for place in places(VALID) if place})),
        max_size=3,
    ),
    VALUES,
)
def test_any_override_is_taken_or_refused(fields: list[str], value: Any) -> None:
    text = yaml.safe_dump(value, default_flow_style=True)
    with contextlib.suppress(RequestError):
        read_study(
            parse_document(yaml.safe_dump(VALID), "x.yaml", [f"{field}={text}" for field in fields])
        )
