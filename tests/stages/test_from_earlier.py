"""Teachers from earlier studies: found in a store by what the report calls them, known by their
weights.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from distill_ray.errors import RequestError
from distill_ray.imported_weights import network_from
from distill_ray.records import EPOCHS, WEIGHTS, find_job, job_key
from distill_ray.resolve import data_of, teacher_runs
from distill_ray.stages import diagnosis
from distill_ray.stages.given_teachers import given_teachers
from distill_ray.stages.run import report_path
from distill_ray.store import Store
from distill_ray.study import StudyDefinition, load_study

STUDY = """\
name: later
data: {{source: digits, train: 96, validation: 100}}
teachers:
  - {{name: assistant, from: {source}}}
student: {{model: wrn-10-1, epochs: 1, batch_size: 32}}
"""


@dataclass(frozen=True)
class Older:
    """A finished study in a store of its own, which has its report; the ids of its teachers."""

    store: Store
    trained: tuple[str, ...]


@pytest.fixture
def older(tmp_path: Path, finished_study: Any) -> Older:
    shutil.copytree(finished_study.store.uri, tmp_path / "older")
    store = Store.open(str(tmp_path / "older"), make=False)
    study = load_study(finished_study.file)
    trained = tuple(run.job.id for run in teacher_runs(study, data_of(study)))
    table = [
        {"name": "scratch", "jobs": [trained[0]], "members": 1},
        {"name": "ensemble", "jobs": trained, "members": 2},
    ]
    report = {"champion": {"job_id": trained[1]}, "table": table}
    store.write(report_path(study, "report.json"), json.dumps(report).encode())
    return Older(store, trained)


@pytest.fixture
def later(tmp_path: Path, older: Older) -> Callable[[str], StudyDefinition]:
    """Reads the study with a teacher from that source."""

    def read(source: str) -> StudyDefinition:
        path = tmp_path / "later.yaml"
        path.write_text(STUDY.format(source=source))
        return load_study(path, earlier=functools.partial(network_from, store=older.store.uri))

    return read


def test_it_is_the_network_that_the_older_study_has(
    later: Any, older: Older, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "SIDES", (32,))  # larger images take long
    first, second = older.trained
    sources = {f"job {first}": first, "tiny/scratch": first, "tiny": second}
    found = {}
    for source, job_id in sources.items():
        study = later(source)
        data = data_of(study)
        (teacher,) = given_teachers(study, data)
        # As little as it has learned, nothing in its preprocessing is to blame
        assert not any("preprocessing" in doubt for doubt in teacher.doubts)
        record = find_job(older.store, job_id)
        assert record is not None
        assert teacher.accuracy == record.metrics["val/accuracy"]
        assert teacher.nll == pytest.approx(record.metrics["val/nll"], abs=1e-5)
        (run,) = teacher_runs(study, data)
        assert run.job.takes_weights and study.teachers[0].source == source
        found[source] = run.job.id
    # By its weights, whatever it is called
    assert found[f"job {first}"] == found["tiny/scratch"] != found["tiny"]
    assert later(f"tiny@{older.store.uri}").digest == later("tiny").digest


def test_a_store_that_is_no_folder_is_copied_from(
    later: Any, older: Older, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, and again where the copy is damaged; the teacher is the same one."""
    monkeypatch.setenv("DISTILL_RAY_CACHE", str(tmp_path / "cache"))
    local = later("tiny")
    remote = Store("file://" + older.store.uri)
    assert not remote.is_local
    monkeypatch.setattr(Store, "open", lambda uri, make: remote)
    study = later("tiny@s3://bucket/studies")
    (copy,) = (tmp_path / "cache" / "jobs").rglob("*.safetensors")
    assert study.weight_files == {study.teachers[0].recipe.weights: str(copy)}
    assert study.digest == local.digest
    content, changed = copy.read_bytes(), copy.stat().st_mtime_ns
    later("tiny@s3://bucket/studies")
    assert copy.stat().st_mtime_ns == changed
    copy.write_bytes(content[:-8])
    later("tiny@s3://bucket/studies")
    assert copy.read_bytes() == content


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("nobody", "has no report of a study nobody"),
        ("tiny/ensemble", r"no contender 'ensemble' that is one network \(it has: scratch\)"),
        ("job 00000000000000000000", "has no finished job 00000000000000000000"),
        ("tiny@missing", "missing"),
        ("tiny, model: wrn-10-1", "comes with `from`; leave it out"),
        ("4", "must be a study, such as older@STORE, or job ID"),
    ],
)
def test_what_cannot_be_taken_is_said_with_its_line(later: Any, source: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        later(source)
    assert "later.yaml:4: teachers.0" in str(caught.value)


def test_a_network_of_timm_keeps_the_size_that_it_was_trained_at(tmp_path: Path) -> None:
    """timm's configuration speaks for weights of timm; these were drawn, and saw 8x8 pixels."""
    (tmp_path / "older.yaml").write_text(
        "name: older\ndata: {source: digits}\nteachers: {model: timm/test_resnet, members: 1}\n"
        "student: {model: wrn-10-1}\n"
    )
    study = load_study(tmp_path / "older.yaml")
    (run,) = teacher_runs(study, data_of(study))
    files = [WEIGHTS, EPOCHS, "predictions-validation.parquet"]
    info = {"job": run.job.to_dict(), "parameters": 1, "seconds": 1.0, "metrics": {"val/nll": 1.0}}
    store = Store.open(str(tmp_path / "store"))
    store.put(job_key(run.job.id), dict.fromkeys(files, b""), info)
    settings = network_from(f"job {run.job.id}", store.uri)
    assert settings["model"] == "timm/test_resnet"
    assert settings["preprocessing"]["size"] == 8
