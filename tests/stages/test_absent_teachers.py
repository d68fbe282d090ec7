"""Teachers whose networks are not here: what they are asked, and what a study makes of their
answers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill_ray.augmentation.augmentation import Part
from distill_ray.augmentation.standard import Crop
from distill_ray.cli import main
from distill_ray.errors import DamagedError, RequestError, RunError, StoreError
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.run_job import run_job
from distill_ray.execution.sharing import STORED
from distill_ray.execution.train_job import stored_answers
from distill_ray.metrics import mean_prediction, score
from distill_ray.resolve import confirm_runs, data_of
from distill_ray.stages.absent_teachers import ask, take_answers, take_teachers
from distill_ray.stages.exchange import import_answers
from distill_ray.stages.given_teachers import given_teachers
from distill_ray.stages.state import StudyState
from distill_ray.store import Store
from distill_ray.study import load_study
from distill_ray.training import LiveTeachers, load_dataset
from support.answer_files import another_row, described, rewritten

HERE = WorkerResources(sharing=STORED)

PAGE = Path(__file__).parents[2] / "docs" / "versions.md"
BLOCKS = [block.partition("\n")[2] for block in PAGE.read_text().split("```")[1::2]]

STUDY = """\
name: absent
data: {source: digits, train: 96, validation: 100}
teachers: {answers: FOLDER}
student: {model: mlp-16, epochs: 3, batch_size: 32, augmentation: AUGMENTATION, versions: 2}
search: {trials: 1, scheduler: none, space: {temperature: {log: [1, 20]}}}
confirm: {seeds: 2, baselines: [scratch, default-kd]}
"""


def write_study(folder: Path, augmentation: str = "crop", more: str = "") -> str:
    """A study whose teachers are to answer in `answers` beside it."""
    text = STUDY.replace("FOLDER", str(folder / "answers")).replace("AUGMENTATION", augmentation)
    (folder / "study.yaml").write_text(text + more)
    return str(folder / "study.yaml")


def regressions(members: int = 2) -> list[np.ndarray]:
    """Teachers that no framework of ours trained: ridge regressions on pixels, (64, 10) each."""
    from distill_ray.data import load_images, open_source

    images = load_images(open_source("digits"), "train")
    pixels = images.images[:].reshape(len(images.labels), -1) / 255
    targets = np.eye(10)[images.labels]
    return [
        np.linalg.solve(pixels.T @ pixels + 10.0**power * np.eye(64), 8 * pixels.T @ targets)
        for power in range(members)
    ]


def answer(asked: Path, folder: Path, teachers: Sequence[np.ndarray]) -> None:
    """Answer all that is asked, as the page shows it."""
    code = next(block for block in BLOCKS if block.startswith("import json"))
    code = code.replace('Path("asked")', f"Path({str(asked)!r})")
    code = code.replace('relative_to("asked")', f"relative_to({str(asked)!r})")
    code = code.replace('"answers"', repr(str(folder)))

    def network(weights: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        return lambda images: images.reshape(len(images), -1) @ weights

    exec(compile(code, str(PAGE), "exec"), {"teachers": [network(each) for each in teachers]})


def state_of(study: str, store: Path, *overrides: str, is_asking: bool = False) -> StudyState:
    loaded = load_study(study, overrides, is_asking=is_asking)
    return StudyState(loaded, data_of(loaded), Store.open(str(store)))


@pytest.fixture
def study(tmp_path: Path) -> str:
    """A study whose two teachers have answered."""
    file = write_study(tmp_path)
    state = state_of(file, tmp_path / "none", is_asking=True)
    assert ask(state, tmp_path / "asked", with_images=True) == 4
    answer(tmp_path / "asked", tmp_path / "answers", regressions())
    return file


def test_students_learn_what_absent_teachers_have_answered(study: str, tmp_path: Path) -> None:
    """The logits that a student learns from are those of the file, in half precision."""
    state, before = state_of(study, tmp_path / "store"), LiveTeachers.images
    take_teachers(state)
    assert state.is_taught and all(map(state.is_evaluated, state.teachers))
    (asked,) = state.answers()
    take_answers(state, [asked])
    assert asked.missing(state.store) == []
    rows = load_dataset(state.data).train
    for version in asked.versions:
        (shard,) = stored_answers(state.store, asked.key, version, HERE.worker())
        table = pq.read_table(tmp_path / "answers" / "crop-0" / f"version-{version:05d}.parquet")
        given = {(row["row"], row["member"]): row["logits"] for row in table.to_pylist()}
        expected = [[given[row, member] for member in range(2)] for row in rows.tolist()]
        np.testing.assert_array_equal(shard.logits[0][:, 0], np.float16(expected))
    runs = confirm_runs(state.study, state.data, state.teacher_ids, [state.study.student])
    run = next(run for run in runs if run.role == "default-kd")
    list(run_job(state.store, run.job, HERE))
    assert LiveTeachers.images == before
    student = state.record(run)
    assert student is not None and student.metrics["val/nll"] < np.log(10)


def test_teachers_are_scored_as_they_answered(study: str, tmp_path: Path) -> None:
    state = state_of(study, tmp_path / "store")
    take_teachers(state)
    dataset = load_dataset(state.data)
    pixels = dataset.images[dataset.validation].reshape(100, -1) / np.float32(255)
    labels = dataset.labels[dataset.validation]
    for run, weights in zip(state.teachers, regressions(), strict=True):
        record = state.record(run)
        assert record is not None and record.weights() == {}
        accuracy = ((pixels @ weights).argmax(1) == labels).mean()
        assert record.metrics["val/accuracy"] == pytest.approx(accuracy) and accuracy > 0.8
        on_test = record.predictions("test")
        assert on_test is not None and len(on_test.labels) == 500
        assert score(on_test.log_probabilities, on_test.labels)["accuracy"] > 0.8


@pytest.mark.parametrize("augmentation", ["identity", "{name: additional, per: image}", "cutmix"])
def test_augmentations_of_one_image_several_and_two(augmentation: str, tmp_path: Path) -> None:
    """Parts and copies come back where they belong."""
    file = write_study(tmp_path, augmentation)
    state = state_of(file, tmp_path / "store", is_asking=True)
    ask(state, tmp_path / "asked", with_images=True)
    teachers = regressions(1)
    answer(tmp_path / "asked", tmp_path / "answers", teachers)
    state = state_of(file, tmp_path / "store")
    take_teachers(state)
    asked = state.answers()
    take_answers(state, asked)
    from distill_ray.stages.answer_files import _batches

    for answers in asked:
        (shard,) = stored_answers(state.store, answers.key, 2, HERE.worker())
        for batch in _batches(answers, 2):
            for part in batch.parts:
                assert part.slots is not None
                pixels = part.images.permute(0, 2, 3, 1).flatten(1).numpy()
                stored = shard.all_classes(part.number).reshape(-1, 10)[part.slots.numpy()]
                np.testing.assert_allclose(stored, pixels @ teachers[0], atol=2**-6)


def test_all_versions_are_asked_that_a_student_may_see(tmp_path: Path) -> None:
    """Those of few epochs do not see all, and which the search's best sees follows from its
    seeds.
    """
    file = write_study(tmp_path)
    few = "student.versions=7", "student.epochs=2", "confirm.baselines=[scratch]"
    ask(state_of(file, tmp_path / "none", *few, is_asking=True), tmp_path / "asked")
    assert len(list((tmp_path / "asked" / "crop-0").iterdir())) == 7


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    state = state_of(write_study(tmp_path), tmp_path / "none", is_asking=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match=r"crop-0: cannot be written .Not a directory"):
        ask(state, tmp_path / "file" / "asked")


def test_what_was_asked_is_not_imported(study: str, tmp_path: Path) -> None:
    """It names no teachers, and the study takes it itself."""
    state = state_of(study, tmp_path / "store")
    with pytest.raises(RequestError, match=r"answers to .teacher-logits ask.*`run` takes them"):
        import_answers(state, tmp_path / "answers")


def test_all_that_is_damaged_is_taken_again_at_once(study: str, tmp_path: Path) -> None:
    """A worker finds one piece, and each ends a run."""
    state = state_of(study, tmp_path / "store")
    take_teachers(state)
    (asked,) = state.answers()
    take_answers(state, [asked])
    files = [tmp_path / "store" / path for path, _, _ in state.store.tree("teacher_logits")]
    first, second = sorted(path for path in files if path.suffix == ".arrow")
    first.with_name("logits.arrow").write_bytes(first.read_bytes()[:-100])
    shutil.rmtree(second.parent.parent)
    take_answers(state, [asked])
    assert stored_answers(state.store, asked.key, 1, HERE.worker())


def test_a_full_disk_keeps_no_answers(
    study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And nobody is told of teachers that answer live instead."""
    state = state_of(study, tmp_path / "store")
    take_teachers(state)
    full = shutil.disk_usage(tmp_path)._replace(free=0)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: full)
        with pytest.raises(StoreError, match=r"for version 1 are not kept, since there is no room"):
            take_answers(state, state.answers())
    assert "live" not in caplog.text
    take_answers(state, state.answers())


