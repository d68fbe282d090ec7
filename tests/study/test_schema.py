"""The JSON Schema agrees with validation, and the reference pages with the code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from distill_ray.cli import main
from distill_ray.errors import RequestError
from distill_ray.job import Recipe
from distill_ray.methods import METHODS
from distill_ray.settings import SettingField, setting_fields
from distill_ray.study import Study, load_study, reference
from distill_ray.study.document import read_document
from distill_ray.study.recipes import COMMON
from distill_ray.study.schema import study_schema
from distill_ray.study.sections import DataSection, Resources

ROOT = Path(__file__).parents[2]
METHOD_PAGES = ROOT / "docs" / "methods"
FILES = sorted([*(ROOT / "studies").rglob("*.yaml"), ROOT / "tests" / "tiny.yaml"])


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = study_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_study_files_are_valid_as_written_and_with_every_default_filled_in(validator: Draft202012Validator, file: Path) -> None:
    assert [error.message for error in validator.iter_errors(read_document(file).values)] == []
    assert [error.message for error in validator.iter_errors(load_study(file).to_dict())] == []


def outside(field: SettingField) -> Iterator[Any]:
    """Values just beyond the limits of a setting, and one of another type."""
    setting, listed = field.setting, isinstance(field.default, tuple)
    for limit, step in ((setting.above, 0), (setting.below, 0), (setting.at_least, -1), (setting.at_most, 1)):
        if limit is not None:
            yield [limit + step] if listed else limit + step
    yield {"no": "value"}


SETTINGS = [("supervised", setting_fields(Recipe)[name]) for name in COMMON]
SETTINGS += [(method, field) for method in METHODS for field in setting_fields(METHODS[method]).values()]


@pytest.mark.parametrize(("method", "field"), SETTINGS, ids=lambda value: getattr(value, "name", value))
def test_what_validation_refuses_of_a_setting_the_schema_refuses(
    validator: Draft202012Validator, load: Callable[..., Study], method: str, field: SettingField
) -> None:
    owners = [setting_fields(METHODS[other]).get(field.name) for other in METHODS]
    for value in outside(field):
        text = f"name: x\nteachers: {{model: wrn-10-1}}\nstudent: {{model: wrn-10-1, method: {method}}}\n"
        override = f"student.{field.name}={json.dumps(value)}"
        with pytest.raises(RequestError, match=field.name):
            load(text, override)
        content = {"name": "x", "teachers": {"model": "wrn-10-1"}, "student": {"model": "wrn-10-1", field.name: value}}
        elsewhere = [owner for owner in owners if owner and owner.setting != field.setting]
        assert not validator.is_valid(content) or elsewhere


@pytest.mark.parametrize("cls", [DataSection, Resources])
def test_sections_have_every_field_with_its_default(validator: Draft202012Validator, cls: type) -> None:
    name = "data" if cls is DataSection else "resources"
    properties = validator.schema["properties"][name]["properties"]
    for field in setting_fields(cls).values():
        assert properties[field.name]["default"] == field.default
        assert properties[field.name]["description"] == field.setting.help


@pytest.mark.parametrize(
    ("section", "content"),
    [
        ("student", {"model": "wrn-10-1", "temperture": 3}),
        ("student", {"model": "wrn-10-1", "method": "dk"}),
        ("student", {"model": "wrn-10-1", "augment": {"name": "cutout", "sise": 3}}),
        ("teachers", {"members": 3}),
        ("teachers", []),
        ("search", {"space": {"lr": {"between": [0, 1]}}}),
        ("search", {"space": {"epochs": {"uniform": [1, 8]}}}),
        ("search", {"space": {"nesterov": {"int": [0, 1]}}}),
        ("search", {"space": {"momentum": {"uniform": [0.1, 1.5]}}}),
        ("search", {"objectives": {"val/nll": "max"}}),
        ("search", {"scheduler": {"name": "asha", "reduction": 1}}),
        ("search", {"time_limit": "2 hours"}),
        ("confirm", {"baselines": ["none"]}),
        ("resources", {"gpus": 1}),
        ("more", {}),
    ],
)
def test_slips_are_refused_by_both(
    validator: Draft202012Validator, load: Callable[..., Study], section: str, content: Any
) -> None:
    study = {"name": "x", "teachers": {"model": "wrn-10-1"}, "student": {"model": "wrn-10-1"}}
    assert validator.is_valid(study)
    study[section] = content
    assert not validator.is_valid(study)
    with pytest.raises(RequestError):
        load(json.dumps(study))


@pytest.mark.parametrize(
    "space",
    [
        {"lr": {"log": [0.01, 0.3]}, "epochs": {"int": [4, 16], "log": True}},
        {"alpha": {"uniform": [0, 1], "step": 0.25}},
        {"method": {"choice": ["kd", "supervised"]}, "temperature": {"log": [1, 20], "when": {"method": "kd"}}},
        {"augment": {"choice": ["crop", {"name": "cutout", "size": 4}]}, "augment.size": {"int": [2, 4]}},
        {"milestones": {"choice": [[], [4]]}, "schedule": {"choice": ["step"]}},
    ],
)
def test_spaces_are_accepted_by_both(validator: Draft202012Validator, load: Callable[..., Study], space: Any) -> None:
    study = {
        "name": "x",
        "teachers": {"model": "wrn-10-1"},
        "student": {"model": "wrn-10-1", "epochs": 20},
        "search": {"space": space},
    }
    assert [error.message for error in validator.iter_errors(study)] == []
    load(json.dumps(study))


def test_the_page_of_the_study_file_is_the_one_that_the_code_makes(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "study-file.md").read_text(encoding="utf-8")
    assert page == reference.study_file_page(), "out of date; run: uv run distill-ray schema --markdown > docs/study-file.md"
    assert main(["schema", "--markdown"]) == 0
    assert capsys.readouterr().out == page


def test_the_pages_of_the_methods_are_those_that_the_code_makes(tmp_path: Path) -> None:
    folder = tmp_path / "methods"
    assert main(["schema", "--methods", str(folder)]) == 0
    made, kept = ({file.name: file.read_text("utf-8") for file in pages.iterdir()} for pages in (folder, METHOD_PAGES))
    assert made.keys() == {"README.md", *(f"{name}.md" for name in METHODS)}
    assert kept == made, "out of date; run: uv run distill-ray schema --methods docs/methods"


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_page_of_a_method_has_its_formula_its_source_and_a_study_that_reads(name: str, load: Callable[..., Study]) -> None:
    page = (METHOD_PAGES / f"{name}.md").read_text("utf-8")
    assert "```math\n" in page
    assert re.search(r"^Source: .*\b(19|20)\d\d\b", page, flags=re.MULTILINE)
    (example,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    study = load(example)
    assert study.student.method.name == name
    assert study.search.space.dimensions


def test_the_command_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == study_schema()
