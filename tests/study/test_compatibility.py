"""Methods that contradict the model, the augmentation, the teachers or the images of a study:
refused by name, before torch is needed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distill_ray.errors import RequestError
from distill_ray.methods import METHODS
from distill_ray.study import StudyDefinition, check_against_data

Load = Callable[..., StudyDefinition]
Refusal = Callable[..., list[str]]

BASELINES = "confirm: {baselines: {}}\n"


def study(
    student: str,
    teachers: str = "members: 3",
    rest: str = "search: {space: {lr: {log: [0.1, 1]}}}\n",
) -> str:
    return (
        f"name: x\nteachers: {{model: wrn-10-1, {teachers}}}\nstudent: {{{student}}}\n"
        f"{BASELINES}{rest}"
    )


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (
            "model: torchvision/vit_b_16, method: latent-be",
            "student: model 'torchvision/vit_b_16' cannot become a BatchEnsemble: it has layers "
            "that are neither convolutions",
        ),
        (
            "model: wrn-10-1, method: hydra, depth: 4",
            "student: model 'wrn-10-1' cannot become multi-head with depth 4: it has 4 units, and "
            "one at least must be shared",
        ),
        (
            "model: torchvision/resnet18, method: hydra+, depth: 1",
            "student: model 'torchvision/resnet18' cannot become multi-head with depth 1: it has "
            "1 units",
        ),
        (
            "model: wrn-16-1, method: fitnet, student_units: [5], teacher_units: [5]",
            "student.teacher_units: teacher_units must be at most 4 for model 'wrn-10-1'",
        ),
        (
            "model: wrn-10-1, method: augmented-kd",
            "student: method 'augmented-kd' needs images and augmented copies beside them; "
            "augmentation 'crop-flip' has none",
        ),
        (
            "model: wrn-10-1, method: crd, augmentation: cutmix",
            "student: method 'crd' tells images apart, and augmentation 'cutmix' makes one of "
            "two; augmentation: {name: additional,",
        ),
        (
            "model: wrn-10-1, augmentation: {name: augmix, consistency: true}",
            "student: augmentation 'augmix' shows each image in 3 versions that should agree, and "
            "method 'kd' does not ask that of",
        ),
        (
            "model: wrn-10-1, method: supervised, augmentation: {name: additional, pick: kl}",
            "student: augmentation 'additional' picks images with the help of teachers; method "
            "'supervised' has none",
        ),
        (
            "model: wrn-10-1, augmentation: {name: additional, pick: kl, pool: 1}",
            "student.augmentation.pool: found 1, must be at least 2",
        ),
        (
            "model: wrn-10-1, teacher_weights: [1, 2]",
            "student.teacher_weights: teacher_weights must be one for each of 3 teachers, found 2",
        ),
        (
            "model: wrn-10-1, teacher_weights: [1, -2, 1]",
            "student.teacher_weights.1: found -2, must be at least 0",
        ),
        (
            "model: wrn-10-1, teacher_weights: [0, 0, 0]",
            "student.teacher_weights: teacher_weights must not all be 0",
        ),
        (
            "model: wrn-10-1, method: hydra+, diversity: -1",
            "student.diversity: found -1, must be at least 0",
        ),
        (
            "model: wrn-10-1, method: hydra+, correctness: 0, aggregation: 0, individuality: 0",
            "student.correctness: correctness, aggregation and individuality must not all be 0",
        ),
        (
            "model: wrn-10-1, method: augmented-kd, augmentation: additional, labels: 0, alpha: 0",
            "student.labels: labels and alpha, or original, mixed_labels and augmented, must not "
            "all be 0",
        ),
        (
            "model: wrn-10-1, method: crd, labels: 0, alpha: 0, contrast: 0",
            "student.contrast: contrast, labels and alpha, or original, mixed_labels and "
            "augmented, must not all be 0",
        ),
        (
            "model: wrn-10-1, method: endd, anneal_from: 5, anneal_until: 5",
            "student.anneal_until: anneal_until must be above anneal_from",
        ),
        ("model: wrn-10-1, clip_norm: 0", "student.clip_norm: found 0, must be above 0"),
        (
            "model: wrn-10-1, label_smoothing: 1",
            "student.label_smoothing: found 1, must be at least 0, below 1",
        ),
        (
            "model: wrn-10-1, optimizer: adamax",
            "student.optimizer: found 'adamax', must be one of sgd, adam, adamw",
        ),
    ],
)
def test_a_student_that_cannot_be(refusal: Refusal, student: str, message: str) -> None:
    lines = refusal(study(student))
    assert len(lines) == 1
    assert lines[0].startswith(f"study.yaml:3: {message}")


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (
            "method: latent-be, perturb: tdiv-sdiv",
            "student.perturb: perturb 'tdiv-sdiv' needs at least 2 teachers, found 1",
        ),
        (
            "method: endd",
            "student: method 'endd' learns how teachers differ and needs at least 2 of them, "
            "found 1",
        ),
    ],
)
def test_too_few_teachers(refusal: Refusal, student: str, message: str) -> None:
    assert refusal(study(f"model: wrn-10-1, {student}", "members: 1")) == [
        f"study.yaml:3: {message}"
    ]


def test_teachers_that_cannot_pick(refusal: Refusal) -> None:
    lines = refusal(
        study("model: wrn-10-1", "augmentation: {name: additional, pick: teacher-entropy}")
    )
    assert lines == [
        "study.yaml:2: teachers.method: augmentation 'additional' picks images with the help of "
        "teachers; method 'supervised' has none"
    ]


def test_both_ends_of_whole_numbers_are_tried(refusal: Refusal) -> None:
    lines = refusal(
        study("model: wrn-10-1, method: hydra", rest="search: {space: {depth: {int: [0, 9]}}}\n")
    )
    assert lines == [
        "study.yaml:5: search.space: model 'wrn-10-1' cannot become multi-head with depth 9: it "
        "has 4 units, and one at least "
        "must be shared (met with depth 9; use 'when', or search less)"
    ]


@pytest.mark.parametrize(
    ("student", "space", "why"),
    [
        ("method: endd", "{lr: {log: [0.1, 1]}}", "method 'endd'"),
        ("method: kd", "{method: {choice: [kd, endd]}}", "method 'endd'"),
        (
            "augmentation: {name: additional, pick: kl}",
            "{lr: {log: [0.1, 1]}}",
            "augmentation 'additional', which picks images by the logits,",
        ),
    ],
)
def test_what_needs_the_logits_of_all_classes(
    refusal: Refusal, load: Load, student: str, space: str, why: str
) -> None:
    rest = f"search: {{space: {space}}}\nresources: {{teacher_logits: {{top_k: 20}}}}\n"
    assert refusal(study(f"model: wrn-10-1, {student}", rest=rest)) == [
        f"study.yaml:6: resources.teacher_logits.top_k: found 20, but {why} needs the logits of "
        f"all classes; leave it out"
    ]
    load(study(f"model: wrn-10-1, {student}", rest=rest.replace("20}", "20, mode: live}")))
    load(
        study(
            "model: wrn-10-1",
            rest="search: {space: {lr: {log: [0.1, 1]}}}\nresources: {teacher_logits: {top_k: "
            "20}}\n",
        )
    )


def test_what_is_wrong_whatever_is_drawn_is_wrong_with_the_student(refusal: Refusal) -> None:
    rest = "search: {space: {augmentation: {choice: [flip, crop]}}}\n"
    assert refusal(study("model: wrn-10-1, teacher_weights: [1, 2]", rest=rest)) == [
        "study.yaml:3: student.teacher_weights: teacher_weights must be one for each of 3 "
        "teachers, found 2"
    ]


def test_a_setting_that_is_searched_is_named(refusal: Refusal) -> None:
    rest = (
        "search: {space: {teacher_weights: {choice: [[1, 2, 3], [1, 2]]}, augmentation: {choice: "
        "[flip, crop]}}}\n"
    )
    assert refusal(study("model: wrn-10-1", rest=rest)) == [
        "study.yaml:5: search.space.teacher_weights: teacher_weights must be one for each of 3 "
        "teachers, found 2 (met with teacher_weights [1.0, 2.0], augmentation flip and 1 more; "
        "use 'when', or search less)"
    ]


def test_one_reason_is_given_once(refusal: Refusal) -> None:
    space = (
        "{method: {choice: [kd, augmented-kd]}, augmentation: {choice: [flip, additional]}, "
        "model: {choice: [wrn-10-1, vgg8]}}"
    )
    lines = refusal(study("model: wrn-10-1", rest=f"search: {{space: {space}}}\n"))
    assert lines == [
        "study.yaml:5: search.space: method 'augmented-kd' needs images and augmented copies "
        "beside them; augmentation 'flip' has "
        "none (met with method augmented-kd, augmentation flip, model wrn-10-1 and 1 more; use "
        "'when', or search less)"
    ]
    allowed = space.replace(
        "additional]}", "additional]}, combine: {choice: [add-loss, mean-loss]}"
    )
    assert len(refusal(study("model: wrn-10-1", rest=f"search: {{space: {allowed}}}\n"))) == 1


ACROSS = study(
    "model: wrn-10-1, augmentation: {name: additional, pick: kl}",
    rest=f"""\
