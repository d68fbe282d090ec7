"""Trained weights in a study file: found when it is read, and named by their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from distill_ray.errors import RequestError
from distill_ray.models.preprocessing import Preprocessing
from distill_ray.study import StudyDefinition, load_study
from distill_ray.study.checks import check_against_data
from distill_ray.study.document import read_document
from distill_ray.study.parse import read_study

CONTENT = b"weights are not looked into when a study is read"
NAME = f"mine.pt@{hashlib.sha256(CONTENT).hexdigest()[:16]}"


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], StudyDefinition]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.pt").write_bytes(CONTENT)
    (tmp_path / "folder").mkdir()

    def read(teachers: str, student: str = "{model: wrn-10-1}") -> StudyDefinition:
        (tmp_path / "study.yaml").write_text(
            f"name: given\nteachers: {teachers}\nstudent: {student}\n"
        )
        return load_study("study.yaml")

    return read


def test_a_given_teacher_is_one_and_has_no_epochs(read: Callable[..., StudyDefinition]) -> None:
    study = read(
        "[{name: a, model: wrn-10-1, weights: mine.pt, preprocessing: {size: 64}}, "
        "{name: b, model: wrn-10-1}, "
        "{name: c, model: wrn-10-1, weights: mine.pt, epochs: 3, members: 2}]"
    )
    given, trained, tuned = study.teachers
    assert (given.recipe.weights, given.recipe.epochs, len(given.seeds)) == (NAME, 0, 1)
    assert given.recipe.preprocessing == Preprocessing(size=64)
    assert (trained.recipe.weights, trained.recipe.epochs, len(trained.seeds)) == (None, 12, 3)
    assert (tuned.recipe.weights, tuned.recipe.epochs, len(tuned.seeds)) == (NAME, 3, 2)
    assert study.weight_files == {NAME: str(Path("mine.pt").absolute())}


@pytest.mark.parametrize("setting", ["freeze: 1", "layer_decay: 0.5", "classes: [a, b]"])
def test_what_is_for_weights_is_refused_where_it_stands(
    read: Callable[..., StudyDefinition], setting: str
) -> None:
    name = setting.partition(":")[0]
    with pytest.raises(RequestError, match=rf"student\.{name}: {name} is for trained weights"):
        read("{model: wrn-10-1}", f"{{model: wrn-10-1, {setting}}}")


def test_it_is_the_same_study_wherever_the_file_lies(
    read: Callable[..., StudyDefinition], tmp_path: Path
) -> None:
    here = read("{model: wrn-10-1, weights: mine.pt}", "{model: wrn-10-1, weights: mine.pt}")
    (tmp_path / "folder" / "mine.pt").write_bytes(CONTENT)
    there = read(
        "{model: wrn-10-1, weights: folder/mine.pt}", "{model: wrn-10-1, weights: mine.pt}"
    )
    assert here.digest == there.digest
    (tmp_path / "mine.pt").write_bytes(CONTENT + b"!")
    changed = read(
        "{model: wrn-10-1, weights: folder/mine.pt}", "{model: wrn-10-1, weights: mine.pt}"
    )
    assert changed.digest != here.digest


def test_what_is_written_is_read_again(
    read: Callable[..., StudyDefinition], tmp_path: Path
) -> None:
    study = read("{model: wrn-10-1, weights: mine.pt, classes: [a, b]}")
    (tmp_path / "again.yaml").write_text(json.dumps(study.to_dict()))
    assert read_study(read_document("again.yaml")) == study


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        ("{model: wrn-10-1, weights: other.pt}", "weights: found 'other.pt', and there is no such"),
        ("{model: wrn-10-1, weights: folder}", "weights: found 'folder', a folder; name the file"),
        ("{model: wrn-10-1, weights: [1, 2]}", "weights: names a file; .* are teacher_weights"),
        ("{model: wrn-10-1, weights: mine.pt, members: 3}", "members: weights that are taken as"),
        ("{model: wrn-10-1, classes: [a]}", "classes is for trained weights"),
        ("{model: wrn-10-1, epochs: 0}", "epochs: found 0, must be a whole number, at least 1|"),
        (
            "{model: wrn-10-1, weights: mine.pt, preprocessing: {mean: [0.5]}}",
            "preprocessing: mean and std belong together",
        ),
        (
            "{model: wrn-10-1, weights: mine.pt, preprocessing: {sise: 64}}",
            "preprocessing.sise: unknown field; did you mean 'size'",
        ),
    ],
)
def test_what_is_refused(read: Callable[..., StudyDefinition], teachers: str, message: str) -> None:
    with pytest.raises(RequestError, match=rf"study.yaml:2: teachers.*{message}"):
        read(teachers)


def test_baselines_of_a_student_with_weights(
    read: Callable[..., StudyDefinition], tmp_path: Path
) -> None:
    """From scratch means drawn weights; fine-tuned is from the same ones, without teachers."""
    student = "{model: wrn-10-1, weights: mine.pt, freeze: 1, preprocessing: {size: 64}}"
    usual = read("{model: wrn-10-1}", student).confirm.baselines
    assert list(usual) == ["fine-tuned", "default-kd"]
    assert {recipe.weights for recipe in usual.values()} == {NAME}
    listed = read("{model: wrn-10-1}", student + "\nconfirm: {baselines: [scratch, fine-tuned]}")
    scratch, tuned = listed.confirm.baselines.values()
    assert (scratch.weights, scratch.freeze, tuned.weights, tuned.freeze) == (None, 0, NAME, 1)
    assert scratch.method.name == tuned.method.name == "supervised"
    assert scratch.preprocessing == Preprocessing(size=64)
    assert scratch == type(scratch).from_dict(scratch.to_dict())
    (tmp_path / "again.yaml").write_text(json.dumps(listed.to_dict()))
    assert read_study(read_document("again.yaml")) == listed
    with pytest.raises(RequestError, match=r"baselines.0: found 'fine-tuned', but the student has"):
        read("{model: wrn-10-1}", "{model: wrn-10-1}\nconfirm: {baselines: [fine-tuned]}")


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ("{model: timm/test_vit}", "student.model: .* does not take images of 9x9"),
        ("{model: timm/test_vit, preprocessing: {size: 32}}", None),
        ("{model: timm/test_vit, weights: mine.pt}", None),  # at the size that timm says
        (
            "{model: timm/deit_tiny_distilled_patch16_224, preprocessing: {size: 32}, "
            "method: hydra}",
            "student.method: method 'hydra': .* does not show its features",
        ),
    ],
)
def test_networks_of_timm_meet_the_data(
    read: Callable[..., StudyDefinition], student: str, message: str | None
) -> None:
    study = read("{model: wrn-10-1}", student + "\nconfirm: {baselines: {}}")
    if message is None:
        check_against_data(study, 1000, 10, (3, 9, 9))
        return
    with pytest.raises(RequestError, match=message):
        check_against_data(study, 1000, 10, (3, 9, 9))


def test_pretrained_weights_are_known_by_content(
    read: Callable[..., StudyDefinition], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    study = read("{model: torchvision/resnet18, weights: pretrained, epochs: 1}")
    name = NAME.replace("mine.pt", "resnet18.pth")
    assert study.teachers[0].recipe.weights == name
    assert study.weight_files == {name: str(file)}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "torchvision/resnet18",
            r"https://.*/resnet18-f37072fd.pth cannot be .* \(.*put it",
        ),
        ("timm/test_resnet", r"model.safetensors of timm/test_resnet.* cannot be downloaded \("),
        ("wrn-10-1", "model wrn-10-1 has none; torchvision's and timm's networks do"),
    ],
)
def test_pretrained_weights_without_a_network(
    read: Callable[..., StudyDefinition],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    message: str,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setattr("urllib.request._opener", None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RequestError, match=f"weights pretrained: {message}") as raised:
        read(f"{{model: {model}, weights: pretrained}}")
    assert "\n" not in str(raised.value)
    assert not [file for file in tmp_path.rglob("*") if "resnet18" in file.name]


def test_weights_are_not_searched(read: Callable[..., StudyDefinition]) -> None:
    search = "search: {space: {weights: {choice: [mine.pt]}}}"
    with pytest.raises(RequestError, match=r"search.space.weights: not searched; it goes into"):
        read("{model: wrn-10-1}", "{model: wrn-10-1}\n" + search)
