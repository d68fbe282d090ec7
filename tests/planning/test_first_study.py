"""`distill-ray init`: the study files that it writes are valid for the data they are about."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill_ray.cli import main
from distill_ray.cost import timing
from distill_ray.models import build_model
from distill_ray.models.recognise import recognise
from distill_ray.planning import within
from distill_ray.planning.first_study import published_studies
from distill_ray.planning.plan import StagePlan
from distill_ray.search.costs import CostMeter
from distill_ray.study import Choice, load_study

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve pictures of two classes and many sizes, without a test split."""
    monkeypatch.chdir(tmp_path)
    for number in range(24):
        folder = tmp_path / "my photos" / "train" / ("red kite" if number % 2 else "gull")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((40 + number, 50, 3), number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "my photos"


def weights(file: Path, model: str, classes: int = 2) -> str:
    network = build_model(model, num_classes=classes, image_shape=(3, 48, 48), seed=0)
    torch.save({"state_dict": network.state_dict()}, file)
    return str(file)


def test_a_study_of_a_folder_is_valid(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "my photos"]) == 0
    assert main(["validate", "my photos.yaml"]) == 0
    text = (tmp_path / "my photos.yaml").read_text()
    assert "24 training images, no test split of 2 classes: gull, red kite" in text
    study = load_study("my photos.yaml")
    assert (study.name, study.data.source) == ("my-photos", "my photos")
    assert (study.data.size, study.data.validation, study.data.test) == (48, 2, 2)
    assert (len(study.teachers[0].seeds), study.student.versions) == (3, 8)
    assert max(len(line) for line in text.splitlines()) < 120
    assert main(["init", "my photos"]) == 2  # what is there is not written over
    assert "my photos.yaml exists" in capsys.readouterr().err


