"""Studies from Python: a light import, results as tables, figures that a notebook shows."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import distill_ray
from distill_ray import Results, Study
from distill_ray.errors import RequestError
from distill_ray.events import JobState
from distill_ray.report.arrow import trials
from distill_ray.report.results import StudyResults, TrialRow

if TYPE_CHECKING:
    from conftest import FinishedStudy


@pytest.fixture(scope="module")
def results(finished_study: FinishedStudy) -> Results:
    return Study.load(finished_study.file).results(finished_study.store.uri)


def test_importing_the_package_and_loading_a_study_imports_no_heavy_package(
    finished_study: FinishedStudy,
) -> None:
    code = (
        "import sys, distill_ray; light = set(sys.modules); "
        "distill_ray.Study.load(sys.argv[1]); print(*light, '|', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(finished_study.file)],
        capture_output=True,
        text=True,
        check=True,
    )
    light, loaded = (
        {name.partition(".")[0] for name in part.split()} for part in done.stdout.split("|")
    )
    assert not light & {"pydantic", "yaml", "click"}
    assert not loaded & {"torch", "ray", "mlflow", "optuna", "numpy", "pyarrow", "matplotlib"}


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Studdy'"):
        distill_ray.Studdy  # noqa: B018


def test_overrides_and_problems_are_those_of_the_command_line(
    finished_study: FinishedStudy,
) -> None:
    study = Study.load(finished_study.file, "search.trials=7")
    assert study.definition.search.trials == 7
    with pytest.raises(RequestError, match=r"search\.trials: found 0, must be at least 1"):
        Study.load(finished_study.file, "search.trials=0")


def test_the_table(results: Results) -> None:
    table = results.table().to_pydict()
    assert table["name"] == ["ensemble", "teacher", "scratch", "best"]
    assert table["runs"] == [1, 2, 2, 2]
    assert table["accuracy_std"][0] is None
    best = results.report.rows[-1].cells["nll"]
    assert (table["nll"][-1], table["nll_std"][-1]) == (best.mean, best.std)
    assert list(results.table().to_pandas().columns) == list(table)


def test_runs_are_what_the_table_is_the_mean_of(results: Results) -> None:
    runs = [run for run in results.runs().to_pylist() if run["name"] == "best"]
    assert [run["seed"] for run in runs] == [2000, 2001]
    assert sum(run["nll"] for run in runs) / 2 == pytest.approx(
        results.table().to_pylist()[-1]["nll"]
    )
    assert all(len(run["job"]) == 20 for run in runs)
    assert results.runs().to_pylist()[0]["seed"] is None


def test_trials_and_epochs(results: Results) -> None:
    trials = results.trials().to_pylist()
    assert [trial["state"] for trial in trials] == ["finished", "finished", "failed", "finished"]
    assert trials[0]["temperature"] == 4.0
    assert trials[2]["val/nll"] is None
    assert trials[2]["reason"] == "the loss was nan in epoch 1"
    epochs = results.epochs().to_pylist()
    assert [epoch["trial"] for epoch in epochs] == [0, 1, 3]
    assert epochs[0]["val/nll"] == trials[0]["val/nll"]


def test_a_finished_study_is_run_without_training_anything(
    finished_study: FinishedStudy, tracking_uri: str, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(finished_study.store.uri, store)
    before = {
        path: path.stat().st_mtime_ns
        for folder in ("jobs", "logs")
        for path in (store / folder).rglob("*")
    }
    results = Study.load(finished_study.file).run(store=str(store), tracking_uri=tracking_uri)
    assert {
        path: path.stat().st_mtime_ns
        for folder in ("jobs", "logs")
        for path in (store / folder).rglob("*")
    } == before
    assert results.collected.status == "finished"
    assert results.table().num_rows == 4
    assert (store / "studies" / "tiny" / "report" / "report.html").stat().st_size > 100_000
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()


def test_a_model_is_handed_out_as_by_the_command_line(
    finished_study: FinishedStudy, tmp_path: Path
) -> None:
    study, store = Study.load(finished_study.file), finished_study.store.uri
    exported = study.export(tmp_path / "champion", calibrated=False, license="mit", store=store)
    card = (exported.folder / "README.md").read_text()
    assert "license: mit\n" in card and "**Calibration**: left out" in card
    assert json.loads((exported.folder / "champion.json").read_text())["temperature"] == 1


def test_figures_are_shown(results: Results) -> None:
    plot = results.plots["history-val-nll"]
    shown = re.fullmatch(
        r'<img style="max-width: 100%" alt="([^"]+)" src="data:image/svg\+xml;base64,([^"]+)">',
        plot._repr_html_(),
    )
    assert shown is not None
    assert base64.b64decode(shown[2]).decode() == plot.svg()
    assert plot.svg().endswith("</svg>\n")
    assert plot.figure.axes


def test_results_are_shown_as_their_table(results: Results) -> None:
    assert repr(results).startswith("study tiny, finished\n")
    assert "student from scratch" in repr(results)
    assert results._repr_markdown_().splitlines()[2].startswith("|  | accuracy")


def test_choices_of_several_types_are_text() -> None:
    rows = tuple(
        TrialRow(number, JobState.FINISHED, {"x": value})
        for number, value in enumerate(["auto", 3])
    )
    collected = StudyResults(
        name="n",
        digest="",
        study_file="",
        created="",
        status="running",
        objectives={"val/nll": "min"},
        trials=rows,
    )
    assert trials(collected)["x"].to_pylist() == ["auto", "3"]
    assert Results(collected).epochs().num_rows == 0
    assert "no results yet" in repr(Results(collected))
