"""The study of two photographs: its script trains in plain PyTorch what the study then takes."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from distill_ray.models.own_modules import load_module_files, read_module_file
from distill_ray.records import Predictions, find_job
from distill_ray.resolve import data_of, teacher_runs
from distill_ray.stages import diagnosis
from distill_ray.stages.given_teachers import given_teachers
from distill_ray.store import Store
from distill_ray.study import load_study
from distill_ray.training import load_dataset
from support.studies import command, job_folders, kill_in_the_search

STUDIES = Path(__file__).parents[2] / "studies"
NETS = STUDIES / "photos_nets.py"
DATA = Path("data/photos-small")
IN_COMMENTS = re.compile(r"^  # (- name|  (?:model|weights|preprocessing))", re.MULTILINE)
"""The teacher of timm in the study file."""

READER = """
import sys
sys.modules["distill_ray"] = None  # what imports it fails
import numpy, onnxruntime
from PIL import Image
pixels = []
for name in sys.argv[1:]:
    image = Image.open(name).resize((36, 36), Image.Resampling.BILINEAR)
    pixels.append(numpy.asarray(image)[2:34, 2:34])
graph = onnxruntime.InferenceSession("onnx/model.onnx")
(probabilities,) = graph.run(None, {"images": numpy.stack(pixels)})
numpy.save("onnx.npy", probabilities)
"""
"""What reads an exported student where this package cannot be imported."""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`photos_small.py` as a module, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(STUDIES)
    yield importlib.import_module("photos_small")
    for name in ("photos_small", "photos_nets"):
        del sys.modules[name]


def study_with_all_teachers() -> Path:
    """The study file, with the teacher of timm."""
    file = Path("photos-small.yaml")
    file.write_text(IN_COMMENTS.sub(r"  \1", (STUDIES / file).read_text()))
    return file


def test_networks_of_the_script_answer_in_the_study_as_outside(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of few squares, and networks that were not trained."""
    monkeypatch.setattr(script, "SPLITS", {"train": (3, 2), "val": (2, 2), "test": (1, 1)})
    monkeypatch.setattr(diagnosis, "SIDES", (64,))  # larger images take long
    script.write_images(DATA)
    splits: dict[str, str] = {}
    for file in DATA.glob("*/*/*.png"):  # those of a square are in one split
        split, label, name = file.parts[-3:]
        assert splits.setdefault(f"{label}/{name.partition('-')[0]}", split) == split
    assert len(splits) == 12 * 6

    torch.manual_seed(1)
    given = script.teachers()
    for each in [*given, script.student()]:
        torch.save(each.network.state_dict(), DATA / each.file)

    load_module_files([read_module_file(str(NETS))])
    study = load_study(study_with_all_teachers())
    data = data_of(study)
    images = script.images_of(DATA / "val", training=False)
    said, labels = script.probabilities(given, images)
    dataset = load_dataset(data)
    assert list(dataset.class_names) == images.classes
    assert np.array_equal(dataset.labels[dataset.validation], labels)
    taken = given_teachers(study, data)
    assert [Path(teacher.weights).name for teacher in taken] == [each.file for each in given]
    for teacher, answer in zip(taken, said, strict=True):
        assert teacher.accuracy == float((answer.argmax(1) == labels).double().mean())
        nll = -answer[range(len(labels)), labels].log().mean()
        assert teacher.nll == pytest.approx(float(nll), abs=1e-4)


@pytest.mark.slow
def test_the_study_from_two_photographs_to_onnx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its comments say, with fewer epochs and trials, and killed once."""
    monkeypatch.chdir(tmp_path)
    made = subprocess.run(
        [sys.executable, str(STUDIES / "photos_small.py"), "--epochs=2"],
        capture_output=True,
        text=True,
        check=True,
    )
    right = dict(re.findall(r"^(.+): (\d+) of 360 validation images are right$", made.stdout, re.M))
    own = ["--extension", str(NETS)]
    for setting in (
        "student.epochs=2",
        "student.versions=2",
        "search.trials=2",
        "search.scheduler=none",
        "confirm.seeds=1",
    ):
        own += ["--set", setting]
    file = str(study_with_all_teachers())

    # Killed in the search, and run again
    whole = ["run", file, "--store=store", *own]
    kill_in_the_search(*whole)
    folders = [Path("store", folder) for folder in job_folders(Path("store"))]
    before = [folder.stat().st_mtime_ns for folder in folders]
    assert len(before) > 4  # the teachers, and a trial
    again = command(*whole)
    assert again.returncode == 0, again.stdout + again.stderr
    assert [folder.stat().st_mtime_ns for folder in folders] == before

    # Each teacher and the ensemble are as often right as in plain PyTorch
    load_module_files([read_module_file(str(NETS))])
    study = load_study(file, own[3::2])
    store = Store.open("store", make=False)
    answers: dict[str, np.ndarray] = {}
    for group, teacher in zip(study.teachers, teacher_runs(study, data_of(study)), strict=True):
        record = find_job(store, teacher.job.id)
        assert record is not None
        predictions = record.predictions("validation")
        assert isinstance(predictions, Predictions)
        answers[f"{group.name}.pt"] = np.exp(predictions.log_probabilities)
    each = np.stack(list(answers.values()))
    answers |= {"ensemble of the first three": each[:3].mean(0), "ensemble of all": each.mean(0)}
    assert right == {
        name: str((answer.argmax(1) == predictions.labels).sum())
        for name, answer in answers.items()
    }

    # Exported, the student says the same where this package is not
    done = command("export", file, *own, "--store=store", "--out=onnx", "--format=onnx")
    assert done.returncode == 0, done.stderr
    files = [str(path) for path in sorted(DATA.glob("test/*/*.png"))[::7]]
    subprocess.run([sys.executable, "-c", READER, *files], check=True)
    predicted = command("predict", "onnx", *files, "--json")
    ours = [list(each["probabilities"].values()) for each in json.loads(predicted.stdout)]
    np.testing.assert_allclose(np.load("onnx.npy"), ours, atol=1e-5)
