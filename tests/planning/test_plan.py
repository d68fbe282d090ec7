"""The plan: what is to be trained, what the store has, and what the teachers' answers cost."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill_ray.cli import main
from distill_ray.errors import RequestError
from distill_ray.execution.resources import WorkerResources
from distill_ray.execution.sharing import Sharing
from distill_ray.job import Job
from distill_ray.methods import METHODS
from distill_ray.models import build_model
from distill_ray.planning import plan
from distill_ray.planning.bench import LIVE, STUDENT, TEACHER_LOGITS, Bench
from distill_ray.planning.bench_record import bench_elsewhere, keep_bench, kept_bench
from distill_ray.planning.plan import StagePlan, plan_study
from distill_ray.planning.plan_teacher_logits import plan_teacher_logits
from distill_ray.resolve import data_of
from distill_ray.stages.state import StudyState
from distill_ray.store import Store
from distill_ray.study import StudyDefinition, load_study
from distill_ray.training import Dataset, LiveTeachers, Worker
from support.bench import BENCH


def planned(study: StudyDefinition, store: Store) -> list[StagePlan]:
    return plan_study(StudyState(study, data_of(study), store))


def test_it_says_when_this_machine_is_too_small(
    finished_study: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["plan", str(finished_study.file), "--store", finished_study.store.uri]
    assert main([*asked, "--set", "resources.cpus_per_worker=1000"]) == 0
    printed = capsys.readouterr().out.splitlines()[-1]
    assert printed.startswith("it needs a cluster (`run --address`): ")
    assert "resources.cpus_per_worker: a worker of 1000 CPU and 0 GPU does not fit" in printed


def test_jobs_are_timed_with_the_threads_of_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with those of all cores, as torch would by itself; afterwards these are back."""
    timed: list[int] = []

    def seconds(*_: Any) -> float:
        timed.append(torch.get_num_threads())
        return 1.0

    monkeypatch.setattr(plan, "epoch_seconds", seconds)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (tmp_path / "study.yaml").write_text(
            "name: x\nteachers: {model: wrn-10-1}\nstudent: {model: wrn-10-1}\n"
        )
        planned(load_study(tmp_path / "study.yaml"), Store.open(str(tmp_path / "store")))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert timed and set(timed) == {1}


def test_students_of_stored_answers_do_not_wait_for_their_teachers(
    tiny_study: Callable[..., StudyDefinition], tmp_path: Path
) -> None:
    """Two wide teachers and a student of a few hundred weights: what it takes itself, and the
    teachers' answers once for each seed or, with versions, ahead of the stage.
    """
    settings = ("teachers.model=wrn-10-8", "student.model=mlp-8", "confirm.baselines=[]")
    stored, live, versions = (
        planned(tiny_study(*settings, *more), Store.at(str(tmp_path)))[-1]
        for more in (
            ("resources.teacher_logits.mode=cached",),
            ("resources.teacher_logits.mode=live",),
            ("student.versions=2",),
        )
    )
    (logits,) = stored.teacher_logits
    assert logits.stored and versions.teacher_logits == ()
    students = stored.job_seconds - logits.seconds
    assert 0 < students < logits.live_seconds / 3 < live.job_seconds
    assert 0 < versions.job_seconds < logits.live_seconds / 3


