"""Foreign sets that a study names: judged by confirmed networks, kept in the store, and in all that
people and programs see.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from distill_ray.cli import main
from distill_ray.data import load_images, open_source
from distill_ray.data.foreign import ForeignSet, Frame
from distill_ray.errors import RequestError, RunError
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.run_job import run_job
from distill_ray.execution.train_job import cached_dataset
from distill_ray.records import find_job
from distill_ray.report.write import write_report
from distill_ray.resolve import data_of
from distill_ray.stages.collect import load_results
from distill_ray.stages.locations import Locations
from distill_ray.stages.state import StudyState
from distill_ray.store import Store
from distill_ray.study import StudyDefinition, load_study
from distill_ray.training import Worker, load_network, predict
from oracles import doubts as oracles
from support.pictures import pictures

if TYPE_CHECKING:
    from conftest import FinishedStudy


def judge_all(study: StudyDefinition, store: Store) -> StudyState:
    """The study with its foreign sets judged, as `run` does it, which trains nothing here."""
    state = StudyState(study, data_of(study), store)
    assert not state.is_finished
    for run in (*state.teachers, *state.confirmations):
        for _ in run_job(store, run.job, WorkerResources(), read_test=True, foreign=state.foreign):
            pass
    assert state.is_finished
    return state


@dataclass(frozen=True)
class Judged:
    """The finished study of digits, with digits as a near set and dark noise as a far one."""

    file: str
    override: str
    store: Store
    dark: np.ndarray
    report: dict[str, Any]

    def measures(self, on: str, contender: str) -> dict[str, Any]:
        (row,) = (
            row
            for row in self.report["foreign"]
            if (row["on"], row["contender"]) == (on, contender)
        )
        metrics: dict[str, Any] = row["metrics"]
        return metrics


@pytest.fixture(scope="module")
def judged(finished_study: FinishedStudy, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    folder = tmp_path_factory.mktemp("foreign")
    dark = np.random.default_rng(0).integers(0, 40, (60, 8, 8), dtype=np.uint8)
    far = pictures(folder / "dark noise", dark)
    override = f"confirm.foreign={{near: [digits], far: ['{far}']}}"
    store = Store.open(str(shutil.copytree(finished_study.store.uri, folder / "store")))
    study = load_study(finished_study.file, [override])
    judge_all(study, store)
    from distill_ray.report.to_json import as_json

    results, _, _ = load_results(study, Locations(store.uri))
    assert results.status == "finished"
    report = json.loads(json.dumps(as_json(results), allow_nan=False))
    return Judged(str(finished_study.file), override, store, dark, report)


def test_measures_are_those_of_the_networks_asked_again(judged: Judged) -> None:
    """Each doubt by its definition from the networks in the store, each measure by scikit-learn."""
    rows = {row["name"]: row["jobs"] for row in judged.report["table"]}
    images = load_images(open_source("digits"), "test").images[:], judged.dark[..., None]
    is_foreign = np.repeat([0, 1], [len(images[0]), len(images[1])])

    def logits(job: str) -> np.ndarray:
        record = find_job(judged.store, job)
        assert record is not None
        network = load_network(record.job, record.weights(), cached_dataset(record.job.data))
        both = np.concatenate(images)
        raw = predict(network, both, np.arange(len(both)), worker=Worker.here(), task="regression")
        return raw.astype(np.float64)

    for contender in ("best", "ensemble"):
        runs = [np.stack([logits(job)]) for job in rows[contender]]
        if contender == "ensemble":
            runs = [np.concatenate(runs)]
        found = judged.measures("dark noise", contender)
        values: dict[str, list[float]] = {}
        for members in runs:
            for name, doubt in oracles.doubts(members).items():
                for measure, value in oracles.separations(is_foreign, doubt).items():
                    values.setdefault(name + measure, []).append(value)
        assert found.keys() == values.keys()
        for name, expected in values.items():
            # One image more or less at the threshold of FPR95 is all that rounding may make
            within = 1 / is_foreign.sum() + 1e-6 if name.endswith("fpr95") else 2e-3
            assert found[name]["mean"] == pytest.approx(np.mean(expected), abs=within), name
            assert found[name]["n"] == len(runs)
            assert 0 <= found[name]["mean"] <= 1


def test_the_test_split_against_itself_is_chance(judged: Judged) -> None:
    rows = [row for row in judged.report["foreign"] if row["on"] == "digits"]
    assert {row["contender"] for row in rows} == {"ensemble", "teacher", "scratch", "best"}
    for row in rows:
        assert row["kind"] == "near"
        for name, cell in row["metrics"].items():
            if name.endswith("auroc"):
                assert cell["mean"] == pytest.approx(0.5)


def test_people_see_them(
    judged: Judged, tracking_uri: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = [judged.file, "--set", judged.override, "--store", judged.store.uri]
    assert main(["report", *asked]) == 0
    printed = capsys.readouterr().out
    assert "digits (near)" in printed and "dark noise (far)" in printed
    results, _, _ = load_results(
        load_study(judged.file, [judged.override]), Locations(judged.store.uri)
    )
    write_report(results, tmp_path / "report")
    for words in ("by energy", "by mutual inf.", "FPR95", "is chance"):
        assert words in printed
        for file in ("report.html", "report.md"):
            assert words in (tmp_path / "report" / file).read_text().replace("\\", "")
    # MLflow
    from mlflow import MlflowClient

    assert main(["sync", *asked, "--tracking-uri", tracking_uri]) == 0
    client = MlflowClient(tracking_uri, tracking_uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (study,) = [run for run in runs if run.data.tags["stage"] == "study"]
    mean = judged.measures("dark noise", "best")["energy-auroc"]["mean"]
    assert study.data.metrics["best/foreign/dark noise/energy-auroc"] == pytest.approx(mean)
    values = [
        run.data.metrics["foreign/dark noise/energy-auroc"]
        for run in runs
        if run.data.tags.get("role") == "best"
    ]
    assert np.mean(values) == pytest.approx(mean)


def test_what_was_judged_is_not_judged_again(judged: Judged) -> None:
    def evaluations() -> list[tuple[str, int, float]]:
        return [file for file in judged.store.tree("jobs") if "/evaluations/" in file[0]]

    before = evaluations()
    study = load_study(judged.file, [judged.override])
    state = StudyState(study, data_of(study), judged.store)
    (run, *_) = state.confirmations
    for _ in run_job(
        judged.store, run.job, WorkerResources(), read_test=True, foreign=state.foreign
    ):
        pass
    assert evaluations() == before


def test_without_foreign_sets_nothing_is_kept_or_said(
    finished_study: FinishedStudy, judged: Judged
) -> None:
    study, asked = load_study(judged.file), load_study(judged.file, [judged.override])
    assert "foreign" not in study.to_dict()["confirm"]
    assert study.digest != asked.digest
    results, _, store = load_results(study, Locations(finished_study.store.uri))
    assert results.foreign == {} and not any(each.judged for each in results.contenders)
    assert not any("judged" in path for path, *_ in store.tree("jobs"))


def test_heads_and_real_inputs(finished_toy: FinishedStudy, tmp_path: Path) -> None:
    store = Store.open(str(shutil.copytree(finished_toy.store.uri, tmp_path / "store")))
    study = load_study(finished_toy.file, ["confirm.foreign.far=[toy-spiral-grid]"])
    judge_all(study, store)
    from distill_ray.report.uncertainty import foreign_rows

    results, _, _ = load_results(study, Locations(store.uri))
    rows = {row.contender: row for row in foreign_rows(results)}
    assert "epistemic-auroc" in rows["best"].cells, "a student with two heads"
    assert "epistemic-auroc" not in rows["scratch"].cells
    best = next(each for each in results.contenders if each.name == "best")
    foreign = load_images(open_source("toy-spiral-grid"), "test").images
    assert len(best.judged["toy-spiral-grid"][0].prediction) == len(foreign)


def test_wrong_foreign_sets(finished_study: FinishedStudy, tmp_path: Path) -> None:
    large = pictures(tmp_path / "large", np.zeros((3, 12, 10, 3), np.uint8))
    for asked, message in {
        "{}": "confirm.foreign: names no data set; list some as near or far",
        "{near: [digits], far: [digits]}": "'digits' is named more than once",
        "{near: digits}": "confirm.foreign.near: found 'digits', must be a list",
        "{distant: [digits]}": "confirm.foreign.distant: unknown field",
        "{near: ['s3://a:b@c/d']}": "must hold no password",
    }.items():
        with pytest.raises(RequestError, match=message):
            load_study(finished_study.file, [f"confirm.foreign={asked}"])
    for asked, message in {
        "{far: [nowhere]}": r"confirm.foreign.far.0: nowhere: unknown data set",
        "{far: [toy-spiral]}": "its inputs are real numbers, those of the study pixels",
        f"{{far: ['{large}']}}": r"images are \(12, 10, 3\), those of the study \(8, 8, 1\)",
    }.items():
        with pytest.raises(RequestError, match=message):
            data_of(load_study(finished_study.file, [f"confirm.foreign={asked}"]))
    data_of(
        load_study(finished_study.file, [f"confirm.foreign={{far: ['{large}'], resize: true}}"])
    )


def test_sets_are_identified_by_their_content(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "things", np.zeros((3, 8, 8), np.uint8))
    frame = Frame((8, 8, 1))
    before = ForeignSet("things", folder, open_source(folder).digest, frame)
    moved = ForeignSet("other", "elsewhere", before.digest, frame)
    assert moved.key == before.key != ForeignSet("things", folder, "0" * 32, frame).key
    assert before.load().shape == (3, 8, 8, 1)
    Image.fromarray(np.ones((8, 8), np.uint8)).save(tmp_path / "things/test/things/00.png")
    with pytest.raises(RunError, match="have changed since this study began"):
        before.load()