def test_answers_that_are_gone_are_taken_again(study: str, tmp_path: Path) -> None:
    """A worker cannot compute them; it says so in a way that makes `run` go through its stages."""
    state = state_of(study, tmp_path / "store")
    take_teachers(state)
    take_answers(state, state.answers())
    kept = Store.open(str(tmp_path / "store")).tree("teacher_logits")
    assert list(kept)
    state.store.delete("teacher_logits")
    runs = confirm_runs(state.study, state.data, state.teacher_ids, [state.study.student])
    run = next(run for run in runs if run.role == "default-kd")
    with pytest.raises(DamagedError, match=r"answers of answers@\w+ are gone; running the study"):
        list(run_job(state.store, run.job, HERE))
    take_answers(state, state.answers())
    list(run_job(state.store, run.job, HERE))


def test_absent_teachers_are_calibrated(study: str, tmp_path: Path) -> None:
    """By what they answer for the validation split, which needs no network."""
    losses = []
    for calibrate in ("true", "false"):
        state = state_of(study, tmp_path / "store", f"teachers.calibrate={calibrate}")
        take_teachers(state)
        take_answers(state, state.answers())
        recipe = state.study.student
        runs = confirm_runs(state.study, state.data, state.teacher_ids, [recipe])
        job = next(run.job for run in runs if run.role == "default-kd")
        assert job.calibrated == (job.teachers if calibrate == "true" else ())
        list(run_job(state.store, job, HERE))
        record = state.record_of(job)
        assert record is not None
        losses.append(record.metrics["val/nll"])
    assert losses[0] != losses[1]


