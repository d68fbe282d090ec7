"""The study as the rest of the package sees it: defaults, seeds, baselines, identity, and the
checks against data.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from distill_ray.augmentation import CropFlip
from distill_ray.errors import RequestError
from distill_ray.job import Split
from distill_ray.methods import EnsembleKD, Supervised
from distill_ray.study import StudyDefinition, check_against_data, load_study
from distill_ray.study.sections import EarlyStopping

Load = Callable[..., StudyDefinition]

STUDIES = Path(__file__).parents[2] / "studies"


def test_what_the_file_does_not_say_has_good_defaults(load: Load, smallest: str) -> None:
    study = load(smallest)
    assert study.data.source == "digits"
    assert study.data.cut(1437) == Split(validation=143)
    (teachers,) = study.teachers
    assert teachers.recipe.method == Supervised()
    assert teachers.seeds == (0, 1, 2)
    assert (study.student.method, study.student.augmentation) == (EnsembleKD(), CropFlip())
    search = study.search
    assert (search.trials, search.objectives, search.sampler, search.seed) == (
        20,
        {"val/nll": "min"},
        "auto",
        0,
    )
    assert search.scheduler == EarlyStopping(grace_epochs=3, reduction=3)
    assert (
        search.max_failed_trials,
        study.resources.retries,
        search.time_limit,
        search.max_concurrent,
    ) == (
        5,
        1,
        None,
        None,
    )
    described = {dimension.name: dimension.described() for dimension in search.space.dimensions}
    assert described == {"temperature": "log [1, 20]", "alpha": "uniform [0.1, 1]"}
    assert list(study.confirm.baselines) == ["scratch", "default-kd"]
    assert (study.confirm.seeds, study.confirm.top) == (3, 1)


def test_several_objectives_run_every_trial_to_its_end(load: Load, smallest: str) -> None:
    study = load(smallest + "search: {objectives: {val/nll: min, val/accuracy: max}}\n")
    assert study.search.scheduler is None
    assert list(study.search.objectives) == ["val/nll", "val/accuracy"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("2h", 7200), ("1h30m", 5400), ("1.5m", 90), ("1d", 86400)]
)
def test_time_limits(load: Load, smallest: str, text: str, seconds: float) -> None:
    assert load(smallest, f"search.time_limit={text}").search.time_limit == seconds


def test_asha_knows_the_longest_trial(load: Load, smallest: str) -> None:
    assert load(
        smallest, "search.space={epochs: {int: [4, 40]}}"
    ).search.scheduler == EarlyStopping(grace_epochs=10, reduction=3)
    assert load(smallest, "student.epochs=1").search.scheduler == EarlyStopping(
        grace_epochs=1, reduction=3
    )
    assert load(smallest, "search.scheduler=none").search.scheduler is None


def test_a_field_that_only_some_trials_draw_keeps_the_students_value_in_the_others(
    load: Load, smallest: str
) -> None:
    space = (
        "search.space={epochs: {int: [20, 30], when: {keep: last}}, keep: {choice: [last, "
        "best-nll]}}"
    )
    with pytest.raises(
        RequestError, match=r"student.warmup_epochs: found 15.0, must be below epochs \(12\)"
    ):
        load(smallest, space, "student.warmup_epochs=15")


def test_seeds_of_teachers_go_on_from_group_to_group(load: Load) -> None:
    text = (
        "name: x\nteachers: [{model: wrn-10-1, members: 2}, {model: wrn-16-1, members: 2}]\n"
        "student: {model: wrn-10-1}\nseed: 7\n"
    )
    assert [group.seeds for group in load(text).teachers] == [(7, 8), (9, 10)]


def test_students_and_teachers_never_start_from_the_same_weights(load: Load, smallest: str) -> None:
    study = load(smallest, "seed=5", "confirm.seeds=100", "teachers.members=100")
    teachers = set(study.teachers[0].seeds)
    assert len(set(study.confirm_seeds)) == 100
    assert not teachers & {study.trial_seed, *study.confirm_seeds}
    assert study.trial_seed not in study.confirm_seeds


def test_baselines_keep_everything_of_the_student_but_the_method(load: Load, smallest: str) -> None:
    study = load(smallest, "student.temperature=9", "student.lr=0.3", "student.augmentation=flip")
    scratch, default = study.confirm.baselines["scratch"], study.confirm.baselines["default-kd"]
    assert (scratch.method, default.method, study.student.method) == (
        Supervised(),
        EnsembleKD(),
        EnsembleKD(temperature=9),
    )
    assert dataclasses.replace(scratch, method=study.student.method) == study.student
    assert dataclasses.replace(default, method=study.student.method) == study.student


def test_baselines_of_ones_own(load: Load, smallest: str) -> None:
    baselines = (
        "{scratch: {epochs: 30}, start: {}, hot: {temperature: 20}, labels: {method: supervised}}"
    )
    found = load(smallest, "student.alpha=0.3", f"confirm.baselines={baselines}").confirm.baselines
    assert (found["scratch"].epochs, found["scratch"].method) == (30, Supervised())
    assert found["start"].method == EnsembleKD(alpha=0.3)
    assert found["hot"].method == EnsembleKD(temperature=20, alpha=0.3)
    assert found["labels"].method == Supervised()


def test_the_digest_is_that_of_the_content(load: Load, smallest: str) -> None:
    digest = load(smallest).digest
    assert (
        digest
        == load(
            "# a comment\n" + "\n".join(reversed(smallest.splitlines())), "search.trials=20"
        ).digest
    )
    assert digest != load(smallest, "search.trials=21").digest
    assert digest != load(smallest, "student.temperature=4.5").digest
    assert digest != load(smallest, "seed=1").digest


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        (
            "search.time_limit=1h30m",
            "search.objectives={val/nll: min, val/accuracy: max}",
            "data.validation=50",
        ),
        (
            "student.method=supervised",
            "student.temperature=7",
            "search.space={method: {choice: [kd, supervised]}, temperature: {log: [1, 9]}, "
            "epochs: {int: [2, 32], log: true},"
            " augmentation: {choice: [flip, {name: crop-flip, padding: 2}]}, milestones: {choice: "
            "[[], [1]]},"
            " lr: {uniform: [0.1, 0.5], step: 0.1, when: {augmentation: flip}}, schedule: "
            "{choice: [cosine, step]}}",
            "search.try_first=[{augmentation: {name: crop-flip, padding: 2}, milestones: [1]}]",
            "confirm.baselines={hot: {method: kd, temperature: 20}}",
        ),
    ],
)
def test_the_resolved_study_is_a_study_file_that_says_the_same(
    load: Load, smallest: str, overrides: tuple[str, ...]
) -> None:
    study = load(smallest, *overrides)
    resolved = json.loads(json.dumps(study.to_dict()))
    again = load(yaml.safe_dump(resolved, sort_keys=False))
    assert again == study
    assert again.digest == study.digest


def test_the_quickstart(smallest: str) -> None:
    study = load_study(STUDIES / "quickstart.yaml")
    assert study.name == "quickstart"
    assert len(study.teachers[0].seeds) == 3
    assert study.search.trials == 12
    assert {dimension.name for dimension in study.search.space.dimensions} == {
        "temperature",
        "alpha",
        "augmentation",
    }
    assert (study.confirm.seeds, list(study.confirm.baselines)) == (3, ["scratch", "default-kd"])
    check_against_data(study, 1437, 10)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("data.validation=100",),
            "data.validation: found 100, must leave some of the 100 training images",
        ),
        (
            ("data.validation=60", "data.train=50"),
            "data.train: found 50, but only 40 of the 100 training images are left after "
            "validation",
        ),
        (
            ("data.validation=5",),
            "data.validation: a stratified split needs an image of each of the 10 classes",
        ),
        (
            ("data.train=5", "student.batch_size=5", "teachers.batch_size=5"),
            "data.train: a stratified split needs an image of each of the 10 classes",
        ),
        (
            ("student.batch_size=91",),
            "student.batch_size: found 91, but the training split has only 90 images",
        ),
        (
            ("teachers.batch_size=91",),
            "teachers.batch_size: found 91, but the training split has only 90 images",
        ),
        (
            ("data.validation=40", "teachers.batch_size=60"),
            "student.batch_size: is 64 by default, but the training split has only 60 images; "
            "set it to at most 60",
        ),
        (
            ("confirm.baselines={big: {batch_size: 91}}",),
            "confirm.baselines.big.batch_size: found 91, but the training split has only 90",
        ),
        (
            ("search.space={batch_size: {choice: [8, 91]}}",),
            "search.space.batch_size: found 91, but the training split has only 90",
        ),
    ],
)
def test_against_data(load: Load, smallest: str, overrides: tuple[str, ...], message: str) -> None:
    study = load(smallest, *overrides)
    with pytest.raises(RequestError) as caught:
        check_against_data(study, 100, 10)
    assert len(str(caught.value).splitlines()) == 1
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("student.model=vgg8",),
            "student.batch_size: found 32, which leaves one image in the last batch of 97, and "
            "vgg8 "
            "normalises over the batch where its maps have one pixel; choose another, or set "
            "drop_last: true",
        ),
        (("teachers.model=shuffle-v2",), "teachers.batch_size: found 32, which leaves one image"),
        (
            ("confirm.baselines={b: {model: resnet50, batch_size: 48}}",),
            "confirm.baselines.b.batch_size: found 48, which leaves one image",
        ),
        (
            ("search.space={batch_size: {int: [30, 34]}, model: {choice: [mlp-9, mobilenet-v2]}}",),
            "search.space.batch_size: found 32, which leaves one image",
        ),
        (
            ("student.model=vgg8", "student.batch_size=1"),
            "student.batch_size: found 1, which leaves one image",
        ),
        (
            ("resources.workers_per_trial=2",),
            "student.batch_size: found 32, which leaves 1 images for 2 workers in the last batch",
        ),
        (
            ("resources.workers_per_trial=2", "student.model=vgg8", "student.batch_size=94"),
            "student.batch_size: found 94, which leaves one image",
        ),
    ],
)
def test_a_last_batch_of_one_image(
    load: Load, smallest: str, overrides: tuple[str, ...], message: str
) -> None:
    base = ("data.validation=3", "student.batch_size=32", "teachers.batch_size=32")
    study = load(smallest, *base, "data.split=last", *overrides)
    with pytest.raises(RequestError) as caught:
        check_against_data(study, 100, 10, (1, 8, 8))
    assert len(str(caught.value).splitlines()) == 1
    assert message in str(caught.value)


def test_other_splits_have_no_batch_of_one_image(load: Load, smallest: str) -> None:
    base = ("data.validation=3", "student.batch_size=32", "teachers.batch_size=32")
    study = load(smallest, *base, "data.split=last", "student.model=vgg8")
    for rows in (99, 101, 102):
        check_against_data(study, rows, 10, (1, 8, 8))
    check_against_data(study, 100, 10, (1, 32, 32))


@pytest.mark.parametrize(
    "override", ["student.drop_last=true", "student.model=mlp-9", "student.batch_size=31"]
)
def test_no_last_batch_of_one_image(load: Load, smallest: str, override: str) -> None:
    base = ("student.model=vgg8", "student.batch_size=32", "data.validation=3", "data.split=last")
    teachers = ("teachers.batch_size=31",)
    check_against_data(load(smallest, *base, *teachers, override), 100, 10, (1, 8, 8))


@pytest.mark.parametrize(
    ("augmentation", "reason"),
    [
        ("mixup", "mixup: mixes the classes of two images, and regression has none"),
        ("cutmix", "cutmix: mixes the classes of two images, and regression has none"),
        ("additional", "additional: mixes the classes of two images, and regression has none"),
        (
            "{name: augmix, consistency: true}",
            "augmix: compares predicted classes, and regression has none",
        ),
    ],
)
def test_augmentations_that_mix_classes_are_refused_for_regression(
    load: Load, augmentation: str, reason: str
) -> None:
    text = (
        "name: x\nteachers: {model: wrn-10-1}\n"
        f"student: {{model: wrn-10-1, method: supervised, augmentation: {augmentation}}}\n"
        "data: {split: last}\nsearch: {space: {lr: {log: [0.1, 1]}}}\n"
        "confirm: {baselines: [scratch]}\n"
    )
    study = load(text)
    check_against_data(study, 1000, 10, (3, 32, 32))
    with pytest.raises(RequestError) as caught:
        check_against_data(study, 1000, None, (3, 32, 32), task="regression")
    assert f"study.yaml:3: student.augmentation: {reason}" in str(caught.value)


def test_problems_that_show_later_have_their_lines_too(load: Load, smallest: str) -> None:
    error = load(smallest).error(
        [("student.model", "too small for these images"), ("teachers", "too many")]
    )
    assert [line.split("/")[-1] for line in str(error).splitlines()] == [
        "study.yaml:2: teachers: too many",
        "study.yaml:3: student.model: too small for these images",
    ]