search:
  space:
    method: {{choice: [{", ".join(sorted({*METHODS} - {"supervised"}))}]}}
    augmentation: {{choice: [
      {{name: additional, pick: kl}}, {{name: additional, pick: student-entropy}},
      {{name: additional}}]}}
    augmentation.pool: {{int: [2, 4]}}
    model: {{choice: [wrn-10-1, lenet-8-mlp-16]}}
    temperature: {{log: [1, 20]}}
    alpha: {{uniform: [0.1, 1]}}
    contrast: {{uniform: [0.1, 1]}}
    perturb: {{choice: [none, tdiv-sdiv]}}
    heads: {{int: [1, 20]}}
    depth: {{int: [0, 1]}}
    diversity: {{log: [0.0001, 0.1]}}
    samples: {{int: [1, 20]}}
    optimizer: {{choice: [sgd, adam]}}
    clip_norm: {{log: [0.1, 10]}}
    schedule_every: {{choice: [step, epoch]}}
""",
)
"""Methods, augmentations, models and their settings, all searched at once."""


def test_one_search_across_all_methods(load: Load) -> None:
    space = load(ACROSS).search.space
    assert set(space["method"].values) == set(METHODS) - {"supervised"}
    conditions = {
        dimension.name: [condition.labels for condition in dimension.when]
        for dimension in space.dimensions
    }
    assert conditions["heads"] == [("hydra", "hydra+")]
    assert conditions["samples"] == [("drop", "gauss")]
    assert conditions["optimizer"] == []


def test_a_study_with_every_method_is_checked_without_torch(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(ACROSS)
    code = (
        "import sys; from distill_ray.study import load_study; load_study(sys.argv[1]); "
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "study.yaml")]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )


@pytest.mark.parametrize(
    ("text", "shape", "messages"),
    [
        (
            study("model: vgg8"),
            (3, 4, 4),
            ["3: student.model: model 'vgg8' takes images of at least 8x8 pixels, found 4x4"],
        ),
        (
            study("model: wrn-10-1, augmentation: {name: crop-flip, padding: 8}"),
            (1, 8, 8),
            [
                "3: student.augmentation: crop-flip: padding must be below the side of the "
                "images, 8, found 8"
            ],
        ),
        (
            study("model: wrn-10-1", "augmentation: autoaugment"),
            (4, 8, 8),
            [
                "2: teachers.augmentation: autoaugment: autoaugment changes colours, so images "
                "must have 1 or 3 channels, found 4"
            ],
        ),
        (
            study(
                "model: wrn-10-1", rest="search: {space: {augmentation.padding: {int: [1, 9]}}}\n"
            ),
            (1, 8, 8),
            [
                "5: search.space.augmentation.padding: crop-flip: padding must be below the side "
                "of the images, 8, found 9"
            ],
        ),
        (
            study("model: wrn-10-1").replace(
                "baselines: {}", "baselines: {wide: {augmentation: {name: crop, padding: 30}}}"
            ),
            (1, 8, 8),
            [
                "4: confirm.baselines.wide.augmentation: crop: padding must be below the side of "
                "the images, 8, found 30"
            ],
        ),
    ],
)
def test_images_that_do_not_suit(
    load: Load, text: str, shape: tuple[int, int, int], messages: list[str]
) -> None:
    loaded = load(text)
    check_against_data(loaded, 100, 10, (3, 64, 64))
    with pytest.raises(RequestError) as caught:
        check_against_data(loaded, 100, 10, shape)
    assert [line.split("study.yaml:")[1] for line in str(caught.value).splitlines()] == messages


def test_a_coverage_takes_validation_images(load: Load) -> None:
    """One that was asked for; the default is reported, not refused, where it cannot be had."""
    networks = "teachers: {model: wrn-10-1}\nstudent: {model: wrn-10-1}\n"
    text = f"name: x\ndata: {{validation: 50}}\n{networks}"
    loaded = load(f"{text}confirm: {{coverage: 0.99}}\n")
    with pytest.raises(RequestError, match=r"coverage: found 0\.99, which takes at least 99 valid"):
        check_against_data(loaded, 1000, 10, (1, 8, 8))
    check_against_data(load(f"{text}confirm: {{coverage: 0.98}}\n"), 1000, 10, (1, 8, 8))


REAL = "model: mlp-8, augmentation: identity"


def test_a_toy_study_fits(load: Load) -> None:
    text = study(REAL).replace("model: wrn-10-1", "model: mlp-8, augmentation: identity")
    check_against_data(
        load(text.replace("name: x", "name: x\ndata: {validation: 30}")),
        270,
        3,
        (2, 1, 1),
        real_valued=True,
    )


def test_real_numbers_take_no_augmentation(load: Load) -> None:
    loaded = load(study("model: mlp-8"))
    with pytest.raises(RequestError) as refused:
        check_against_data(loaded, 270, 3, (2, 1, 1), real_valued=True)
    wrong = (
        "crop-flip: changes pixels, and the inputs of this data set are real numbers; use identity"
    )
    assert f"teachers.augmentation: {wrong}" in str(
        refused.value
    ) and f"student.augmentation: {wrong}" in str(refused.value)


def test_what_regression_does_not_have_is_refused_by_name(load: Load) -> None:
    text = study(f"{REAL}, method: hydra+, heads: 2, keep: best-accuracy").replace(
        "model: wrn-10-1", "model: mlp-8, augmentation: identity"
    )
    text = text.replace("baselines: {}", "baselines: [default-kd]").replace(
        "search: {", "search: {objectives: {val/accuracy: max}, "
    )
    with pytest.raises(RequestError) as refused:
        check_against_data(load(text), 270, 0, (1, 1, 1), task="regression", real_valued=True)
    for message in (
        "data.split: found stratified, which is by class, and labels that are real numbers have "
        "none; use last",
        "search.objectives.val/accuracy: no metric of regression, which has val/nll, val/rmse, "
        "val/mae",
        "student.keep: counts correct answers, and regression has none",
        "confirm.baselines.default-kd.method: method 'kd' is for classification; for regression "
        "there are drop, gauss",
    ):
        assert message in str(refused.value)


def test_regression_has_no_metric_of_classification(load: Load) -> None:
    text = study("model: wrn-10-1").replace("search: {", "search: {objectives: {val/rmse: min}, ")
    with pytest.raises(
        RequestError, match=r"search.objectives.val/rmse: no metric of classification"
    ):
        check_against_data(load(text), 1000, 10)
