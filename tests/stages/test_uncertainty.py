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
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score

from distill_ray.augmentation.kernels.corruptions import CORRUPTIONS, corrupted
from distill_ray.augmentation.kernels.shifts import LEVELS, shifted
from distill_ray.cli import main
from distill_ray.data import load_images, open_source
from distill_ray.errors import RequestError
from distill_ray.events import StudyJob
from distill_ray.execution.judging import JudgingNetwork
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
from distill_ray.report.uncertainty import COLUMNS, as_text
from distill_ray.resolve import confirm_runs, data_of, teacher_runs
from distill_ray.stages.contenders import student_contenders, teacher_contenders
from distill_ray.stages.state import StudyState
from distill_ray.stages.uncertainty import UncertaintyRow, uncertainties
from distill_ray.store import Store
from distill_ray.study import StudyDefinition, load_study
from distill_ray.training import Worker, load_network, predict
from support.pictures import pictures

TINY = Path(__file__).parents[1] / "tiny.yaml"
BASELINES = (
    "confirm={seeds: 1, baselines: {kd: {}, hydra: {method: hydra, heads: 3, lr: 0.02}, "
    "endd: {method: endd, lr: 0.01}}}"
)


class Confirmed(StudyState):
    """A study without a search, whose confirmations are given."""

    def __init__(
        self, study: StudyDefinition, data: Data, store: Store, confirmations: Sequence[StudyJob]
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


def test_what_is_wrong_is_said_before_anything_is_judged(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judging the images before may take an hour."""

    def judge(*arguments: object) -> None:
        raise AssertionError("judged")

    monkeypatch.setattr(JudgingNetwork, "judge", judge)
    np.save(tmp_path / "labels.npy", np.zeros(10, int))
    np.save(tmp_path / "fog.npy", np.zeros((10, 9, 9, 1), np.uint8))
    for wrong, settings in {
        "--corruptions: digits: its images have 8x8": {"corruptions": True},
        "fog.npy: must be uint8": {"shifts": True, "shifted_from": [str(tmp_path)]},
        "its classes are .* those of the study": {"shifted_from": ["digits", "toy-spiral"]},
        "--far toy-spiral: its inputs are real": {"foreign": {"toy-spiral": "far"}},
    }.items():
        with pytest.raises(RequestError, match=wrong):
            trained.ask(**settings)


def test_corruptions_and_their_mean_error(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--corruptions: digits: its images have 8x8 pixels"):
        trained.ask(corruptions=True)
    # Digits 3, 8 and 9 of twice the size, which a small network confuses
    folder = tmp_path / "digits"
    for split, count in (("train", 20), ("test", 8)):
        source = load_images(open_source("digits"), split)
        for label in (3, 8, 9):
            (folder / split / str(label)).mkdir(parents=True)
            for row in np.flatnonzero(source.labels == label)[:count]:
                pixels = np.kron(source.images[row][..., 0], np.ones((2, 2), np.uint8))
                Image.fromarray(pixels).save(folder / split / str(label) / f"{row}.png")
    large = Trained.of(
        tmp_path / "store",
        TINY,
        f"data={{source: '{folder}', train: 40, validation: 20}}",
        "teachers.model=mlp-8",  # others take seconds for 71 sets of images
        "student.model=mlp-8",
        "confirm={seeds: 1, baselines: [scratch]}",
    )
    rows = large.ask(corruptions=True)
    sets = [f"corruptions/{name}" for name in CORRUPTIONS]
    assert list(dict.fromkeys(on for on, _ in rows)) == ["test", *sets, "corruptions"]
    title = f"corruptions, the mean of {len(CORRUPTIONS)}"
    assert title in as_text(list(rows.values()), COLUMNS).splitlines()
    # One of them anew, and the means from the rest
    test = load_images(open_source(str(folder)), "test")
    levels = [corrupted(test.images[:], "contrast", severity, 0) for severity in range(1, 6)]
    scores = [score(large.outputs("scratch", images), test.labels) for images in levels]
    assert rows["corruptions/contrast", "scratch"].cells["nll"].mean == pytest.approx(
        np.mean([each["nll"] for each in scores]), rel=1e-3
    )
    for name in ("ensemble", "scratch"):
        for metric in ("accuracy", "nll", "ece"):
            expected = np.mean([rows[on, name].cells[metric].mean for on in sets])
            assert rows["corruptions", name].cells[metric].mean == pytest.approx(expected)
    error = {
        name: np.array([1 - rows[on, name].cells["accuracy"].mean for on in sets])
        for name in ("ensemble", "scratch")
    }
    mce = rows["corruptions", "ensemble"].cells["mce-scratch"].mean
    assert mce == pytest.approx(np.mean(error["ensemble"] / error["scratch"]))
    assert rows["corruptions", "scratch"].cells["mce-scratch"].mean == pytest.approx(1)


def test_foreign_images_have_no_labels(trained: Trained, tmp_path: Path) -> None:
    noise = pictures(
        tmp_path, np.random.default_rng(0).integers(0, 256, (40, 12, 10, 3), dtype=np.uint8)
    )
    with pytest.raises(
        RequestError,
        match=r"--foreign .*: its images are \(12, 10, 3\), "
        r"those of the study \(8, 8, 1\).*--resize",
    ):
        trained.ask(foreign={noise: ""})
    with pytest.raises(
        RequestError, match="its inputs are real numbers, those of the study pixels"
    ):
        trained.ask(foreign={"toy-spiral": ""})
    rows = trained.ask(foreign={noise: "far", "digits": "near"}, resize=True)
    for name in ("ensemble", "kd", "hydra"):
        assert "accuracy" not in rows[noise, name].cells
        assert 0 <= rows[noise, name].cells["auroc"].mean <= 1
        # The test split itself
        for doubt in ("", "msp-", "energy-"):
            assert rows["digits", name].cells[f"{doubt}auroc"].mean == pytest.approx(0.5)
        assert (rows[noise, name].kind, rows["digits", name].kind) == ("far", "near")
    assert rows[noise, "kd"].cells["auroc"].mean != pytest.approx(0.5)
    assert "epistemic-auroc" not in rows["digits", "kd"].cells
    assert rows["digits", "hydra"].cells["epistemic-auroc"].mean == pytest.approx(0.5)


def test_auroc_is_that_of_the_predictive_entropy(
    trained: Trained, digits: np.ndarray, tmp_path: Path
) -> None:
    """And those of the energy and of the largest probability theirs."""
    dark = np.random.default_rng(0).integers(0, 40, (30, 8, 8), dtype=np.uint8)
    folder = pictures(tmp_path, dark)
    cells = trained.ask(foreign={folder: ""})[folder, "kd"].cells
    both, is_dark = (digits, dark[..., None]), np.repeat([0, 1], [500, 30])
    logs = np.concatenate([trained.outputs("kd", images) for images in both])
    raw = np.concatenate([trained.outputs("kd", images, task="regression") for images in both])
    for name, doubts in {
        "auroc": entropy(logs),
        "msp-auroc": -logs.max(axis=1),
        "energy-auroc": -logsumexp(raw, axis=1),
    }.items():
        assert cells[name].mean == pytest.approx(roc_auc_score(is_dark, doubts), abs=1e-3)


def test_the_command(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    """The search has not run, so that the teachers alone are there."""
    arguments = [
        "uncertainty",
        str(TINY),
        "--set",
        BASELINES,
        "--store",
        trained.store.uri,
        "--near",
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
    assert foreign.splitlines()[0] == "digits (near)"
    assert foreign.splitlines()[1].split()[:4] == ["total", "aleatoric", "epistemic", "AUROC"]
    assert "0.500" in foreign.splitlines()[2] and foreign.splitlines()[2].startswith("ensemble")
    assert "sample standard deviation" in legend
    assert main([*arguments, "--far", "digits"]) == 2
    assert "named twice" in capsys.readouterr().err
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
    rows = trained.ask(foreign={"toy-regression-outside": ""})
    for contender in trained.contenders:
        cells = rows["test", contender.name].cells
        expected = [score(run.log_probabilities, run.labels)["nll"] for run in contender.test]
        assert cells["nll"].mean == pytest.approx(np.mean(expected), rel=1e-4)
        assert cells["total"].mean >= cells["aleatoric"].mean > 0
        assert (cells["epistemic"].mean > 0) == (contender.name != "teacher")
        assert "auroc" in rows["toy-regression-outside", contender.name].cells
    with pytest.raises(RequestError, match="cannot be shifted"):
        trained.ask(shifts=True)


def test_labelled_shifted_images(trained: Trained, digits: np.ndarray, tmp_path: Path) -> None:
    """As CIFAR-10-C has them: five levels in one array. The first are the images themselves."""
    labels = trained.contenders[0].test[0].labels
    levels = [np.roll(digits, columns, axis=2) for columns in range(5)]
    np.save(tmp_path / "moved.npy", np.concatenate(levels))
    np.save(tmp_path / "labels.npy", np.tile(labels, 5))
    cells = trained.ask(shifted_from=[str(tmp_path)])["moved", "kd"].cells
    answers = [score(trained.outputs("kd", images), labels) for images in levels]
    for metric in ("accuracy", "nll", "ece"):
        expected = np.mean([scores[metric] for scores in answers])
        assert cells[metric].mean == pytest.approx(expected, rel=1e-3)
    same = trained.ask(shifted_from=["digits"])
    assert same["digits", "kd"].cells["nll"] == same["test", "kd"].cells["nll"]


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("labels", np.full(10, 10), "has labels 10 to 10, the study has 10 classes"),
        ("fog", np.zeros((10, 8, 8, 3), np.uint8), "must be uint8 of shape .10, 8, 8, 1., found"),
        ("fog", np.zeros((10, 8, 8, 1)), "found float64"),
        ("fog", np.array([{}], object), "cannot be read as an array"),
    ],
)
def test_wrong_shifted_images(
    trained: Trained, tmp_path: Path, name: str, array: np.ndarray, message: str
) -> None:
    files = {"labels": np.zeros(10, int), "fog": np.zeros((10, 8, 8, 1), np.uint8), name: array}
    for stem, content in files.items():
        np.save(tmp_path / f"{stem}.npy", content, allow_pickle=True)
    with pytest.raises(RequestError, match=f"--shifted .*{name}.npy: .*{message}"):
        trained.ask(shifted_from=[str(tmp_path)])
    with pytest.raises(
        RequestError, match=r"its classes are arm 0, .* \(3\), those of the study 0, 1"
    ):
        trained.ask(shifted_from=["toy-spiral"])
