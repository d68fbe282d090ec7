"""What a search costs its driver: trials of a job that does nothing, with everything else as in a
study that is run.

    uv run python benchmarks/search.py --trials 10000 --sampler random

Ray Tune, Optuna's journal, the live view, the lists in the store and MLflow are the
real ones; in the place of training, a trial's process answers at once with one epoch and an
outcome. Prints a line every 500 trials: seconds and processor seconds of this process per trial,
and its resident memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from distill_ray.events import JobState, Metrics, Observer, Observers, StudyJob
from distill_ray.execution import tasks
from distill_ray.execution.cluster import Cluster
from distill_ray.execution.job_runner import JobRunner
from distill_ray.execution.messages import Finished
from distill_ray.progress import Progress
from distill_ray.resolve import SEARCH, data_of, teacher_runs
from distill_ray.search import search
from distill_ray.search.history import counted, open_history
from distill_ray.stages.mlflow_observer import MlflowObserver
from distill_ray.stages.references import References
from distill_ray.stages.stage_log import StageLog
from distill_ray.store import Store
from distill_ray.study import load_study
from distill_ray.tracking import Tracker, default_uri


class Nothing(JobRunner):
    """Ends its trial with the first step, with scores that depend on what it has drawn."""

    def setup(self, config: dict[str, Any]) -> None:
        self.config = {}
        method = config["task"].job.recipe.method
        self._score = abs(method.temperature - 4) / 10 + (1 - method.alpha) ** 2

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        scores = {
            "val/nll": self._score,
            "val/accuracy": 1 / (1 + self._score),
            "val/ece": 0.1,
            "train/loss": 1.0,
        }
        record = {"epoch": 1, "time": time.time(), "seconds": 0.01, "lr": 0.1, **scores}
        return record | {"epochs": [record], "end": Finished(scores, 0.01), "done": True}

    def cleanup(self) -> None:
        pass


class Pace(Observer):
    """Counts the trials that end, and says what they took."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._ended = 0
        self._process = psutil.Process()
        self.sizes: dict[int, float] = {}
        self._last = (time.perf_counter(), time.process_time())

    def ended(self, run: StudyJob, state: JobState, metrics: Metrics, reason: str) -> None:
        self._ended += 1
        if self._ended % self._every == 0:
            now = (time.perf_counter(), time.process_time())
            wall, cpu = (
                (late - early) / self._every * 1000
                for late, early in zip(now, self._last, strict=True)
            )
            self._last = now
            self.sizes[self._ended] = self._process.memory_info().rss / 2**20
            print(
                f"{self._ended:6} trials   {wall:6.1f} ms   {cpu:6.1f} ms CPU   "
                f"{self.sizes[self._ended]:6.1f} MiB",
                file=sys.__stderr__,
                flush=True,
            )


def main() -> None:
    """Run the trials and print what they took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--sampler", choices=["random", "tpe"], default="random")
    parser.add_argument("--every", type=int, default=500)
    parser.add_argument(
        "--profile", help="write a cProfile of the driver's main thread to this file"
    )
    chosen = parser.parse_args()
    tasks.JobRunner = Nothing  # type: ignore[misc]
    study = load_study(
        Path(__file__).parents[1] / "tests" / "tiny.yaml",
        [f"search.trials={chosen.trials}", f"search.sampler={chosen.sampler}"],
    )
    data = data_of(study)
    teachers = [run.job.id for run in teacher_runs(study, data)]
    with tempfile.TemporaryDirectory(prefix="distill-ray-nothing-") as folder:
        store = Store.open(folder)
        pace = Pace(chosen.every)
        begun = time.perf_counter()
        with (
            Progress(
                Console(file=open("/dev/null", "w"), force_terminal=True), study.search.objectives
            ) as progress,
            Tracker(default_uri(Path(folder)), study.name, "nothing", artifacts=folder) as tracker,
            Cluster() as cluster,
        ):
            record = MlflowObserver(tracker, study, data)
            record.study_started(store)
            observer = Observers(
                (progress, StageLog(study, store), References(study, store), record, pace)
            )
            history = open_history(study, data, teachers, store, None)
            cluster.connect()
            search_begun, cpu = time.perf_counter(), time.process_time()
            if chosen.profile:
                import cProfile

                profile = cProfile.Profile()
                profile.enable()
            observer.stage_started(SEARCH, chosen.trials)
            search.run_search(study, data, teachers, history, store, cluster, observer)
            observer.stage_ended(SEARCH)
            if chosen.profile:
                profile.disable()
                profile.dump_stats(chosen.profile)
            took, cpu = time.perf_counter() - search_begun, time.process_time() - cpu
            trials = len(counted(history))
            tracker.finish_study(JobState.FINISHED)
            closing = time.perf_counter()
            complete = tracker.close()
        closing = time.perf_counter() - closing
        print(
            f"{trials} trials: {took / trials * 1000:.1f} ms each, {cpu / trials * 1000:.1f} "
            "ms CPU; "
            f"MLflow took {closing:.1f} s more "
            f"and has {'everything' if complete else 'not everything'}; all in all "
            f"{time.perf_counter() - begun:.0f} s"
        )
        first, last = pace.sizes.get(1000), pace.sizes.get(chosen.trials)
        if first and last:
            print(
                f"memory from trial 1000 to {chosen.trials}: {first:.0f} to {last:.0f} MiB, "
                f"{last / first - 1:+.1%}"
            )


if __name__ == "__main__":
    main()
