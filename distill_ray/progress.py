"""The progress display of a running study: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from distill_ray.escaping import for_terminal
from distill_ray.events import (
    Answered,
    JobState,
    Measurement,
    Metrics,
    Observer,
    StudyJob,
    describe,
)
from distill_ray.log_printing import log_printed, printable

Objectives = Mapping[str, str]


class Progress(Observer):
    """Follows a study as an `Observer` and shows it on `console`.

    On a terminal: the stage, its jobs (running, finished, pruned, failed), the best value so far,
    and the time left, judged by the jobs that have ended. Elsewhere one line for each job that
    begins or ends. While it is open, it also prints what the package logs.
    """

    def __init__(self, console: Console, objectives: Objectives) -> None:
        self._console = console
        (self._objective, self._mode), *_ = objectives.items()
        self._resources = ExitStack()
        self._stage = ""
        self._jobs = 0
        self._begun = 0.0
        self._running: dict[str, tuple[StudyJob, Metrics]] = {}
        self._counts: dict[JobState, int] = {}
        self._reused = 0
        self._beside = 0
        self._best: tuple[float, str] | None = None
        self._lowest: tuple[float, str] | None = None
        self._images = 0
        self._live = (
            Live(console=console, get_renderable=self._view, refresh_per_second=4, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        self._resources.enter_context(log_printed(self._print))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._resources.close()
        if self._live:
            self._live.stop()

    def _print(self, text: str) -> None:
        """One line that stays, above the live view."""
        self._console.print(Text(printable(text)), soft_wrap=True)

    def stage_started(self, stage: str, jobs: int) -> None:
        self._stage, self._jobs, self._begun = stage, jobs, time.monotonic()
        self._counts, self._reused, self._beside, self._images = {}, 0, 0, 0
        self._best, self._lowest = None, None

    def past(
        self,
        run: StudyJob,
        state: JobState,
        epochs: Callable[[], Iterable[Metrics]],
        metrics: Metrics,
        reason: str,
    ) -> None:
        self._reused += 1
        self._counts[state] = self._counts.get(state, 0) + 1
        self._compare(run, metrics)

    def started(self, run: StudyJob) -> None:
        self._running[run.key] = (run, {})
        if self._live is None:
            self._print(f"[{run.stage}] {describe(run)} begins")

    def epoch(self, run: StudyJob, record: Metrics) -> None:
        if run.key in self._running:
            self._running[run.key] = (run, record)

    def ended(self, run: StudyJob, state: JobState, metrics: Metrics, reason: str) -> None:
        _, last = self._running.pop(run.key, (run, {}))
        scores = _scores(metrics or last, self._objective)
        if run.stage == self._stage:
            self._counts[state] = self._counts.get(state, 0) + 1
            self._compare(run, metrics)
            place = f"[{self._stage} {self._done()}/{self._jobs}]"
        else:
            self._beside += 1
            place = f"[{run.stage}]"
        if self._live is None or state == JobState.FAILED:
            why = f": {reason}" if reason else ""
            self._print(f"{place} {describe(run)} {state}{why} {scores}".rstrip())

    def _done(self) -> int:
        """The jobs that have ended, of those that the stage counts."""
        return sum(self._counts.values()) - self._counts.get(JobState.INFEASIBLE, 0)

    def measured(self, measurement: Measurement) -> None:
        self._reused += measurement.reused
        self._counts[JobState.FINISHED] = self._counts.get(JobState.FINISHED, 0) + 1
        deviation = measurement.metrics["screen/t-stddev"]
        if self._lowest is None or deviation < self._lowest[0]:
            self._lowest = (deviation, measurement.augmentation)
        if self._live is None and not measurement.reused:
            done = sum(self._counts.values())
            place = f"[{self._stage} {done}/{self._jobs}]"
            self._print(f"{place} {measurement.augmentation} T. stddev {deviation:.6f}")

    def answered(self, answered: Answered) -> None:
        self._counts[JobState.FINISHED] = self._counts.get(JobState.FINISHED, 0) + 1
        self._images += answered.images
        if self._live is None:
            place = f"[{self._stage} {self._counts[JobState.FINISHED]}/{self._jobs}]"
            seconds = _duration(answered.seconds)
            self._print(f"{place} {answered.what}: {answered.images:,} images in {seconds}")

    def stage_ended(self, stage: str) -> None:
        trained = self._done() - self._reused
        parts = []
        if trained:
            parts.append("1 run" if trained == 1 else f"{trained} runs")
        if self._reused:
            parts.append(f"{self._reused} found in the store")
        parts += [
            f"{count} {state}"
            for state, count in self._counts.items()
            if state != JobState.FINISHED
        ]
        if self._beside:
            parts.append(f"{self._beside} beside it")
        if self._images:
            parts.append(f"teachers answered for {self._images:,} images")
        if self._best:
            parts.append(f"best {self._objective} {self._best[0]:.4f} ({self._best[1]})")
        if self._lowest:
            parts.append(f"lowest T. stddev {self._lowest[0]:.6f} ({self._lowest[1]})")
        seconds = _duration(time.monotonic() - self._begun)
        self._print(f"{stage:<8} {seconds:>8}   {', '.join(parts)}".rstrip())
        self._stage = ""
        others = {
            key: running for key, running in self._running.items() if running[0].stage != stage
        }
        self._running = others  # they go on in the next stage

    def _compare(self, run: StudyJob, metrics: Metrics) -> None:
        value = metrics.get(self._objective)
        if value is not None and run.stage == "search":
            better = self._best is None or (
                value < self._best[0] if self._mode == "min" else value > self._best[0]
            )
            if better:
                self._best = (value, describe(run))

    def _view(self) -> RenderableType:
        if not self._stage:
            return Text("")
        done = self._done()
        elapsed = time.monotonic() - self._begun
        head = Text.assemble(
            (f"{self._stage} ", "bold"), f"{done}/{self._jobs} done, {len(self._running)} running"
        )
        for state in (JobState.PRUNED, JobState.INFEASIBLE, JobState.FAILED):
            if self._counts.get(state):
                head.append(f", {self._counts[state]} {state}")
        head.append(f"   {_duration(elapsed)}")
        trained = done - self._reused
        if trained:
            head.append(f", about {_duration(elapsed / trained * (self._jobs - done))} left")
        if self._best:
            head.append(f"   best {self._objective} {self._best[0]:.4f}")
        grid = Table.grid(padding=(0, 2))
        for run, record in self._running.values():
            epoch = int(record.get("epoch", 0))
            grid.add_row(
                for_terminal(describe(run)),
                f"epoch {epoch}/{run.job.recipe.epochs}",
                _scores(record, self._objective),
            )
        return Group(head, grid)


def _scores(metrics: Metrics, objective: str) -> str:
    names = dict.fromkeys((objective, "val/accuracy"))
    return "  ".join(
        f"{name.removeprefix('val/')} {metrics[name]:.4f}" for name in names if name in metrics
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    if minutes:
        return f"{minutes}m{rest:02}s"
    return f"{rest}s"
