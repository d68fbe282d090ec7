"""A request, checked as far as it can be before the first job: by `run` and by `plan` alike."""

from __future__ import annotations

import os
from pathlib import Path

from distill_ray.addresses import masked
from distill_ray.errors import RequestError
from distill_ray.imported_weights import check_weights
from distill_ray.resolve import data_of, source_of
from distill_ray.search.costs import CostMeter
from distill_ray.search.history import check_storage
from distill_ray.search.warm_start import earlier_trials
from distill_ray.stages.locations import Locations
from distill_ray.stages.state import StudyState
from distill_ray.store import Store
from distill_ray.study import StudyDefinition
from distill_ray.tracking import check_tracking, sqlite_file


def check_request(
    study: StudyDefinition, locations: Locations, *, running: bool = False
) -> StudyState:
    """Check that the study can be run with these addresses, and return its state.

    Its data set is there and fits, its store, MLflow and the search storage can be used, the
    studies that it is warm-started from have been searched, and some student keeps within the
    limits.

    Args:
        study: The study.
        locations: The addresses of everything around it.
        running: Whether it is about to be run. Otherwise nothing is made or written: a store and a
            database that are not there yet are taken for empty, and they may be read-only.

    Raises:
        RequestError: something of that cannot be used.
    """
    tracking_uri = locations.tracking_uri()
    database = sqlite_file(tracking_uri)
    if running:
        store = Store.open(locations.store)
    else:
        store = Store.at(locations.store)
        if store.is_local and not Path(store.uri).exists():
            _check_can_be_made(Path(store.uri), f"store {store.shown}", "--store")
    if running or database is None or os.access(database, os.W_OK):
        check_tracking(tracking_uri, locations.search_storage)
    elif not database.exists():
        _check_can_be_made(database, f"tracking URI {masked(tracking_uri)!r}", "--tracking-uri")
    data = data_of(study)
    if study.weight_files:
        check_weights(study, source_of(study))
    check_storage(store, locations.search_storage)
    earlier_trials(study, store, locations.search_storage)
    CostMeter(study, data, store).check(measuring=running)
    return StudyState(study, data, store, locations.search_storage, advancing=running)


def _check_can_be_made(path: Path, what: str, option: str) -> None:
    """Raise `RequestError` when neither `path` nor a folder above it is a folder to write into."""
    folder = next(place for place in (path, *path.parents) if place.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        problem = f"{folder} is no folder that may be written"
        raise RequestError(f"{what}: cannot be written ({problem}); choose another with {option}")
