"""What is said of the results of a study: the code they are from, and the report in the store."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from distill_ray.report.search import best_trial
from distill_ray.stages.collect import git_commit, load_results
from distill_ray.stages.locations import Locations
from distill_ray.stages.run import write_files
from distill_ray.study import load_study


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_commit_is_that_of_the_package_and_says_when_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, installed = tmp_path / "package", tmp_path / ".venv" / "package"
    for folder in (package, installed):
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    assert git_commit(package) is None
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert len(commit) == 40
    (tmp_path / "notes.txt").touch()
    assert git_commit(package) == commit
    assert git_commit(installed) is None, "an environment inside of somebody's working tree"
    (package / "new.py").touch()
    assert git_commit(package) == f"{commit}-dirty"
    (package / "new.py").unlink()
    (package / "__init__.py").write_text("changed = True\n")
    assert git_commit(package) == f"{commit}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(package) is None, "no git on this machine"


def test_a_report_is_made_again_when_some_of_it_is_gone(
    finished_study: Any, tmp_path: Path
) -> None:
    shutil.copytree(finished_study.store.uri, tmp_path / "store")
    study = load_study(finished_study.file)
    results, _, store = load_results(study, Locations(str(tmp_path / "store")))

    def report(folder: str) -> dict[str, bytes]:
        (tmp_path / folder).mkdir()
        return {
            name: path.read_bytes()
            for name, path in write_files(study, store, results, tmp_path / folder).items()
        }

    first = report("first")
    store.write("studies/tiny/report/report.md", b"the same report")
    assert report("second") == first | {"report.md": b"the same report"}
    for number, gone in enumerate(("report/report.html", "report/plots")):
        store.delete(f"studies/tiny/{gone}")
        assert report(f"again {number}").keys() == first.keys()
        assert {name for name in first if store.read(f"studies/tiny/report/{name}")} == first.keys()
        assert store.read("studies/tiny/report/report.md") == first["report.md"]


def test_the_best_found_knows_its_trial(finished_study: Any) -> None:
    study = load_study(finished_study.file)
    results, _, _ = load_results(study, Locations(finished_study.store.uri))
    best, leader = results.best, best_trial(results)
    assert best is not None and leader is not None
    assert best.trial == leader.number
    assert [each.trial for each in results.contenders if not each.found] == [None] * (
        len(results.contenders) - 1
    )
