"""Jobs: everything that decides a result is in the identity, nothing else is, and both survive
being written down.
"""

import dataclasses
import hashlib
import json
import subprocess
import sys
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_ray.augmentation import AUGMENTATIONS, CropFlip, Flip, Identity
from distill_ray.job import (
    FOR_WEIGHTS,
    SCHEMA_VERSION,
    Data,
    Job,
    Recipe,
    Split,
    Unlabelled,
    canonical_json,
)
from distill_ray.methods import METHODS, EnsembleKD, Supervised
from distill_ray.models.preprocessing import Preprocessing
from distill_ray.settings import plain_type, setting_fields

SPLIT = Split(validation=200, train=400, seed=3)
DATA = Data(name="digits", digest="0123abcd", location="/data/digits", label="label", split=SPLIT)
JOB = Job(
    recipe=Recipe(
        model="wrn-10-1",
        method=EnsembleKD(temperature=6.0, teacher_weights=(1.0, 2.0)),
        milestones=(5, 9),
    ),
    data=DATA,
    seed=1,
    teachers=("aaa", "bbb"),
)


def with_recipe(**changes: Any) -> Job:
    return dataclasses.replace(JOB, recipe=dataclasses.replace(JOB.recipe, **changes))


def with_weights(**changes: Any) -> Job:
    """A job that starts from trained weights."""
    recipe = dataclasses.replace(JOB.recipe, weights="mine.pt@0123456789abcdef")
    return dataclasses.replace(JOB, recipe=dataclasses.replace(recipe, **changes))


def with_data(**changes: Any) -> Job:
    return dataclasses.replace(JOB, data=dataclasses.replace(DATA, **changes))


