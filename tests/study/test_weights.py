"""Trained weights in a study file: found when it is read, and named by their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from distill_ray.errors import RequestError
from distill_ray.models.preprocessing import Preprocessing
from distill_ray.study import Study, load_study
from distill_ray.study.document import read_document
from distill_ray.study.parse import read_study

CONTENT = b"weights are not looked into when a study is read"
NAME = f"mine.pt@{hashlib.sha256(CONTENT).hexdigest()[:16]}"


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Study]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.pt").write_bytes(CONTENT)
    (tmp_path / "folder").mkdir()

    def read(teachers: str, student: str = "{model: wrn-10-1}") -> Study:
        (tmp_path / "study.yaml").write_text(
            f"name: given\nteachers: {teachers}\nstudent: {student}\n"
        )
        return load_study("study.yaml")

    return read


def test_a_given_teacher_is_one_and_has_no_epochs(read: Callable[..., Study]) -> None:
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


def test_it_is_the_same_study_wherever_the_file_lies(
    read: Callable[..., Study], tmp_path: Path
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


def test_what_is_written_is_read_again(read: Callable[..., Study], tmp_path: Path) -> None:
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
def test_what_is_refused(read: Callable[..., Study], teachers: str, message: str) -> None:
    with pytest.raises(RequestError, match=rf"study.yaml:2: teachers.*{message}"):
        read(teachers)


def test_weights_are_not_searched(read: Callable[..., Study]) -> None:
    search = "search: {space: {weights: {choice: [mine.pt]}}}"
    with pytest.raises(RequestError, match=r"search.space.weights: not searched; it goes into"):
        read("{model: wrn-10-1}", "{model: wrn-10-1}\n" + search)