def test_versions_are_added_without_other_teachers(study: str, tmp_path: Path) -> None:
    state = state_of(study, tmp_path / "store")
    take_teachers(state)
    more = state_of(study, tmp_path / "store", "student.versions=3")
    assert more.teacher_ids == state.teacher_ids and more.is_taught
    with pytest.raises(RequestError, match=r"3 is missing \(there are \[1, 2\]\); .*ask"):
        take_answers(more, more.answers())
    assert [version for version, _ in more.answers()[0].missing(more.store)] == [3]
    asking = state_of(study, tmp_path / "none", "student.versions=3", is_asking=True)
    ask(asking, tmp_path / "more", with_images=True)
    answer(tmp_path / "more", tmp_path / "answers", regressions())
    again = state_of(study, tmp_path / "store", "student.versions=3")
    assert again.teacher_ids == state.teacher_ids
    take_answers(again, again.answers())
    assert again.answers()[0].missing(again.store) == []


@pytest.mark.parametrize("name", ["test.parquet", "crop-0/version-00002.parquet"])
def test_answers_that_change_under_a_study_are_refused(
    name: str, study: str, tmp_path: Path
) -> None:
    """Students have learned from what they were; under another name they are other teachers'."""
    state = state_of(study, tmp_path / "store")
    take_teachers(state)
    take_answers(state, state.answers())
    shutil.copytree(tmp_path / "answers", tmp_path / "mended")
    shutil.copyfile(tmp_path / "mended" / name, tmp_path / "answers" / name)
    again = state_of(study, tmp_path / "store")
    take_teachers(again)  # written anew, and the same
    take_answers(again, again.answers())

    def mended(table: pa.Table) -> pa.Table:
        logits = np.stack(table["logits"].to_numpy()) + np.float32(1)
        column = pa.FixedSizeListArray.from_arrays(logits.ravel(), 10)
        return table.set_column(table.column_names.index("logits"), "logits", column)

    rewritten(tmp_path / "answers" / name, mended)
    changed = state_of(study, tmp_path / "store")
    with pytest.raises(RequestError, match=f"{name}: these answers have changed since students"):
        take_teachers(changed)
        take_answers(changed, changed.answers())
    changed.store.delete("teacher_logits")  # as when there is no room, or they are damaged
    with pytest.raises(RequestError, match=f"{name}: these answers have changed since students"):
        take_teachers(changed)
        take_answers(changed, changed.answers())
    renamed = state_of(study, tmp_path / "store", f"teachers.answers={tmp_path / 'mended'}")
    assert not set(renamed.teacher_ids) & set(state.teacher_ids) and not renamed.is_taught


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.slice(1), "member 0 is missing"),
        (lambda table: pa.concat_tables([table, table.slice(0, 1)]), "member 0 is there twice"),
        (another_row, "row 10000 is no image of the split"),
        (described("class_names", ["a"]), "answers for other class names"),
        (described("data", {}), "answers for other data"),
        (described("split", "train"), "answers for other split"),
        (lambda table: table.replace_schema_metadata({}), "not a file of teachers' answers"),
        (lambda table: table.drop_columns("logits"), "cannot be read"),
    ],
)
def test_answers_for_other_images_are_refused(
    split: str, change: Callable[[pa.Table], pa.Table], message: str, study: str, tmp_path: Path
) -> None:
    rewritten(tmp_path / "answers" / f"{split}.parquet", change)
    state = state_of(study, tmp_path / "store")
    with pytest.raises(RequestError, match=message):
        take_teachers(state)
    assert state.store.names("jobs") == []