def another_value(value: Any, type_: Any) -> Any:
    """A value that differs from `value`, for any setting."""
    if get_origin(type_) is Literal:
        return next(choice for choice in get_args(type_) if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (3, 4) if value != (3, 4) else (3,)
    if value is None:
        return 0.5 if type_ is float else 3
    if isinstance(value, int):
        return value + 1
    return value / 2 + 0.125 if isinstance(value, float) else value + "x"


UNLABELLED: dict[str, Any] = {"digest": "ee", "location": "more", "images": 10, "seed": 0}

EVERY_CHANGE = {
    **{
        name: with_recipe(
            **{name: another_value(getattr(JOB.recipe, name), plain_type(field.type))}
        )
        for name, field in setting_fields(Recipe).items()
        if name not in ("method", "augmentation", "augmentation_seed", *FOR_WEIGHTS)
    },
    "augmentation_seed": with_recipe(versions=3, augmentation_seed=1),
    "weights": with_weights(),
    "other weights": with_weights(weights="mine.pt@0000000000000000"),
    "freeze": with_weights(freeze=1),
    "layer_decay": with_weights(layer_decay=0.5),
    "preprocessing of drawn weights": with_recipe(preprocessing=Preprocessing(size=64)),
    "classes": with_weights(classes=("a", "b")),
    "preprocessing": with_weights(preprocessing=Preprocessing()),
    "preprocessing.size": with_weights(preprocessing=Preprocessing(size=64)),
    "epochs of trained weights": with_weights(epochs=0),
    **{
        f"method.{name}": with_recipe(
            method=dataclasses.replace(
                JOB.recipe.method,
                **{name: another_value(getattr(JOB.recipe.method, name), plain_type(field.type))},
            )
        )
        for name, field in setting_fields(EnsembleKD).items()
    },
    "method": with_recipe(method=Supervised()),
    "augmentation": with_recipe(augmentation=Identity()),
    "another augmentation without settings": with_recipe(augmentation=Flip()),
    "augmentation.padding": with_recipe(augmentation=CropFlip(padding=2)),
    "data.digest": with_data(digest="ffff"),
    "data.label": with_data(label="coarse_label"),
    "data.size": with_data(size=32),
    "data.resize": with_data(size=32, resize=48),
    **{
        f"split.{name}": with_data(split=dataclasses.replace(SPLIT, **{name: value}))
        for name, value in {"validation": 100, "train": None, "rule": "last", "seed": 4}.items()
    },
    **{
        f"unlabelled, {name}": with_data(
            unlabelled=dataclasses.replace(Unlabelled(**UNLABELLED), **{name: value})
        )
        for name, value in {"digest": "ff", "images": 9, "seed": 1}.items()
    },
    "data.unlabelled": with_data(unlabelled=Unlabelled(**UNLABELLED)),
    "data.class_weights": with_data(class_weights="balanced"),
    "split.imbalance": with_data(split=dataclasses.replace(SPLIT, imbalance=100.0)),
    "split.test": with_data(split=dataclasses.replace(SPLIT, test=100)),
    "seed": dataclasses.replace(JOB, seed=2),
    "teachers": dataclasses.replace(JOB, teachers=("aaa",)),
    "calibrated": dataclasses.replace(JOB, calibrated=("aaa",)),
    "order of teachers": dataclasses.replace(JOB, teachers=("bbb", "aaa")),
    "workers": dataclasses.replace(JOB, workers=2),
}


def test_every_change_that_matters_changes_the_identity() -> None:
    ids = {name: job.id for name, job in EVERY_CHANGE.items()} | {"unchanged": JOB.id}
    assert len(set(ids.values())) == len(ids)


def test_every_field_is_tried_above() -> None:
    """A new field of a job must be thought about: is it part of the identity or not?"""
    fields = {field.name for cls in (Job, Data, Split) for field in dataclasses.fields(cls)}
    tried = {part for name in EVERY_CHANGE for part in name.split(".")}
    assert fields - tried == {"recipe", "name", "location", "memory_gb"}


def test_weights_are_the_same_whatever_their_file_is_called() -> None:
    assert with_weights(weights="other.pt@0123456789abcdef").id == with_weights().id
    again = with_weights(classes=("a",), preprocessing=Preprocessing(mean=(0.5,), std=(0.2,)))
    assert Job.from_dict(json.loads(json.dumps(again.to_dict()))) == again


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, found 0"),
        ({"classes": ("a",)}, "classes is for trained weights"),
        ({"freeze": 1}, "freeze is for trained weights"),
    ],
)
def test_settings_of_weights_where_there_are_none(changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_recipe(**changes)


def test_where_and_under_which_name_the_data_lie_does_not_matter() -> None:
    assert with_data(location="s3://elsewhere", name="other", memory_gb=0.0).id == JOB.id


def test_equal_jobs_are_one() -> None:
    whole = with_recipe(method=EnsembleKD(temperature=6, teacher_weights=(1, 2)), momentum=0.9)
    assert whole == JOB
    assert whole.id == JOB.id
    assert hash(whole) == hash(JOB)
    assert with_recipe(warmup_epochs=0).id == with_recipe(warmup_epochs=0.0).id


def test_the_identity_is_the_documented_hash() -> None:
    identity = json.loads(json.dumps(JOB.to_dict())) | {"schema": SCHEMA_VERSION}
    identity["data"] = {name: identity["data"][name] for name in ("digest", "label", "split")}
    for name in ("test", "imbalance"):  # told only where they are set
        assert identity["data"]["split"].pop(name) is None
    text = (
        json.dumps(identity, sort_keys=True, separators=(",", ":"))
        .replace("6.0", "6")
        .replace("1.0,2.0", "1,2")
    )
    for name in ("warmup_epochs", "final_lr", "label_smoothing"):
        text = text.replace(f'"{name}":0.0', f'"{name}":0')
    assert JOB.id == hashlib.sha256(text.encode()).hexdigest()[:20]


def test_the_identity_is_the_same_in_another_process() -> None:
    """Hashes of Python objects differ from process to process; the identity must not."""
    code = (
        f"import json; from distill_ray.job import Job; "
        f"print(Job.from_dict(json.loads({json.dumps(JOB.to_dict())!r})).id)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == JOB.id
    )


def test_the_schema_is_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    before = JOB.id
    monkeypatch.setattr("distill_ray.job.SCHEMA_VERSION", SCHEMA_VERSION + 1)
    assert JOB.id != before


@pytest.mark.parametrize("job", [JOB, *EVERY_CHANGE.values()], ids=["unchanged", *EVERY_CHANGE])
def test_a_job_survives_being_written_down(job: Job) -> None:
    read = Job.from_dict(json.loads(json.dumps(job.to_dict())))
    assert read == job
    assert read.id == job.id


def test_reading_a_job_leaves_what_was_read_alone() -> None:
    written = json.loads(json.dumps(JOB.to_dict()))
    Job.from_dict(written)
    assert written == json.loads(json.dumps(JOB.to_dict()))


@settings(max_examples=50, deadline=None)
@given(
    lr=st.floats(min_value=1e-12, max_value=1e12),
    temperature=st.floats(min_value=1e-12, max_value=1e12),
    milestones=st.lists(st.integers(min_value=1, max_value=10**6), max_size=4),
    augmentation=st.sampled_from(
        [Identity(), Flip(), CropFlip(), CropFlip(padding=0), CropFlip(padding=7)]
    ),
    seed=st.integers(min_value=0, max_value=2**63),
)
def test_any_numbers_survive(
    lr: float, temperature: float, milestones: list[int], augmentation: Any, seed: int
) -> None:
    method = EnsembleKD(temperature=temperature)
    recipe = Recipe(
        model="wrn-16-2",
        method=method,
        augmentation=augmentation,
        lr=lr,
        milestones=tuple(milestones),
    )
    job = Job(recipe=recipe, data=DATA, seed=seed)
    read = Job.from_dict(json.loads(json.dumps(job.to_dict())))
    assert read == job
    assert read.id == job.id
    assert json.loads(canonical_json(job.to_dict())) == json.loads(json.dumps(job.to_dict()))


def test_every_method_and_augmentation_can_be_written_down() -> None:
    for name, cls in METHODS.items():
        recipe = Recipe(model="m", method=cls())
        assert recipe.to_dict()["method"]["name"] == name
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    for name, augmentation in AUGMENTATIONS.items():
        recipe = Recipe(model="m", augmentation=augmentation())
        assert recipe.to_dict()["augmentation"]["name"] == name
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_settings_of_methods_do_not_hide_those_of_the_recipe() -> None:
    """They stand side by side in the study file, in MLflow and in the report."""
    common = set(setting_fields(Recipe)) | {"name"}
    for name in METHODS:
        assert not common & set(setting_fields(METHODS[name])), name


def test_flat_parameters() -> None:
    params = with_recipe(augmentation=CropFlip(padding=2)).recipe.params()
    assert params["method"] == "kd"
    assert params["augmentation"] == "crop-flip"
    assert params["temperature"] == 6.0
    assert params["augmentation.padding"] == 2
    assert params["milestones"] == "[5, 9]"
    assert params["teacher_weights"] == "[1.0, 2.0]"
    assert params["nesterov"] is True
    assert params["lr"] == 0.1
    assert "name" not in params
    assert "padding" not in params
    assert all(isinstance(value, str | int | float | bool) for value in params.values())
    assert JOB.recipe.params() == Recipe.from_dict(JOB.recipe.to_dict()).params()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, found 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lr": float("inf")}, "lr must be a finite number"),
        ({"momentum": 1.0}, "momentum must be at least 0, below 1"),
        ({"weight_decay": -1e-4}, "weight_decay must be at least 0"),
        ({"schedule": "linear"}, "schedule must be one of 'cosine', 'step'"),
        ({"milestones": (3, 0)}, "milestones must be at least 1"),
        ({"decay": 0.0}, "decay must be above 0, at most 1"),
        ({"keep": "first"}, "keep must be one of"),
        ({"precision": "fp16"}, "precision must be one of"),
    ],
)
def test_recipes_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(JOB.recipe, **changes)


def test_canonical_json() -> None:
    assert (
        canonical_json({"b": 1.0, "a": [2, (3.5, None)], "c": True})
        == '{"a":[2,[3.5,null]],"b":1,"c":true}'
    )
    assert canonical_json({"x": 1e300}) == canonical_json({"x": int(1e300)})
    assert canonical_json(-0.0) == canonical_json(0)
    assert canonical_json("ä") == '"\\u00e4"'
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            canonical_json([number])


def test_reading_a_study_never_pays_for_torch() -> None:
    code = (
        "import sys, distill_ray.job; print([m for m in ('torch', 'ray', 'mlflow', 'optuna', "
        "'pydantic') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
