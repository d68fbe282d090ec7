"""What keeps a run from starting is said before the first job, by `run` and by `plan` alike."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from distill_ray.cli import main
from distill_ray.errors import RequestError
from distill_ray.stages.locations import Locations
from distill_ray.stages.request import check_request
from distill_ray.study import load_study

TINY = str(Path(__file__).parents[1] / "tiny.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--search-storage", "nonsense://me:hidden@host/db"], "--search-storage nonsense://host"),
        (["--search-storage", "sqlite:////proc/none/db"], "--search-storage sqlite:"),
        (["--search-storage", "postgresql+none://me:hidden@127.0.0.1:1/db"], "cannot be used"),
        (["--tracking-uri", "ftp://me:hidden@host"], "tracking URI"),
        (["--tracking-uri", "http://me:hidden@127.0.0.1:1"], "127.0.0.1:1"),
        (["--tracking-uri", "sqlite:////dev/null/mlflow.db"], "tracking URI"),
        (["--store", "/dev/null/x"], "store /dev/null/x: cannot be written"),
        (["--store", "~nosuchuser/x"], "~nosuchuser/x: "),
        (["--store", "s3//KEY:hidden@bucket/x"], "store"),
        (["--store", "s3://bucket/x"], "--tracking-uri"),
        (["--set", "data.source=/no/such/folder"], "/no/such/folder"),
        (["--set", "search.warm_start=[never]"], "study never has no search"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_what_cannot_be_used(
    command: str,
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([command, TINY, *options]) == 2
    err = capsys.readouterr().err
    assert message in err and "hidden" not in err and "unexpectedly" not in err
    assert not list(tmp_path.glob("**/jobs")) and not list(tmp_path.glob("**/logs"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--export", "taken"], "taken is there already and not empty"),
        (["--export", "new", "--set", "data.source=toy-regression"], "regression"),
    ],
)
def test_where_the_student_cannot_be_exported_nothing_begins(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    assert main(["run", TINY, *options]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_search_that_begins_anew_says_what_it_sets_aside(
    finished_study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Widening the space or changing the student restarts the search; more trials do not."""
    shutil.copytree(finished_study.store.uri, tmp_path / "store")

    def note(*overrides: str) -> str:
        options = [word for override in overrides for word in ("--set", override)]
        store = str(tmp_path / "store")
        assert main(["plan", str(finished_study.file), "--store", store, *options]) == 0
        lines = capsys.readouterr().out.splitlines()
        notes = ("search: starts from", "search: begins anew")
        return next((line for line in lines if line.startswith(notes)), "")

    assert note() == note("search.trials=9") == ""
    wider = "search.space.temperature={log: [1, 40]}"
    assert note(wider).startswith("search: starts from")
    changed = note("student.epochs=3")
    assert changed.startswith("search: begins anew, since the study was changed; 4 trials")
    assert note(wider, "search.warm_start=[tiny]") == ""


def test_a_plan_makes_nothing(tmp_path: Path) -> None:
    state = check_request(load_study(TINY), Locations(str(tmp_path / "store")))
    assert state.history is None and not list(tmp_path.iterdir())
    with pytest.raises(RequestError, match="tracking"):
        check_request(load_study(TINY), Locations(str(tmp_path / "store"), "ftp://x"))
    assert not list(tmp_path.iterdir())
