"""Commands on whole studies, and what they leave in a store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage

TINY = Path(__file__).parents[1] / "tiny.yaml"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `distill-ray` to its end."""
    whole = [sys.executable, "-m", "distill_ray", *arguments]
    return subprocess.run(whole, capture_output=True, text=True, timeout=1500, check=False)


def kill_in_the_search(*arguments: str) -> None:
    """Run `distill-ray` and kill it, and it alone, as soon as its first trial has ended."""
    with subprocess.Popen(
        [sys.executable, "-m", "distill_ray", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            if line.startswith("[search 1/"):
                driver.kill()
                break
        driver.wait()


def only_search(store: Path) -> optuna.Study:
    """The search of the tiny study in a store."""
    storage = JournalStorage(JournalFileBackend(str(store / "studies" / "tiny" / "search.journal")))
    (summary,) = optuna.get_all_study_summaries(storage)
    return optuna.load_study(study_name=summary.study_name, storage=storage)


def job_folders(store: Path) -> set[str]:
    """The folders of attempts at jobs, relative to the store."""
    return {str(path.relative_to(store)) for path in (store / "jobs").glob("*/*")}