def test_a_finished_study_costs_nothing_more(
    finished_study: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    found = planned(load_study(finished_study.file), finished_study.store)
    assert [
        (stage.stage, stage.jobs, stage.done, stage.images, stage.seconds) for stage in found
    ] == [
        ("teach", 2, 2, 0, 0.0),
        ("search", 4, 4, 0, 0.0),
        ("confirm", 4, 4, 0, 0.0),
    ]
    assert main(["plan", str(finished_study.file), "--store", finished_study.store.uri]) == 0
    assert capsys.readouterr().out.endswith("\nnothing is left to train\n")
    more = planned(load_study(finished_study.file, ["search.trials=6"]), finished_study.store)
    assert [(stage.jobs, stage.done) for stage in more] == [(2, 2), (6, 4), (4, 2)]
    assert more[1].images == more[2].images > 0


def test_a_plan_makes_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    assert main(["plan", str(Path(__file__).parents[1] / "tiny.yaml"), "--store", str(store)]) == 0
    assert re.search(r"\nabout \S+.* on this machine", capsys.readouterr().out)
    assert not store.exists()


def test_the_plan_knows_the_teacher_logits(
    tiny_study: Callable[..., StudyDefinition], tmp_path: Path
) -> None:
    stages = {stage.stage: stage for stage in planned(tiny_study(), Store.at(str(tmp_path)))}
    (search,) = stages["search"].teacher_logits
    assert search.stored
    epochs, augmentations = 2, 2
    assert (
        epochs * augmentations * 96 * 2 * 10 * 2
        < search.bytes
        < 2 * epochs * augmentations * 96 * 2 * 10 * 2
    )
    assert 0 < search.seconds < search.live_seconds
    assert stages["teach"].teacher_logits == ()
    (confirm,) = stages["confirm"].teacher_logits
    assert not confirm.stored
    live = {
        stage.stage: stage
        for stage in planned(
            tiny_study("resources.teacher_logits.mode=live"), Store.at(str(tmp_path))
        )
    }
    assert [logits.stored for logits in live["search"].teacher_logits] == [False]


@pytest.mark.parametrize("methods", ["kd, dkd, fitnet", "fitnet, dkd, kd"])
def test_methods_that_take_features_have_a_line_of_their_own(
    methods: str,
    tiny_study: Callable[..., StudyDefinition],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whichever comes first. What the others share is stored, once for each augmentation."""
    settings = [
        f"search.space.method={{choice: [{methods}]}}",
        "search.try_first=[]",
        "search.trials=6",
        "resources.teacher_logits.mode=cached",
    ]
    stages = planned(tiny_study(*settings), Store.at(str(tmp_path)))
    search = {tuple(sorted(logits.methods)): logits for logits in stages[1].teacher_logits}
    assert search.keys() == {("dkd", "kd"), ("fitnet",)}
    stored, live = search["dkd", "kd"], search["fitnet",]
    assert (stored.stored, stored.live_for, stored.pays_from) == (True, "", 3)
    assert (live.stored, live.live_for) == (False, "fitnet")
    trials, augmentations = 4, 2
    assert stored.seconds / stored.live_seconds == pytest.approx(augmentations / trials)
    words = [word for setting in settings for word in ("--set", setting)]
    tiny = str(Path(__file__).parents[1] / "tiny.yaml")
    assert main(["plan", tiny, "--store", str(tmp_path), *words]) == 0
    output = capsys.readouterr().out
    assert "\nsearch (fitnet): teachers run in every step" in output
    assert re.search(r"\nsearch \((kd, dkd|dkd, kd)\): teacher logits cached", output)


def test_a_plan_for_features_of_teachers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what live teachers cost, and does not diverge by a learning rate that is too high for
    what teachers without training teach.
    """
    settings = ("student.method=fitnet", "student.lr=1e9", "search.space={hint: {log: [1, 20]}}",
                "search.try_first=[]", "resources.teacher_logits.mode=cached")  # fmt: skip
    tiny = str(Path(__file__).parents[1] / "tiny.yaml")
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["plan", tiny, "--store", str(tmp_path), *words]) == 0
    output = capsys.readouterr().out
    for stage in ("search", "confirm"):
        assert f"{stage}: teachers run in every step, as fitnet takes more from them" in output
    assert "no two jobs share them" not in output


def test_a_plan_lets_teachers_answer_in_their_own_precision(
    tiny_study: Callable[..., StudyDefinition], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answering(networks: Any, device: Any, precision: str) -> LiveTeachers:
        if networks:
            asked.append(precision)
        return LiveTeachers(networks, device, precision)

    monkeypatch.setattr(plan, "LiveTeachers", answering)
    planned(tiny_study("teachers.precision=bf16"), Store.at(str(tmp_path)))
    assert set(asked) == {"bf16"}


def test_the_plan_knows_that_of_many_classes_an_eighth_is_stored(
    tiny_study: Callable[..., StudyDefinition],
) -> None:
    """600 classes: 75 logits of 2 bytes, whose they are in 2 more, and 4 for the others; 1200 bytes
    for all of them.
    """

    class Flat(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(images), 600)

    images = np.zeros((96, 8, 8, 1), np.uint8)
    names = tuple(map(str, range(600)))
    dataset = Dataset(
        images, np.arange(96), np.arange(80), np.arange(80, 96), names, (0.5,), (0.3,)
    )
    study = tiny_study()
    job = Job(recipe=study.student, data=data_of(study), seed=3, teachers=("a", "b"))
    here = Worker(torch.device("cpu"))
    teachers = LiveTeachers([Flat(), Flat()], here.device, "fp32")
    answers = study.student.epochs * 80 * 2
    for top_k, size in ((None, 75 * 4 + 4), (10, 44), (600, 1200)):
        found = plan_teacher_logits([job], Sharing("cached", top_k=top_k), dataset, teachers, here)
        assert answers * size < found.bytes < answers * size * 1.05 + 5000
    endd = replace(job, recipe=replace(study.student, method=METHODS["endd"]()))
    assert (
        plan_teacher_logits([endd], Sharing("cached"), dataset, teachers, here).bytes
        > answers * 1200
    )


def test_the_plan_counts_with_what_bench_has_measured(
    tiny_study: Callable[..., StudyDefinition], tmp_path: Path
) -> None:
    study, store = tiny_study(), Store.open(str(tmp_path))
    assert kept_bench(store, study) is None
    bench = replace(
        BENCH,
        batch_size=32,
        steps={STUDENT: 60.0, LIVE: 100.0, TEACHER_LOGITS: 66.0},
        teachers=40.0,
    )
    keep_bench(store, study, bench)
    assert kept_bench(store, study) == bench
    assert kept_bench(store, tiny_study("student.model=wrn-10-2")) is None
    stages = {stage.stage: stage for stage in planned(study, store)}
    (teacher_logits,) = stages["search"].teacher_logits
    images, trials, epochs, augmentations = 96, 4, 2, 2
    assert teacher_logits.live_seconds == trials * epochs * images * 40.0 / 32
    assert teacher_logits.seconds == augmentations * epochs * images * 40.0 / 32
    students = trials * epochs * (images * 66.0 + 100 * 60.0 / 3) / 32
    assert stages["search"].job_seconds == pytest.approx(students + teacher_logits.seconds)
    assert teacher_logits.pays_from == 3
    live = planned(tiny_study("resources.teacher_logits.mode=live"), store)[1]
    assert live.job_seconds == trials * epochs * (images * 100.0 + 100 * 60.0 / 3) / 32


def test_start_up_counts_once_for_ray_and_once_for_each_stage(
    tiny_study: Callable[..., StudyDefinition], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine where a process is ready after 1000 s, training tiny networks is nothing."""
    monkeypatch.setattr(plan, "LOADING_S", 1000.0)
    teach, search, confirm = planned(tiny_study(), Store.at(str(tmp_path)))
    assert [round(stage.seconds, -3) for stage in (teach, search, confirm)] == [3000, 1000, 1000]
    assert teach.job_seconds < 500


def test_timing_ends_and_the_rest_is_judged_by_what_is_alike(
    tiny_study: Callable[..., StudyDefinition], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first students whose teachers answer live, and the first whose are stored, are timed all
    the same: neither is judged by the other, nor by a teacher.
    """
    timed: list[tuple[str, bool]] = []

    def epoch_seconds(job: Job, dataset: Dataset, teachers: Any, worker: Worker) -> float:
        live = bool(job.teachers) and isinstance(teachers, LiveTeachers)
        timed.append((job.recipe.model, live))
        return {"wrn-10-2": 500.0}.get(job.recipe.model, 1000.0 if live else 7.0)

    monkeypatch.setattr(plan, "epoch_seconds", epoch_seconds)
    study = tiny_study(
        "teachers.model=wrn-10-2",
        "search.space.method={choice: [kd, dkd, fitnet]}",
        "search.try_first=[]",
        "search.trials=6",
        "resources.teacher_logits.mode=cached",
    )
    stages = planned(study, Store.at(str(tmp_path)))
    assert len(timed) > 4
    assert set(timed) == {("wrn-10-2", False), ("wrn-10-1", False), ("wrn-10-1", True)}
    timed.clear()
    monkeypatch.setattr(plan, "TIMING_S", 0.0)
    bounded = planned(study, Store.at(str(tmp_path)))
    assert timed == [("wrn-10-2", False), ("wrn-10-1", False), ("wrn-10-1", True)]
    assert [stage.images for stage in bounded] == [stage.images for stage in stages]
    assert bounded[0].job_seconds == stages[0].job_seconds == 2 * 500.0
    assert bounded[2].job_seconds == pytest.approx(stages[2].job_seconds, rel=0.01)
    for stage in (bounded[1], stages[1]):
        (logits,) = (logits for logits in stage.teacher_logits if logits.stored)
        students = stage.job_seconds - logits.seconds
        assert students == pytest.approx(2 * (4 * 7.0 + 2 * 1000.0))


def test_teachers_that_are_taken_as_they_are_are_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would take the time that there is for students."""
    timed: list[str] = []

    def epoch_seconds(job: Job, *others: Any) -> float:
        timed.append(job.recipe.model)
        return 7.0

    monkeypatch.setattr(plan, "epoch_seconds", epoch_seconds)
    network = build_model("wrn-10-2", num_classes=10, image_shape=(1, 8, 8), seed=0)
    torch.save(network.state_dict(), tmp_path / "teacher.pt")
    (tmp_path / "study.yaml").write_text(
        f"name: x\ndata: {{source: digits}}\n"
        f"teachers: [{{name: t, model: wrn-10-2, weights: {tmp_path / 'teacher.pt'}}}]\n"
        "student: {model: wrn-10-1}\n"
    )
    stages = planned(load_study(tmp_path / "study.yaml"), Store.open(str(tmp_path / "store")))
    assert (stages[0].jobs, stages[0].job_seconds) == (1, 0.0)
    assert set(timed) == {"wrn-10-1"}


def test_start_up_is_what_this_process_took_to_load() -> None:
    """And not what it does before it plans, as `init` times networks."""
    code = "import time; time.sleep(1.5); from distill_ray.planning import plan; time.sleep(2); "
    code += "print(plan.LOADING_S)"
    begun = time.monotonic()
    seconds = float(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert 1.5 < seconds < time.monotonic() - begun - 1.9


SLOWER = replace(
    BENCH,
    batch_size=32,
    steps={STUDENT: 60.0, LIVE: 100.0, TEACHER_LOGITS: 66.0},
    teachers=40.0,
)


def test_a_plan_for_machines_elsewhere(
    tiny_study: Callable[..., StudyDefinition],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The student takes the time of the record; teachers, timed here, the same multiple of it as
    the student alone; and there are as many places as those machines have.
    """
    study, store = tiny_study("search.scheduler=none"), Store.open(str(tmp_path))
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    keep_bench(store, study, SLOWER, "far")
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert kept_bench(store, study) is None, "it is no record of this machine"
    monkeypatch.setattr(plan, "LOADING_S", 0.0)
    monkeypatch.setattr(plan, "epoch_seconds", lambda *arguments: 2.0)
    state = StudyState(study, data_of(study), store)
    one, two = (plan_study(state, bench_elsewhere(store, study, on)) for on in ("far", "2xfar"))
    alone = (96 * 60.0 + 100 * 60.0 / 3) / 32
    assert one[0].job_seconds == pytest.approx(2 * 2.0 * alone / 2.0)
    assert one[0].seconds == pytest.approx(one[0].job_seconds / 2), "two teachers on three cores"
    assert one[1].seconds == pytest.approx(one[1].job_seconds / 3)
    assert two[1].seconds == pytest.approx(two[1].job_seconds / 4), "four trials on six"


@pytest.mark.parametrize(
    ("on", "kept", "message"),
    [
        ("8x", {}, "must be a name that bench kept"),
        ("0xfar", {}, "must be a name that bench kept"),
        ("8xh100", {}, "no machine is called h100"),
        ("8xfra", {"far": BENCH}, "did you mean 'far'"),
        ("far", {"far": replace(BENCH, device="NVIDIA H100")}, "gpus_per_worker: 0"),
    ],
)
def test_machines_that_are_not_known(
    tiny_study: Callable[..., StudyDefinition],
    tmp_path: Path,
    on: str,
    kept: dict[str, Bench],
    message: str,
) -> None:
    study, store = tiny_study(), Store.open(str(tmp_path))
    for name, bench in kept.items():
        keep_bench(store, study, bench, name)
    with pytest.raises(RequestError, match=message):
        bench_elsewhere(store, study, on)


def test_a_record_of_another_student_is_refused(
    tiny_study: Callable[..., StudyDefinition], tmp_path: Path
) -> None:
    store = Store.open(str(tmp_path))
    keep_bench(store, tiny_study(), BENCH, "far")
    with pytest.raises(RequestError, match="far was measured with another student"):
        bench_elsewhere(store, tiny_study("student.model=wrn-10-2"), "far")


def test_gpus_are_counted_one_by_one(
    tiny_study: Callable[..., StudyDefinition], tmp_path: Path
) -> None:
    study, store = tiny_study("resources.gpus_per_worker=0.5"), Store.open(str(tmp_path))
    keep_bench(store, study, replace(BENCH, device="NVIDIA H100"), "h100")
    far = bench_elsewhere(store, study, "8xh100")
    resources = WorkerResources.of(study, Sharing())
    assert far.on_gpus and far.workers(resources) == 16


def test_the_command_says_hours_and_money(
    tiny_study: Callable[..., StudyDefinition],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = Store.open(str(tmp_path / "store"))
    keep_bench(store, tiny_study(), SLOWER, "far")
    monkeypatch.setattr(plan, "epoch_seconds", lambda *arguments: 360.0)
    arguments = ["plan", str(Path(__file__).parents[1] / "tiny.yaml"), "--store", store.uri]
    assert main([*arguments, "--on", "4xfar", "--price", "0.5"]) == 0
    *_, early, total, money = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"early stopping: probably \d\d % of the search's epochs .+", early)
    assert re.fullmatch(r"about .+ on 4 x far, without early stopping .+", total)
    hours, price = re.fullmatch(r"(\S+) machine hours, (\S+) at 0.5 an hour", money).groups()  # type: ignore[union-attr]
    assert float(price) == pytest.approx(0.5 * float(hours), abs=0.02)
    assert main([*arguments, "--on", "far", "--price", "-1"]) == 2


def test_networks_that_are_searched_share_the_trials(
    tiny_study: Callable[..., StudyDefinition], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What exceeds a limit is left out: it is not trained. Of the others the slowest may win."""
    seconds = {"mlp-8": 1.0, "mlp-16": 3.0, "mlp-64-64": 100.0}
    monkeypatch.setattr(
        plan, "epoch_seconds", lambda job, *others: seconds.get(job.recipe.model, 0.0)
    )
    study = tiny_study(
        "search.space={model: {choice: [mlp-8, mlp-16, mlp-64-64]}}",
        "search.try_first=[]",
        "search.limits={parameters: 2k}",
        "search.scheduler=none",
        "resources.teacher_logits.mode=live",
    )
    stages = {stage.stage: stage for stage in planned(study, Store.at(str(tmp_path)))}
    assert stages["search"].job_seconds == pytest.approx(2 * (2 * 1.0 + 2 * 3.0))
    best, scratch = 3.0, 0.0  # the student of the file is a wrn-10-1
    assert stages["confirm"].job_seconds == pytest.approx(2 * 2 * (best + scratch))
