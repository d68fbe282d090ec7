"""The page *Bring your own*, followed word by word: teachers trained in plain PyTorch take part
in a study and answer as they do outside of it.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from distill_ray.data import load_images, open_source
from distill_ray.models.own_modules import load_module_files, read_module_file
from distill_ray.records import Predictions, find_job
from distill_ray.resolve import data_of, teacher_runs
from distill_ray.stages.given_teachers import given_teachers
from distill_ray.store import Store
from distill_ray.study import load_study
from distill_ray.training import load_dataset
from support.studies import command

PAGE = Path(__file__).parents[2] / "docs" / "bring-your-own.md"
READERS = {
    "torch-export": """
import numpy, torch
model = torch.export.load("torch-export/model.pt2").module()
numpy.save("torch-export.npy", model(torch.from_numpy(numpy.load("images.npy"))).detach())
""",
    "mlflow": """
import mlflow, numpy, sys
model = mlflow.pyfunc.load_model("mlflow")
assert sys.modules["distill_ray"].__file__.startswith(sys.path[0] + "/")
numpy.save("mlflow.npy", model.predict(numpy.load("images.npy")))
""",
}
"""What reads an exported student where this package is not installed, `-I` leaving out our path."""


def blocks(language: str) -> list[str]:
    """The code of the page in that language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def plain(file: Path, images: np.ndarray) -> np.ndarray:
    """Log-probabilities of a teacher as plain PyTorch computes them."""
    network = torchvision.models.resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    network.load_state_dict(torch.load(file)["state_dict"])
    network.eval()
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    inputs = nn.functional.interpolate(inputs, 32, mode="bilinear", antialias=True)
    with torch.inference_mode():
        logits: torch.Tensor = network((inputs - 0.3) / 0.35)
    return logits.log_softmax(1).numpy()


@pytest.mark.slow
def test_the_page_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    training, nets = blocks("python")
    (study_file,) = blocks("yaml")
    exec(compile(training, str(PAGE), "exec"), {})
    Path("study.yaml").write_text(study_file)
    Path("nets.py").write_text(nets)

    # On workers of another folder, which do not have the file
    (line,) = (
        line for line in PAGE.read_text().splitlines() if line.startswith("distill-ray run study")
    )
    own = shlex.split(line)[3:]
    run = command("run", "study.yaml", "--store", "store", *own)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "teacher first" in run.stdout and "teacher second" in run.stdout

    load_module_files([read_module_file("nets.py")])
    study = load_study("study.yaml", [own[-1]])
    data, store = data_of(study), Store.open("store", make=False)
    dataset = load_dataset(data)
    test = load_images(open_source("digits"), "test")
    for number, job in enumerate(teacher_runs(study, data)[:2]):
        record = find_job(store, job.job.id)
        assert record is not None and record.metrics["val/accuracy"] > 0.8
        file = Path(f"teacher-{number}.pt")
        splits = {
            "validation": (dataset.images[dataset.validation], dataset.labels[dataset.validation]),
            "test": (test.images, test.labels),
        }
        for split, (images, labels) in splits.items():
            predictions = record.predictions(split)  # type: ignore[arg-type]
            assert isinstance(predictions, Predictions)
            expected = plain(file, np.asarray(images))
            np.testing.assert_allclose(predictions.log_probabilities, expected, atol=1e-4)
            assert np.array_equal(
                predictions.log_probabilities.argmax(1) == labels, expected.argmax(1) == labels
            )

    # They are listed with what they scored, and none of them is doubted
    given = given_teachers(study, data, store, lambda job: find_job(store, job.id))
    assert [teacher.name for teacher in given] == ["first", "second"]
    for teacher, job in zip(given, teacher_runs(study, data), strict=False):
        expected = plain(Path(teacher.weights), np.asarray(dataset.images[dataset.validation]))
        right = expected.argmax(1) == dataset.labels[dataset.validation]
        assert teacher.accuracy == right.mean() and teacher.digest in str(job.job.recipe.weights)
        assert teacher.lines()[0] in run.stdout + run.stderr and not teacher.doubts
    assert "Trained elsewhere: " in run.stdout

    # Moved, the files are the same ones: everything is found done.
    Path("elsewhere").mkdir()
    for number in (0, 1):
        Path(f"teacher-{number}.pt").rename(f"elsewhere/teacher-{number}.pt")
    Path("study.yaml").write_text(study_file.replace("weights: ", "weights: elsewhere/"))
    again = command("report", "study.yaml", "--store", "store", "--json", *own)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["champion"]["job_id"]

    # Exported, the student needs neither the file nor this package.
    for format in ("torch-export", "mlflow"):
        done = command(
            "export", "study.yaml", *own, "--store=store", "--out", format, "--format", format
        )
        assert done.returncode == 0, done.stderr
    np.save("images.npy", test.images[:20])
    answers = {}
    for format, code in READERS.items():
        subprocess.run([sys.executable, "-I", "-c", code], check=True, timeout=280)
        answers[format] = np.load(f"{format}.npy")
    np.testing.assert_allclose(answers["mlflow"], answers["torch-export"], atol=1e-5)