def test_class_folders_alone_are_training_images(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many collections are: without a folder `train`."""
    photos = (photos / "train").rename(tmp_path / "birds")
    assert main(["init", "birds"]) == 0
    assert main(["validate", "birds.yaml"]) == 0
    assert "20 training, 2 validation and 2 test images of 2 classes" in capsys.readouterr().out
    assert main(["init", "birds/gull", "--out", "x.yaml"]) == 2
    assert main(["data", "check", "nowhere/x"]) == 2
    errors = capsys.readouterr().err
    assert "DATA: " in errors and "birds/gull has images without labels" in errors
    assert "PATH: there is no folder nowhere/x" in errors and "data.source" not in errors


def test_teachers_are_recognised_or_left_to_fill_in(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = weights(tmp_path / "wrn-10-1.pt", "wrn-10-1")
    others = weights(tmp_path / "resnet8.pt", "resnet8", classes=5)
    given = ("--teacher", known, "--teacher", others, "--out", "birds.yaml")
    assert main(["init", "my photos", *given]) == 0
    assert "the classes of its outputs could not be told" in capsys.readouterr().err
    assert main(["validate", "birds.yaml"]) == 0
    study = load_study("birds.yaml")
    assert [(group.name, group.recipe.model) for group in study.teachers] == [
        ("wrn-10-1", "wrn-10-1")
    ]
    text = (tmp_path / "birds.yaml").read_text()
    assert "  #   model: resnet8" in text
    assert "  #   classes: [FILL IN]" in text


def test_networks_that_keep_within_a_latency_are_searched(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each family the largest two; what is larger than one that does not is not measured."""
    families = (("mlp-8", "mlp-16", "mlp-32", "mlp-64", "mlp-128"), ("resnet8", "resnet20"))
    takes = {"mlp-8": 1.0, "mlp-16": 2.0, "mlp-32": 3.0, "mlp-64": 9.0, "resnet8": 4.5}
    measured: list[str] = []

    def of_model(self: CostMeter, model: str) -> dict[str, float]:
        measured.append(model)
        return {"cost/latency-ms": takes.get(model, 99.0)}

    monkeypatch.setattr(CostMeter, "of_model", of_model)
    monkeypatch.setattr(within, "FAMILIES", {"small": families})
    assert main(["init", "my photos", "--latency-ms", "5"]) == 0
    study = load_study("my photos.yaml")
    assert study.search.limits == {"latency-ms": 5.0}
    model = study.search.space["model"]
    assert isinstance(model, Choice) and model.labels == ("mlp-16", "mlp-32", "resnet8")
    assert study.student.model == "mlp-16"
    assert measured == ["mlp-8", "mlp-16", "mlp-32", "mlp-64", "resnet8", "resnet20"]
    text = (tmp_path / "my photos.yaml").read_text()
    assert "# Measured here: mlp-16 2 ms, mlp-32 3 ms and resnet8 4.5 ms." in text


def test_a_latency_that_nothing_keeps_within_is_refused(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(timing, "TIMED_S", 0.0)
    assert main(["init", "my photos", "--latency-ms", "0.0001"]) == 2
    error = capsys.readouterr().err
    assert re.search(r"none of 6 networks that were measured .* the fastest, \S+, takes", error)
    assert not Path("my photos.yaml").exists()


def test_as_many_trials_as_fit_into_a_budget(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Teachers and confirmations take 20 minutes, the start of the search 1, and of its 20 trials
    half of the 40 minutes that they would without early stopping.
    """
    stages = [
        StagePlan("teach", 3, 0, 0, 600.0, 600.0),
        StagePlan("search", 20, 0, 0, 2400.0, 2460.0, trained_share=0.5, start_up=60.0),
        StagePlan("confirm", 9, 0, 0, 600.0, 600.0),
    ]
    monkeypatch.setattr(within, "plan_study", lambda state: stages)
    assert main(["init", "my photos", "--budget", "2h"]) == 0
    search = load_study("my photos.yaml").search
    left = 0.95 * 7200 - 1200 - 60
    assert (search.trials, search.study_time_limit) == (10 * int(left / 60), 7200)
    assert (
        f"at most; {int(left / 60)} fit on this machine into 2 h 0 min, by `plan`"
        in (tmp_path / "my photos.yaml").read_text()
    )
    assert main(["init", "my photos", "--budget", "20m", "--out", "less.yaml"]) == 2
    assert "is too short; teachers and confirmations alone take" in capsys.readouterr().err


def test_an_architecture_is_told_from_tensors_alone() -> None:
    network = build_model("wrn-16-2", num_classes=4, image_shape=(1, 28, 28), seed=1)
    found = recognise(
        network.state_dict(), "teacher-wrn.pt", num_classes=4, image_shape=(1, 28, 28)
    )
    assert found is not None
    assert (found.model, found.same_classes) == ("wrn-16-2", True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--latency-ms", "5"), "--latency-ms and --budget need DATA"),
        (("my photos", "--budget", "4"), "must be a length of time with its unit"),
        (("--study", "latent-bee"), "unknown study 'latent-bee'; did you mean 'latent-be'?"),
        (("nowhere/at/all",), "there is no folder nowhere/at/all"),
        (("my photos", "--teacher", "none.pt"), "--teacher none.pt: No such file"),
        (
            ("my photos", "--teacher", "my photos/train/gull/0.png"),
            "weights 0.png: neither safetensors nor what torch.save writes",
        ),
        (("my photos", "--study", "quickstart"), "DATA cannot be given"),
        (("--teacher", "a.pt"), "--teacher needs DATA"),
    ],
)
def test_wrong_requests_write_nothing(
    arguments: tuple[str, ...],
    message: str,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["init", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.yaml"))


def test_published_studies_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    assert main(["init", "--study", "latent-be", "--out", "mine.yaml"]) == 0
    assert load_study("quickstart.yaml") is not None
    assert "distill-ray run quickstart.yaml" in Path("quickstart.yaml").read_text()
    assert load_study("mine.yaml").name == "latent-be"
    assert main(["init", "--study", "photos-small"]) == 0  # with the files that it needs
    commands = re.findall(r"^#   (.*)$", Path("photos-small.yaml").read_text(), re.MULTILINE)
    assert commands == [
        "python photos_small.py",
        "distill-ray run photos-small.yaml --extension photos_nets.py",
    ]
    assert compile(Path("photos_small.py").read_text(), "photos_small.py", "exec")
    assert Path("photos_nets.py").is_file()
    Path("photos-small.yaml").unlink()
    assert main(["init", "--study", "photos-small"]) == 2  # a script that is there stays
    assert not Path("photos-small.yaml").exists()
    names = {path.stem for path in (ROOT / "studies").glob("*.yaml")}
    assert set(published_studies()) == names
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert wheel["targets"]["wheel"]["force-include"] == {"studies": "distill_ray/studies"}
