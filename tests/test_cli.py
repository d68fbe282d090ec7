"""The command line: answers at once without heavy imports, and turns every ending into lines and an
exit code.
"""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from distill_ray import Study
from distill_ray.cli import commands, main
from distill_ray.errors import RequestError, RunError
from distill_ray.report.to_json import as_json
from distill_ray.stages.locations import Locations
from distill_ray.store import Store

if TYPE_CHECKING:
    from conftest import FinishedStudy

STUDIES = Path(__file__).parents[1] / "studies"
QUICKSTART = str(STUDIES / "quickstart.yaml")
HEAVY = {
    "torch",
    "torchvision",
    "ray",
    "mlflow",
    "optuna",
    "numpy",
    "pyarrow",
    "scipy",
    "sklearn",
    "matplotlib",
    "rich",
}


def imported_by(*arguments: str) -> set[str]:
    """The packages that the command line has imported when it is done."""
    code = (
        "import sys; from distill_ray.cli import main; main(sys.argv[1:]); "
        "print('|', *sys.modules, sep=' ')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in done.stdout.rpartition("|")[2].split()}


def test_help_imports_neither_the_heavy_packages_nor_the_study() -> None:
    imported = imported_by("--help")
    assert "click" in imported
    assert not imported & (HEAVY | {"pydantic", "yaml"})


@pytest.mark.parametrize(
    "arguments", [(QUICKSTART,), (QUICKSTART, "--set", "student.methd=kd")], ids=["valid", "wrong"]
)
def test_validate_imports_no_heavy_package(arguments: tuple[str, ...]) -> None:
    imported = imported_by("validate", *arguments)
    assert {"pydantic", "yaml"} <= imported
    # The data set is looked at, which needs these three
    assert not imported & (HEAVY - {"numpy", "PIL", "pyarrow"})


def test_schema_imports_no_heavy_package(tmp_path: Path) -> None:
    assert not imported_by("schema") & HEAVY
    assert not imported_by("schema", "--pages", str(tmp_path)) & HEAVY


@pytest.mark.parametrize(
    "command", [(), *((name,) for name in commands.commands), ("data", "import")], ids=" ".join
)
def test_every_command_explains_itself(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--help"]) == 0
    assert "Usage: distill-ray" in capsys.readouterr().out


def test_validate_says_what_it_understood(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", QUICKSTART, "--set", "search.trials=7"]) == 0
    out = capsys.readouterr().out
    assert f"{QUICKSTART}: valid\n" in out
    assert "7 trials by tpe, asha, val/nll min" in out
    assert "temperature: log [1, 20]" in out


def test_validate_reads_the_weights_of_students_before_it_says_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --deep: a quick look leaves torch out."""
    import safetensors.torch
    import torch

    file = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"fc.weight": torch.zeros(10, 3)}, file)
    command = ["validate", str(Path(__file__).with_name("tiny.yaml"))]
    command += ["--set", f"student.weights={file}", "--set", "student.freeze=1"]
    command += ["--set", "student.epochs=2"]
    assert main(command) == 0
    assert ", 2 epochs, from weights other.safetensors@" in (out := capsys.readouterr().out)
    assert ", frozen for 1 epoch" in out
    assert main([*command, "--deep"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "weights other.safetensors do not fit model" in captured.err


def test_validate_says_all_that_bounds_and_guides_the_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {
        "data.train": "96",
        "student.versions": "2",
        "student.epochs": "1",
        "confirm.seeds": "1",
        "search.for_each": "augmentation",
        "search.scheduler": "none",
        "search.trials": "4",
        "search.space.augmentation": "{choice: [crop, identity]}",
        "search.limits": "{parameters: 500k}",
        "search.prior": "{temperature: 4}",
        "search.stop": "{patience: 9}",
        "search.budget": "{epochs: 30}",
        "search.time_limit": "2h",
        "search.study_time_limit": "3h",
    }
    overrides = [word for item in options.items() for word in ("--set", "=".join(item))]
    assert main(["validate", str(Path(__file__).with_name("tiny.yaml")), *overrides]) == 0
    out = capsys.readouterr().out
    for words in (
        "96 training, 100 validation, 500 test and 1,101 unused images",
        ", 1 epoch, 2 versions of each image",
        "4 trials by tpe, no early stopping,",
        "a search of its own for each augmentation",
        "at most parameters 500000",
        "around temperature 4 at first",
        "until 9 trials in a row improve nothing",
        "until 30 epochs are spent",
        "until 2 h 0 min are over",
        "1 seed each",
    ):
        assert words in out, words


def test_a_wrong_study_is_exit_code_2_and_only_its_problems(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        main(["validate", QUICKSTART, "--set", "search.trials=0", "--set", "student.temperture=3"])
        == 2
    )
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "--set: search.trials: found 0, must be at least 1",
        "--set: student.temperture: unknown field; did you mean 'temperature'?",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["validate"], "Missing argument 'STUDY'"),
        (["vlidate", "x"], "No such command 'vlidate'"),
        (["run", "x.yaml", "--stroe", "y"], "No such option"),
        (
            ["validate", "no-such-study.yaml"],
            "no-such-study.yaml: cannot read the study file: no such file or directory",
        ),
        (["ui", "--store", "no-such-store"], "run a study first, or name its --store"),
        (
            ["logs", "3f2ab", "--store", "no-such-store"],
            "no-such-store: there is none; running a study makes it",
        ),
        (
            ["predict", "models:/x@champion", "x.png", "--store", "no-such-store"],
            "run a study first, or name its --store",
        ),
        (
            ["gc", "--store", "no-such-store"],
            "no-such-store: there is none; running a study makes it",
        ),
        (
            ["ui", "--tracking-uri", "http://me:hidden@host:5000"],
            "\nhttp://host:5000 is an MLflow server already",
        ),
        (
            [
                "predict",
                "models:/x@champion",
                "x.png",
                "--tracking-uri",
                "http://me:hidden@127.0.0.1:1",
            ],
            "cannot load this model",
        ),
    ],
)
def test_wrong_commands_are_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in f"\n{captured.err}"
    assert "Traceback" not in captured.err and "hidden" not in captured.err


def test_a_port_that_is_taken_is_said_before_anything_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlflow.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert main(["ui", "--store", str(tmp_path), "--port", str(port)]) == 2
    assert capsys.readouterr() == (
        "",
        f"port {port} is taken by another program; choose another with --port\n",
    )


def test_looking_at_a_study_that_was_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("status", "report", "compare"):
        assert main([command, QUICKSTART]) == 2
        assert f"store {tmp_path}/distill-ray-store: there is none" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    Store.open(str(tmp_path / "distill-ray-store"))
    assert main(["status", QUICKSTART]) == 0
    assert (
        capsys.readouterr().out.splitlines()[0]
        == f"quickstart: not begun in {tmp_path}/distill-ray-store"
    )
    for command, place in (("report", f"{tmp_path}/"), ("compare", "./")):
        assert main([command, QUICKSTART, "--set", "search.trials=7"]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        nothing = f"quickstart: no results yet in {place}distill-ray-store; run it, or name"
        assert error.startswith(nothing)


def test_mlflow_is_looked_for_in_the_store_however_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = f"sqlite:///{tmp_path}/a store/mlflow.db"
    for store in ("a store", f"{tmp_path}/a store", f"file://{tmp_path}/a%20store"):
        assert Locations(store).tracking_uri() == Locations(store).shown_tracking() == here
        with pytest.raises(
            RequestError, match=r"nothing is recorded in .*/a store/mlflow.db; run a study first"
        ):
            Locations(store).recorded_uri()
    assert Locations("s3://bucket", "http://me:hidden@host").shown_tracking() == "http://host"
    assert Locations("s3://bucket").shown_tracking() == ""
    with pytest.raises(
        RequestError,
        match="store s3://bucket is not a local folder; say where MLflow is with --tracking-uri",
    ):
        Locations("s3://me:hidden@bucket").tracking_uri()
    assert not list(tmp_path.iterdir())


def test_reports_are_the_same_however_the_store_is_written(
    finished_study: FinishedStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = []
    for store in (finished_study.store.uri, f"file://{finished_study.store.uri}"):
        assert main(["report", str(finished_study.file), "--store", store, "--json"]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    reports.append(as_json(Study.load(finished_study.file).results(store=store).collected))
    for report in reports:
        report["study"].pop("created")  # the minute in which it was asked for
    assert reports[0] == reports[1] == reports[2]
    tracking_uri = reports[0]["study"]["tracking_uri"]
    assert tracking_uri == f"sqlite:///{finished_study.store.uri}/mlflow.db"


class TrackingIncompleteError(RunError):
    """In the place of the one that comes with the results."""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Puts another function in the place of `run_study`, and nothing in the place of Ray."""

    def engine(run_study: Callable[..., Any]) -> None:
        module = types.ModuleType("distill_ray.stages.run")
        module.__dict__.update(
            run_study=run_study,
            report_path=lambda study: "report",
            TrackingIncompleteError=TrackingIncompleteError,
        )
        monkeypatch.setitem(sys.modules, "distill_ray.stages.run", module)

    return engine


@pytest.fixture
def ending(engine: Callable[[Callable[..., Any]], None]) -> Callable[[BaseException], None]:
    """Makes every study end with an error."""

    def ending(error: BaseException) -> None:
        def run_study(*arguments: Any, **options: Any) -> None:
            raise error

        engine(run_study)

    return ending


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            RequestError("store x cannot be written; choose another"),
            2,
            "store x cannot be written; choose another\n",
        ),
        (RunError("trial 3 failed\nits log: x.log"), 1, "trial 3 failed\nits log: x.log\n"),
        (KeyboardInterrupt(), 130, "interrupted; the same command again goes on from here\n"),
    ],
)
def test_every_ending_has_its_exit_code(
    ending: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    message: str,
) -> None:
    ending(error)
    assert main(["run", QUICKSTART]) == code
    assert capsys.readouterr().err.lstrip("\n") == message


