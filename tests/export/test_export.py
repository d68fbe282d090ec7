"""The champion handed out in every format: the same probabilities, a card that says what it is, and
clear refusals.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distill_ray.cli import main
from distill_ray.data import load_images, open_source
from distill_ray.export import FORMATS, open_model
from distill_ray.export.formats import Classifier, write_graph
from distill_ray.export.load import graph_session
from distill_ray.metrics import fit_temperature
from distill_ray.metrics.calibration import with_temperature
from distill_ray.models import build_model
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


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "onnx-int8"])
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


def test_the_metrics_of_the_card_are_those_of_the_model(
    finished_study: Any, tmp_path: Path
) -> None:
    labels = load_images(open_source("digits"), "test").labels
    for calibrated in (True, False):
        out = tmp_path / str(calibrated)
        assert run_export(finished_study, out, *([] if calibrated else ["--uncalibrated"])) == 0
        probabilities = expected(finished_study, out, calibrated=calibrated)
        of_label = probabilities[np.arange(len(labels)), labels]
        brier = (probabilities**2).sum(axis=1) - 2 * of_label + 1
        card = (out / "README.md").read_text()
        lines = [line.split(" | ") for line in card.splitlines() if line.startswith("| ")]
        values = {line[0].removeprefix("| "): line[1] for line in lines if len(line) == 4}
        assert float(values["NLL"]) == pytest.approx(-np.log(of_label).mean(), abs=6e-4)
        assert float(values["Brier"]) == pytest.approx(brier.mean(), abs=6e-4)
        assert ("cNLL" in values) != calibrated


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


@pytest.mark.parametrize("format", FORMATS)
def test_the_example_of_the_card_runs(finished_study: Any, tmp_path: Path, format: str) -> None:
    out = tmp_path / "model"
    assert run_export(finished_study, out, "--format", format) == 0
    pixels = np.array(load_images(open_source("digits"), "test").images[:1])
    Image.fromarray(pixels[0, :, :, 0]).save(tmp_path / "digit.png")
    card = (out / "README.md").read_text()
    usage, reading = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    variables: dict[str, Any] = {}
    exec(reading.replace("IMAGE", str(tmp_path / "digit.png"), 1), variables)
    np.testing.assert_array_equal(variables["images"], pixels)
    exec(usage.replace("FOLDER", str(out)), variables)
    expected = open_model(out).predict(pixels)
    np.testing.assert_allclose(variables["probabilities"], expected, atol=1e-6)


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


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda folder: (folder / "link").symlink_to(folder / "empty"), "link"),
        (lambda folder: (folder / "link").symlink_to(folder / "missing"), "link"),
        (lambda folder: (folder / "link").symlink_to(folder / "link"), "link"),
        (lambda folder: (folder / "file").touch(), "file"),
        (lambda folder: (folder / "file").touch(), "file/x"),
        (lambda folder: None, "x" * 300),
        (lambda folder: None, "a\0b"),
    ],
    ids=["link", "dangling link", "link to itself", "file", "below a file", "long", "NUL"],
)
def test_names_that_no_new_folder_can_have(
    finished_study: Any,
    tmp_path: Path,
    make: Callable[[Path], None],
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    make(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert run_export(finished_study, tmp_path / name) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "name a" in line or "NUL" in line
    assert "unexpectedly" not in line and "\0" not in line
    assert sorted(tmp_path.iterdir()) == before
    assert list((tmp_path / "empty").iterdir()) == []


def test_an_empty_folder_and_the_longest_name_will_do(finished_study: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "x" * 255, "new/below"):
        assert run_export(finished_study, tmp_path / name) == 0
        assert open_model(tmp_path / name).class_names == tuple("0123456789")


def change(**values: Any) -> Callable[[Path], None]:
    """Overwrites values of `champion.json`."""

    def tamper(folder: Path) -> None:
        description = json.loads((folder / "champion.json").read_text())
        (folder / "champion.json").write_text(json.dumps(description | values))

    return tamper


def change_network(**values: Any) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        network = json.loads((folder / "champion.json").read_text())["network"]
        change(network=network | values)(folder)

    return tamper


UNKNOWN = {"family": "model", "name": "no", "value": "no_such:X", "package": "no", "version": "1"}
TAMPERED = {
    "temperature 0": change(temperature=0),
    "temperature of 400 digits": change(temperature=10**400),
    "temperature NaN": change(temperature=float("nan")),
    "temperature text": change(temperature="1"),
    "temperature missing": change(temperature=None),
    "no JSON": lambda folder: (folder / "champion.json").write_text("{"),
    "a list": lambda folder: (folder / "champion.json").write_text("[]"),
    "deep": lambda folder: (folder / "champion.json").write_text("[" * 100_000),
    "bytes": lambda folder: (folder / "champion.json").write_bytes(b"\xff\xfe\x00"),
    "empty": lambda folder: (folder / "champion.json").write_bytes(b""),
    "old format": change(format=1),
    "no classes": change(class_names=[]),
    "classes of another kind": change(class_names=[1, 2]),
    "fewer classes": change(class_names=["a", "b"]),
    "huge image": change(image_shape=[10**9, 10**9, 3]),
    "other image": change(image_shape=[9, 8, 1]),
    "dtype": change(dtype="float64"),
    "file elsewhere": change(file="../weights.safetensors"),
    "file missing": change(file="weights2.safetensors"),
    "unknown model": change_network(model="no-such-net"),
    "another model": change_network(model="wrn-16-2"),
    "unknown method": change_network(method={"name": "no-such"}),
    "wrong setting": change_network(method={"name": "hydra", "heads": -3}),
    "unknown extension": change_network(extensions=[UNKNOWN]),
    "other extension": change_network(extensions=[{"value": "os:system"}]),
    "weights cut": lambda folder: _cut(folder / "weights.safetensors"),
    "weights gone": lambda folder: (folder / "weights.safetensors").unlink(),
}


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize("tampering", TAMPERED)
def test_tampered_models_are_refused_in_one_line(
    model: Path, tmp_path: Path, tampering: str, capsys: pytest.CaptureFixture[str]
) -> None:
    TAMPERED[tampering](model)
    Image.new("L", (8, 8), 100).save(tmp_path / "x.png")
    capsys.readouterr()
    assert main(["predict", str(model), str(tmp_path / "x.png")]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert str(model) in line and "unexpectedly" not in line


@pytest.mark.parametrize(
    ("format", "file"), [("onnx", "model.onnx"), ("torch-export", "model.pt2")]
)
def test_tampered_graphs_are_refused(
    finished_study: Any,
    tmp_path: Path,
    format: str,
    file: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a digest that is right too: what then loads is no graph of ours."""
    out = tmp_path / "model"
    assert run_export(finished_study, out, "--format", format) == 0
    Image.new("L", (8, 8), 100).save(tmp_path / "x.png")
    whole = (out / file).read_bytes()
    middle = len(whole) // 2
    damages = [b"", b"no graph", whole[:middle], whole[:middle] + b"\0" * (len(whole) - middle)]
    for content in damages:
        (out / file).write_bytes(content)
        for digest in (None, hashlib.sha256(content).hexdigest()):
            if digest is not None:
                change(sha256=digest)(out)
            capsys.readouterr()
            assert main(["predict", str(out), str(tmp_path / "x.png")]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert "export it again" in line
        change(sha256=hashlib.sha256(whole).hexdigest())(out)


def test_pipes_devices_and_impossible_names_are_no_images(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    capsys.readouterr()
    for path, message in (
        (str(tmp_path / "pipe"), "not a file"),
        ("/dev/zero", "not a file"),
        (str(tmp_path), "not a file"),
        ("a\0b.png", "a NUL character"),
        ("x" * 5000, "File name too long"),
        ("\x1b[2Jx.png", r"\x1b[2Jx.png: no such file"),
    ):
        assert main(["predict", str(model), path]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line and "\x1b" not in line


def test_predict_prints_nothing_that_a_terminal_obeys(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(class_names=[f"\x1b[31m{index}\n" for index in range(10)])(model)
    file = tmp_path / "a\x1bb.png"
    Image.new("L", (8, 8), 100).save(file)
    capsys.readouterr()
    assert main(["predict", str(model), str(file)]) == 0
    output = capsys.readouterr().out
    assert "\x1b" not in output and len(output.splitlines()) == 1
    assert r"a\x1bb.png" in output and r"\x1b[31m" in output


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


def test_a_graph_made_from_one_image_takes_any_number(tmp_path: Path) -> None:
    """As one image is what a latency is measured of unless the study says otherwise."""
    pytest.importorskip("onnxruntime")
    network = build_model("lenet-4-8-mlp-16", num_classes=3, image_shape=(3, 16, 16), seed=0)
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    write_graph(Classifier(network, 1.0).eval(), torch.from_numpy(images[:1]), tmp_path / "x.onnx")
    session = graph_session(tmp_path / "x.onnx")
    (all_five,) = session.run(["probabilities"], {"images": images})
    (one,) = session.run(["probabilities"], {"images": images[:1]})
    assert all_five.shape == (5, 3) and one == pytest.approx(all_five[:1], abs=1e-5)
