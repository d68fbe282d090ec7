"""One command's worth of a study: everything around the stages, from the checks before to the report after."""

from __future__ import annotations

import contextlib
import fcntl
import posixpath
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from distill_ray.errors import RequestError
from distill_ray.progress import Progress
from distill_ray.report.results import StudyResults
from distill_ray.report.write import write_report
from distill_ray.stages.cluster import Cluster
from distill_ray.stages.collect import StageLog, collect
from distill_ray.events import Observers, stage
from distill_ray.stages.mlflow_record import MlflowRecord
from distill_ray.stages.resolve import REPORT, data_of
from distill_ray.stages.pipeline import Surroundings, run_stages
from distill_ray.store import Store
from distill_ray.study import Study
from distill_ray.tracking import Tracker, check_tracking, default_uri, shown


@dataclass(frozen=True)
class Places:
    """Where a study keeps things and where it runs, as the command line has it."""

    store: str
    tracking: str | None = None
    search_storage: str | None = None
    address: str | None = None

    def tracking_uri(self) -> str:
        """The tracking URI: the one given, or a database in a local store."""
        if self.tracking is not None:
            return self.tracking
        if "://" in self.store:
            raise RequestError(f"store {self.store} is not a local folder; say where MLflow is with --tracking-uri")
        return default_uri(Path(self.store).expanduser().absolute())


def run_study(study: Study, places: Places, console: Console, *, verbose: bool = False) -> StudyResults:
    """Run `study`, or what is missing of it, and return its results.

    Raises `RequestError` before anything is begun when the request cannot be met, and `RunError` when something fails on the
    way; what was finished by then is kept, and the same call again goes on from there.
    """
    tracking_uri = places.tracking_uri()
    store = Store.open(places.store)
    check_tracking(tracking_uri)
    data = data_of(study)
    with (
        study_lock(store, study),
        Progress(console, study.search.objectives) as progress,
        Tracker(
            tracking_uri,
            study.name,
            f"{study.digest}-{data.digest[:8]}",
            artifacts=str(Path(store.uri, "mlflow")) if store.is_local else None,
            warn=progress.say,
        ) as tracker,
        Cluster(places.address, verbose=verbose) as cluster,
    ):
        record = MlflowRecord(tracker, study, data)
        record.study_started()
        observer = Observers((progress, StageLog(study, store), record))
        run_stages(Surroundings(study, data, store, places.search_storage, cluster, observer))
        with stage(progress, REPORT, 0):
            results = collect(study, data, store, search_storage=places.search_storage, tracking_uri=shown(tracking_uri))
            with tempfile.TemporaryDirectory() as folder:
                files = {file.relative_to(folder).as_posix(): file for file in write_report(results, Path(folder))}
                for name, file in files.items():
                    store.write(posixpath.join(report_folder(study), name), file.read_bytes())
                record.study_ended(results, files, store)
    return results


def report_folder(study: Study) -> str:
    """Where the report of a study lies in the store."""
    return posixpath.join("studies", study.name, "report")


@contextlib.contextmanager
def study_lock(store: Store, study: Study) -> Iterator[None]:
    """Keeps a second driver from the same study on a local store; raises `RequestError` when there is one already."""
    if not store.is_local:
        yield
        return
    with open(store.local_path(posixpath.join("studies", study.name, "lock")), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestError(
                f"study {study.name} is being run on store {store.uri} by another process; wait for it, or choose another --store"
            ) from None
        yield
