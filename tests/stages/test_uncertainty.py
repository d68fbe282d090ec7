"""What the networks of a study say when they are asked again: on the test split, on shifted and on
foreign images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from distill_ray.augmentation.kernels.shifts import LEVELS, shifted
from distill_ray.cli import main
from distill_ray.data import load_images, open_source
from distill_ray.errors import RequestError
from distill_ray.events import StudyJob
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.run_job import run_job
from distill_ray.execution.train_job import cached_dataset
from distill_ray.job import Data
from distill_ray.metrics import score
from distill_ray.metrics.uncertainty import (
    auroc,
    decompose,
    decompose_dirichlet,
    entropy,
    total_variation,
)
from distill_ray.records import find_job
from distill_ray.report.results import Contender
from distill_ray.resolve import confirm_runs, data_of, teacher_runs
from distill_ray.stages.contenders import student_contenders, teacher_contenders
from distill_ray.stages.state import StudyState
from distill_ray.stages.uncertainty import UncertaintyRow, uncertainties
from distill_ray.store import Store
from distill_ray.study import Study, load_study
from distill_ray.training import Worker, load_network, predict

TINY = Path(__file__).parents[1] / "tiny.yaml"
BASELINES = (
    "confirm={seeds: 1, baselines: {kd: {}, hydra: {method: hydra, heads: 3, lr: 0.02}, "
    "endd: {method: endd, lr: 0.01}}}"
)


class Confirmed(StudyState):
    """A study without a search, whose confirmations are given."""

    def __init__(
        self, study: Study, data: Data, store: Store, confirmations: Sequence[StudyJob]
    ) -> None:
        super().__init__(study, data, store, None)
        self._confirmations = tuple(confirmations)


@dataclass(frozen=True)
class Trained:
    """Two teachers and some students, trained into a store."""

    store: Store
    data: Data
    contenders: list[Contender]

    @classmethod
    def of(cls, folder: Path, study_file: Path, *overrides: str) -> Trained:
        study = load_study(study_file, overrides)
        store, data = Store.open(str(folder)), data_of(study)
        teachers = teacher_runs(study, data)
        students = confirm_runs(study, data, [run.job.id for run in teachers], [])
        for run in (*teachers, *students):
            for _ in run_job(store, run.job, WorkerResources(), read_test=True):
                pass
        state = Confirmed(study, data, store, students)
        contenders = teacher_contenders(study, teachers, state.finished(teachers))
        return cls(store, data, contenders + student_contenders(state))

    def ask(self, **settings: object) -> dict[tuple[str, str], UncertaintyRow]:
        rows = uncertainties(self.contenders, self.store, self.data, **settings)  # type: ignore[arg-type]
        return {(row.on, row.contender): row for row in rows}

    def outputs(self, name: str, images: np.ndarray, task: str = "classification") -> np.ndarray:
        """What the deployed network of contender `name` gives: log-probabilities, or what it gives
        as it is.
        """
        (contender,) = (each for each in self.contenders if each.name == name)
        found = find_job(self.store, contender.job_ids[0])
        assert found is not None
        network = load_network(found.job, found.weights(), cached_dataset(self.data))
        return predict(network, images, np.arange(len(images)), worker=Worker.here(), task=task)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained.of(tmp_path_factory.mktemp("store"), TINY, BASELINES)


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """The images of the test split."""
    return np.array(load_images(open_source("digits"), "test").images)


def test_the_test_split(trained: Trained) -> None:
    rows = trained.ask()
    assert list(rows) == [("test", name) for name in ("ensemble", "teacher", "kd", "hydra", "endd")]
    for contender in trained.contenders:
        cells = rows["test", contender.name].cells
        expected = [score(run.log_probabilities, run.labels) for run in contender.test]
        for metric in ("accuracy", "nll", "ece"):
            assert cells[metric].mean == pytest.approx(
                np.mean([scores[metric] for scores in expected]), rel=1e-4
            )
        total = np.mean([entropy(run.log_probabilities).mean() for run in contender.test])
        assert cells["total"].mean == pytest.approx(total, rel=1e-4)
        assert cells["total"].mean == pytest.approx(
            cells["aleatoric"].mean + cells["epistemic"].mean
        )
        assert (cells["epistemic"].mean > 1e-4) == (contender.name in ("ensemble", "hydra", "endd"))
        assert "auroc" not in cells
    assert [rows["test", name].cells["nll"].n for name in ("ensemble", "teacher", "kd")] == [
        1,
        2,
        1,
    ]


def test_where_uncertainty_comes_from(trained: Trained, digits: np.ndarray) -> None:
    rows = trained.ask()
    teachers = next(each for each in trained.contenders if each.name == "teacher").test
    members = decompose(np.stack([run.log_probabilities for run in teachers]))
    ensemble = rows["test", "ensemble"].cells
    assert ensemble["epistemic"].mean == pytest.approx(members.epistemic.mean(), rel=1e-4)
    distance = total_variation(entropy(trained.outputs("kd", digits)), members.total, np.log(10))
    assert rows["test", "kd"].cells["total-tv"].mean == pytest.approx(distance, abs=0.005)
    assert "total-tv" not in ensemble
    raw = trained.outputs("endd", digits, task="regression").astype(np.float64)
    dirichlet = decompose_dirichlet(np.exp(raw))
    assert rows["test", "endd"].cells["epistemic"].mean == pytest.approx(
        dirichlet.epistemic.mean(), rel=1e-4
    )


def test_shifts_are_the_mean_of_their_levels(trained: Trained, digits: np.ndarray) -> None:
    rows = trained.ask(shifts=True)
    assert list(dict.fromkeys(on for on, _ in rows)) == ["test", *LEVELS]
    labels = trained.contenders[0].test[0].labels
    before = entropy(trained.outputs("kd", digits))
    for kind in ("rotation", "brightness"):
        answers = [trained.outputs("kd", shifted(digits, kind, amount)) for amount in LEVELS[kind]]
        cells = rows[kind, "kd"].cells
        assert cells["accuracy"].mean == pytest.approx(
            np.mean([score(each, labels)["accuracy"] for each in answers]), abs=1e-3
        )
        assert cells["auroc"].mean == pytest.approx(
            np.mean([auroc(before, entropy(each)) for each in answers]), abs=1e-3
        )


def pictures(folder: Path, images: np.ndarray) -> str:
    """A data set of these images as its test split."""
    (folder / "test" / "things").mkdir(parents=True)
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / "test" / "things" / f"{number:02}.png")
    return str(folder)


def test_foreign_images_have_no_labels(trained: Trained, tmp_path: Path) -> None:
    noise = pictures(
        tmp_path, np.random.default_rng(0).integers(0, 256, (40, 12, 10, 3), dtype=np.uint8)
    )
    with pytest.raises(
        RequestError,
        match=r"--foreign .*: its images are \(12, 10, 3\), "
        r"those of the study \(8, 8, 1\).*--resize",
    ):
        trained.ask(foreign=[noise])
    with pytest.raises(
        RequestError, match="its inputs are real numbers, those of the study pixels"
    ):
        trained.ask(foreign=["toy-spiral"])
    rows = trained.ask(foreign=[noise, "digits"], resize=True)
    for name in ("ensemble", "kd", "hydra"):
        assert "accuracy" not in rows[noise, name].cells
        assert 0 <= rows[noise, name].cells["auroc"].mean <= 1
        # The test split itself
        assert rows["digits", name].cells["auroc"].mean == pytest.approx(0.5)
    assert rows[noise, "kd"].cells["auroc"].mean != pytest.approx(0.5)
    assert "epistemic-auroc" not in rows["digits", "kd"].cells
    assert rows["digits", "hydra"].cells["epistemic-auroc"].mean == pytest.approx(0.5)


def test_auroc_is_that_of_the_predictive_entropy(
    trained: Trained, digits: np.ndarray, tmp_path: Path
) -> None:
    dark = np.random.default_rng(0).integers(0, 40, (30, 8, 8), dtype=np.uint8)
    folder = pictures(tmp_path, dark)
    found = trained.ask(foreign=[folder])[folder, "kd"].cells["auroc"].mean
    scores = [entropy(trained.outputs("kd", images)) for images in (digits, dark[..., None])]
    assert found == pytest.approx(
        roc_auc_score(np.repeat([0, 1], [500, 30]), np.concatenate(scores)), abs=1e-3
    )


def test_the_command(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    """The search has not run, so that the teachers alone are there."""
    arguments = [
        "uncertainty",
        str(TINY),
        "--set",
        BASELINES,
        "--store",
        trained.store.uri,
        "--foreign",
        "digits",
    ]
    assert main(arguments) == 0
    test, foreign, legend = capsys.readouterr().out.split("\n\n")
    assert test.splitlines()[0] == "test"
    assert test.splitlines()[1].split() == [
        "accuracy",
        "%",
        "NLL",
        "ECE",
        "total",
        "aleatoric",
        "epistemic",
        "TV",
        "epist.",
        "TV",
    ]
    assert foreign.splitlines()[1].split()[:4] == ["total", "aleatoric", "epistemic", "AUROC"]
    assert "0.500" in foreign.splitlines()[2] and foreign.splitlines()[2].startswith("ensemble")
    assert "sample standard deviation" in legend
    assert main([*arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["on"], row["contender"]) for row in rows][:2] == [
        ("test", "ensemble"),
        ("test", "teacher"),
    ]
    assert rows[1]["cells"]["nll"]["n"] == 2


def test_regression_has_deviations(tmp_path: Path) -> None:
    trained = Trained.of(
        tmp_path,
        TINY.parents[1] / "studies" / "toy-regression.yaml",
        *(
            "teachers.members=2",
            "teachers.epochs=2",
            "student.epochs=2",
            "student.heads=3",
            "published=null",
        ),
        "confirm={seeds: 1, baselines: {hydra: {}}}",
    )
    rows = trained.ask(foreign=["toy-regression-outside"])
    for contender in trained.contenders:
        cells = rows["test", contender.name].cells
        expected = [score(run.log_probabilities, run.labels)["nll"] for run in contender.test]
        assert cells["nll"].mean == pytest.approx(np.mean(expected), rel=1e-4)
        assert cells["total"].mean >= cells["aleatoric"].mean > 0
        assert (cells["epistemic"].mean > 0) == (contender.name != "teacher")
        assert "auroc" in rows["toy-regression-outside", contender.name].cells
    with pytest.raises(RequestError, match="cannot be shifted"):
        trained.ask(shifts=True)
