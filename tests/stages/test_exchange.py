"""Teachers' answers go out of a store and into another, and only into the right place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy.special import log_softmax

from distill_ray.errors import RequestError
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.sharing import STORED
from distill_ray.resolve import data_of
from distill_ray.stages.answer import answer_tasks
from distill_ray.stages.exchange import export_answers, import_answers
from distill_ray.stages.state import StudyState
from distill_ray.store import Store
from distill_ray.study import load_study
from distill_ray.training import LiveTeachers
from support.answer_files import another_row, described, rewritten

HERE = WorkerResources(sharing=STORED)


@pytest.fixture
def state(finished_study: Any, tmp_path: Path) -> StudyState:
    """A study with trained teachers, whose students see two versions of cropped images."""
    shutil.copytree(finished_study.store.uri, tmp_path / "store")
    overrides = ["student.versions=2", "student.augmentation=crop", "search.try_first=[]"]
    overrides += ["search.space={temperature: {log: [1, 20]}}"]
    study = load_study(finished_study.file, overrides)
    return StudyState(study, data_of(study), Store.open(str(tmp_path / "store")))


@pytest.fixture
def folder(state: StudyState, tmp_path: Path) -> Path:
    """The answers, exported and no longer in the store."""
    for task in answer_tasks(state.answers(), state.store, HERE):
        list(task.work())
    assert export_answers(state, tmp_path / "answers", with_images=True) == 4
    state.store.delete("teacher_logits")
    return tmp_path / "answers" / "crop-0"


def test_what_was_exported_is_imported_and_not_computed_again(
    state: StudyState, folder: Path, tmp_path: Path
) -> None:
    before = LiveTeachers.images
    assert import_answers(state, folder.parent) == 2 * 96
    assert answer_tasks(state.answers(), state.store, HERE) == []
    assert export_answers(state, tmp_path / "again") == 2 and LiveTeachers.images == before
    first = pq.read_table(folder / "version-00002.parquet")
    again = pq.read_table(tmp_path / "again" / "crop-0" / "version-00002.parquet")
    assert first.equals(again) and len(first) == 96 * 2
    images = pq.read_table(folder / "version-00002.images.parquet")
    assert images.column_names == ["row", "version", "part", "copy", "image"]
    pixels = np.stack(images["image"].to_numpy())
    assert pixels.shape == (96, 64) and 0 <= pixels.min() < pixels.max() <= 1


def column(name: str, values: Callable[[np.ndarray], Any]) -> Callable[[pa.Table], pa.Table]:
    """Another column in the place of that."""

    def change(table: pa.Table) -> pa.Table:
        place = table.column_names.index(name)
        return table.set_column(place, name, pa.array(values(table[name].to_numpy().copy())))

    return change


def normalised(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities (N, K) for a column of logits."""
    return log_softmax(np.stack(logits), axis=1)


