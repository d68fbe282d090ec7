"""Bringing MLflow up to date with the store, for a study that ended while MLflow was down."""

from __future__ import annotations

import tempfile
from pathlib import Path

from distill_ray.errors import RunError
from distill_ray.events import JobState
from distill_ray.resolve import data_of
from distill_ray.stages.collect import collect
from distill_ray.stages.locations import Locations
from distill_ray.stages.lock import study_lock
from distill_ray.stages.mlflow_observer import MlflowObserver, study_tracker
from distill_ray.stages.pipeline import (
    tell_of_finished,
    tell_of_screenings,
    tell_of_trials,
)
from distill_ray.stages.run import write_files
from distill_ray.stages.state import StudyState
from distill_ray.store import Store
from distill_ray.study import StudyDefinition
from distill_ray.tracking import check_tracking

LONGEST = 3600.0
"""Seconds that MLflow is given to take everything."""


def sync_study(study: StudyDefinition, locations: Locations) -> bool:
    """Send MLflow what it is missing of `study`, without duplicates; nothing is trained. Returns
    whether the study is finished.

    Raises `RequestError` when MLflow does not answer or the study is being run, and `RunError` when
    it does not take everything.
    """
    tracking_uri = locations.tracking_uri()
    store = Store.open(locations.store)
    check_tracking(tracking_uri)
    data = data_of(study)
    with study_lock(store, study.name):
        tracker = study_tracker(study, data, store, tracking_uri, interval=0.1)
        record = MlflowObserver(tracker, study, data)
        record.study_started(store)
        state = StudyState(study, data, store, locations.search_storage)
        tell_of_finished(state, state.teachers, record)
        tell_of_screenings(state, record)
        tell_of_trials(state, record)
        tell_of_finished(state, state.known_confirmations, record)
        results = collect(state, locations)
        with tempfile.TemporaryDirectory() as folder:
            if results.status == "finished":
                record.study_ended(results, write_files(study, store, results, Path(folder)), store)
            else:
                tracker.finish_study(JobState.INTERRUPTED)
            whole = tracker.close(LONGEST)
    if not whole:
        raise RunError(
            f"MLflow at {locations.shown_tracking()} has not taken everything; "
            "run the same command again"
        )
    return results.status == "finished"
