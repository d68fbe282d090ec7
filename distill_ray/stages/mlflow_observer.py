"""The study as MLflow shows it: which runs there are, and what they are called."""

from __future__ import annotations

import functools
import posixpath
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from distill_ray.data import image_shape, open_source
from distill_ray.escaping import for_markdown
from distill_ray.events import JobState, Measurement, Metrics, Observer, StudyJob, describe
from distill_ray.export import find_champion
from distill_ray.job import Data
from distill_ray.report.comparison import comparisons
from distill_ray.report.conformal import conformal_rows
from distill_ray.report.health import findings
from distill_ray.report.markdown import answer_in_markdown
from distill_ray.report.results import Contender, StudyResults
from distill_ray.report.summary import calibrated_sentence
from distill_ray.report.table import Row, as_markdown
from distill_ray.report.uncertainty import ForeignRow, foreign_as_markdown, foreign_rows
from distill_ray.store import Store
from distill_ray.study import StudyDefinition
from distill_ray.tracking import DataSet, Tracker, study_run_lists


def study_tracker(
    study: StudyDefinition,
    data: Data,
    store: Store,
    uri: str,
    *,
    interval: float = 1.0,
) -> Tracker:
    """The tracker of a study on a store, for whoever holds the study there (`study_lock`).

    In the MLflow at `uri` it finds the runs that this study has from this store, wherever the store
    lay then. Versions of the study share the runs of their jobs, as they share the jobs. The same
    study on another store has runs of its own: its trials have drawn other settings.
    """
    return Tracker(
        uri,
        study.name,
        _identity(study, store),
        variant=f"{study.digest}-{data.digest[:8]}",
        artifacts=Path(store.uri, "mlflow").absolute().as_uri() if store.is_local else None,
        interval=interval,
    )


def _identity(study: StudyDefinition, store: Store) -> str:
    """What tells a study on this store from the same study on others. It goes with the search: a
    study whose folder was removed, to begin anew, gets another one.
    """
    path = posixpath.join("studies", study.name, "mlflow-id")
    identity = (store.read(path) or b"").decode(errors="replace")
    if not re.fullmatch(r"[0-9a-f]{8}", identity):
        identity = secrets.token_hex(4)
        store.write(path, identity.encode(), durable=True)
    return identity


class MlflowObserver(Observer):
    """Tells the tracker of everything that happens, as an observer of the stages."""

    def __init__(self, tracker: Tracker, study: StudyDefinition, data: Data) -> None:
        self._tracker = tracker
        self._study = study
        self._data = data

    def study_started(self, store: Store) -> None:
        """The study's own run, with its data sets, its file, and where its store is."""
        study = self._study
        self._tracker.start_study(
            f"study {study.name}",
            description=f"Ensemble distillation study `{study.name}` on {self._data.name}, "
            "under way.",
            params={
                "teachers": sum(len(group.seeds) for group in study.teachers),
                "trials": study.search.trials,
                "seed": study.seed,
            },
            tags={"study": study.name, "study_digest": study.digest, "store": store.shown},
            study_file=study.source_text,
        )
        self._tracker.log_dataset(data_sets(self._data))
        self._tracker.save_views(
            study_run_lists(
                study.search.objectives,
                [dimension.name for dimension in study.search.space.dimensions],
                self._tracker.variant,
            )
        )

    def past(
        self,
        run: StudyJob,
        state: JobState,
        epochs: Callable[[], Iterable[Metrics]],
        metrics: Metrics,
        reason: str,
    ) -> None:
        if not self._tracker.has_job(_key(run.key, run.job.id)):
            records = list(epochs())
            begun, ended = _times(records)
            self._start(run, begun)
            for record in records:
                self.epoch(run, record)
            self._end(run, state, metrics, reason, ended)

    def started(self, run: StudyJob) -> None:
        self._start(run, None)

    def _start(self, run: StudyJob, begun: float | None) -> None:
        recipe = run.job.recipe
        tags = {
            "study": self._study.name,
            "study_digest": self._study.digest,
            "stage": run.stage,
            "role": run.role,
            "job_id": run.job.id,
            "method": recipe.method.name,
            "augmentation": recipe.augmentation.name,
            "seed": str(run.job.seed),
        }
        params = recipe.params() | {"seed": run.job.seed, "workers": run.job.workers}
        if run.job.calibrated:
            params["calibrated_teachers"] = len(run.job.calibrated)
        key = _key(run.key, run.job.id)
        self._tracker.start_job(key, describe(run), params, tags, started=begun)

    def epoch(self, run: StudyJob, record: Metrics) -> None:
        metrics = {name: value for name, value in record.items() if name not in ("epoch", "time")}
        self._tracker.log_epoch(
            _key(run.key, run.job.id), int(record["epoch"]), record.get("time", 0.0), metrics
        )

    def ended(self, run: StudyJob, state: JobState, metrics: Metrics, reason: str) -> None:
        self._end(run, state, metrics, reason, None)

    def _end(
        self, run: StudyJob, state: JobState, metrics: Metrics, reason: str, ended: float | None
    ) -> None:
        """Other metrics than costs were logged with their epochs."""
        costs = {name: value for name, value in metrics.items() if name.startswith("cost/")}
        tags = {"reason": reason} if reason else {}
        self._tracker.finish_job(_key(run.key, run.job.id), state, costs, tags, ended=ended)

    def measured(self, measurement: Measurement) -> None:
        if not self._tracker.has_job(measurement.key):
            tags = {
                "study": self._study.name,
                "study_digest": self._study.digest,
                "stage": "screen",
                "role": "screening",
            }
            settings = {
                name: "null" if value is None else value
                for name, value in measurement.settings.items()
            }
            tags |= {"augmentation": str(settings["augmentation"])}
            self._tracker.start_job(
                measurement.key, f"screening · {measurement.augmentation}", settings, tags
            )
            self._tracker.finish_job(measurement.key, JobState.FINISHED, measurement.metrics)

    def study_ended(self, results: StudyResults, files: Mapping[str, Path], store: Store) -> None:
        """The result table as description and metrics of the study's run, the report as artifacts,
        the champion as a model.
        """
        rows = results.rows
        sets = {
            row_sets.row.contender.name: row_sets
            for row_sets in conformal_rows(rows, results.coverage)
        }
        self._tracker.set_description(_description(results, rows))
        self._tracker.set_tags(
            {
                f"health.{finding.check}": finding.sentence
                for finding in findings(results, rows, comparisons(rows))
            }
        )
        self._tracker.log_results(
            {
                f"{row.contender.name}/{row.split}/{metric}": cell.mean
                for row in rows
                for metric, cell in row.cells.items()
            }
        )
        self._tracker.log_results(
            {f"teacher_images/{stage}": images for stage, images in results.teacher_images.items()}
        )
        foreign = foreign_rows(results)
        self._tracker.log_results(
            {
                f"{foreign_row.contender}/{_group(foreign_row)}/{measure}": cell.mean
                for foreign_row in foreign
                for measure, cell in foreign_row.cells.items()
            }
        )
        for row in rows:
            if row.split == "test" and not row.contender.averaged:
                for run, key in enumerate(_keys(row.contender)):
                    metrics = dict(row.runs[run])
                    if row.contender.name in sets:
                        metrics |= sets[row.contender.name].metrics(run)
                    named = {f"test/{name}": value for name, value in metrics.items()}
                    for foreign_row in foreign:
                        if foreign_row.contender == row.contender.name:
                            of_set = foreign_row.runs[run].items()
                            named |= {
                                f"{_group(foreign_row)}/{name}": value for name, value in of_set
                            }
                    self._tracker.log_results(named, key)
        for teacher in results.calibrated:
            key = f"teach/{teacher.job_id}"
            self._tracker.log_results({"calibration/temperature": teacher.temperature}, key)
        self._tracker.log_artifacts({f"report/{name}": file for name, file in files.items()})
        # There is no format for exporting others
        if results.champion and results.best and results.task == "classification":
            student = find_champion(results, store, self._data)
            key = f"confirm/{results.best.name}/{student.job.seed}"
            self._tracker.log_champion(_key(key, student.job.id), student)
        self._tracker.finish_study(JobState.FINISHED)


