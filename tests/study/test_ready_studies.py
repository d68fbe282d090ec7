"""The studies that come with the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill_ray.study import StudyDefinition, check_against_data, load_study

STUDIES = Path(__file__).parents[2] / "studies"
MADE = {"photos-small"}
"""Studies of files that a script makes first; tests/stages has them."""
SYSTEMS = ("latent-be", "hydra-plus", "calibrated-ensemble", "good-augmentation")


def ready(name: str) -> StudyDefinition:
    return load_study(STUDIES / f"{name}.yaml")


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(STUDIES.glob("*.yaml")) if path.stem not in MADE],
    ids=lambda path: path.stem,
)
def test_every_study_is_valid_and_named_like_its_file(path: Path) -> None:
    assert load_study(path).name == path.stem


@pytest.mark.parametrize("size", ["small", "cifar"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_has_its_published_table_at_every_size(system: str, size: str) -> None:
    full, small = ready(system), ready(f"{system}-{size}")
    assert full.published is not None and small.published is not None
    assert small.data.source == {"small": "digits", "cifar": full.data.source}[size]
    values = {row.name: row.values for row in full.published.rows}
    for row in small.published.rows:
        assert all(
            row.values.items() <= value.items()
            for name, value in values.items()
            if name == row.name
        )
    assert full.published.difference != small.published.difference


PAIRS = (
    ("vgg13", "vgg8"),
    ("vgg13", "mobilenet-v2"),
    ("resnet56", "resnet20"),
    ("resnet56", "shuffle-v2"),
    ("wrn-40-2", "wrn-16-2"),
    ("wrn-40-2", "vgg8"),
    ("resnet32x4", "resnet8x4"),
    ("resnet32x4", "shuffle-v2"),
    ("resnet50", "vgg8"),
)


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
@pytest.mark.parametrize(
    ("name", "side"), [("good-augmentation", 32), ("good-augmentation-tiny", 64)]
)
def test_the_nine_pairs_are_chosen_on_the_command_line(
    name: str, side: int, teacher: str, student: str
) -> None:
    path = STUDIES / f"{name}.yaml"
    study = load_study(path, [f"teachers.model={teacher}", f"student.model={student}"])
    assert (study.teachers[0].recipe.model, study.student.model) == (teacher, student)
    check_against_data(study, 100_000, 200, (3, side, side))
    cifar = (STUDIES / "good-augmentation.yaml").read_text()
    assert f"{teacher}/{student}" in cifar


def test_photographs_are_seen_at_224_pixels_by_four_architectures() -> None:
    study = ready("photos")
    check_against_data(study, 1_281_167, 1000, (3, 224, 224))
    batches = {
        group.name: group.recipe.batch_size * group.recipe.accumulate for group in study.teachers
    }
    assert batches == {"resnet": 1024, "convnext": 4096, "vit": 1024}
    check_against_data(ready("good-augmentation-imagenet100"), 126_689, 100, (3, 224, 224))


def test_one_study_searches_across_the_systems() -> None:
    study = ready("across-systems")
    assert study.search.objectives == {"val/accuracy": "max", "val/cnll": "min"}
    names = {dimension.name for dimension in study.search.space.dimensions}
    assert {"method", "augmentation", "temperature", "alpha", "diversity"} <= names
    methods = study.search.space["method"].limits
    assert {"kd", "latent-be", "hydra+", "augmented-kd"} <= set(methods)
