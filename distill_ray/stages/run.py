"""One run of a study: everything around the stages, from the checks before to the report after."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import posixpath
import tempfile
import time
from pathlib import Path

from rich.console import Console

from distill_ray.errors import DamagedError, RunError
from distill_ray.events import Observers, stage
from distill_ray.execution.cluster import Cluster
from distill_ray.imported_weights import keep_weights
from distill_ray.job import canonical_json
from distill_ray.progress import Progress
from distill_ray.report.results import StudyResults
from distill_ray.resolve import REPORT
from distill_ray.stages.collect import collect
from distill_ray.stages.locations import Locations
from distill_ray.stages.lock import study_lock
from distill_ray.stages.mlflow_observer import MlflowObserver, study_tracker
from distill_ray.stages.pipeline import RunContext, run_stages
from distill_ray.stages.references import References
from distill_ray.stages.request import check_request
from distill_ray.stages.stage_log import StageLog
from distill_ray.stages.state import StudyState
from distill_ray.store import Store
from distill_ray.study import StudyDefinition

logger = logging.getLogger(__name__)

MADE_FOR = "made-for"
"""The file of a report that says for which results it was made, and which other files there are,
line by line.
"""

REPAIRS = 10
"""How often in one run the stages begin again because a record of the store was found damaged."""


class TrackingIncompleteError(RunError):
    """The study is finished and its `results` are in the store, but MLflow does not have all."""

    def __init__(self, message: str, results: StudyResults) -> None:
        super().__init__(message)
        self.results = results


def run_study(
    study: StudyDefinition, locations: Locations, console: Console, *, verbose: bool = False
) -> StudyResults:
    """Run `study`, or what is missing of it, and return its results.

    Raises `RequestError` before anything starts when the request cannot be met, and `RunError` when
    something fails while it runs; what was finished by then is kept, and the same call resumes from
    there. `TrackingIncompleteError` is one of these, with the results.
    """
    begun = time.monotonic()
    state = check_request(study, locations, running=True)
    tracking_uri, store, data = locations.tracking_uri(), state.store, state.data
    with (
        Progress(console, study.search.objectives) as progress,
        study_lock(store, study.name),
        study_tracker(study, data, store, tracking_uri) as tracker,
        Cluster(locations.address, verbose=verbose) as cluster,
    ):
        record = MlflowObserver(tracker, study, data)
        record.study_started(store)
        observer = Observers((progress, StageLog(study, store), References(study, store), record))
        keep_weights(store, study.weight_files)
        for left in reversed(range(REPAIRS + 1)):
            try:
                # A new state each time: what it has read may be what was found damaged
                state = StudyState(study, data, store, locations.search_storage, advancing=True)
                run_stages(RunContext(state, cluster, observer, begun))
                with stage(progress, REPORT, 0), tempfile.TemporaryDirectory() as folder:
                    results = collect(state, locations)
                    for line in results.computed_differently:
                        logger.warning("jobs of this study were computed differently: %s", line)
                    record.study_ended(
                        results, write_files(study, store, results, Path(folder)), store
                    )
                break
            except DamagedError as error:
                if not left:
                    raise
                logger.warning("%s now", error)
                cluster.end_processes()  # and what went on beside the stage
    if not tracker.complete:
        raise TrackingIncompleteError(
            f"study {study.name} is finished, but MLflow at {locations.shown_tracking()} does not "
            "have all of it; `distill-ray sync` completes it",
            results,
        )
    return results


def report_path(study: StudyDefinition, name: str = "report.html") -> str:
    """The path of a file of the study's report in the store."""
    return posixpath.join("studies", study.name, "report", name)


def write_files(
    study: StudyDefinition, store: Store, results: StudyResults, folder: Path
) -> dict[str, Path]:
    """The files of the report by name, in the store and in `folder`; made only when there is
    something new to report.
    """
    facts: list[object] = [
        results.digest,
        results.command,
        results.status,
        results.git_commit,
        dict(results.versions),
    ]
    facts += [None if results.published is None else dataclasses.asdict(results.published)]
    facts += [[trial.number, trial.state, trial.job_id] for trial in results.trials]
    facts += [[contender.name, *contender.job_ids] for contender in results.contenders]
    fingerprint = hashlib.sha256(canonical_json(facts).encode()).hexdigest()
    made = _files_made_for(fingerprint, study, store)
    if made is None:
        from distill_ray.report.write import write_report

        names = [file.relative_to(folder).as_posix() for file in write_report(results, folder)]
        store.delete(report_path(study, ""))
        for name in names:
            store.write(report_path(study, name), (folder / name).read_bytes())
        store.write(report_path(study, MADE_FOR), "\n".join([fingerprint, *names]).encode())
    else:
        names = list(made)
        (folder / "plots").mkdir()
        for name, content in made.items():
            (folder / name).write_bytes(content)
    return {name: folder / name for name in names}


def _files_made_for(
    fingerprint: str, study: StudyDefinition, store: Store
) -> dict[str, bytes] | None:
    """The report in the store by file, when it was made for these results and nobody has removed
    any of it.
    """
    made_for, *names = (
        (store.read(report_path(study, MADE_FOR)) or b"").decode(errors="replace").split("\n")
    )
    if made_for != fingerprint or not names:
        return None
    contents = {
        name: content
        for name in names
        if (content := store.read(report_path(study, name))) is not None
    }
    return contents if len(contents) == len(names) else None
