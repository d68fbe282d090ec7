"""A place for the search that cannot be used is refused before anything is trained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from distill_ray.errors import RequestError
from distill_ray.search.history import check_storage
from distill_ray.store import Store

TINY = Path(__file__).parents[1] / "tiny.yaml"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("sqlite:////no/such/folder/optuna.db", "unable to open database file"),
        ("mysql://me@db/x", "No module named"),
        ("postgresql://127.0.0.1:1/optuna", "refused"),
        ("nonsense", "Could not parse"),
    ],
)
def test_a_database_that_cannot_be_opened(tmp_path: Path, address: str, reason: str) -> None:
    with pytest.raises(RequestError, match=rf"--search-storage .*{reason}"):
        check_storage(Store.open(str(tmp_path)), address)


def test_a_store_elsewhere_needs_one(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="say where the search is kept with --search-storage"):
        check_storage(Store("file://" + str(tmp_path)), None)
    check_storage(Store.open(str(tmp_path)), None)


def test_no_teacher_is_trained_for_a_search_that_cannot_be_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "distill_ray", "run", str(TINY), "--store", str(tmp_path)]
    command += ["--search-storage", "sqlite:////no/such/folder/optuna.db"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--search-storage" in done.stderr and "[teach]" not in done.stdout
    assert not (tmp_path / "jobs").exists()