def test_only_a_run_goes_on_after_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever stands in the arguments: the command is what click has found."""

    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distill_ray.study.load_study", interrupted)
    assert main(["report", "run"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert main(["run", "report"]) == 130
    assert capsys.readouterr().err == "interrupted; the same command again goes on from here\n"


def test_a_command_that_takes_long_to_load_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("distill_ray.cli.options.SILENCE_S", 0.01)

    def slow(*arguments: Any, **options: Any) -> None:
        time.sleep(2)
        raise RunError("loaded")

    monkeypatch.setattr("distill_ray.stages.collect.load_results", slow)
    assert main(["report", QUICKSTART]) == 1
    assert capsys.readouterr().err == "distill-ray report: loading ...\nloaded\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("arguments", [["validate", QUICKSTART], ["report", "--help"]])
def test_output_in_any_encoding(
    arguments: list[str], encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr("sys.stdout", file)
    assert main(arguments) == 0
    print("± · α \u4e2d", file=file, flush=True)
    last = file.buffer.getvalue().decode(encoding).splitlines()[-1]
    expected = {"ascii": "+- - alpha ?", "latin-1": "± · alpha ?", "cp1252": "± · alpha ?"}
    assert last == expected[encoding]


def test_an_unexpected_error_is_one_line_and_its_traceback_is_in_a_file(
    ending: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ending(TypeError("what is http://me:hidden@this?\nmore"))
    assert main(["run", QUICKSTART]) == 1
    (log,) = tmp_path.iterdir()
    assert (
        capsys.readouterr().err
        == f"distill-ray failed unexpectedly: TypeError: what is http://this (traceback: {log})\n"
    )
    assert "Traceback (most recent call last)" in log.read_text()
    assert "in run_study" in log.read_text()


def test_what_needs_too_much_memory_is_no_unexpected_error(
    ending: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    ending(MemoryError("Unable to allocate 32.0 GiB for an array"))
    assert main(["run", QUICKSTART]) == 1
    assert capsys.readouterr().err.startswith("out of memory, 32.0 GiB at once: smaller images")


def test_a_given_teacher_that_needs_too_much_memory_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from distill_ray.models import build_model
    from distill_ray.stages import given_teachers

    file = tmp_path / "large.pt"
    network = build_model("wrn-10-1", num_classes=10, image_shape=(1, 8, 8), seed=0)
    torch.save(network.state_dict(), file)
    (tmp_path / "study.yaml").write_text(
        f"name: large\nteachers: [{{model: wrn-10-1, weights: {file}}}]\n"
        "student: {model: wrn-10-1}\n"
    )
    monkeypatch.setattr(given_teachers, "predict", lambda *_, **__: torch.empty(2**45))
    assert main(["validate", str(tmp_path / "study.yaml"), "--deep"]) == 1
    reason = "teacher wrn-10-1 with weights large.pt: out of memory, 140737488355328 bytes at once"
    assert capsys.readouterr().err.splitlines()[-1].startswith(reason)


def test_verbose_prints_the_traceback(
    ending: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ending(TypeError("what is this?"))
    assert main(["run", QUICKSTART, "--verbose"]) == 1
    err = capsys.readouterr().err
    assert "in run_study" in err
    assert err.endswith("distill-ray failed unexpectedly: TypeError: what is this?\n")
    assert not list(tmp_path.iterdir())


def test_no_room_for_a_traceback_is_no_second_error(
    ending: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    ending(TypeError())
    assert main(["run", QUICKSTART]) == 1
    assert (
        capsys.readouterr().err
        == "distill-ray failed unexpectedly: TypeError (--verbose shows the traceback)\n"
    )


def test_options_reach_the_engine(
    monkeypatch: pytest.MonkeyPatch, engine: Callable[[Callable[..., Any]], None]
) -> None:
    seen: dict[str, Any] = {}

    def run_study(study: Any, locations: Any, console: Any, *, verbose: bool) -> None:
        seen.update(trials=study.search.trials, locations=locations, verbose=verbose)
        raise RunError("enough")

    engine(run_study)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert (
        main(
            ["run", QUICKSTART, "--set", "search.trials=5", "--store", "s3://bucket/x", "--verbose"]
        )
        == 1
    )
    assert seen == {
        "trials": 5,
        "locations": Locations("s3://bucket/x", None, None, "head:6379"),
        "verbose": True,
    }


def test_data_import_writes_a_data_set_that_a_study_can_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    for split, count in (("train", 4), ("test", 2)):
        for label in ("cat", "dog"):
            folder = tmp_path / "tree" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / f"{index}.png")
    out = tmp_path / "out"
    assert main(["data", "import", str(tmp_path / "tree"), str(out)]) == 0
    assert f"{out}: 8 training and 4 test images of 2 classes" in capsys.readouterr().out
    assert main(["data", "import", str(tmp_path / "tree"), str(out)]) == 2


def test_a_command_ends_without_taking_apart_what_it_has_loaded() -> None:
    """What is registered for the end is called, all is printed, and the code is that of `main`."""
    program = """
import atexit, sys
from distill_ray import cli

class Torch:
    def __del__(self):
        print("taken apart", flush=True)

sys.modules["loaded"] = Torch()

def main():
    atexit.register(lambda: print("registered"))
    return CODE

cli.main = main
from distill_ray.__main__ import run
run()
"""
    for code in (0, 2):
        command = [sys.executable, "-c", program.replace("CODE", str(code))]
        ended = subprocess.run(command, capture_output=True, text=True)
        assert (ended.returncode, ended.stdout, ended.stderr) == (code, "registered\n", "")
    broken = program.replace("CODE", "1 / 0")
    ended = subprocess.run([sys.executable, "-c", broken], capture_output=True, text=True)
    assert ended.returncode == 1 and "ZeroDivisionError" in ended.stderr
