"""The champion handed out in every format: the same probabilities, a card that says what it is, and
clear refusals.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distill_ray.cli import main
from distill_ray.data import load_images, open_source
from distill_ray.export import FORMATS, open_model
from distill_ray.export.formats import Classifier
from distill_ray.metrics import fit_temperature
from distill_ray.metrics.calibration import with_temperature
from distill_ray.records import find_job


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    """Exports that earlier tests of this module have made, by format."""
    return {}


def run_export(finished_study: Any, out: Path, *more: str) -> int:
    return main(
        [
            "export",
            str(finished_study.file),
            "--store",
            finished_study.store.uri,
            "--out",
            str(out),
            *more,
        ]
    )


def expected(finished_study: Any, folder: Path, *, calibrated: bool = True) -> np.ndarray:
    """What the store has of the champion's predictions on the test split, calibrated as validation
    asks for.
    """
    card = next(
        line for line in (folder / "README.md").read_text().splitlines() if line.startswith("Job `")
    )
    found = find_job(finished_study.store, card.split("`")[1])
    assert found is not None
    validation, test = found.predictions("validation"), found.predictions("test")
    assert validation is not None and test is not None
    temperature = (
        fit_temperature(validation.log_probabilities, validation.labels) if calibrated else 1.0
    )
    return np.exp(with_temperature(test.log_probabilities, temperature))


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_probabilities_of_the_trained_student(
    finished_study: Any, tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert run_export(finished_study, out, "--format", format) == 0
    assert "checked: on 256 test images" in capsys.readouterr().out
    images = load_images(open_source("digits"), "test").images
    model = open_model(out)
    wanted = expected(finished_study, out)
    np.testing.assert_allclose(model.predict(np.array(images)), wanted, atol=1e-4)
    np.testing.assert_allclose(model.predict(np.array(images[:1])), wanted[:1], atol=1e-4)
    assert model.class_names == tuple("0123456789")
    with pytest.raises(ValueError, match=r"uint8 of shape \(N, 8, 8, 1\), found float64"):
        model.predict(images / 255)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_champion_is_found_without_torch(finished_study: Any) -> None:
    """So the driver of a study, which hands it to MLflow, is spared seconds of importing."""
    code = """
import sys
from pathlib import Path
from distill_ray.export import find_champion
from distill_ray.stages.collect import load_results
from distill_ray.stages.locations import Locations
from distill_ray.study import load_study
results, data, store = load_results(load_study(Path(sys.argv[1])), Locations(sys.argv[2]))
champion = find_champion(results, store, data)
print(len(champion.weights) > 0, "torch" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(finished_study.file), finished_study.store.uri]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True False\n"
    )