def _group(row: ForeignRow) -> str:
    """The metrics of a foreign set, in characters that MLflow takes."""
    return f"foreign/{re.sub(r'[^A-Za-z0-9_. -]', '_', row.on)}"


def _times(records: Sequence[Metrics]) -> tuple[float | None, float | None]:
    """When a job that ended before began and ended, in seconds since 1970, as far as its records
    say.
    """
    if not records or "time" not in records[0]:
        return None, None
    return records[0]["time"] - records[0].get("seconds", 0.0), records[-1]["time"]


def _description(results: StudyResults, rows: list[Row]) -> str:
    """The text on top of the study's run. Its links are MLflow's own pages, wherever the server
    is.
    """
    model = ""
    if results.champion and results.task == "classification":
        model = f"the [best student](#/models/{results.name}) in the registry, alias `champion`; "
    parts = [
        f"## Study {for_markdown(results.name)}",
        answer_in_markdown(results, rows, comparisons(rows)),
        as_markdown(rows, gap="&nbsp;" * 3),
        for_markdown(calibrated_sentence(results)),
        foreign_as_markdown(foreign_rows(results)),
        f"See also: {model}`report/report.html` under *Artifacts*; lists of trials, students and "
        "jobs under *Views* above the experiment's runs.",
    ]
    return "\n\n".join(filter(None, parts))


def _key(key: str, job_id: str) -> str:
    """The key of a job in MLflow. Versions of a study number their trials alike, whatever jobs
    those are: a job that is the same has one run for all of them, another job has another.
    """
    return key if job_id in key else f"{key}/{job_id[:10]}"


def _keys(contender: Contender) -> list[str]:
    """The runs behind a row of the table."""
    if contender.is_teacher:
        return [f"teach/{job_id}" for job_id in contender.job_ids]
    return [
        _key(f"confirm/{contender.name}/{seed}", job_id)
        for seed, job_id in zip(contender.seeds, contender.job_ids, strict=True)
    ]


def data_sets(data: Data) -> list[DataSet]:
    """The splits as MLflow lists them."""
    source = open_source(data.location, label=data.label, cuts_test=data.cuts_test)
    channels, height, width = image_shape(source, data.size)
    shape, dtype = (height, width, channels), "float32" if source.real_valued else "uint8"
    labels = functools.partial(source.labels, "train")
    training = data.split.training_images(source.rows("train"), labels)

    def split(context: Literal["training", "validation", "test"], count: int) -> DataSet:
        return DataSet(
            f"{data.name} {context}", data.digest, data.location, context, count, shape, dtype
        )

    return [
        split("training", training),
        split("validation", data.split.validation),
        split("test", data.split.test or source.rows("test")),
    ]
