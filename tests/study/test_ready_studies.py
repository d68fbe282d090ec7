"""The studies that come with the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill_ray.study import Study, load_study

STUDIES = Path(__file__).parents[2] / "studies"
SYSTEMS = ("latent-be", "hydra-plus", "calibrated-ensemble", "good-augmentation")


def ready(name: str) -> Study:
    return load_study(STUDIES / f"{name}.yaml")


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_is_valid_and_named_like_its_file(path: Path) -> None:
    assert load_study(path).name == path.stem


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_has_its_published_table_at_both_sizes(system: str) -> None:
    full, small = ready(system), ready(f"{system}-small")
    assert full.published is not None and small.published is not None
    assert small.data.source == "digits"
    values = {row.name: row.values for row in full.published.rows}
    for row in small.published.rows:
        assert all(
            row.values.items() <= value.items()
            for name, value in values.items()
            if name == row.name
        )
    assert full.published.difference != small.published.difference


def test_one_study_searches_across_the_systems() -> None:
    study = ready("across-systems")
    assert study.search.objectives == {"val/accuracy": "max", "val/cnll": "min"}
    names = {dimension.name for dimension in study.search.space.dimensions}
    assert {"method", "augmentation", "temperature", "alpha", "diversity"} <= names
    methods = study.search.space["method"].limits
    assert {"kd", "latent-be", "hydra+", "augmented-kd"} <= set(methods)
