"""The package of docs/extending.md, installed and run as it stands on that page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"

RUN = Path(__file__).parent / "support" / "extended.py"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's package as an installer leaves it, and the page's study."""
    folder = tmp_path_factory.mktemp("site")
    for code in blocks("python"):
        path = folder / code.partition("\n")[0].removeprefix("# ")
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
    (folder / "my_lab" / "__init__.py").touch()
    groups = tomllib.loads("\n".join(blocks("toml")))["project"]["entry-points"]
    about = folder / "my_lab-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-lab\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in groups.items()
    ]
    (about / "entry_points.txt").write_text("\n".join(lines))
    (study,) = blocks("yaml")
    (folder / "study.yaml").write_text(study)
    return folder


@pytest.fixture(scope="module")
def environment(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    from distill_ray.node_cache import VARIABLE

    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")]),
        VARIABLE: str(tmp_path_factory.mktemp("cache")),
    }


@pytest.fixture(scope="module")
def said(installed: Path, environment: dict[str, str]) -> dict[str, Any]:
    """What the page's study gives: one trial trained after its teachers, and what it shows."""
    done = subprocess.run(
        [sys.executable, RUN],
        cwd=installed,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_every_family_is_found_by_its_name(said: dict[str, Any]) -> None:
    job = said["job"]
    assert job["recipe"]["method"] == {"name": "agreeing", "temperature": 2.0}
    assert job["recipe"]["augmentation"] == {"name": "dim", "lowest": 0.25}
    assert job["recipe"]["model"] == "tiny-conv-4"
    assert job["data"]["name"] == "stripes"


def test_the_student_learns(said: dict[str, Any]) -> None:
    first, *_, last = said["epochs"]
    assert last["val/nll"] < first["val/nll"]
    assert last["val/accuracy"] > 0.8


def test_the_metric_is_recorded_and_shown(said: dict[str, Any]) -> None:
    assert all(0 <= epoch["val/sure-wrong"] <= 1 for epoch in said["epochs"])
    assert said["columns"][-1] == "sure-wrong"
    assert "sure and wrong" in said["table"].splitlines()[0]
    assert "ECE, OE, cECE and sure and wrong in percent" in said["table"]
    assert "classified wrongly with a confidence above 0.9" in said["page"]


def test_the_schema_knows_them(said: dict[str, Any]) -> None:
    for name in ("agreeing", "dim", "val/sure-wrong", "augmentation.lowest"):
        assert f'"{name}"' in said["schema"]


def test_the_reference_pages_have_them(said: dict[str, Any]) -> None:
    pages = said["pages"]
    assert (
        "| [tiny-conv-w](#tiny-conv-w) | `tiny-conv-4` "
        "| One convolution of width w, pooled to 2x2. |" in pages["models.md"]
    )
    assert "`val/sure-wrong: min`" in pages["metrics.md"]
    assert "an error is harmless as long as the network was not sure" in pages["metrics.md"]
    assert "### dim" in pages["study-file.md"]
    assert "| `temperature` |" in pages["methods/agreeing.md"]


def test_reading_a_study_imports_the_extensions_and_nothing_heavy(said: dict[str, Any]) -> None:
    assert said["light"] == ["my_lab"]


@pytest.mark.slow
def test_the_package_passes_the_tests_of_its_families(
    installed: Path, environment: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(
        command, cwd=installed, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "failed" not in done.stdout


def test_a_slip_is_answered_with_the_names_of_extensions(
    installed: Path, environment: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "distill_ray", "validate", "study.yaml"]
    slips = [
        "--set",
        "student.method=agreing",
        "--set",
        "search.objectives={val/sure-wrong: max}",
        "--set",
        "student.model=tiny-conv",
    ]
    done = subprocess.run(
        [*command, *slips],
        cwd=installed,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "did you mean 'agreeing'?" in done.stderr
    assert "found 'max', must be min" in done.stderr
    assert "unknown model 'tiny-conv'" in done.stderr
    assert "tiny-conv-w" in done.stderr