@pytest.mark.parametrize("format", ["safetensors", "mlflow"])
def test_the_check_compares_on_one_device(
    format: str, finished_study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU rounds otherwise than the CPU, on which the trained student is asked; here, torch says
    that there is one.
    """
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert run_export(finished_study, tmp_path / "model", "--format", format) == 0


def test_uncalibrated_is_the_plain_softmax(finished_study: Any, tmp_path: Path) -> None:
    out = tmp_path / "model"
    assert run_export(finished_study, out, "--uncalibrated") == 0
    images = np.array(load_images(open_source("digits"), "test").images[:50])
    plain, scaled = (
        expected(finished_study, out, calibrated=calibrated)[:50] for calibrated in (False, True)
    )
    assert np.abs(plain - scaled).max() > 1e-3
    np.testing.assert_allclose(open_model(out).predict(images), plain, atol=1e-4)
    assert "**Calibration**: left out" in (out / "README.md").read_text()


def test_the_card_says_what_it_is_and_how_to_load_it(finished_study: Any, tmp_path: Path) -> None:
    out = tmp_path / "model"
    assert run_export(finished_study, out, "--license", "mit") == 0
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n")
    for words in (
        "uint8, (N, 8, 8, 1)",
        "T = ",
        "2 networks, jobs",
        "`kd`: `(1 - alpha)",
        "| temperature | ",
        "95 % interval",
    ):
        assert words in card
    (accuracy,) = [line for line in card.splitlines() if line.startswith("| accuracy |")]
    value, low, high = (float(word) for word in accuracy.replace(" to ", " | ").split("|")[2:5])
    assert low <= value <= high
    code = card.partition("```python\n")[2].partition("```")[0].replace("FOLDER", str(out))
    found: dict[str, Any] = {
        "images": np.array(load_images(open_source("digits"), "test").images[:3])
    }
    exec(code, found)
    assert found["probabilities"].shape == (3, 10)


@pytest.mark.parametrize("format", ["safetensors", "torch-export", "onnx"])
def test_real_valued_inputs(
    finished_toy: Any, tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert run_export(finished_toy, out, "--format", format) == 0
    points = load_images(open_source("toy-spiral"), "test").images
    model = open_model(out)
    np.testing.assert_allclose(
        model.predict(np.array(points)), expected(finished_toy, out), atol=1e-4
    )
    assert (model.dtype, model.image_shape) == ("float32", (1, 1, 2))
    with pytest.raises(ValueError, match=r"float32 of shape \(N, 1, 1, 2\), found uint8"):
        model.predict(points.astype(np.uint8))
    card = (out / "README.md").read_text()
    assert (
        "`images` is float32, (N, 1, 1, 2)" in card
        and "pipeline_tag: tabular-classification" in card
    )
    assert "pixels" not in card and "images of the training" not in card
    assert main(["predict", str(out), str(tmp_path / "x.png")]) == 2
    assert "takes real numbers, not images" in capsys.readouterr().err


def test_nothing_is_written_when_the_check_fails(
    finished_study: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forward = Classifier.forward
    monkeypatch.setattr(Classifier, "forward", lambda self, images: forward(self, 255 - images))
    assert run_export(finished_study, tmp_path / "model", "--format", "torch-export") == 1
    assert "gives other probabilities than the trained student" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_refusals(
    finished_study: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    assert run_export(finished_study, tmp_path / "taken") == 2
    assert "is there already and not empty" in capsys.readouterr().err
    assert run_export(finished_study, tmp_path / "model", "--set", "search.trials=50") == 2
    assert "has no champion yet" in capsys.readouterr().err
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "distill_ray.export.load.find_spec",
        lambda name: None if name == "onnxscript" else find_spec(name),
    )
    assert run_export(finished_study, tmp_path / "model", "--format", "onnx") == 2
    assert (
        "needs onnxscript, not installed here; pip install 'distill-ray[onnx]'"
        in capsys.readouterr().err
    )
    assert main(["predict", str(tmp_path), str(tmp_path / "x.png")]) == 2
    assert "no model in this folder" in capsys.readouterr().err


@pytest.fixture
def model(finished_study: Any, tmp_path: Path) -> Path:
    out = tmp_path / "model"
    assert run_export(finished_study, out) == 0
    return out


def test_predict_names_classes_with_probabilities(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = load_images(open_source("digits"), "test").images[:2]
    files = [str(tmp_path / f"{index}.png") for index in range(2)]
    for file, pixels in zip(files, digits, strict=True):
        Image.fromarray(pixels[:, :, 0]).save(file)
    capsys.readouterr()
    assert main(["predict", str(model), *files, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [each["image"] for each in listed] == files
    probabilities = np.array([list(each["probabilities"].values()) for each in listed])
    np.testing.assert_allclose(
        probabilities, open_model(model).predict(np.array(digits)), atol=1e-6
    )
    assert main(["predict", str(model), *files, "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    best = int(probabilities[0].argmax())
    assert lines[0].startswith(f"{files[0]}  {best} {100 * probabilities[0].max():.1f} %")
    assert lines[0].count("%") == 2


def test_predict_refuses_other_sizes_unless_told_to_resize(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large, colour, text = tmp_path / "large.png", tmp_path / "colour.png", tmp_path / "text.png"
    Image.new("L", (20, 16), 100).save(large)
    Image.new("RGB", (8, 8), (255, 0, 0)).save(colour)
    text.write_text("no image")
    capsys.readouterr()
    for file, message in (
        (large, "the image is 20x16, but this model takes 8x8; resize it, or let --resize do so"),
        (colour, "the image has colours, but this model takes grey images"),
        (text, "not an image that can be read"),
        (tmp_path / "missing.png", "no such file"),
    ):
        assert main(["predict", str(model), str(file)]) == 2
        assert f"{file}: {message}" in capsys.readouterr().err
    assert main(["predict", str(model), str(large), "--resize"]) == 0
    assert capsys.readouterr().out.count("%") == 3