def test_what_is_missing_of_a_folder_is_said(study: str, tmp_path: Path) -> None:
    shutil.move(tmp_path / "answers" / "test.parquet", tmp_path)
    with pytest.raises(RequestError, match=r"test.parquet is missing, the answers for the test"):
        take_teachers(state_of(study, tmp_path / "store"))
    shutil.move(tmp_path / "answers" / "validation.parquet", tmp_path)
    with pytest.raises(RequestError, match=r"no validation.parquet; `distill-ray teacher-logits a"):
        load_study(study)
    (tmp_path / "answers" / "validation.parquet").write_text("none")
    with pytest.raises(RequestError, match=r"teachers.answers: .*validation.parquet: cannot be r"):
        load_study(study)


def of_member(change: Callable[[pa.Array], pa.Array]) -> Callable[[pa.Table], pa.Table]:
    def changed(table: pa.Table) -> pa.Table:
        place = table.column_names.index("member")
        return table.set_column(place, "member", change(table["member"]))

    return changed


def test_numbers_of_members_are_whole(study: str, tmp_path: Path) -> None:
    """Of whatever type, as in all other files; what they are of is said where there are none."""
    file = tmp_path / "answers" / "validation.parquet"
    rewritten(file, of_member(lambda member: member.cast(pa.float64())))
    take_teachers(state_of(study, tmp_path / "store"))
    rewritten(file, lambda table: table.slice(0, 0))
    with pytest.raises(RequestError, match=r"validation.parquet: it has no rows"):
        load_study(study)
    rewritten(file, of_member(lambda member: pa.nulls(0, pa.list_(pa.int8()))))
    with pytest.raises(RequestError, match=r"validation.parquet: cannot be read"):
        load_study(study)


def test_classes_in_another_order_are_found(study: str, tmp_path: Path) -> None:
    """And said of which member, with what can be done: there is no network to name classes for."""

    def rolled(table: pa.Table) -> pa.Table:
        logits = np.stack(table["logits"].to_numpy())
        logits[table["member"].to_numpy() == 1] = np.roll(logits, 1, axis=1)[
            table["member"].to_numpy() == 1
        ]
        return table.set_column(table.column_names.index("logits"), "logits", list_of(logits))

    rewritten(tmp_path / "answers" / "validation.parquet", rolled)
    state = state_of(study, tmp_path / "store")
    right, wrong = given_teachers(state.study, state.data)
    assert (right.name, wrong.name) == ("answers, member 0", "answers, member 1")
    assert not right.doubts and "are to be answered in that of class_names" in wrong.doubts[1]


