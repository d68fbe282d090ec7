"""Study files in the making."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from distill_ray.errors import RequestError
from distill_ray.study import StudyDefinition, load_study

SMALLEST = """\
name: small
teachers: {model: wrn-10-1}
student: {model: wrn-10-1}
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., StudyDefinition]:
    """Loads a study from the text of its file, with overrides."""

    def load(text: str, *overrides: str) -> StudyDefinition:
        path = tmp_path / "study.yaml"
        path.write_text(text, encoding="utf-8")
        return load_study(path, overrides)

    return load


@pytest.fixture
def refusal(load: Callable[..., StudyDefinition], tmp_path: Path) -> Callable[..., list[str]]:
    """The lines with which a study is refused, without the folder of the file."""

    def refusal(text: str, *overrides: str) -> list[str]:
        with pytest.raises(RequestError) as caught:
            load(text, *overrides)
        return str(caught.value).replace(f"{tmp_path}/", "").splitlines()

    return refusal


@pytest.fixture
def smallest() -> str:
    """The shortest study file there is."""
    return SMALLEST