def first(value: Any) -> Callable[[np.ndarray], np.ndarray]:
    """That value in the first row."""
    return lambda values: np.concatenate([[value], values[1:]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (column("member", first(2)), "version-00002.parquet: member 2, expected 0 to 1"),
        (column("part", first(1)), "part 1, expected 0 to 0"),
        (column("copy", first(-1)), "copy -1, expected 0 to 0"),
        (column("version", first(1)), "holds answers for version 1, expected 2"),
        (column("row", lambda rows: [None, *rows[1:]]), "cannot be read .column row has empty"),
        (column("member", lambda members: members + 0.5), "cannot be read"),
        (column("logits", lambda logits: np.zeros(len(logits))), "cannot be read"),
        (column("logits", lambda logits: [row[:3] for row in logits]), r"logits have \[3\] numb"),
        (column("logits", lambda logits: [None, *logits[1:]]), "column logits has empty fields"),
        (
            column("logits", lambda logits: [[np.nan] * 10, *logits[1:]]),
            r"logits for row \d+ are not finite",
        ),
        (lambda table: table.drop_columns("member"), "cannot be read"),
        (lambda table: table.slice(0, 0), "it has no rows"),
        (
            column("logits", lambda logits: list(np.exp(normalised(logits)))),
            "logits of each row add up to 1, as probabilities do",
        ),
        (described("class_names", ["a", "b"]), "answers for other class names"),
        (described("data", {}), "answers for other data"),
        (described("teachers", ["a"]), "answers for other teachers"),
        (described("augmentation_seed", 3), "answers for other augmentation seed"),
        (described("version", 7), "version 2 is missing"),
        (described("version", None), "not a file of teachers' answers for a version"),
        (described("augmentation", "crop"), "not a file of teachers' answers for a version"),
        (described("probe", 3), "its metadata's probe is damaged"),
        (described("probe", "AAAA"), "its metadata's probe is damaged"),
        (lambda table: table.slice(1), "member 0 is missing"),
        (lambda table: pa.concat_tables([table, table.slice(0, 1)]), "member 0 is there twice"),
        (another_row, "row 10000 is no image of the training split"),
        (
            lambda table: table.replace_schema_metadata({}),
            r"metadata has no 'distill_ray'; write that of the file that was asked",
        ),
    ],
)
def test_answers_for_something_else_are_refused_and_nothing_is_stored(
    change: Callable[[pa.Table], pa.Table], message: str, state: StudyState, folder: Path
) -> None:
    rewritten(folder / "version-00002.parquet", change)
    with pytest.raises(RequestError, match=message):
        import_answers(state, folder)
    assert state.store.names("teacher_logits") == []


def test_answers_with_flipped_bytes_are_refused(state: StudyState, folder: Path) -> None:
    """Those that were exported have checksums of their pages."""
    path = folder / "version-00002.parquet"
    start = pq.ParquetFile(path).metadata.row_group(0).column(5).data_page_offset + 100
    content = bytearray(path.read_bytes())
    content[start] ^= 255
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"version-00002.parquet: cannot be read .*CRC"):
        import_answers(state, folder)


def test_logits_beyond_half_precision_are_kept_as_they_are(
    state: StudyState, folder: Path, recwarn: pytest.WarningsRecorder
) -> None:
    rewritten(folder / "version-00002.parquet", column("logits", lambda all: list(all * 1e9)))
    assert import_answers(state, folder)
    assert not [warning for warning in recwarn if "overflow" in str(warning.message)]


def test_a_folder_with_something_in_it_is_left_alone(
    state: StudyState, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for taken in (folder, tmp_path / "file"):
        with pytest.raises(RequestError, match="is there already and not empty"):
            export_answers(state, taken)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_what_is_not_there_yet_is_not_exported(state: StudyState, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="teachers have not answered for crop yet: 2 of 2"):
        export_answers(state, tmp_path / "answers")
    with pytest.raises(RequestError, match="found no files"):
        import_answers(state, tmp_path / "answers")


def test_methods_that_take_features_exchange_no_answers(state: StudyState, tmp_path: Path) -> None:
    overrides = [*state.asked.overrides, "student.method=fitnet"]
    overrides += ["search.space={hint: {log: [1, 20]}}"]
    study = load_study(state.asked.path, overrides)
    live = StudyState(study, state.data, state.store)
    for exchange in (export_answers, import_answers):
        with pytest.raises(RequestError, match="method: found fitnet, which takes more from teach"):
            exchange(live, tmp_path / "answers")


def test_parts_and_copies_that_are_missing_are_said(state: StudyState, tmp_path: Path) -> None:
    """`additional` shows every image twice, in two parts."""
    overrides = [*state.asked.overrides[:1], "search.try_first=[]"]
    overrides += ["student.augmentation={name: additional, per: image}"]
    overrides += ["search.space={temperature: {log: [1, 20]}}"]
    study = load_study(state.asked.path, overrides)
    state = StudyState(study, state.data, state.store)
    for task in answer_tasks(state.answers(), state.store, HERE):
        list(task.work())
    export_answers(state, tmp_path / "answers")
    state.store.delete("teacher_logits")
    (file,) = (tmp_path / "answers").rglob("version-00001.parquet")
    rewritten(file, lambda table: table.filter(pc.equal(table["part"], 0)))
    with pytest.raises(RequestError, match="part 1, copy 0, member 0 is missing"):
        import_answers(state, tmp_path / "answers")
    assert state.store.names("teacher_logits") == []