def list_of(logits: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), logits.shape[1])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["student.method=fitnet"], "method 'fitnet' takes more from teachers than answers"),
        (["student.versions=null"], "student: versions must be set"),
        (["teachers.members=3"], "teachers.members: found 3, and .*answers has answers of 2"),
        (["teachers.model=mlp-8"], "teachers.model: is about networks"),
        (["teachers.epochs=3"], "teachers.epochs: is about networks"),
        (["teachers.from=older"], "teachers.from: is about networks"),
        (["teachers.member=2"], "teachers.member: unknown field; did you mean 'members'"),
        (["teachers={answers: null}"], "teachers.answers: found nothing, must be a folder"),
        (["resources.teacher_logits.mode=live"], "teacher_logits.mode: found 'live'"),
        (["screen={candidates: [crop]}"], "screen: asks teachers about new images"),
        (["confirm.foreign={far: [digits]}"], "confirm.foreign: asks teachers about other images"),
        (
            ["student.augmentation=cutout", "search.space={augmentation.size: {int: [2, 4]}}"],
            "search.space.augmentation.size: draws from a range",
        ),
        (
            ["confirm.baselines={new: {versions: null}}"],
            "confirm.baselines.new: versions must be set",
        ),
    ],
)
def test_what_asks_more_than_answers_is_refused(
    overrides: list[str], message: str, study: str
) -> None:
    with pytest.raises(RequestError, match=message):
        load_study(study, overrides)


def test_networks_and_answers_are_not_mixed(study: str, tmp_path: Path) -> None:
    groups = f"[{{answers: {tmp_path / 'answers'}, name: away}}, {{model: mlp-8, name: here}}]"
    with pytest.raises(RequestError, match="cannot be mixed with networks"):
        load_study(study, [f"teachers={groups}"])
    chosen = load_study(study, [f"teachers={groups}", "student.teachers=[away]"])
    assert [len(group.seeds) for group in chosen.teachers] == [2, 3]


def test_a_study_is_written_out_with_whose_answers_they_are(study: str, tmp_path: Path) -> None:
    """A study without the folder is the same; what the store does not have, it asks for."""
    loaded = load_study(study)
    written = loaded.to_dict()["teachers"]
    assert written == [{"members": 2, "answers": loaded.teachers[0].recipe.weights}]
    again = load_study(study, [f"teachers={json.dumps(written[0])}"])
    assert again.digest == loaded.digest
    state = StudyState(again, data_of(again), Store.open(str(tmp_path / "store")))
    with pytest.raises(RunError, match="name their folder in the study file again"):
        take_teachers(state)


def test_a_study_of_absent_teachers_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = "study.yaml"
    Path(file).write_text(next(block for block in BLOCKS if block.startswith("name: from")))
    assert main(["teacher-logits", "ask", file, "asked", "--with-images"]) == 0
    assert main(["teacher-logits", "ask", file, "asked"]) == 2
    assert main(["validate", file]) == 2
    answer(tmp_path / "asked", tmp_path / "answers", regressions())
    assert main(["validate", file, "--deep"]) == 0
    assert main(["plan", file]) == 0
    assert main(["bench", file]) == 2
    assert main(["run", file]) == 0
    capsys.readouterr()
    assert main(["report", file, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in report["table"]}
    assert rows["ensemble"]["parameters"] is None and rows["best"]["parameters"] > 0
    assert report["teacher_images"] == {"screen": 0, "answer": 0, "search": 0, "confirm": 0}
    state = state_of(file, tmp_path / "distill-ray-store")
    tests = [state.record(run) for run in state.teachers]
    predictions = [record.predictions("test") for record in tests if record is not None]
    known = [found for found in predictions if found is not None]
    mean = mean_prediction([found.log_probabilities for found in known], known[0].labels)
    accuracy = score(mean, known[0].labels)["accuracy"]
    assert rows["ensemble"]["metrics"]["accuracy"]["mean"] == pytest.approx(accuracy)
    for words in (["teachers"], ["status"], ["uncertainty"], ["export", "--out", "student"]):
        assert main([words[0], file, *words[1:]]) == 0
    assert "answers" in capsys.readouterr().out


def test_answers_for_images_as_they_were_once_are_refused(
    study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever changes the code of an augmentation asks again."""
    state = state_of(study, tmp_path / "store")
    take_teachers(state)
    parts = Crop.parts
    monkeypatch.setattr(Crop, "parts", lambda crop, source: [flipped(*parts(crop, source))])
    with pytest.raises(RequestError, match="crop made other images then than now; ask"):
        take_answers(state, state.answers())
    assert state.store.names("teacher_logits") == []


def flipped(part: Part) -> Part:
    return replace(part, images=part.images.flip(3))
