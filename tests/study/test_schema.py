"""The JSON Schema agrees with validation, and the reference pages with the code."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt
from jsonschema import Draft202012Validator

from distill_ray.cli import main
from distill_ray.errors import RequestError
from distill_ray.job import Recipe
from distill_ray.methods import METHODS
from distill_ray.metric import METRICS
from distill_ray.models import FAMILIES, ModelFamily, model_families
from distill_ray.settings import Setting, plain_type, setting_fields
from distill_ray.study import StudyDefinition, load_study, reference
from distill_ray.study.document import read_document
from distill_ray.study.fields import to_file
from distill_ray.study.recipes import COMMON
from distill_ray.study.schema import study_schema
from distill_ray.study.sections import DataSection, Resources

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FILES = sorted([*(ROOT / "studies").rglob("*.yaml"), ROOT / "tests" / "tiny.yaml"])


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = study_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_study_files_are_valid_as_written_and_with_every_default_filled_in(
    validator: Draft202012Validator, file: Path
) -> None:
    assert [error.message for error in validator.iter_errors(read_document(file).values)] == []
    if file.stem != "photos-small":  # whose networks a script makes first
        assert [error.message for error in validator.iter_errors(load_study(file).to_dict())] == []


def outside(field: Setting) -> Iterator[Any]:
    """Values just beyond the limits of a setting, and one of another type."""
    plain = plain_type(field.type)
    item = get_args(plain)[0] if get_origin(plain) is tuple else field.type
    for limit in getattr(item, "__metadata__", ()):
        match limit:
            case Gt():
                beyond = limit.gt
            case Lt():
                beyond = limit.lt
            case Ge():
                beyond = limit.ge - 1
            case Le():
                beyond = limit.le + 1
            case _:
                continue
        yield beyond if item is field.type else [beyond]
    yield {"no": "value"}


SETTINGS = [("supervised", setting_fields(Recipe)[name]) for name in COMMON]
SETTINGS += [
    (method, field) for method in METHODS for field in setting_fields(METHODS[method]).values()
]


@pytest.mark.parametrize(
    ("method", "field"), SETTINGS, ids=lambda value: getattr(value, "name", value)
)
def test_what_validation_refuses_of_a_setting_the_schema_refuses(
    validator: Draft202012Validator,
    load: Callable[..., StudyDefinition],
    method: str,
    field: Setting,
) -> None:
    owners = [setting_fields(METHODS[other]).get(field.name) for other in METHODS]
    for value in outside(field):
        text = (
            f"name: x\nteachers: {{model: wrn-10-1}}\nstudent: {{model: wrn-10-1, method: "
            f"{method}}}\n"
        )
        override = f"student.{field.name}={json.dumps(value)}"
        with pytest.raises(RequestError, match=field.name):
            load(text, override)
        content = {
            "name": "x",
            "teachers": {"model": "wrn-10-1"},
            "student": {"model": "wrn-10-1", field.name: value},
        }
        elsewhere = [owner for owner in owners if owner and owner.type != field.type]
        assert not validator.is_valid(content) or elsewhere


@pytest.mark.parametrize("cls", [DataSection, Resources])
def test_sections_have_every_field_with_its_default(
    validator: Draft202012Validator, cls: type
) -> None:
    name = "data" if cls is DataSection else "resources"
    properties = validator.schema["properties"][name]["properties"]
    for field in setting_fields(cls).values():
        assert properties[field.name]["default"] == to_file(field.default)
        assert properties[field.name]["description"] == field.help


@pytest.mark.parametrize(
    ("section", "content"),
    [
        ("student", {"model": "wrn-10-1", "temperture": 3}),
        ("student", {"model": "wrn-10-1", "method": "dk"}),
        ("student", {"model": "wrn-10-1", "augmentation": {"name": "cutout", "sise": 3}}),
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
    validator: Draft202012Validator,
    load: Callable[..., StudyDefinition],
    section: str,
    content: Any,
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
        {
            "method": {"choice": ["kd", "supervised"]},
            "temperature": {"log": [1, 20], "when": {"method": "kd"}},
        },
        {
            "augmentation": {"choice": ["crop", {"name": "cutout", "size": 4}]},
            "augmentation.size": {"int": [2, 4]},
        },
        {"milestones": {"choice": [[], [4]]}, "schedule": {"choice": ["step"]}},
    ],
)
def test_spaces_are_accepted_by_both(
    validator: Draft202012Validator, load: Callable[..., StudyDefinition], space: Any
) -> None:
    study = {
        "name": "x",
        "teachers": {"model": "wrn-10-1"},
        "student": {"model": "wrn-10-1", "epochs": 20},
        "search": {"space": space},
    }
    assert [error.message for error in validator.iter_errors(study)] == []
    load(json.dumps(study))


def test_the_reference_pages_are_those_that_the_code_makes(tmp_path: Path) -> None:
    assert main(["schema", "--pages", str(tmp_path)]) == 0
    made = {
        path.relative_to(tmp_path).as_posix(): path.read_text("utf-8")
        for path in tmp_path.rglob("*.md")
    }
    methods = {f"methods/{name}.md" for name in ("README", *METHODS)}
    assert made.keys() == {"study-file.md", "models.md", "metrics.md"} | methods
    kept = {name: (DOCS / name).read_text("utf-8") for name in made}
    assert kept == made, "out of date; run: uv run distill-ray schema --pages docs"
    assert {f"methods/{path.name}" for path in (DOCS / "methods").iterdir()} == methods


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_page_of_a_method_has_its_formula_its_source_and_a_study_that_reads(
    name: str, load: Callable[..., StudyDefinition]
) -> None:
    page = (DOCS / "methods" / f"{name}.md").read_text("utf-8")
    assert "```math\n" in page
    assert re.search(r"^Source: .*\b(19|20)\d\d\b", page, flags=re.MULTILINE)
    (example,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    study = load(example)
    assert study.student.method.name == name
    assert study.search.space.dimensions


@pytest.mark.parametrize("family", model_families(), ids=lambda family: family.pattern)
def test_a_family_of_networks_says_what_it_is_where_it_comes_from_and_how_large_it_is(
    family: ModelFamily,
) -> None:
    brief, *details = family.help.split("\n\n")
    assert brief.endswith(".") and details and all(text.endswith(".") for text in details)
    assert "https://" in family.source and family.source.endswith(".")
    if not family.pattern.startswith(("timm/", "torchvision/")):  # its own pages have them
        assert tuple(family.sizes) == family.examples


@pytest.mark.parametrize(
    "line",
    [
        "| `wrn-16-2` | 703,284 | 101.1 M | any | 6 | yes |",
        "| `vgg8` | 3,965,028 | 96.2 M | from 8x8 | 4 | yes |",
        "| `torchvision/resnext101_32x8d`, `torchvision/resnext101_64x4d`, "
        "`torchvision/resnext50_32x4d` | any | 0 | yes |",
        "| `torchvision/vit_b_16`, `torchvision/vit_l_16` | squares with a side of 16, 32, 48, "
        "... | 0 | no |",
        "| `torchvision/maxvit_t` | squares with a side of 224, 448, 672, ... | 0 | no |",
    ],
)
def test_the_page_of_the_models_says_what_an_example_takes_costs_and_can_become(line: str) -> None:
    assert line in reference.models_page().splitlines()


def test_a_family_that_says_little_is_listed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(image_shape: tuple[int, int, int], width: int) -> None:
        if image_shape[1] != width:
            raise ValueError("another height")

    bare = ModelFamily(
        "bare-w",
        "bare-([0-9]+)",
        ("bare-9", "bare-900"),
        "",
        lambda width: {"width": int(width)},
        check,
    )
    bare = dataclasses.replace(bare, units=lambda width: 2)
    monkeypatch.setattr(FAMILIES, "_members", {"bare": bare})
    page = reference.models_page()
    assert "| [bare-w](#bare-w) | `bare-9` |  |\n" in page
    assert page.partition("\n## bare-w\n")[2].split("\n")[1:] == [
        "| example | images | depth | BatchEnsemble |",
        "|---|---|---:|---|",
        "| `bare-9` | 9x9, and some that are larger | 1 | yes |",
        "| `bare-900` | none up to 448x448 | 1 | yes |",
        "",
    ]


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_has_its_formula_its_unit_its_use_and_its_source(name: str) -> None:
    metric = METRICS[name]
    assert metric.formula and metric.help.endswith(".")
    assert metric.percent != bool(metric.unit)
    assert re.search(r"\b(19|20)\d\d\b", metric.source) or name == "accuracy"
    page = reference.metrics_page()
    assert f"\n## {metric.title}\n" in page
    assert (f"`val/{name}: {metric.better}`" in page) == metric.objective


def test_the_command_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == study_schema()
